// The linear-attention ops on the device: rates of decode steps beside what a copy reaches in the same run, and of
// prefills beside the floor of their traffic and products.
//   bench_op_cuda_scan [--sweep]
// A figure is the median of the replays of a graph. Decode steps: the state read and written once, on so many
// sequences that a call moves at least 512 MiB, or on other slots from call to call, so that nothing is found in
// L2.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include <jet/cuda/backend.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/short_conv.cuh>

#include "device_timing.cuh"

namespace {

using device::fill;
using device::seconds;
using jet::i64;
using jet::op::ScanShape;
namespace kernel = jet::cuda::kernel;

double copy_rate = 0;  // bytes read and written a second

jet::DeviceBuffer states, inputs;  // shared by all cases
constexpr i64 state_bytes = i64{320} << 20;

// Fused decode steps: `batch` sequences (0: so many that a call moves 512 MiB).
template <class S, int R>
void step(jet::Cuda<jet::precision::bf16>& backend, i64 heads, i64 head_v, i64 batch,
          kernel::ScanCut const& cut = {}) {
  constexpr i64 head_k = 16 * R;
  i64 const bytes = heads * head_k * head_v * i64{sizeof(S)};
  i64 const seqs = batch > 0 ? batch : ((i64{256} << 20) + bytes - 1) / bytes;
  i64 const sets = std::max<i64>(1, std::min<i64>(64, state_bytes / (seqs * bytes)));
  jet::Batch host;
  std::vector<std::int32_t> slots;
  for (i64 i = 0; i < seqs; ++i) {
    host.add(static_cast<std::int32_t>(i), 1, 0);
  }
  for (i64 i = 0; i < seqs * sets; ++i) {
    slots.push_back(static_cast<std::int32_t>(i));
  }
  jet::DeviceBuffer lists((seqs + 1) * 8 + seqs * sets * 4);
  backend.copy_from_host(lists.data(), host.cu_seqlens.data(), (seqs + 1) * 8);
  backend.copy_from_host(lists.data() + (seqs + 1) * 8, slots.data(), seqs * sets * 4);
  auto* const f = reinterpret_cast<float*>(inputs.data());
  kernel::ScanCall call{};
  call.q = f;
  call.k = f + 1024;
  call.v = f + 2048;
  call.a = f + 4096;
  call.b = f + 5120;
  call.a_log = f + 6144;
  call.dt_bias = f + 7168;
  call.z = f + 8192;
  call.weight = f + 9216;
  call.y = f + (i64{64} << 20) / 4;
  call.q_stride = call.k_stride = heads * head_k;
  call.v_stride = call.z_stride = call.y_stride = heads * head_v;
  call.a_stride = call.b_stride = heads;
  call.state = states.data();
  call.slot_stride = heads * head_k * head_v;
  call.head_stride = head_k * head_v;
  call.cu_seqlens = reinterpret_cast<std::int64_t const*>(lists.data());
  call.seqs = seqs;
  call.heads = static_cast<int>(heads);
  call.head_k = head_k;
  call.head_v = static_cast<int>(head_v);
  call.scale = 0.1f;
  call.norm_eps = 1e-5f;
  call.decay = jet::op::Decay::head;
  call.state_type = jet::dtype_of<S>;
  call.y_type = jet::DType::bf16;
  call.delta = call.raw = call.silu = true;
  double const s = seconds(backend.stream(), static_cast<int>(std::max<i64>(4, sets)), 20, [&](int i) {
    call.slot = reinterpret_cast<std::int32_t const*>(lists.data() + (seqs + 1) * 8) + i % sets * seqs;
    kernel::launch_scan_steps<S, R>(backend.stream(), backend.multiprocessors(), call, 0, true, cut);
  });
  double const rate = 2.0 * static_cast<double>(seqs * bytes) / s;
  kernel::ScanColumns const c = kernel::scan_columns(head_k, head_v, kernel::state_numbers<S>, cut);
  std::printf(
      "step %2lld heads of %3lld x %3lld, state %-4s batch %4lld, pieces %2d x %2d, cluster %d: %8.2f us %5.0f "
      "GB/s %5.1f %%\n",
      static_cast<long long>(heads), static_cast<long long>(head_k), static_cast<long long>(head_v),
      std::string(jet::name_of(jet::dtype_of<S>)).c_str(), static_cast<long long>(seqs), c.pieces, c.blocks,
      cut.cluster > 0 ? cut.cluster : kernel::scan_cluster(seqs * heads, c.blocks, backend.multiprocessors()),
      s * 1e6, rate * 1e-9, 100 * rate / copy_rate);
}

// The whole of DeltaMix and DynamicConv of the 2B shape on `seqs` prompts of `tokens` tokens.
template <jet::Precision P> void prompts(i64 seqs, i64 tokens, int repeats) {
  constexpr ScanShape shape{12, 96, 256};
  constexpr i64 keys = 12 * 96, values = 12 * 256, r = 384;
  jet::Cuda<P> backend;
  cudaStream_t const stream = backend.stream();
  i64 const n = seqs * tokens;
  jet::Batch host;
  for (i64 i = 0; i < seqs; ++i) {
    host.add(static_cast<std::int32_t>(i), tokens, 0);
  }
  jet::DeviceBuffer lists((seqs + 1) * 8 + seqs * 12);
  backend.copy_from_host(lists.data(), host.cu_seqlens.data(), (seqs + 1) * 8);
  backend.copy_from_host(lists.data() + (seqs + 1) * 8, host.position.data(), seqs * 8);
  backend.copy_from_host(lists.data() + (2 * seqs + 1) * 8, host.slot.data(), seqs * 4);
  jet::BatchView const host_view = host.view();
  jet::BatchView view = host_view;
  view.cu_seqlens = reinterpret_cast<std::int64_t const*>(lists.data());
  view.position = reinterpret_cast<std::int64_t const*>(lists.data() + (seqs + 1) * 8);
  view.slot = reinterpret_cast<std::int32_t const*>(lists.data() + (2 * seqs + 1) * 8);
  std::vector<jet::DeviceBuffer> keep;
  auto const make = [&](i64 rows, i64 columns, jet::DType type) {
    keep.emplace_back(rows * columns * jet::size_of(type));
    if (type == jet::DType::f32) {
      fill<float>(keep.back(), stream);
    } else {
      fill<jet::bf16>(keep.back(), stream);
    }
    return jet::View(keep.back().data(), type, jet::Shape{rows, columns});
  };
  auto const slot_of = [](jet::View const& v, jet::Shape const& s) { return jet::Slot(v.data, v.dtype, s); };
  jet::DType const f32 = jet::DType::f32;
  jet::View const q = make(n, keys, f32), k = make(n, keys, f32), v = make(n, values, f32),
                  z = make(n, values, f32);
  jet::View const a = make(n, 12, f32), b = make(n, 12, f32), y = make(n, values, P.act),
                  raw = make(n, values, P.act);
  jet::View const hidden = make(n, r, f32), w2 = make(values * 4, r, P.weights), vectors = make(1, values * 4, f32);
  jet::Slot const state = slot_of(make(seqs, keys * 256, P.state), {seqs, 12, 96, 256});
  jet::Slot const conv = slot_of(make(seqs, 4 * values, P.act), {seqs, 4, values});
  int const calls = n <= 128 ? 8 : 1;
  auto const time = [&](auto const& body) {
    jet::ScratchStack counting = jet::ScratchStack::counting();
    jet::Context<jet::Cuda<P>> planning(backend, view, counting, &host_view);
    body(planning);
    jet::DeviceBuffer scratch(counting.peak());
    return seconds(stream, calls, repeats, [&](int) {
      jet::ScratchStack stack(scratch.data(), scratch.bytes());
      jet::Context<jet::Cuda<P>> ctx(backend, view, stack, &host_view);
      body(ctx);
    });
  };
  double const mix = time([&](auto& ctx) {
    ctx.run(jet::op::DeltaMix<shape>{}, q, k, v, a, b, slot_of(vectors, {12}), slot_of(vectors, {12}), state, z,
            slot_of(vectors, {256}), y);
  });
  double const dynamic = time([&](auto& ctx) {
    ctx.run(jet::op::DynamicConv{}, hidden, slot_of(w2, {values * 4, r}), slot_of(vectors, {values * 4}), raw, conv,
            v);
  });
  double const norm = time([&](auto& ctx) {
    ctx.run(jet::op::GatedRmsNorm{12, 256, 1e-5, false}, slot_of(vectors, {256}), v, z, y);
  });
  double const t = static_cast<double>(n);
  // the chunk form's products at 798 TFLOP/s, or q, k, v, z in f32 and y in act at 3.0 TB/s; the generator's
  // product
  double const flop = 12.0 * t * (6.0 * 96 * 256 + 4.0 * 64 * (96 + 256) + 2.0 * 64 * 64 / 3);
  double const bytes = t * (2.0 * keys * 4 + 2.0 * values * 4 + values * static_cast<double>(jet::size_of(P.act)));
  double const conv_flop = 2.0 * t * values * 4 * r;
  double const conv_bytes =
      t * (r * 4.0 + values * (4.0 + static_cast<double>(jet::size_of(P.act)))) + values * 4.0 * r * 2;
  std::printf(
      "%s %2lld x %6lld tokens: mix %9.1f us (%6.2f M tokens/s, floor %7.1f us), its norm alone %7.1f us, "
      "convolution %9.1f us (%6.2f M "
      "tokens/s, floor %7.1f us)\n",
      std::string(jet::name_of(P.act)).c_str(), static_cast<long long>(seqs), static_cast<long long>(tokens),
      mix * 1e6, t / mix * 1e-6, 1e6 * std::max(flop / 798e12, bytes / 3e12), norm * 1e6, dynamic * 1e6,
      t / dynamic * 1e-6, 1e6 * std::max(conv_flop / 798e12, conv_bytes / 3e12));
}

template <class S> void shapes(jet::Cuda<jet::precision::bf16>& backend, kernel::ScanCut const& cut) {
  step<S, 16>(backend, 4, 288, 0, cut), step<S, 12>(backend, 4, 384, 0, cut), step<S, 8>(backend, 4, 576, 0, cut);
  step<S, 16>(backend, 8, 144, 0, cut), step<S, 12>(backend, 8, 192, 0, cut), step<S, 8>(backend, 8, 288, 0, cut);
  step<S, 8>(backend, 12, 192, 0, cut), step<S, 6>(backend, 12, 256, 0, cut), step<S, 4>(backend, 12, 384, 0, cut);
  step<S, 1>(backend, 32, 576, 0, cut), step<S, 16>(backend, 64, 16, 0, cut), step<S, 7>(backend, 8, 400, 0, cut);
}

}  // namespace

int main(int argc, char** argv) {
  bool sweep = false;
  for (int i = 1; i < argc; ++i) {
    sweep = sweep || std::string_view(argv[i]) == "--sweep";
  }
  return device::run(argc, argv, "step\nprompts", [&] {
    jet::Cuda<jet::precision::bf16> backend;
    cudaDeviceProp properties{};
    jet::cuda_check(cudaGetDeviceProperties(&properties, backend.device()), "properties");
    copy_rate = device::copy_rate(backend.stream());
    std::printf("%s, copy %.0f GB/s\n", properties.name, copy_rate * 1e-9);
    states = jet::DeviceBuffer(state_bytes);
    inputs = jet::DeviceBuffer(i64{128} << 20);
    fill<float>(states, backend.stream());
    fill<float>(inputs, backend.stream());
    shapes<float>(backend, {});
    for (i64 const batch : {1, 8, 32, 128}) {
      step<float, 6>(backend, 12, 256, batch);
    }
    fill<jet::f16>(states, backend.stream());
    for (i64 const batch : {1, 32, 128, 0}) {
      step<jet::f16, 6>(backend, 12, 256, batch);
    }
    fill<jet::bf16>(states, backend.stream());
    step<jet::bf16, 6>(backend, 12, 256, 0);
    if (sweep) {
      fill<float>(states, backend.stream());
      for (int const cluster : {1, 2}) {
        for (int const pieces : {8, 16}) {
          shapes<float>(backend, {.pieces = pieces, .cluster = cluster});
        }
      }
      for (i64 const batch : {1, 4, 8, 16, 32, 64}) {
        for (int const cluster : {1, 2, 4}) {
          step<float, 6>(backend, 12, 256, batch, {.cluster = cluster});
        }
      }
    }
    states = jet::DeviceBuffer();
    for (auto const& [seqs, tokens] : {std::pair<i64, i64>{1, 1},
                                       {16, 1},
                                       {32, 1},
                                       {128, 1},
                                       {1, 64},
                                       {1, 1024},
                                       {1, 4096},
                                       {16, 4096},
                                       {1, 65536}}) {
      prompts<jet::precision::bf16>(seqs, tokens, 10);
    }
    prompts<jet::precision::f32>(1, 4096, 3);
    prompts<jet::precision::f32>(16, 1, 3);
    return 0;
  });
}
