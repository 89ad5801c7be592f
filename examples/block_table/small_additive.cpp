// The small hybrids whose states are only added to.
#include <jet/cpu/cpu.hpp>

#include "../cpu_machine.hpp"
#include "rows.hpp"

namespace {
using B = jet::Cpu<jet::precision::bf16_weights>;
}  // namespace

Machine this_cpu() {
  return cpu_machine();
}

std::vector<Row> small_additive_rows() {
  return {swapped_row<TinyJet, jet::RetNet<small::retnet>, B>("RetNet"),
          swapped_row<TinyJet, jet::RetNet<small::retnet_equal>, B>("RetNet"),
          mamba2_row<TinyJet, small::mamba2, B>(), mamba2_row<TinyJet, small::mamba2_equal, B>(),
          swapped_row<TinyJet, jet::Gla<small::gla>, B>("GLA")};
}
