// The blocks of Jet-Nemotron-2B (JetBlock, full attention, sliding window) and the linear-attention blocks that
// could stand in JetBlock's place, on the CPU: prefill, decode and 4096 tokens fed token by token. Names and
// counters: include/jet/bench/block_bench.hpp. benchmarks/plot_blocks.py draws tokens/s against context from
// --benchmark_out.
#include <string>

#include <jet/bench/block_bench.hpp>
#include <jet/jet.hpp>
#include <jet/model/family_2b.hpp>

namespace {

using namespace jet;

template <class B> void add(std::string const& policy) {
  bench::BlockBenchmark axes;
  auto const run = [&]<class Block>(std::string const& name) {
    bench::benchmark_block<Block, B>(name + "/" + policy, axes);
  };
  run.template operator()<FullAttention<attention_2b>>("attention_2b");
  run.template operator()<SlidingWindow<attention_2b, 1152>>("window_2b");
  axes.stepwise = {4096};
  run.template operator()<JetBlock<jet_2b>>("jet_2b");
  run.template operator()<RetNet<retnet_2b>>("retnet_2b");
  run.template operator()<Mamba2<mamba2_2b>>("mamba2_2b");
  run.template operator()<Gla<gla_2b>>("gla_2b");
  run.template operator()<DeltaNet<deltanet_2b>>("deltanet_2b");
  run.template operator()<GatedDeltaNet<gated_deltanet_2b>>("gated_deltanet_2b");
  run.template operator()<Rwkv7<rwkv7_2b>>("rwkv7_2b");
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  add<Cpu<Precision{}>>("bf16_weights");
  add<Cpu<precision::bf16>>("bf16");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
