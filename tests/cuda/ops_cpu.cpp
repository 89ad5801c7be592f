// The oracle of ops.cu.
#include <jet/cpu/cpu.hpp>

#include "op_cases.hpp"

namespace {

template <jet::Precision P> std::vector<cuda_tests::Result> results() {
  jet::Cpu<P> backend;
  cuda_tests::Cases<jet::Cpu<P>> cases(backend);
  cases.all();
  return cases.results;
}

}  // namespace

std::vector<cuda_tests::Result> cuda_tests::results_on_cpu(Precision const& p) {
  return p == jet::precision::f32 ? results<jet::precision::f32>() : results<jet::precision::bf16>();
}
