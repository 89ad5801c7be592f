#include <jet/cuda.cuh>

#include "cases.hpp"

std::vector<jet::testing::OpResult> selftest::ops_on_device(Precision const& p) {
  return p == precision::f32 ? testing::op_results<Cuda<precision::f32>>()
                             : testing::op_results<Cuda<precision::bf16>>();
}
