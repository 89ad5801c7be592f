// The scans of the linear-attention family on the device, at the sizes of benchmarks/family_peers.py: the chunk
// form on 8 prompts of 4096 tokens beside the floor of its traffic and products, decode steps of 512 MiB of state
// traffic beside what a copy reaches in the same run.
//   bench_op_cuda_family [--json FILE] [--only MEMBER]
// A figure is the median of the replays of a graph. Activations of the policy are bf16, so that chunks may have
// 16-bit factors; what goes in and out is f32, as blocks pass it.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/cuda/activate.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/rwkv7.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/io/atomic_file.hpp>

#include "device_timing.cuh"

namespace {

using device::fill;
using device::seconds;
using jet::i64;
using jet::op::Decay;
using jet::op::ScanShape;
using jet::op::Update;

using Backend = jet::Cuda<jet::precision::bf16>;

struct Row {
  std::string member, what;
  double us, floor_us, share;  // share: of the copy rate, of decode steps
};
std::vector<Row> rows;
double copy_rate = 0;
std::string_view only;
std::string device_name;
std::filesystem::path file;

// The file is complete after every row.
void add(Row row) {
  rows.push_back(std::move(row));
  if (file.empty()) {
    return;
  }
  std::ostringstream text;
  text << "{\"device\": \"" << device_name << "\", \"copy_gb_s\": " << copy_rate * 1e-9 << ", \"rows\": [";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    text << (i > 0 ? ",\n" : "\n") << "{\"member\": \"" << rows[i].member << "\", \"what\": \"" << rows[i].what
         << "\", \"us\": " << rows[i].us << ", \"floor_us\": " << rows[i].floor_us
         << ", \"share_of_copy\": " << rows[i].share << "}";
  }
  text << "\n]}\n";
  jet::AtomicFile out(file);
  out.write(text.str());
  out.commit();
}

// One call of a scan on `seqs` sequences of `tokens` tokens, timed.
template <ScanShape C, bool General> double time_scan(i64 seqs, i64 tokens, int calls, int repeats) {
  Backend backend;
  cudaStream_t const stream = backend.stream();
  i64 const n = seqs * tokens, keys = C.heads * C.head_k, values = C.heads * C.head_v;
  jet::Batch host;
  for (i64 i = 0; i < seqs; ++i) {
    host.add(static_cast<std::int32_t>(i), tokens, 0);
  }
  std::vector<jet::DeviceBuffer> keep;
  auto const make = [&](i64 width) {
    keep.emplace_back(std::max<i64>(1, n * width) * 4);
    fill<float>(keep.back(), stream);
    return jet::View(keep.back().data(), jet::DType::f32, jet::Shape{n, width});
  };
  jet::View const q = make(keys), k = make(keys), v = make(values), o = make(values);
  jet::View const g = make(std::max<i64>(1, C.decay_width())), beta = make(C.heads);
  jet::View const a = make(General ? keys : 1), b = make(General ? keys : 1);
  keep.emplace_back(seqs * C.heads * C.head_k * C.head_v * 4);
  keep.back().zero();
  jet::Slot const state(keep.back().data(), jet::DType::f32, jet::Shape{seqs, C.heads, C.head_k, C.head_v});
  auto const normalise = [&](auto& ctx) {
    ctx.run(jet::op::L2Norm{C.heads, C.head_k}, q);
    ctx.run(jet::op::L2Norm{C.heads, C.head_k}, k);
    ctx.run(jet::op::Activate{jet::Activation::log_sigmoid, 0.5}, g);
    ctx.run(jet::op::Activate{jet::Activation::sigmoid}, beta);
    if constexpr (General) {
      ctx.run(jet::op::L2Norm{C.heads, C.head_k}, a);
      ctx.run(jet::op::Activate{jet::Activation::none, -0.5}, b);
      ctx.run(jet::op::L2Norm{C.heads, C.head_k}, b);
    }
  };
  auto const body = [&](auto& ctx) {
    if constexpr (General) {
      ctx.run(jet::op::GeneralDeltaScan<C>{}, q, k, v, a, b, g, state, o);
    } else {
      ctx.run(jet::op::GatedScan<C>{}, q, k, v, C.decay == Decay::none ? jet::View{} : g,
              C.update == Update::delta ? beta : jet::View{}, state, o);
    }
  };
  jet::DeviceBuffer lists((seqs + 1) * 8 + seqs * 12);
  backend.copy_from_host(lists.data(), host.cu_seqlens.data(), (seqs + 1) * 8);
  backend.copy_from_host(lists.data() + (seqs + 1) * 8, host.position.data(), seqs * 8);
  backend.copy_from_host(lists.data() + (2 * seqs + 1) * 8, host.slot.data(), seqs * 4);
  jet::BatchView const host_view = host.view();
  jet::BatchView view = host_view;
  view.cu_seqlens = reinterpret_cast<std::int64_t const*>(lists.data());
  view.position = reinterpret_cast<std::int64_t const*>(lists.data() + (seqs + 1) * 8);
  view.slot = reinterpret_cast<std::int32_t const*>(lists.data() + (2 * seqs + 1) * 8);
  jet::ScratchStack counting = jet::ScratchStack::counting();
  jet::Context<Backend> planning(backend, view, counting, &host_view);
  body(planning);
  jet::DeviceBuffer scratch(std::max<i64>(256, counting.peak()));
  auto const run = [&](auto const& what) {
    jet::ScratchStack stack(scratch.data(), scratch.bytes());
    jet::Context<Backend> ctx(backend, view, stack, &host_view);
    what(ctx);
  };
  run(normalise);
  return seconds(stream, calls, repeats, [&](int) { run(body); });
}

template <ScanShape C, bool General = false> void member(char const* name) {
  if (!only.empty() && only != name) {
    return;
  }
  {
    constexpr i64 seqs = 8, tokens = 4096;
    double const s = time_scan<C, General>(seqs, tokens, 1, 10);
    double const t = static_cast<double>(seqs * tokens * C.heads);
    auto const k = static_cast<double>(C.head_k), v = static_cast<double>(C.head_v);
    // rows in and out once; state products, and the lower halves of the squares of 64 tokens
    double const decay = C.decay == Decay::channel ? k : C.decay == Decay::head ? 1 : 0;
    double const bytes = 4 * t * (2 * k + 2 * v + decay + (General ? 2 * k : 1));
    double const solve = General                     ? 2 * k * v + 64 * (3 * k + 3 * v)
                         : C.update == Update::delta ? 2 * k * v + 64 * (k + v)
                                                     : 0;
    double const flop = t * (4 * k * v + 64 * (k + v) + solve);
    double const floor = std::max(bytes / copy_rate, flop / 798e12);
    add({name, "prefill", s * 1e6, floor * 1e6, 0});
    std::printf("%-15s prefill 8 x 4096, %2lld heads of %3lld x %3lld: %9.1f us, floor %7.1f us (%4.1f %%)\n", name,
                static_cast<long long>(C.heads), static_cast<long long>(C.head_k), static_cast<long long>(C.head_v),
                s * 1e6, floor * 1e6, 100 * floor / s);
  }
  {
    i64 const bytes = C.heads * C.head_k * C.head_v * 4;
    i64 const seqs = ((i64{256} << 20) + bytes - 1) / bytes;
    double const s = time_scan<C, General>(seqs, 1, 4, 20);
    double const rate = 2.0 * static_cast<double>(seqs * bytes) / s;
    add({name, "decode", s * 1e6, 2e6 * static_cast<double>(seqs * bytes) / copy_rate, rate / copy_rate});
    std::printf("%-15s decode, batch %4lld: %9.1f us, state at %5.0f GB/s, %5.1f %% of copy\n", name,
                static_cast<long long>(seqs), s * 1e6, rate * 1e-9, 100 * rate / copy_rate);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::string_view const option = argv[i];
    if (option == "--json" && i + 1 < argc) {
      file = argv[++i];
    } else if (option == "--only" && i + 1 < argc) {
      only = argv[++i];
    }
  }
  return device::run(argc, argv, "prefill\ndecode", [&] {
    cudaDeviceProp properties{};
    {
      Backend backend;
      jet::cuda_check(cudaGetDeviceProperties(&properties, backend.device()), "properties");
      copy_rate = device::copy_rate(backend.stream());
    }
    device_name = properties.name;
    std::printf("%s, copy %.0f GB/s\n", properties.name, copy_rate * 1e-9);
    constexpr Decay head = Decay::head, channel = Decay::channel;
    constexpr Update additive = Update::additive, delta = Update::delta;
    member<ScanShape{12, 128, 256, head, additive}>("retnet");
    member<ScanShape{48, 128, 64, head, additive, 1.0}>("mamba2");
    member<ScanShape{4, 192, 384, channel, additive}>("gla");
    member<ScanShape{12, 128, 128, Decay::none, delta}>("deltanet");
    member<ScanShape{12, 96, 256, head, delta}>("gated_deltanet");
    member<ScanShape{12, 128, 128, channel, delta}>("kda");
    member<ScanShape{24, 64, 64, channel, delta, 1.0}, true>("rwkv7");
    return 0;
  });
}
