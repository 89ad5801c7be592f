// Prefill of whole models on a GPU with random weights: time, tokens a second, and where the time goes, op by op.
// Beside it two floors: that of the roofline with the ceilings of its published measurement (bf16 products at 798
// TFLOP/s, memory at 3.0 TB/s on an H100), and the same with the products at the rate that cuBLASLt reaches in this
// run on the model's own shapes.
//   bench_model_prefill [--model 2b|4b|qwen3] [--tokens 65536] [--sequences 1] [--chunk 16384] [--repeats 3]
//     [--timeline 1]
// `tokens` is the length of each of the sequences.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/cuda.cuh>
#include <jet/cuda/rates.cuh>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/qwen.hpp>

namespace timed {

using jet::i64;

/// Where the stream's time goes: between two marks, to the op that began last and has not ended.
class Timeline {
 public:
  bool on = false;

  void begin(cudaStream_t stream, std::string name) {
    if (on) {
      open_.push_back(std::move(name));
      mark(stream, open_.back());
    }
  }
  void end(cudaStream_t stream) {
    if (on) {
      open_.pop_back();
      mark(stream, open_.empty() ? "between ops" : open_.back());
    }
  }
  /// Seconds and calls by op, of everything since the last time.
  std::map<std::string, std::pair<double, i64>> take() {
    std::map<std::string, std::pair<double, i64>> all;
    for (std::size_t i = 0; i + 1 < used_; ++i) {
      float ms = 0;
      jet::cuda_check(cudaEventElapsedTime(&ms, events_[i], events_[i + 1]), "elapsed");
      all[names_[i]].first += ms * 1e-3;
      ++all[names_[i]].second;
    }
    used_ = 0;
    return all;
  }

 private:
  void mark(cudaStream_t stream, std::string const& next) {
    if (used_ == events_.size()) {
      cudaEvent_t event = nullptr;
      jet::cuda_check(cudaEventCreate(&event), "event");
      events_.push_back(event);
      names_.emplace_back();
    }
    jet::cuda_check(cudaEventRecord(events_[used_], stream), "record");
    names_[used_++] = next;
  }
  std::vector<cudaEvent_t> events_;
  std::vector<std::string> names_, open_;
  std::size_t used_ = 0;
};
inline Timeline timeline;

struct tag {};

/// The CUDA backend with a mark before and after every op.
struct Backend : jet::Cuda<jet::precision::bf16> {
  using tag = timed::tag;
  explicit Backend(jet::BackendOptions const& options = {}) : Cuda(options) {}
  explicit Backend(Cuda&& backend) : Cuda(std::move(backend)) {}
  static Backend for_planning(jet::BackendOptions const& options = {}) {
    return Backend(Cuda::for_planning(options));
  }
};

/// A name for an op's line: products are told apart by their widths.
template <class Op, class... Args> std::string label(Op const&, Args const&...) {
  return std::string(Op::name);
}
template <class... Rest> std::string label(jet::op::Linear const&, jet::Slot const& w, Rest const&...) {
  return "linear " + std::to_string(w.extent[1]) + " to " + std::to_string(w.extent[0]);
}
template <std::size_t N>
std::string label(jet::op::Linears const&, jet::View const& x, std::array<jet::op::Projection, N> const& parts) {
  i64 n = 0;
  for (auto const& p : parts) {
    n += p.weight.extent[0];
  }
  return "linears " + std::to_string(x.extent[1]) + " to " + std::to_string(n);
}

}  // namespace timed

JET_NAMESPACE_BEGIN
template <class Op> struct Kernel<Op, timed::tag> {
  using K = Kernel<Op, tag::cuda>;
  template <class B, class... Args>
    requires requires(Context<B>& ctx, Op const& op, Args&&... args) {
      K::scratch(ctx, op, args...);
    }
  static auto scratch(Context<B>& ctx, Op const& op, Args&&... args) { return K::scratch(ctx, op, args...); }
  template <class B, class... Args>
    requires requires(Context<B>& ctx, Op const& op, Args&&... args) {
      K::run(ctx, op, args...);
    }
  static void run(Context<B>& ctx, Op const& op, Args&&... args) {
    bracket(
        ctx, op, [&] { K::run(ctx, op, args...); }, args...);
  }

 private:
  template <class B, class F, class First, class... Rest>
  static void bracket(Context<B>& ctx, Op const& op, F const& f, First const& first, Rest const&... rest) {
    timed::timeline.begin(ctx.backend().stream(), name(op, first, rest...));
    f();
    timed::timeline.end(ctx.backend().stream());
  }
  /// Without the scratch, which comes before the arguments where there is some.
  template <class First, class... Rest>
  static std::string name(Op const& op, First const& first, Rest const&... rest) {
    if constexpr (std::is_same_v<Op, op::Linear> || std::is_same_v<Op, op::Linears>) {
      return timed::label(op, rest...);
    } else {
      return timed::label(op, first, rest...);
    }
  }
};
JET_NAMESPACE_END

namespace {

using jet::i64;

struct Options {
  std::string model = "2b";
  i64 tokens = 65536, sequences = 1, chunk = 16384;
  int repeats = 3;
  bool timeline = true;
};

/// The sizes that the roofline asks for.
struct Sizes {
  double hidden, inter, vocab, jet, full, window_layers, heads, kv_heads, head, window, mix_heads, key, value;
  double layers() const { return jet + full + window_layers; }
  double keys() const { return mix_heads * key; }
  double values() const { return mix_heads * value; }
  double generator() const { return values() / 8; }
};
constexpr Sizes sizes_2b{1536, 8960, 151936, 24, 2, 2, 12, 2, 128, 1152, 12, 96, 256};
constexpr Sizes sizes_4b{2048, 11008, 151936, 26, 3, 7, 16, 2, 128, 2048, 16, 128, 256};
constexpr Sizes sizes_qwen3{2048, 6144, 151936, 0, 28, 0, 16, 8, 128, 0, 0, 0, 0};

/// Seconds: every op at the slower of its products and its least traffic, in bf16, fused as far as it can be.
/// `dense`: FLOP a second of the dense products.
double floor_seconds(Sizes const& s, double sequences, double length, double dense) {
  constexpr double peak = 798e12, bandwidth = 3.0e12, simt = 60e12, taps = 4, chunk = 64;
  double const m = sequences * length;
  auto const op = [&](double flop, double bytes, double scalar = 0) {
    return std::max({flop / peak, bytes / bandwidth, scalar / simt});
  };
  auto const product = [&](double n, double k, double out = 0, double extra = 0) {
    double const bytes = 2 * (n * k + m * (k + (out > 0 ? out : n))) + extra;
    return std::max(2 * m * n * k / dense, bytes / bandwidth);
  };
  double t = op(0, 4 * m * s.hidden) + (2 * s.layers() + 1) * op(0, 4 * m * s.hidden, 6 * m * s.hidden);
  if (s.jet > 0) {
    double const g = s.generator(), v = s.values();
    double const mix = 6 * s.key * s.value + 4 * chunk * (s.value + s.key) + 2 * chunk * chunk / 3;
    t += s.jet * (product(2 * s.keys() + 2 * v + g + 2 * s.mix_heads, s.hidden) +
                  op(2 * m * g * taps * v, 2 * (g * taps * v + m * (g + 2 * v)), m * v * (2 * taps + 6)) +
                  op(m * s.mix_heads * mix, m * (2 * (2 * s.keys() + 3 * v) + 8 * s.mix_heads)) +
                  product(s.hidden, v, 0, 2 * m * s.hidden));
  }
  double const q = s.heads * s.head, kv = s.kv_heads * s.head;
  double const row_bytes = 2 * m * (2 * q + 2 * kv);
  double const w = std::min(length, s.window);
  t += (s.full + s.window_layers) * (product(q + 2 * kv, s.hidden) + product(s.hidden, q, 0, 2 * m * s.hidden));
  t += s.full * op(2 * sequences * length * length * q, row_bytes);
  t += s.window_layers * op(4 * sequences * (w * (w + 1) / 2 + (length - w) * w) * q, row_bytes);
  t += s.layers() * (product(2 * s.inter, s.hidden, s.inter) + product(s.hidden, s.inter, 0, 2 * m * s.hidden));
  return t + op(2 * sequences * s.vocab * s.hidden, 2 * s.vocab * s.hidden);
}

template <class T> __global__ void fill_kernel(T* to, i64 n, float scale, float base) {
  for (i64 i = blockIdx.x * i64{blockDim.x} + threadIdx.x; i < n; i += i64{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + 12345u;
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    to[i] = T(base + scale * (static_cast<float>(h >> 8) / 8388608.0f - 1.0f));
  }
}

template <class Model> void run(Options const& o, Sizes const& sizes) {
  using B = timed::Backend;
  B const filler;
  auto const weights = std::make_shared<jet::Weights<Model>>();
  std::vector<jet::DeviceBuffer> memory;
  std::map<std::pair<i64, i64>, i64> shapes;  // (n, k) of dense products
  weights->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    jet::DType const type = jet::param_dtype(B::precision, key.spec);
    i64 const n = key.spec.shape.numel();
    memory.emplace_back(n * jet::size_of(type));
    slot = jet::Slot(memory.back().data(), type, key.spec.shape);
    bool const matrix = key.spec.shape.rank == 2;
    float const scale = matrix ? 0.035f : 0.1f, base = matrix ? 0.0f : 1.0f;
    if (type == jet::DType::f32) {
      fill_kernel<<<1024, 256, 0, filler.stream()>>>(slot.template as<float>(), n, scale, base);
    } else {
      fill_kernel<<<1024, 256, 0, filler.stream()>>>(slot.template as<jet::bf16>(), n, scale, base);
    }
    if (matrix && key.layer >= 0 && key.spec.name.view().find("generator.w2") == std::string_view::npos) {
      ++shapes[{slot.extent[0], slot.extent[1]}];
    }
  });
  weights->tie();
  filler.sync();

  i64 const all = o.tokens * o.sequences;
  std::printf("%s: %lld x %lld tokens in chunks of %lld\n", o.model.c_str(), static_cast<long long>(o.sequences),
              static_cast<long long>(o.tokens), static_cast<long long>(o.chunk));

  // What cuBLASLt reaches on these shapes, y in bf16 and in f32.
  double dense_seconds = 0, dense_flop = 0;
  {
    i64 const rows = std::min(o.chunk, all);
    jet::DeviceBuffer const workspace(jet::cuda::BlasLt::workspace_bytes);
    i64 widest = 0, deepest = 0;
    for (auto const& [shape, count] : shapes) {
      widest = std::max(widest, shape.first);
      deepest = std::max(deepest, shape.second);
    }
    jet::DeviceBuffer const in(rows * deepest * 2), w(widest * deepest * 2), out(rows * widest * 4);
    fill_kernel<<<1024, 256, 0, filler.stream()>>>(reinterpret_cast<jet::bf16*>(in.data()), rows * deepest, 1.0f,
                                                   0.0f);
    fill_kernel<<<1024, 256, 0, filler.stream()>>>(reinterpret_cast<jet::bf16*>(w.data()), widest * deepest, 1.0f,
                                                   0.0f);
    cudaEvent_t begin, end;
    jet::cuda_check(cudaEventCreate(&begin), "event");
    jet::cuda_check(cudaEventCreate(&end), "event");
    std::printf("  products of %lld rows through cuBLASLt, TFLOP/s with y in bf16 | f32\n",
                static_cast<long long>(rows));
    for (auto const& [shape, count] : shapes) {
      auto const [n, k] = shape;
      jet::Slot const weight(w.data(), jet::DType::bf16, jet::Shape{n, k});
      jet::View const x(in.data(), jet::DType::bf16, jet::Shape{rows, k});
      double rate[2]{};
      double const flop = 2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
      for (int f32 = 0; f32 < 2; ++f32) {
        jet::View const y(out.data(), f32 != 0 ? jet::DType::f32 : jet::DType::bf16, jet::Shape{rows, n});
        std::vector<float> times;
        for (int i = 0; i < 9; ++i) {
          jet::cuda_check(cudaEventRecord(begin, filler.stream()), "record");
          filler.blas().product(filler.stream(), weight, nullptr, x, y, false, workspace.data());
          jet::cuda_check(cudaEventRecord(end, filler.stream()), "record");
          jet::cuda_check(cudaEventSynchronize(end), "wait");
          float ms = 0;
          jet::cuda_check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
          if (i >= 2) {
            times.push_back(ms);
          }
        }
        std::sort(times.begin(), times.end());
        double const seconds = times[times.size() / 2] * 1e-3;
        rate[f32] = flop / seconds;
        if (f32 == 0 && n >= 64) {
          dense_seconds += seconds * static_cast<double>(count);
          dense_flop += flop * static_cast<double>(count);
        }
      }
      std::printf("    %6lld x %5lld, %3lld of them: %5.0f | %5.0f\n", static_cast<long long>(n),
                  static_cast<long long>(k), static_cast<long long>(count), rate[0] * 1e-12, rate[1] * 1e-12);
    }
  }
  double const dense = dense_flop / dense_seconds;

  jet::EngineOptions options;
  options.slots = o.sequences;
  options.max_len = o.tokens;
  options.chunk = o.chunk;
  jet::Engine<Model, B> lm(weights, options);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(o.chunk));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(i * 7919 % 150000);
  }
  // Whole sequences while they fit a chunk, else a sequence chunk by chunk.
  auto const pass = [&] {
    for (i64 i = 0; i < o.sequences; ++i) {
      lm.reset(i);
    }
    lm.backend().sync();
    auto const start = std::chrono::steady_clock::now();
    i64 const together = std::max<i64>(1, o.chunk / o.tokens);
    for (i64 first = 0; first < o.sequences; first += together) {
      for (i64 at = 0; at < o.tokens; at += o.chunk) {
        jet::Batch batch;
        for (i64 i = first; i < std::min(first + together, o.sequences); ++i) {
          batch.add(static_cast<std::int32_t>(i), std::min(o.chunk, o.tokens - at), at);
        }
        lm.forward(batch, std::span(ids).first(static_cast<std::size_t>(batch.tokens())));
      }
    }
    lm.backend().sync();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> times;
  for (int i = 0; i < o.repeats + 1; ++i) {
    double const t = pass();
    if (i > 0) {
      times.push_back(t);
    }
  }
  std::sort(times.begin(), times.end());
  double const t = times[times.size() / 2];
  double const length = static_cast<double>(o.tokens), sequences = static_cast<double>(o.sequences);
  double const floor = floor_seconds(sizes, sequences, length, 798e12);
  double const second = floor_seconds(sizes, sequences, length, dense);
  std::printf(
      "  %8.1f ms, %8.0f tokens/s; floor %6.1f ms (%4.1f %%), with products at the measured %3.0f TFLOP/s %6.1f ms "
      "(%4.1f %%)\n",
      t * 1e3, static_cast<double>(all) / t, floor * 1e3, 100 * floor / t, dense * 1e-12, second * 1e3,
      100 * second / t);
  if (o.timeline) {
    timed::timeline.on = true;
    pass();
    timed::timeline.on = false;
    std::vector<std::pair<double, std::string>> lines;
    double sum = 0;
    for (auto const& [name, time] : timed::timeline.take()) {
      char line[160];
      std::snprintf(line, sizeof line, "    %9.2f ms  %6lld x  %s", time.first * 1e3,
                    static_cast<long long>(time.second), name.c_str());
      lines.emplace_back(-time.first, line);
      sum += time.first;
    }
    std::sort(lines.begin(), lines.end());
    std::printf("  op by op, with an event before and after each: %.1f ms\n", sum * 1e3);
    for (auto const& line : lines) {
      std::printf("%s\n", line.second.c_str());
    }
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    std::string_view const flag = argv[i];
    std::string const value = i + 1 < argc ? argv[i + 1] : "";
    if (flag.starts_with("--benchmark_list_tests")) {
      return 0;
    }
    if (flag == "--model") {
      o.model = value;
    } else if (flag == "--tokens") {
      o.tokens = std::atoll(value.c_str());
    } else if (flag == "--sequences") {
      o.sequences = std::atoll(value.c_str());
    } else if (flag == "--chunk") {
      o.chunk = std::atoll(value.c_str());
    } else if (flag == "--repeats") {
      o.repeats = std::atoi(value.c_str());
    } else if (flag == "--timeline") {
      o.timeline = value != "0";
    } else {
      std::fprintf(stderr, "option %s: expected --model, --tokens, --sequences, --chunk, --repeats or --timeline\n",
                   argv[i]);
      return 1;
    }
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: not run\n");
    return 77;
  }
  try {
    JET_CHECK(o.tokens > 0 && o.sequences > 0 && o.chunk > 0 && o.repeats > 0,
              "options tokens, sequences, chunk and repeats must be at least 1");
    if (o.model == "2b") {
      run<jet::JetNemotron2B>(o, sizes_2b);
    } else if (o.model == "4b") {
      run<jet::JetNemotron4B>(o, sizes_4b);
    } else if (o.model == "qwen3") {
      run<jet::Qwen3_1_7B>(o, sizes_qwen3);
    } else {
      jet::fail("option model is '", o.model, "', expected 2b, 4b or qwen3");
    }
  } catch (jet::Error const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
