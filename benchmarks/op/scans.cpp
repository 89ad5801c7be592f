// The scans of the linear-attention family on one thread of the CPU: 4096 tokens in chunks, and one token of one
// sequence. Every case derives from its ScanShape.
//
// Names: op/scan/<name>/H:<heads>/K:<head_k>/V:<head_v>/<chunked/tokens:n|decode>. Counters: tokens/s; FLOP/s of
// the chunk form with full 64 x 64 matrices (what is above their diagonals counts, decays do not); gemm_FLOP/s, the
// best rate of an fp32 product at the chunk's tile sizes in this run (the library's kernels, and Eigen with the
// flags of this build); of_gemm, their ratio. decode: B/s of the state, read and written.
#include <algorithm>
#include <ctime>
#include <string>

#include <benchmark/benchmark.h>
#include <Eigen/Core>

#include <jet/cpu/cpu.hpp>
#include <jet/testing/block_harness.hpp>

namespace {

using namespace jet;
using op::Decay;
using op::ScanShape;
using op::Update;
using Bench = benchmark::State;
using B = Cpu<precision::f32>;
using testing::Activation;

constexpr i64 chunk = cpu::scan_chunk;

reference::Matrix uniform(i64 rows, i64 columns, std::uint64_t seed, double low, double high) {
  reference::Matrix x(rows, columns);
  Random const random{seed, 0};
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    x.data[i] = low + (high - low) * random.uniform(i);
  }
  return x;
}

/// FLOP of one token and head. Products with the state and into it, with and over C x C matrices, the solve.
template <ScanShape C, bool general> constexpr double flops() {
  constexpr auto dk = static_cast<double>(C.head_k);
  constexpr auto dv = static_cast<double>(C.head_v);
  constexpr auto c = static_cast<double>(chunk);
  return general                     ? 8 * dk * dv + 8 * c * (dk + dv) + 2 * c * c / 3
         : C.update == Update::delta ? 6 * dk * dv + 4 * c * (dk + dv) + 2 * c * c / 3
                                     : 4 * dk * dv + 2 * c * (dk + dv);
}

/// FLOP/s of f() of `work` FLOP, the best of a few tries of some milliseconds of this thread's time.
template <class F> double rate(double work, F const& f) {
  double best = 0;
  auto const calls = static_cast<int>(1 + 2e8 / work);
  for (int attempt = 0; attempt < 8; ++attempt) {
    std::clock_t const start = std::clock();
    for (int i = 0; i < calls; ++i) {
      f();
      benchmark::ClobberMemory();
    }
    best = std::max(best, work * calls * CLOCKS_PER_SEC / static_cast<double>(std::clock() - start));
  }
  return best;
}

/// The best rate of the products that a chunk of this shape consists of.
double gemm_rate(B const& backend, i64 dk, i64 dv) {
  i64 const most = std::max({dk, dv, chunk});
  Activation<B> const a(backend, uniform(most, most, 1, -1, 1), DType::f32),
      b(backend, uniform(most, most, 2, -1, 1), DType::f32), c(backend, most, most, DType::f32);
  auto* const x = a.view().row<float>(0);
  auto* const y = b.view().row<float>(0);
  auto* const z = c.view().row<float>(0);
  auto const& k = backend.kernels();
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  double best = 0;
  auto const nn = [&](i64 rows, i64 columns, i64 depth, bool transposed) {
    double const work = 2.0 * static_cast<double>(rows * columns * depth);
    best = std::max(best, rate(work, [&] {
                      k.gemm_nn[0]({rows, columns, depth, x, transposed ? 1 : depth, transposed ? rows : 1, y,
                                    columns, z, columns, 1.0f, 0.0f});
                    }));
    Eigen::Map<Matrix const> const left(x, rows, depth), right(y, depth, columns);
    Eigen::Map<Matrix> to(z, rows, columns);
    best = std::max(best, rate(work, [&] { to.noalias() = left * right; }));
  };
  nn(chunk, dv, dk, false);
  nn(chunk, dv, chunk, false);
  nn(dk, dv, chunk, true);
  cpu::GemmNt<float> const g{
      .m = chunk, .n = chunk, .k = dk, .a = x, .lda = dk, .b = y, .ldb = dk, .c = z, .ldc = chunk};
  best = std::max(best, rate(2.0 * static_cast<double>(chunk * chunk * dk), [&] { k.gemm_nt[0][0][0](g); }));
  return best;
}

/// The scan on random inputs; `call` is what is timed.
template <ScanShape C, bool general> class Runner {
 public:
  Runner(B& backend, i64 tokens)
      : q_(backend, keys(tokens, 1), acc),
        k_(backend, keys(tokens, 2), acc),
        v_(backend, uniform(tokens, C.heads * C.head_v, 3, -1, 1), acc),
        g_(backend, uniform(tokens, std::max<i64>(1, C.decay_width()), 4, -0.1, 0), acc),
        beta_(backend, uniform(tokens, C.heads, 5, 0, 1), acc),
        a_(backend, keys(tokens, 6), acc),
        b_(backend, keys(tokens, 7), acc),
        o_(backend, tokens, C.heads * C.head_v, acc),
        state_(backend, reference::Matrix(C.heads * C.head_k, C.head_v), acc),
        call_(backend, batch(tokens), body()) {}
  void run() { call_.run(body()); }

 private:
  static constexpr DType acc = DType::f32;
  static reference::Matrix keys(i64 tokens, std::uint64_t seed) {
    return reference::l2_norm(uniform(tokens, C.heads * C.head_k, seed, -1, 1), 0, C.heads);
  }
  static Batch batch(i64 tokens) {
    Batch batch;
    batch.add(0, tokens, 0);
    return batch;
  }
  auto body() {
    return [this](Context<B>& ctx) {
      Slot const state = state_.slot({i64{1}, C.heads, C.head_k, C.head_v});
      if constexpr (general) {
        ctx.run(op::GeneralDeltaScan<C>{}, q_.view(), k_.view(), v_.view(), a_.view(), b_.view(), g_.view(), state,
                o_.view());
      } else {
        ctx.run(op::GatedScan<C>{}, q_.view(), k_.view(), v_.view(), C.decay == Decay::none ? View{} : g_.view(),
                C.update == Update::delta ? beta_.view() : View{}, state, o_.view());
      }
    };
  }

  Activation<B> q_, k_, v_, g_, beta_, a_, b_, o_, state_;
  testing::PreparedCall<B> call_;
};

template <ScanShape C, bool general> void chunked(Bench& state, i64 tokens) {
  B backend(BackendOptions{.threads = 1});
  Runner<C, general> runner(backend, tokens);
  double const work = flops<C, general>() * static_cast<double>(C.heads * tokens);
  double const ceiling = gemm_rate(backend, C.head_k, C.head_v);
  for (auto _ : state) {
    runner.run();
  }
  auto const kind = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), kind);
  state.counters["FLOP/s"] = benchmark::Counter(work, kind);
  state.counters["gemm_FLOP/s"] = ceiling;
  state.counters["of_gemm"] = benchmark::Counter(work / ceiling, kind);
}

template <ScanShape C, bool general> void decode(Bench& state) {
  B backend(BackendOptions{.threads = 1});
  Runner<C, general> runner(backend, 1);
  for (auto _ : state) {
    runner.run();
  }
  auto const kind = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["tokens/s"] = benchmark::Counter(1, kind);
  state.counters["B/s"] = benchmark::Counter(8.0 * static_cast<double>(C.heads * C.head_k * C.head_v), kind);
}

template <ScanShape C, bool general = false> void add(std::string const& name) {
  std::string const prefix = "op/scan/" + name + "/H:" + std::to_string(C.heads) +
                             "/K:" + std::to_string(C.head_k) + "/V:" + std::to_string(C.head_v);
  benchmark::RegisterBenchmark((prefix + "/chunked/tokens:4096").c_str(), [](Bench& state) {
    chunked<C, general>(state, 4096);
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark((prefix + "/decode").c_str(), [](Bench& state) {
    decode<C, general>(state);
  })->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  // Layers of d_model 1536 with states of about the same size.
  add<ScanShape{12, 128, 256, Decay::head, Update::additive}>("retnet");
  add<ScanShape{48, 128, 64, Decay::head, Update::additive, 1.0}>("mamba2");
  add<ScanShape{4, 192, 384, Decay::channel, Update::additive}>("gla");
  add<ScanShape{12, 128, 128, Decay::none, Update::delta}>("deltanet");
  add<ScanShape{12, 96, 256, Decay::head, Update::delta}>("gated_deltanet");
  add<ScanShape{12, 128, 128, Decay::channel, Update::delta}>("kda");
  add<ScanShape{24, 64, 64, Decay::channel, Update::delta, 1.0}, true>("rwkv7");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
