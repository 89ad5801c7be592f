// The oracle of ops.cu.
#include "ops_cpu.hpp"

#include <jet/cpu/cpu.hpp>

std::vector<jet::testing::OpResult> results_on_cpu(jet::Precision const& p) {
  using namespace jet;
  return p == precision::f32 ? testing::op_results<Cpu<precision::f32>>()
                             : testing::op_results<Cpu<precision::bf16>>();
}
