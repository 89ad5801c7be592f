// The small hybrids whose states are corrected.
#include <jet/cpu/cpu.hpp>

#include "rows.hpp"

namespace {
using B = jet::Cpu<jet::precision::bf16_weights>;
}  // namespace

std::vector<Row> small_delta_rows() {
  return {swapped_row<TinyJet, jet::JetBlock<tiny_block>, B>("JetBlock"),
          swapped_row<TinyJet, jet::DeltaNet<small::deltanet>, B>("DeltaNet"),
          swapped_row<TinyJet, jet::DeltaNet<small::deltanet_equal>, B>("DeltaNet"),
          swapped_row<TinyJet, jet::GatedDeltaNet<small::gated_deltanet>, B>("Gated DeltaNet"),
          rwkv7_row<TinyJet, small::rwkv7, 4, "FASJSA", B>(),
          rwkv7_row<TinyJet, small::rwkv7_equal, 4, "FASJSA", B>()};
}
