// The CPU micro-kernels on one thread: GFLOP/s of the products and GB/s of what they and the element-wise kernels
// read, for every instruction set of this machine. The generic table is the baseline of the same run.
//
// Names: op/<kernel>/<isa>/<types>/M:<m>/N:<n>/K:<k>. Choose with --benchmark_filter.
#include <benchmark/benchmark.h>

#include <jet/core/arena.hpp>
#include <jet/cpu/simd/simd.hpp>
#include <jet/core/thread_pool.hpp>
#include <string>
#include <vector>

namespace {

using jet::bf16;
using jet::DType;
using jet::i64;
using jet::cpu::Isa;
using Bench = benchmark::State;

/// Small values that no product overflows with.
template <class S> jet::HostBuffer filled(i64 count) {
  jet::HostBuffer buffer(count * static_cast<i64>(sizeof(S)));
  auto* const data = reinterpret_cast<S*>(buffer.data());
  std::uint32_t state = 1;
  for (i64 i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    data[i] = S(static_cast<float>(state >> 8) * 0x1p-24f - 0.5f);
  }
  return buffer;
}
jet::HostBuffer filled(DType type, i64 count) {
  return type == DType::bf16 ? filled<bf16>(count) : filled<float>(count);
}

void rates(Bench& state, double flops, double bytes) {
  auto const kind = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["FLOP/s"] = benchmark::Counter(flops, kind);
  state.counters["B/s"] = benchmark::Counter(bytes, kind);
}

void gemm_nt(Bench& state, Isa isa, DType a_type, DType b_type, i64 m, i64 n, i64 k) {
  auto const a = filled(a_type, m * k);
  auto const b = filled(b_type, n * k);
  auto const c = filled<float>(m * n);
  auto const& table = jet::cpu::kernels<float>(isa);
  auto const run = table.gemm_nt[jet::cpu::storage_index(a_type)][jet::cpu::storage_index(b_type)][0];
  jet::cpu::GemmNt<float> const g{
      .m = m, .n = n, .k = k, .a = a.data(), .lda = k, .b = b.data(), .ldb = k, .c = c.data(), .ldc = n};
  for (auto _ : state) {
    run(g);
    benchmark::ClobberMemory();
  }
  rates(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
        static_cast<double>(a.bytes() + b.bytes() + c.bytes()));
}

void gemm_nn(Bench& state, Isa isa, DType b_type, i64 m, i64 n, i64 k, bool transposed) {
  auto const a = filled<float>(m * k);
  auto const b = filled(b_type, k * n);
  auto const c = filled<float>(m * n);
  auto const run = jet::cpu::kernels<float>(isa).gemm_nn[jet::cpu::storage_index(b_type)];
  jet::cpu::GemmNn<float> const g{.m = m,
                                  .n = n,
                                  .k = k,
                                  .a = reinterpret_cast<float const*>(a.data()),
                                  .a_row = transposed ? 1 : k,
                                  .a_col = transposed ? m : 1,
                                  .b = b.data(),
                                  .ldb = n,
                                  .c = reinterpret_cast<float*>(c.data()),
                                  .ldc = n};
  for (auto _ : state) {
    run(g);
    benchmark::ClobberMemory();
  }
  rates(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
        static_cast<double>(a.bytes() + b.bytes() + c.bytes()));
}

void scan_step(Bench& state, Isa isa, i64 heads, i64 head_k, i64 head_v) {
  auto const buffer = filled<float>(heads * head_k * head_v + 3 * head_k + 3 * head_v);
  auto* const s = reinterpret_cast<float*>(buffer.data());
  float* const q = s + heads * head_k * head_v;
  float const decay = 0.99f;
  auto const run = jet::cpu::kernels<float>(isa).scan_step;
  jet::cpu::ScanStep<float> step{.head_k = head_k,
                                 .head_v = head_v,
                                 .state = s,
                                 .q = q,
                                 .k = q + head_k,
                                 .v = q + 3 * head_k,
                                 .decay = &decay,
                                 .beta = 0.01f,
                                 .u = q + 3 * head_k + head_v,
                                 .o = q + 3 * head_k + 2 * head_v};
  for (auto _ : state) {
    for (i64 h = 0; h < heads; ++h) {
      step.state = s + h * head_k * head_v;
      run(step);
    }
    benchmark::ClobberMemory();
  }
  auto const cells = static_cast<double>(heads * head_k * head_v);
  rates(state, 7.0 * cells, 8.0 * cells);
}

void element_wise(Bench& state, void (*run)(i64, float const*, float*), i64 n) {
  auto const x = filled<float>(n);
  auto const y = filled<float>(n);
  for (auto _ : state) {
    run(n, reinterpret_cast<float const*>(x.data()), reinterpret_cast<float*>(y.data()));
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * n);
  rates(state, 0.0, 8.0 * static_cast<double>(n));
}

void convolution(Bench& state, Isa isa, i64 n) {
  auto const x = filled<float>(4 * n);
  auto const w = filled<float>(4 * n);
  auto const y = filled<float>(n);
  auto const* const p = reinterpret_cast<float const*>(x.data());
  float const* const rows[4] = {p, p + n, p + 2 * n, p + 3 * n};
  auto const run = jet::cpu::kernels<float>(isa).conv;
  for (auto _ : state) {
    run(n, 4, rows, reinterpret_cast<float const*>(w.data()), nullptr, reinterpret_cast<float*>(y.data()));
    benchmark::ClobberMemory();
  }
  rates(state, 8.0 * static_cast<double>(n), 36.0 * static_cast<double>(n));
}

void fork_join(Bench& state, int threads) {
  std::vector<i64> sums(64 * 16);
  for (auto _ : state) {
    jet::cpu::parallel_for(threads, threads, [&](i64 task, int) { ++sums[static_cast<std::size_t>(task * 16)]; });
  }
}

std::string shape(i64 m, i64 n, i64 k) {
  return "/M:" + std::to_string(m) + "/N:" + std::to_string(n) + "/K:" + std::to_string(k);
}

template <class F, class... Args> void add(std::string const& name, F f, Args... args) {
  benchmark::RegisterBenchmark(name.c_str(), [=](Bench& state) { f(state, args...); });
}

void register_all() {
  for (Isa const isa : jet::cpu::available_isas()) {
    std::string const suffix = "/" + std::string(jet::cpu::name_of(isa));
    for (DType const a : {DType::f32, DType::bf16}) {
      for (DType const b : {DType::f32, DType::bf16}) {
        std::string const types = "/" + std::string(jet::name_of(a)) + "x" + std::string(jet::name_of(b));
        struct Shape {
          i64 m, n, k;
        };
        // Prefill; the same with a long k; attention scores; decode on weights larger than a cache.
        for (auto const [m, n, k] : {Shape{512, 8960, 1536}, {512, 1536, 8960}, {64, 512, 128}, {1, 40000, 1536}}) {
          if (isa != Isa::generic || m == 1 || (a == DType::f32 && k < 8960)) {
            add("op/gemm_nt" + suffix + types + shape(m, n, k), gemm_nt, isa, a, b, m, n, k);
          }
        }
      }
    }
    if (isa != Isa::avx512_bf16) {
      add("op/gemm_nn" + suffix + "/f32xf32" + shape(64, 256, 64), gemm_nn, isa, DType::f32, 64, 256, 64, false);
      add("op/gemm_nn" + suffix + "/f32xf32" + shape(96, 256, 64) + "/A:transposed", gemm_nn, isa, DType::f32, 96,
          256, 64, true);
      add("op/gemm_nn" + suffix + "/f32xbf16" + shape(64, 128, 512), gemm_nn, isa, DType::bf16, 64, 128, 512,
          false);
      add("op/gemm_nn" + suffix + "/f32xf32" + shape(512, 1536, 2048), gemm_nn, isa, DType::f32, 512, 1536, 2048,
          false);
      add("op/scan_step" + suffix + "/H:12/K:96/V:256", scan_step, isa, 12, 96, 256);
      auto const& table = jet::cpu::kernels<float>(isa);
      add("op/exp" + suffix + "/N:4096", element_wise, table.exp, 4096);
      add("op/silu" + suffix + "/N:4096", element_wise, table.silu, 4096);
      add("op/softplus" + suffix + "/N:4096", element_wise, table.softplus, 4096);
      add("op/conv" + suffix + "/N:3072", convolution, isa, 3072);
    }
  }
  add("op/fork_join/threads:2", fork_join, 2);
  add("op/fork_join/threads:all", fork_join, jet::cpu::available_threads());
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
