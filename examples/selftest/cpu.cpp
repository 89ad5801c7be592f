// The CPU's side.
#include <jet/cpu/cpu.hpp>

#include "cases.hpp"

namespace selftest {

std::vector<testing::OpResult> ops_on_cpu(Precision const& p) {
  return p == precision::f32 ? testing::op_results<Cpu<precision::f32>>()
                             : testing::op_results<Cpu<precision::bf16>>();
}

template <class Blocks> std::vector<Trace> on_cpu(std::vector<Trace> const& like) {
  std::vector<Trace> traces;
  Blocks::visit([&]<class Block>(std::string const& name) {
    traces.push_back(trace<Block, Cpu<precision::f64>>(name, &like.at(traces.size())));
  });
  return traces;
}
template std::vector<Trace> on_cpu<AttentionBlocks>(std::vector<Trace> const&);
template std::vector<Trace> on_cpu<JetBlocks>(std::vector<Trace> const&);
template std::vector<Trace> on_cpu<FamilyBlocks>(std::vector<Trace> const&);

}  // namespace selftest
