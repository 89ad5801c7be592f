// The scan in chunks on the device, bare (with the l2 norms of q and k inside) and with the gated norm behind it,
// beside the floor of its traffic (q, k, v, o of 16 bits; with the norm z and y, too) and products at the rates of
// a copy and of a large bf16 product in the same run.
//   bench_op_cuda_scan_chunk [--short]
// A figure is the median of the replays of a graph. "f32": q, k, v and o are fp32, as the ops have them; "bf16": as
// other libraries have them.
#include <algorithm>
#include <cstdio>
#include <string_view>
#include <vector>

#include <jet/cuda/backend.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/rates.cuh>

#include "device_timing.cuh"

namespace {

using device::fill;
using device::seconds;
using jet::DType;
using jet::i64;
namespace kernel = jet::cuda::kernel;
using Backend = jet::Cuda<jet::precision::bf16>;

double copy_rate = 0;     // bytes read and written a second
double product_rate = 0;  // FLOP a second

void measure(Backend& backend) {
  copy_rate = jet::cuda::measure_device_rates(backend.stream(), backend.multiprocessors()).copy;
  constexpr i64 n = 8192;
  jet::DeviceBuffer const a(n * n * 2), b(n * n * 2), c(n * n * 2), workspace(jet::cuda::BlasLt::workspace_bytes);
  fill<jet::bf16>(a, backend.stream());
  fill<jet::bf16>(b, backend.stream());
  auto const view = [](jet::DeviceBuffer const& m) { return jet::View(m.data(), DType::bf16, jet::Shape{n, n}); };
  double const s = seconds(backend.stream(), 2, 5, [&](int) {
    backend.blas().product(backend.stream(), view(a), nullptr, view(b), view(c), false, workspace.data());
  });
  product_rate = 2.0 * n * n * n / s;
  std::printf("copy %.0f GB/s, bf16 product of 8192^3 %.0f TFLOP/s\n", copy_rate * 1e-9, product_rate * 1e-12);
}

template <int DK, bool Delta>
void chunked(Backend& backend, i64 heads, i64 head_v, i64 seqs, i64 tokens, DType io) {
  cudaStream_t const stream = backend.stream();
  i64 const n = seqs * tokens;
  jet::Batch host;
  for (i64 i = 0; i < seqs; ++i) {
    host.add(static_cast<std::int32_t>(i), tokens, 0);
  }
  jet::DeviceBuffer const lists((seqs + 1) * 8 + seqs * 4);
  backend.copy_from_host(lists.data(), host.cu_seqlens.data(), (seqs + 1) * 8);
  backend.copy_from_host(lists.data() + (seqs + 1) * 8, host.slot.data(), seqs * 4);
  std::vector<jet::DeviceBuffer> keep;
  auto const make = [&](i64 rows, i64 columns, DType type) {
    keep.emplace_back(rows * columns * jet::size_of(type));
    type == DType::f32 ? void(fill<float>(keep.back(), stream)) : void(fill<jet::bf16>(keep.back(), stream));
    return reinterpret_cast<float*>(keep.back().data());
  };
  i64 const keys = heads * DK;
  i64 const values = heads * head_v;
  kernel::ScanCall call{};
  call.q = make(n, keys, io), call.k = make(n, keys, io), call.v = make(n, values, io),
  call.o = make(n, values, io);
  call.a = make(n, heads, DType::f32), call.b = make(n, heads, DType::f32);
  call.a_log = make(1, heads, DType::f32), call.dt_bias = make(1, heads, DType::f32);
  call.q_stride = call.k_stride = keys;
  call.v_stride = call.o_stride = values;
  call.a_stride = call.b_stride = heads;
  call.state = make(seqs * keys, head_v, DType::f32);
  call.slot_stride = keys * head_v, call.head_stride = DK * head_v;
  call.cu_seqlens = reinterpret_cast<std::int64_t const*>(lists.data());
  call.slot = reinterpret_cast<std::int32_t const*>(lists.data() + (seqs + 1) * 8);
  call.seqs = seqs, call.heads = static_cast<int>(heads), call.head_k = DK, call.head_v = static_cast<int>(head_v);
  call.scale = 0.1f;
  call.decay = jet::op::Decay::head, call.state_type = DType::f32;
  call.delta = Delta, call.raw = Delta;
  call.qk_type = call.v_type = call.o_type = io;
  i64 const chunks = kernel::scan_max_chunks(n, seqs);
  i64 const pieces = tokens > (kernel::scan_cut_from - 1) * 64 ? kernel::scan_max_pieces(n) : 0;
  kernel::ScanHopperMemory memory;
  keep.emplace_back(3 * (seqs + 1) * 4);
  memory.first_chunk = reinterpret_cast<int*>(keep.back().data());
  keep.emplace_back(chunks * heads * kernel::ScanTiles<DK>::bytes);
  memory.chunks = keep.back().data();
  keep.emplace_back(std::max<i64>(16, pieces * heads * DK * head_v * 4));
  memory.states = reinterpret_cast<float*>(keep.back().data());
  keep.emplace_back(std::max<i64>(16, pieces * heads * DK * DK * 4));
  memory.transfers = reinterpret_cast<float*>(keep.back().data());

  double const all = seconds(
      stream, 1, 10, [&](int) { kernel::launch_scan_hopper<DK, Delta>(stream, call, memory, chunks, pieces); });
  double const tiles =
      seconds(stream, 1, 10, [&](int) { kernel::launch_scan_tiles<DK, Delta>(stream, call, memory, chunks); });
  double portable = 0;
  if constexpr (Delta && kernel::scan_chunks_fit<kernel::HalfFragments, DK>) {
    if (io == DType::f32) {
      keep.emplace_back(chunks * heads * kernel::ScanChunk<kernel::HalfFragments, DK>::bytes);
      kernel::ScanChunkMemory const others{memory.first_chunk, keep.back().data()};
      portable = seconds(stream, 1, 5, [&](int) {
        kernel::launch_scan_chunks<kernel::HalfFragments, DK, Delta>(stream, backend.multiprocessors(), call,
                                                                     others, chunks);
      });
    }
  }
  double norm = 0;
  double const t = static_cast<double>(n);
  if (io == DType::f32) {
    float const* const z = make(n, values, DType::f32);
    float* const y = make(n, values, DType::bf16);
    kernel::GatedRows const rows{call.o,
                                 z,
                                 make(1, head_v, DType::f32),
                                 y,
                                 values,
                                 values,
                                 values,
                                 n,
                                 static_cast<int>(heads),
                                 static_cast<int>(head_v),
                                 1e-5f,
                                 DType::bf16,
                                 false,
                                 true};
    norm = seconds(stream, 1, 10, [&](int) {
      launch("gated_rms_norm", kernel::detail::grid_over(n * heads * jet::cuda::warp_size, 128), stream,
             &kernel::gated_rms_norm<>, rows);
    });
  }
  double const c = 64;
  double const k = DK;
  double const v = static_cast<double>(head_v);
  double per_token = Delta ? 6 * k * v + 4 * c * (k + v) + 2 * c * c / 3 : 4 * k * v + 2 * c * (k + v);
  double bytes = (2 * k + 2 * v) * 2 + 8;
  if (pieces > 0) {
    per_token += Delta ? 4 * c * k + 2 * c * c / 3 + 4 * k * k + 4 * k * v : 2 * k * v;
    bytes += (k + v) * 2;
  }
  double const h = static_cast<double>(heads);
  double const floor = h * t * std::max(per_token / product_rate, bytes / copy_rate);
  double const normed_floor = h * t * std::max(per_token / product_rate, (bytes + 2 * v) / copy_rate);
  std::printf(
      "%s %2lld x %6lld tokens, %2lld heads of %3d x %3lld, %s: %7.3f ms (tiles %.3f), floor %.3f, share %4.1f %%",
      Delta ? "delta   " : "additive", static_cast<long long>(seqs), static_cast<long long>(tokens),
      static_cast<long long>(heads), DK, static_cast<long long>(head_v), io == DType::f32 ? "f32 " : "bf16",
      all * 1e3, tiles * 1e3, floor * 1e3, 100 * floor / all);
  if (norm > 0) {
    std::printf("; with the norm %.3f ms, floor %.3f", (all + norm) * 1e3, normed_floor * 1e3);
  }
  if (portable > 0) {
    std::printf("; without wgmma %.3f ms", portable * 1e3);
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  bool brief = false;
  for (int i = 1; i < argc; ++i) {
    brief = brief || std::string_view(argv[i]) == "--short";
  }
  return device::run(argc, argv, "chunks", [&] {
    Backend backend;
    if (!kernel::runs_wgmma()) {
      std::printf("not built for, or not on, sm_90a: not run\n");
      return 77;
    }
    measure(backend);
    for (DType const io : {DType::bf16, DType::f32}) {
      chunked<96, true>(backend, 12, 256, 16, 4096, io);
      chunked<96, true>(backend, 12, 256, 1, 65536, io);
      chunked<128, true>(backend, 16, 256, 16, 4096, io);
      chunked<128, true>(backend, 16, 256, 1, 65536, io);
      if (!brief) {
        chunked<96, true>(backend, 12, 256, 1, 4096, io);
        chunked<256, true>(backend, 4, 288, 16, 4096, io);
        chunked<192, true>(backend, 4, 384, 16, 4096, io);
        chunked<128, true>(backend, 4, 576, 16, 4096, io);
        chunked<256, true>(backend, 8, 144, 16, 4096, io);
        chunked<192, true>(backend, 8, 192, 16, 4096, io);
        chunked<128, true>(backend, 8, 288, 16, 4096, io);
        chunked<128, true>(backend, 12, 192, 16, 4096, io);
        chunked<64, true>(backend, 12, 384, 16, 4096, io);
        chunked<128, false>(backend, 12, 256, 8, 4096, io);
      }
    }
    return 0;
  });
}
