// Decode of whole models on a GPU: random weights, caches filled with random numbers, one graph per step, at 64K
// tokens of context. Beside every figure: the floor of the roofline from this run's own ceilings (weights, keys and
// values at the read rate, states at the copy rate), the published figure and the best peer that was measured.
//   bench_model_decode [--only model,batch] [--context 65536] [--steps 64] [--json FILE --commit HASH --date DATE]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <jet/bench/roofline.hpp>
#include <jet/cuda.cuh>
#include <jet/cuda/rates.cuh>
#include <jet/model/init.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/qwen.hpp>

namespace {

using jet::DType;
using jet::i64;

struct Options {
  std::string only, json, commit = "unknown", date = "unknown", command;
  i64 context = 65536;
  int steps = 64;
};

// Published (H100, arXiv 2508.15884) and measured peers on an H100, tokens/s; 0: none.
struct Known {
  double published = 0;
  double peer = 0;
};

class Report {
 public:
  explicit Report(Options options) : options_(std::move(options)) {
    jet::Cuda<jet::precision::bf16> const backend;
    rates_ = jet::cuda::measure_device_rates(backend.stream(), backend.multiprocessors());
    cudaDeviceProp properties{};
    jet::cuda::cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    device_ = properties.name;
    if (FILE* const pipe = popen("nvidia-smi --query-gpu=driver_version --format=csv,noheader", "r")) {
      char line[64] = {};
      if (std::fgets(line, sizeof line, pipe) != nullptr) {
        driver_ = std::string(line, std::string_view(line).find_first_of("\r\n"));
      }
      pclose(pipe);
    }
    std::printf("%s, driver %s: reading %.0f GB/s, copying %.0f GB/s\n", device_.c_str(), driver_.c_str(),
                rates_.read / 1e9, rates_.copy / 1e9);
    std::printf("%-16s %5s %5s %5s | %9s %9s %7s | %9s %9s\n", "model", "batch", "state", "kv", "tokens/s", "floor",
                "of it", "published", "peer");
  }

  template <class Model, jet::Precision P> void run(std::string const& name, i64 batch, Known const& known) {
    std::string const key = name + "," + std::to_string(batch);
    if (!options_.only.empty() && options_.only != key && options_.only != name) {
      return;
    }
    using B = jet::Cuda<P>;
    i64 const context = options_.context;
    auto weights = std::make_shared<jet::Weights<Model>>();
    weights->allocate_on_host(P);
    jet::initialise(*weights, 1);
    jet::Engine<Model, B> lm(weights, {.slots = batch, .max_len = context + options_.steps + 8, .chunk = 1});
    weights.reset();
    std::vector<std::int32_t> slots, tokens;
    for (i64 i = 0; i < batch; ++i) {
      if (i == 0) {
        lm.fill(0, context);
      } else {
        lm.fork(0, i);
      }
      slots.push_back(static_cast<std::int32_t>(i));
      tokens.push_back(static_cast<std::int32_t>(i % 1000));
    }
    lm.begin_decode(slots, tokens);
    for (int i = 0; i < 4; ++i) {  // recorded in the second step
      lm.decode_step(jet::Logits::none);
    }
    lm.backend().sync();
    auto const start = std::chrono::steady_clock::now();
    for (int i = 0; i < options_.steps; ++i) {
      lm.decode_step(jet::Logits::none);
    }
    lm.backend().sync();
    double const step =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / options_.steps;

    auto const plan = lm.memory_plan();
    double const floor =
        jet::bench::decode_traffic<Model>(P, batch, context).seconds({.copy = rates_.copy, .read = rates_.read});
    double const rate = static_cast<double>(batch) / step;
    std::string const state = plan.recurrent == 0     ? "none"
                              : P.state == DType::f32 ? "fp32"
                              : P.state == DType::f16 ? "fp16"
                                                      : "bf16";
    std::string const cache = P.kv_dtype() == DType::f8e4m3 ? "fp8" : "bf16";
    std::printf("%-16s %5lld %5s %5s | %9.1f %9.1f %6.1f%% | %9.0f %9.0f\n", name.c_str(),
                static_cast<long long>(batch), state.c_str(), cache.c_str(), rate,
                static_cast<double>(batch) / floor, 100 * floor / step, known.published, known.peer);
    std::fflush(stdout);
    char line[1024];
    std::snprintf(
        line, sizeof line,
        "  {\"model\": \"%s\", \"context\": %lld, \"batch\": %lld, \"state_dtype\": \"%s\", \"kv_dtype\": "
        "\"%s\", \"decode_tokens_per_s\": %.1f, \"roofline_percent\": %.1f, \"device\": \"%s\", \"driver\": "
        "\"%s\", \"commit\": \"%s\", \"date\": \"%s\", \"command\": \"%s\"}",
        name.c_str(), static_cast<long long>(context), static_cast<long long>(batch), state.c_str(), cache.c_str(),
        rate, 100 * floor / step, device_.c_str(), driver_.c_str(), options_.commit.c_str(), options_.date.c_str(),
        options_.command.c_str());
    records_.emplace_back(line);
    if (!options_.json.empty()) {
      std::ofstream file(options_.json);
      file << "[\n";
      for (std::size_t i = 0; i < records_.size(); ++i) {
        file << records_[i] << (i + 1 < records_.size() ? ",\n" : "\n");
      }
      file << "]\n";
    }
  }

 private:
  Options options_;
  jet::cuda::DeviceRates rates_;
  std::string device_, driver_ = "unknown";
  std::vector<std::string> records_;
};

constexpr jet::Precision half_state{DType::bf16, DType::bf16, DType::f32, DType::f16};
constexpr jet::Precision half_state_f8_kv{DType::bf16, DType::bf16, DType::f32, DType::f16, DType::f8e4m3};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 0; i < argc; ++i) {
    options.command += std::string(i > 0 ? " " : "") + argv[i];
  }
  for (int i = 1; i < argc; ++i) {
    std::string_view const flag = argv[i];
    std::string const value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--benchmark_list_tests=true") {
      return 0;
    }
    ++i;
    if (flag == "--only") {
      options.only = value;
    } else if (flag == "--json") {
      options.json = value;
    } else if (flag == "--commit") {
      options.commit = value;
    } else if (flag == "--date") {
      options.date = value;
    } else if (flag == "--context") {
      options.context = std::atoll(value.c_str());
    } else if (flag == "--steps") {
      options.steps = std::atoi(value.c_str());
    } else {
      std::fprintf(stderr, "option %s: expected --only, --json, --commit, --date, --context or --steps\n",
                   argv[i - 1]);
      return 1;
    }
  }
  try {
    Report report(options);
    using jet::precision::bf16;
    report.run<jet::JetNemotron2B, bf16>("jet-nemotron-2b", 1, {0, 282});
    report.run<jet::JetNemotron2B, bf16>("jet-nemotron-2b", 32, {0, 5326});
    report.run<jet::JetNemotron2B, bf16>("jet-nemotron-2b", 128, {2885, 9501});
    report.run<jet::JetNemotron2B, half_state>("jet-nemotron-2b", 128, {2885, 9501});
    report.run<jet::JetNemotron2B, half_state_f8_kv>("jet-nemotron-2b", 128, {2885, 9501});
    report.run<jet::JetNemotron4B, bf16>("jet-nemotron-4b", 64, {1271, 0});
    report.run<jet::Qwen3_1_7B, bf16>("qwen3-1.7b", 8, {61, 355});
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
