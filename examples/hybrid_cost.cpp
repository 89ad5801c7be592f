// What replacing attention buys: SmolLM2-135M beside the same stack with all layers but 10 and 20 replaced by
// JetBlock, at growing contexts. Weights are random and caches are filled, not prefilled: only sizes and speeds
// mean something here, text would not.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <jet/jet.hpp>

namespace {

using B = jet::Cpu<jet::Precision{.kv = jet::DType::bf16}>;  // bf16 weights and cache, float in between

inline constexpr jet::JetBlockConfig block{.d_model = 576, .heads = 9, .head_k = 64, .head_v = 64};
struct Hybrid
    : jet::SmolLM2_135M::with<jet::Bind<'J', jet::JetBlock<block>>>::replan<"JJJJJJJJJJAJJJJJJJJJAJJJJJJJJJ"> {};

struct Result {
  jet::i64 cache_bytes = 0;
  double tokens_per_s = 0;
};

template <class Model> std::vector<Result> measure(std::vector<jet::i64> const& contexts, int steps) {
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate(B{});
  jet::initialise(*weights, 1);
  std::vector<Result> results;
  for (jet::i64 const context : contexts) {
    std::fprintf(stderr, "\r%s at %lld ...   ", Model::plan().data(), static_cast<long long>(context));
    jet::Engine<Model, B> lm(weights, {.max_len = context + steps + 1, .chunk = 1});
    lm.fill(0, context);
    std::int32_t const slot = 0, token = 1;
    lm.begin_decode({&slot, 1}, {&token, 1});
    lm.decode_step();
    auto const start = std::chrono::steady_clock::now();
    for (int i = 0; i < steps; ++i) {
      lm.decode_step();
    }
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    results.push_back({Model::template state_bytes<B::precision>(1, context), steps / seconds});
  }
  std::fprintf(stderr, "\r%60s\r", "");
  return results;
}

std::string bar(double value, double most) {
  std::string text;
  for (int i = 0; i < static_cast<int>(40 * value / most + 0.5); ++i) {
    text += "█";
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  // --quick: short contexts, as a test
  bool const quick = argc > 1 && std::string(argv[1]) == "--quick";
  std::vector<jet::i64> const contexts =
      quick ? std::vector<jet::i64>{64, 128} : std::vector<jet::i64>{1024, 4096, 8192, 32768};
  int const steps = quick ? 2 : 24;
  auto const original = measure<jet::SmolLM2_135M>(contexts, steps);
  auto const hybrid = measure<Hybrid>(contexts, steps);

  std::printf("\nSmolLM2-135M (all attention) and the hybrid %s\n", Hybrid::plan().data());
  std::printf(
      "(random weights, caches filled with random numbers: sizes and speed are real, its text would mean "
      "nothing)\n\n");
  std::printf("%8s | %12s %12s %7s | %12s %12s %7s\n", "context", "cache MiB", "hybrid MiB", "ratio", "tokens/s",
              "hybrid", "ratio");
  double most = 0;
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    auto const mib = [](jet::i64 bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); };
    std::printf("%8lld | %12.2f %12.2f %6.1fx | %12.1f %12.1f %6.2fx\n", static_cast<long long>(contexts[i]),
                mib(original[i].cache_bytes), mib(hybrid[i].cache_bytes),
                mib(original[i].cache_bytes) / mib(hybrid[i].cache_bytes), original[i].tokens_per_s,
                hybrid[i].tokens_per_s, hybrid[i].tokens_per_s / original[i].tokens_per_s);
    most = std::max({most, original[i].tokens_per_s, hybrid[i].tokens_per_s});
  }
  std::printf("\ndecode tokens/s\n");
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    std::printf("%8lld  attention %s %.1f\n          hybrid    %s %.1f\n", static_cast<long long>(contexts[i]),
                bar(original[i].tokens_per_s, most).c_str(), original[i].tokens_per_s,
                bar(hybrid[i].tokens_per_s, most).c_str(), hybrid[i].tokens_per_s);
  }
}
