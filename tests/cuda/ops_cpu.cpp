// The oracle of ops.cu.
#include "ops_cpu.hpp"

#include <jet/cpu/cpu.hpp>

namespace {

template <jet::Precision P> std::vector<jet::testing::OpResult> results() {
  jet::Cpu<P> backend;
  jet::testing::OpCases<jet::Cpu<P>> cases(backend);
  cases.all();
  return cases.results;
}

}  // namespace

std::vector<jet::testing::OpResult> results_on_cpu(jet::Precision const& p) {
  return p == jet::precision::f32 ? results<jet::precision::f32>() : results<jet::precision::bf16>();
}
