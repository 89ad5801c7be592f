// JetBlock's dynamic convolution on the device: the generator's second product, the convolution and silu as one op.
// Beside it the floor of its product at 798 TFLOP/s or of its traffic at 3.0 TB/s, and the rate at which cuBLASLt
// forms the product alone in the same run (y in bf16, 8,192 tokens).
//   bench_op_cuda_conv
#include <algorithm>
#include <cstdio>
#include <string_view>
#include <vector>

#include <jet/cuda/backend.cuh>
#include <jet/cuda/short_conv.cuh>

#include "device_timing.cuh"

namespace {

using device::fill;
using device::seconds;
using jet::DType;
using jet::i64;
using Backend = jet::Cuda<jet::precision::bf16>;

void conv(Backend& backend, i64 seqs, i64 tokens, i64 channels, i64 r) {
  cudaStream_t const stream = backend.stream();
  i64 const n = seqs * tokens;
  jet::Batch host;
  for (i64 i = 0; i < seqs; ++i) {
    host.add(static_cast<std::int32_t>(i), tokens, 0);
  }
  jet::DeviceBuffer lists((2 * seqs + 1) * 8 + seqs * 4);
  auto* const cu = reinterpret_cast<std::int64_t*>(lists.data());
  backend.copy_from_host(cu, host.cu_seqlens.data(), (seqs + 1) * 8);
  backend.copy_from_host(cu + seqs + 1, host.position.data(), seqs * 8);
  backend.copy_from_host(cu + 2 * seqs + 1, host.slot.data(), seqs * 4);
  jet::BatchView const host_view = host.view();
  jet::BatchView view = host_view;
  view.cu_seqlens = cu;
  view.position = cu + seqs + 1;
  view.slot = reinterpret_cast<std::int32_t const*>(cu + 2 * seqs + 1);
  std::vector<jet::DeviceBuffer> keep;
  auto const make = [&](i64 rows, i64 columns, DType type) {
    keep.emplace_back(rows * columns * jet::size_of(type));
    if (type == DType::f32) {
      fill<float>(keep.back(), stream);
    } else {
      fill<jet::bf16>(keep.back(), stream);
    }
    return jet::View(keep.back().data(), type, jet::Shape{rows, columns});
  };
  jet::View const hidden = make(n, r, DType::f32), x = make(n, channels, DType::bf16),
                  y = make(n, channels, DType::f32);
  jet::View const w2 = make(channels * 4, r, DType::bf16), b2 = make(1, channels * 4, DType::f32);
  jet::View const state = make(seqs, 4 * channels, DType::bf16);
  auto const body = [&](auto& ctx) {
    ctx.run(jet::op::DynamicConv{}, hidden, jet::Slot(w2.data, DType::bf16, {channels * 4, r}),
            jet::Slot(b2.data, DType::f32, {channels * 4}), x,
            jet::Slot(state.data, DType::bf16, {seqs, 4, channels}), y);
  };
  jet::ScratchStack counting = jet::ScratchStack::counting();
  jet::Context<Backend> planning(backend, view, counting, &host_view);
  body(planning);
  jet::DeviceBuffer scratch(counting.peak());
  double const s = seconds(stream, n <= 4096 ? 8 : 1, 15, [&](int) {
    jet::ScratchStack stack(scratch.data(), scratch.bytes());
    jet::Context<Backend> ctx(backend, view, stack, &host_view);
    body(ctx);
  });
  double const t = static_cast<double>(n), c = static_cast<double>(channels), h = static_cast<double>(r);
  double const flop = 8 * t * c * h;
  double const bytes = 2 * (4 * c * h + t * (h + 2 * c));  // all in bf16
  double const floor = std::max(flop / 798e12, bytes / 3e12);
  std::printf("%3lld x %6lld tokens, %lld channels, r %lld: %8.1f us %6.1f TFLOP/s, floor %7.1f us (%4.1f %%)\n",
              static_cast<long long>(seqs), static_cast<long long>(tokens), static_cast<long long>(channels),
              static_cast<long long>(r), s * 1e6, flop / s * 1e-12, floor * 1e6, 100 * floor / s);
}

void product(Backend& backend, i64 n, i64 k) {
  constexpr i64 rows = 8192;
  jet::DeviceBuffer const in(rows * k * 2), w(n * k * 2), out(rows * n * 2),
      workspace(jet::cuda::BlasLt::workspace_bytes);
  jet::View const x(fill<jet::bf16>(in, backend.stream()), DType::bf16, jet::Shape{rows, k});
  jet::Slot const weight(fill<jet::bf16>(w, backend.stream()), DType::bf16, jet::Shape{n, k});
  jet::View const y(out.data(), DType::bf16, jet::Shape{rows, n});
  double const s = seconds(backend.stream(), 1, 15, [&](int) {
    backend.blas().product(backend.stream(), weight, nullptr, x, y, false, workspace.data());
  });
  std::printf("cuBLASLt, %lld x %lld x %lld: %.1f us, %.1f TFLOP/s\n", static_cast<long long>(rows),
              static_cast<long long>(n), static_cast<long long>(k), s * 1e6,
              2e-12 * static_cast<double>(rows * n) * static_cast<double>(k) / s);
}

}  // namespace

int main(int argc, char** argv) {
  return device::run(argc, argv, "conv", [&] {
    Backend backend;
    cudaDeviceProp properties{};
    jet::cuda_check(cudaGetDeviceProperties(&properties, backend.device()), "properties");
    std::printf("%s\n", properties.name);
    product(backend, 4 * 3072, 384);
    product(backend, 4 * 4096, 512);
    for (auto const& [seqs, tokens] : {std::pair<i64, i64>{16, 4096},
                                       {1, 65536},
                                       {1, 16384},
                                       {1, 8192},
                                       {1, 4096},
                                       {1, 1024},
                                       {1, 128},
                                       {128, 1},
                                       {64, 1},
                                       {32, 1}}) {
      conv(backend, seqs, tokens, 3072, 384);
    }
    conv(backend, 16, 4096, 4096, 512);
    conv(backend, 1, 16384, 4096, 512);
    return 0;
  });
}
