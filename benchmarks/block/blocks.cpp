// The blocks of Jet-Nemotron-2B (JetBlock, full attention, sliding window) on the CPU: prefill, decode and JetBlock
// token by token. Names and counters: include/jet/bench/block_bench.hpp. benchmarks/plot_blocks.py draws
// tokens/s against context from --benchmark_out.
#include <jet/jet.hpp>
#include <jet/bench/block_bench.hpp>

namespace {

using namespace jet;

template <Precision P> void add(std::string const& policy) {
  bench::BlockBenchmark axes;
  bench::benchmark_block<FullAttention<attention_2b>, Cpu<P>>("attention_2b/" + policy, axes);
  bench::benchmark_block<SlidingWindow<attention_2b, 1152>, Cpu<P>>("window_2b/" + policy, axes);
  axes.stepwise = {4096};
  bench::benchmark_block<JetBlock<jet_2b>, Cpu<P>>("jet_2b/" + policy, axes);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  add<Precision{}>("bf16_weights");
  add<precision::bf16>("bf16");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
