#include <jet/cuda.cuh>

#include "cases.hpp"

namespace {

template <jet::Precision P> std::vector<jet::testing::OpResult> results() {
  jet::Cuda<P> backend;
  jet::testing::OpCases<jet::Cuda<P>> cases(backend);
  cases.all();
  return cases.results;
}

}  // namespace

std::vector<jet::testing::OpResult> selftest::ops_on_device(jet::Precision const& p) {
  return p == jet::precision::f32 ? results<jet::precision::f32>() : results<jet::precision::bf16>();
}
