// SmolLM2-135M and its hybrid (all layers but 10 and 20 JetBlock) on the CPU: prefill of a new sequence in chunks
// of 512, decode of one sequence at growing contexts (caches filled, not computed).
//
//   bench_model_smollm2 [--model=DIR] [--threads=N] [Google Benchmark's options]
//
// Names: model/<model>/<policy>/prefill/tokens:T and .../decode/context:L. Counters: tokens/s; B/s, bytes of
// weights, keys, values and state that a step has to move. Without --model the weights are random; the speed is the
// same.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <jet/bench/block_bench.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/jet.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace jet;

inline constexpr JetBlockConfig block{.d_model = 576, .heads = 9, .head_k = 64, .head_v = 64};
struct SmolLM2_135M_jet : SmolLM2_135M::with<Bind<'J', JetBlock<block>>>::replan<"JJJJJJJJJJAJJJJJJJJJAJJJJJJJJJ"> {
};

std::string model_dir;  // empty: random weights
BackendOptions backend;

template <class Model, class B> std::shared_ptr<Weights<Model>> weights() {
  if constexpr (std::is_same_v<Model, SmolLM2_135M>) {
    if (!model_dir.empty()) {
      return load_weights<Model>(model_dir, B::precision, {.map = false});
    }
  }
  auto made = std::make_shared<Weights<Model>>();
  made->allocate(B(backend));
  initialise(*made, 1);
  return made;
}

std::vector<std::int32_t> tokens(i64 n) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>((i * 2654435761u) % 49152);
  }
  return ids;
}

template <class Model, class B> void prefill(benchmark::State& state, i64 n) {
  Engine<Model, B> lm(weights<Model, B>(), {.max_len = n, .chunk = 512, .backend = backend});
  auto const ids = tokens(n);
  for (auto _ : state) {
    lm.reset(0);
    lm.append(0, ids);
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(n), benchmark::Counter::kIsIterationInvariantRate);
}

template <class Model, class B> void decode(benchmark::State& state, i64 context) {
  constexpr i64 steps = 32;
  Engine<Model, B> lm(weights<Model, B>(), {.max_len = context + steps + 1, .chunk = 1, .backend = backend});
  std::int32_t const slot = 0, token = 1;
  for (auto _ : state) {
    state.PauseTiming();
    lm.reset(0);
    lm.fill(0, context);
    lm.begin_decode({&slot, 1}, {&token, 1});
    lm.decode_step();
    state.ResumeTiming();
    for (i64 i = 0; i < steps; ++i) {
      lm.decode_step();
    }
  }
  auto const rate = benchmark::Counter::kIsIterationInvariantRate;
  i64 const bytes =
      Model::num_params() * size_of(B::precision.weights) + Model::template state_bytes<B::precision>(1, context);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(steps), rate);
  state.counters["B/s"] = benchmark::Counter(static_cast<double>(steps * bytes), rate);
}

/// The bound of decode: 1 GiB read by all threads, one load of every cache line, fetched ahead.
void read(benchmark::State& state) {
  constexpr i64 lines = i64{1} << 24;  // of 64 bytes
  constexpr i64 pieces = 256;
  constexpr i64 words = 8;
  HostBuffer const memory(lines * 64);
  std::memset(memory.data(), 1, static_cast<std::size_t>(memory.bytes()));
  auto const* const from = reinterpret_cast<std::uint64_t const*>(memory.data());
  Cpu<> const cpu(backend);
  std::vector<std::uint64_t> sums(pieces * words);
  for (auto _ : state) {
    cpu.parallel(pieces, [&](i64 piece, int) {
      std::uint64_t sum = 0;
      for (i64 line = piece * (lines / pieces); line < (piece + 1) * (lines / pieces); ++line) {
        __builtin_prefetch(from + line * words + 4096 / 8, 0, 2);
        sum += from[line * words];
      }
      sums[static_cast<std::size_t>(piece * words)] = sum;
    });
    benchmark::DoNotOptimize(sums.data());
  }
  state.counters["B/s"] =
      benchmark::Counter(static_cast<double>(memory.bytes()), benchmark::Counter::kIsIterationInvariantRate);
}

template <class Model, Precision P> void add(std::string const& name) {
  auto const put = [&](std::string const& what, auto const& run) {
    benchmark::RegisterBenchmark(("model/" + name + what).c_str(), run)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  put("/prefill/tokens:2048", [](benchmark::State& s) { prefill<Model, Cpu<P>>(s, 2048); });
  for (i64 const context : {512, 4096, 32768}) {
    put("/decode/context:" + std::to_string(context),
        [context](benchmark::State& s) { decode<Model, Cpu<P>>(s, context); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  int left = 1;
  for (int i = 1; i < argc; ++i) {
    std::string_view const argument = argv[i];
    if (argument.starts_with("--model=")) {
      model_dir = argument.substr(8);
    } else if (argument.starts_with("--threads=")) {
      backend.threads = std::atoi(argv[i] + 10);
    } else {
      argv[left++] = argv[i];
    }
  }
  if (benchmark::ReportUnrecognizedArguments(left, argv)) {
    return 1;
  }
  benchmark::RegisterBenchmark("read/bytes:1073741824", read)->UseRealTime()->Unit(benchmark::kMillisecond);
  add<SmolLM2_135M, Precision{.kv = DType::bf16}>("SmolLM2_135M/bf16_weights");
  add<SmolLM2_135M, precision::bf16>("SmolLM2_135M/bf16");
  add<SmolLM2_135M, precision::f32>("SmolLM2_135M/f32");
  add<SmolLM2_135M_jet, Precision{.kv = DType::bf16}>("SmolLM2_135M_jet/bf16_weights");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
