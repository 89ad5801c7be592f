// Attention on the device: rates of decode steps and of prefills, beside what a kernel that only reads and a large
// matrix product reach in the same run.
//   bench_op_cuda_attention [--long] [--decode | --prefill]
// A figure is the median of the replays of a graph that holds several calls on different caches, so that nothing is
// found in L2 that a model would not find there. Bytes counted: keys and values once; FLOP: 4 heads head per
// visible pair of a query and a key.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include <jet/cuda/attention.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/rates.cuh>

#include "device_timing.cuh"

namespace {

using device::fill;
using device::seconds;
using jet::i64;
using jet::op::AttentionShape;

double read_rate(cudaStream_t stream) {
  jet::DeviceBuffer const memory(i64{4} << 30);
  fill<float>(memory, stream);
  double best = 0;
  for (int const blocks : {132, 264, 528, 1056}) {
    for (int const threads : {256, 512, 1024}) {
      double const s = seconds(stream, 1, 5, [&](int) {
        jet::cuda::kernel::
            read_all_kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(
                reinterpret_cast<uint4 const*>(memory.data()), memory.bytes() / 16,
                reinterpret_cast<unsigned*>(memory.data()));
      });
      best = std::max(best, static_cast<double>(memory.bytes()) / s);
    }
  }
  return best;
}

template <AttentionShape C, jet::Precision P> class Bench {
 public:
  using Backend = jet::Cuda<P>;
  using KV = jet::type_of<P.kv_dtype()>;
  static constexpr i64 width = C.kv_heads * C.head;

  Bench(Backend& backend, i64 batch, i64 tokens, i64 seen, i64 sets)
      : backend_(backend),
        batch_(batch),
        tokens_(tokens),
        seen_(seen),
        sets_(sets),
        capacity_(C.window > 0 ? std::min(C.window, seen + tokens) : seen + tokens),
        q_(batch * tokens * C.heads * C.head * 4),
        k_(batch * tokens * width * 4),
        v_(batch * tokens * width * 4),
        o_(batch * tokens * C.heads * C.head * 2),
        cache_(2 * sets * batch * capacity_ * width * i64{sizeof(KV)}),
        lists_((batch * 3 + 1) * 8) {
    fill<float>(q_, backend.stream());
    fill<float>(k_, backend.stream());
    fill<float>(v_, backend.stream());
    fill<KV>(cache_, backend.stream());
    for (i64 i = 0; i < batch; ++i) {
      host_.add(static_cast<std::int32_t>(i), tokens, seen);
    }
    auto* const at = lists_.data();
    backend.copy_from_host(at, host_.cu_seqlens.data(), (batch + 1) * 8);
    backend.copy_from_host(at + (batch + 1) * 8, host_.position.data(), batch * 8);
    backend.copy_from_host(at + (2 * batch + 1) * 8, host_.slot.data(), batch * 4);
  }

  double run(int calls, int repeats) {
    jet::ScratchStack counting = jet::ScratchStack::counting();
    call(counting, 0);
    jet::DeviceBuffer scratch(counting.peak());
    return seconds(backend_.stream(), calls, repeats, [&](int i) {
      jet::ScratchStack stack(scratch.data(), scratch.bytes());
      call(stack, i % sets_);
    });
  }
  double bytes() const {
    double const rows = static_cast<double>(std::min(capacity_, seen_ + 1));
    return 2.0 * static_cast<double>(batch_ * width) * rows * static_cast<double>(sizeof(KV));
  }
  double flop() const {
    double pairs = 0;
    for (i64 t = 0; t < tokens_; ++t) {
      i64 const visible = seen_ + t + 1;
      pairs += static_cast<double>(C.window > 0 ? std::min(C.window, visible) : visible);
    }
    return 4.0 * static_cast<double>(batch_ * C.heads * C.head) * pairs;
  }

 private:
  void call(jet::ScratchStack& stack, i64 set) {
    i64 const n = batch_ * tokens_;
    jet::BatchView const host = host_.view();
    jet::BatchView view = host;
    auto* const at = lists_.data();
    view.cu_seqlens = reinterpret_cast<std::int64_t const*>(at);
    view.position = reinterpret_cast<std::int64_t const*>(at + (batch_ + 1) * 8);
    view.slot = reinterpret_cast<std::int32_t const*>(at + (2 * batch_ + 1) * 8);
    jet::Context<Backend> ctx(backend_, view, stack, tokens_ == 1 ? nullptr : &host);
    jet::Shape const shape{batch_, capacity_, C.kv_heads, C.head};
    i64 const bytes = batch_ * capacity_ * width * i64{sizeof(KV)};
    jet::Slot const key(cache_.data() + 2 * set * bytes, P.kv_dtype(), shape);
    jet::Slot const value(cache_.data() + (2 * set + 1) * bytes, P.kv_dtype(), shape);
    ctx.run(jet::op::Attention<C>{}, jet::View(q_.data(), jet::DType::f32, jet::Shape{n, C.heads * C.head}),
            jet::View(k_.data(), jet::DType::f32, jet::Shape{n, width}),
            jet::View(v_.data(), jet::DType::f32, jet::Shape{n, width}), key, value,
            jet::View(o_.data(), jet::DType::bf16, jet::Shape{n, C.heads * C.head}));
  }

  Backend& backend_;
  i64 batch_, tokens_, seen_, sets_, capacity_;
  jet::DeviceBuffer q_, k_, v_, o_, cache_, lists_;
  jet::Batch host_;
};

// FLOP/s of a product of two bf16 matrices of 8192 x 8192 by cuBLASLt.
double product_rate(jet::Cuda<jet::precision::bf16>& backend) {
  constexpr i64 n = 8192;
  jet::DType const type = jet::DType::bf16;
  jet::DeviceBuffer const a(n * n * 2), b(n * n * 2), c(n * n * 2), workspace(jet::cuda::BlasLt::workspace_bytes);
  fill<jet::bf16>(a, backend.stream());
  fill<jet::bf16>(b, backend.stream());
  jet::Shape const shape{n, n};
  double const s = seconds(backend.stream(), 10, 5, [&](int) {
    JET_CHECK(backend.blas().product(backend.stream(), jet::View(a.data(), type, shape), nullptr,
                                     jet::View(b.data(), type, shape), jet::View(c.data(), type, shape), false,
                                     workspace.data()),
              "no product of 8192 x 8192");
  });
  return 2.0 * static_cast<double>(n * n * n) / s;
}

double read_bandwidth = 0;
double product_flop = 0;

template <AttentionShape C, jet::Precision P> void decode(jet::Cuda<P>& backend, i64 batch, i64 context) {
  i64 const keys = C.window > 0 ? C.window : context;
  i64 const bytes = 2 * batch * keys * C.kv_heads * C.head * jet::size_of(P.kv_dtype());
  i64 const sets = std::clamp<i64>((i64{256} << 20) / bytes, 1, 64);  // five times L2
  Bench<C, P> bench(backend, batch, 1, context - 1, sets);
  double const s = bench.run(static_cast<int>(std::max<i64>(sets, 4)), 20);
  std::printf(
      "decode  %s %2lld/%lld heads of %3lld, window %4lld, batch %3lld, context %6lld: %9.2f us %7.0f GB/s %5.1f "
      "%% of reading\n",
      P.kv_dtype() == jet::DType::bf16 ? "bf16" : "f32 ", static_cast<long long>(C.heads),
      static_cast<long long>(C.kv_heads), static_cast<long long>(C.head), static_cast<long long>(C.window),
      static_cast<long long>(batch), static_cast<long long>(context), s * 1e6, bench.bytes() / s * 1e-9,
      100 * bench.bytes() / s / read_bandwidth);
}

template <AttentionShape C, jet::Precision P>
void prefill(jet::Cuda<P>& backend, i64 batch, i64 tokens, i64 seen, int repeats) {
  Bench<C, P> bench(backend, batch, tokens, seen, 1);
  double const s = bench.run(1, repeats);
  std::printf(
      "prefill %s %2lld/%lld heads of %3lld, window %4lld, batch %3lld, tokens %6lld after %6lld: %9.3f ms %7.1f "
      "TFLOP/s %5.1f %% of a product\n",
      P.kv_dtype() == jet::DType::bf16 ? "bf16" : "f32 ", static_cast<long long>(C.heads),
      static_cast<long long>(C.kv_heads), static_cast<long long>(C.head), static_cast<long long>(C.window),
      static_cast<long long>(batch), static_cast<long long>(tokens), static_cast<long long>(seen), s * 1e3,
      bench.flop() / s * 1e-12, 100 * bench.flop() / s / product_flop);
}

}  // namespace

int main(int argc, char** argv) {
  bool all = false;
  bool decodes = true;
  bool prefills = true;
  for (int i = 1; i < argc; ++i) {
    all = all || std::string_view(argv[i]) == "--long";
    decodes = decodes && std::string_view(argv[i]) != "--prefill";
    prefills = prefills && std::string_view(argv[i]) != "--decode";
  }
  return device::run(argc, argv, "decode\nprefill", [&] {
    constexpr jet::Precision bf16 = jet::precision::bf16;
    constexpr jet::Precision f32 = jet::precision::f32;
    jet::Cuda<bf16> backend;
    jet::Cuda<f32> exact;
    cudaDeviceProp properties{};
    jet::cuda_check(cudaGetDeviceProperties(&properties, backend.device()), "properties");
    read_bandwidth = read_rate(backend.stream());
    product_flop = product_rate(backend);
    std::printf("%s, reading alone %.0f GB/s, a product of 8192 x 8192 %.1f TFLOP/s\n", properties.name,
                read_bandwidth * 1e-9, product_flop * 1e-12);
    constexpr AttentionShape full{12, 2, 128, 0};
    constexpr AttentionShape window{12, 2, 128, 1152};
    if (decodes) {
      for (i64 const context : {i64{4096}, i64{65536}}) {
        for (i64 const batch : {1, 8, 64}) {
          decode<full, bf16>(backend, batch, context);
        }
      }
      for (i64 const batch : {1, 8, 64}) {
        decode<window, bf16>(backend, batch, 65536);
      }
      decode<full, f32>(exact, 1, 65536);
      decode<full, f32>(exact, 8, 65536);
      if (all) {
        decode<AttentionShape{16, 8, 128, 0}, bf16>(backend, 8, 65536);
        decode<AttentionShape{16, 2, 128, 0}, bf16>(backend, 64, 65536);
        decode<AttentionShape{3, 1, 64, 0}, bf16>(backend, 8, 65536);
      }
    }
    if (prefills) {
      prefill<full, bf16>(backend, 1, 4096, 0, 20);
      prefill<full, bf16>(backend, 16, 4096, 0, 10);
      prefill<full, bf16>(backend, 1, 16384, 0, 10);
      prefill<full, bf16>(backend, 1, 65536, 0, 7);
      prefill<full, bf16>(backend, 1, 2048, 63488, 10);
      prefill<full, bf16>(backend, 32, 128, 8064, 10);
      prefill<window, bf16>(backend, 1, 16384, 0, 10);
      prefill<window, bf16>(backend, 1, 65536, 0, 10);
      prefill<window, bf16>(backend, 16, 4096, 0, 10);
      prefill<AttentionShape{16, 8, 64, 0}, bf16>(backend, 1, 16384, 0, 10);
      prefill<AttentionShape{12, 2, 96, 0}, bf16>(backend, 1, 16384, 0, 10);
      prefill<AttentionShape{8, 2, 256, 0}, bf16>(backend, 1, 16384, 0, 10);
      prefill<AttentionShape{8, 2, 256, 1024}, bf16>(backend, 1, 16384, 0, 10);
      prefill<full, f32>(exact, 1, 4096, 0, 3);
    }
    return 0;
  });
}
