// Loads a Hugging Face checkpoint and answers a prompt, streaming.
//   generate MODEL_DIR --prompt "Once upon a time"
//   generate MODEL_DIR --chat "What is gravity?"
//   generate MODEL_DIR --prompt-ids 1,2,3 --ids          (token ids in and out: no tokenizer)
//   generate MODEL_DIR --prompt "..." --backend cuda     (built with JET_CUDA)
// Built without the tokenizer it takes and prints token ids only.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <CLI/CLI.hpp>

#include <jet/io/hf_checkpoint.hpp>
#include <jet/jet.hpp>
#include <jet/text/progress.hpp>

#include "dispatch.hpp"
#include "generate_models.hpp"
#if defined(JET_EXAMPLE_TOKENIZER)
#include "generate_text.hpp"
#endif

#if defined(JET_EXAMPLE_CUDA)
extern template class jet::Engine<TinyJet, CudaBf16>;
extern template class jet::Engine<jet::SmolLM2_135M, CudaBf16>;
extern template class jet::Engine<jet::Qwen3_0_6B, CudaBf16>;
extern template class jet::Engine<jet::JetNemotron2B, CudaBf16>;
#endif

namespace {

struct Options {
  std::filesystem::path model;
  std::string prompt, chat;
  std::string system = "You are a helpful AI assistant.";
  std::string precision = "bf16-weights";
  std::string backend_name = "cpu";
  std::vector<std::string> stop_strings;
  std::vector<std::int32_t> prompt_ids;
  jet::i64 max_len = 2048;
  jet::GenerateOptions generate{};
  jet::BackendOptions backend{};
  bool ids = false;
};

#if !defined(JET_EXAMPLE_TOKENIZER)
/// Token ids only.
struct Text {
  Text(std::filesystem::path const&, std::vector<std::string> const&) {
    jet::fail("this program was built without the tokenizer: give --prompt-ids and --ids");
  }
  std::vector<std::int32_t> encode(std::string const&) const { return {}; }
  std::vector<std::int32_t> stop_tokens() const { return {}; }
  std::string push(std::int32_t) { return ""; }
  std::string flush() { return ""; }
  bool stopped() const { return false; }
};
#endif

template <class Model, class B> void run(Options options) {
  auto const start = std::chrono::steady_clock::now();
  std::optional<Text> side;
  if (options.prompt_ids.empty() || !options.ids) {
    side.emplace(options.model, options.stop_strings);
  }
  auto lm = jet::load<Model, B>(options.model, {.max_len = options.max_len, .backend = options.backend});
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if constexpr (std::is_same_v<B, CudaBf16>) {
    std::fprintf(stderr, "loaded in %.2f s, on a GPU\n", seconds);
  } else {
    std::fprintf(stderr, "loaded in %.2f s, kernels %s, %d threads\n", seconds,
                 std::string(jet::cpu::name_of(lm.backend().isa())).c_str(), lm.backend().threads());
  }

  std::string text = options.prompt;
  if (!options.chat.empty()) {  // ChatML, as SmolLM2 and Qwen were tuned with
    text = "<|im_start|>system\n" + options.system + "<|im_end|>\n<|im_start|>user\n" + options.chat +
           "<|im_end|>\n<|im_start|>assistant\n";
  }
  std::vector<std::int32_t> const prompt = options.prompt_ids.empty() ? side->encode(text) : options.prompt_ids;
  if (side) {
    options.generate.stop_tokens = side->stop_tokens();
  }
  jet::ProgressBar bar("prefill", static_cast<jet::i64>(prompt.size()), "tok", prompt.size() > 1024);
  options.generate.on_prefill = [&](jet::i64, jet::i64 done, jet::i64 all) {
    done == all ? bar.clear() : bar.set(done);
  };

  auto generation = lm.generate(prompt, options.generate);
  for (std::int32_t const id : generation) {
    if (options.ids) {
      std::printf("%d ", id);
    } else {
      std::printf("%s", side->push(id).c_str());
    }
    std::fflush(stdout);
    if (!options.ids && side->stopped()) {
      generation.stop(0);
    }
  }
  std::printf("%s\n", options.ids ? "" : side->flush().c_str());

  auto const& stats = generation.stats();
  std::fprintf(stderr, "\nprefill %lld tokens, %.1f tok/s; decode %lld tokens, %.1f tok/s (%s)\n",
               static_cast<long long>(stats.prefill_tokens), stats.prefill_rate(),
               static_cast<long long>(stats.decode_tokens), stats.decode_rate(),
               std::string(jet::name_of(generation.finish(0))).c_str());
  std::fprintf(stderr, "%s", lm.memory_plan().table().c_str());
}

template <class Model> void run_on_cuda(Options const& options) {
#if defined(JET_EXAMPLE_CUDA)
  if constexpr (on_cuda<Model>) {
    return run<Model, CudaBf16>(options);
  }
  jet::fail("this program has no GPU kernels for this model; add it to generate.cu");
#else
  jet::fail("option --backend cuda: this program was built for the CPU only; configure with -DJET_CUDA=ON (",
            options.model.string(), " can be run with --backend cpu)");
#endif
}

/// On the backend and in the precision that were asked for.
template <class Model> void run_as_asked(Options const& options) {
  if (options.backend_name == "cuda") {
    run_on_cuda<Model>(options);
  } else if (options.precision == "bf16-weights") {
    run<Model, jet::Cpu<jet::precision::bf16_weights>>(options);
  } else {
    run<Model, jet::Cpu<jet::precision::bf16>>(options);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Generates text with a Hugging Face checkpoint.");
  app.add_option("model", options.model, "directory with config.json, safetensors and tokenizer files")->required();
  auto* const prompt = app.add_option("--prompt", options.prompt, "text to continue");
  app.add_option("--chat", options.chat, "a question for a chat model (ChatML)")->excludes(prompt);
  app.add_option("--prompt-ids", options.prompt_ids, "token ids to continue, separated by commas")->delimiter(',');
  app.add_option("--system", options.system, "system message with --chat");
  app.add_option("--max-new", options.generate.max_new, "tokens to generate at most")->capture_default_str();
  app.add_option("--max-len", options.max_len, "tokens of context")->capture_default_str();
  app.add_option("--temperature", options.generate.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", options.generate.top_k, "0: off")->capture_default_str();
  app.add_option("--top-p", options.generate.top_p, "1: off")->capture_default_str();
  app.add_option("--min-p", options.generate.min_p, "0: off")->capture_default_str();
  app.add_option("--repetition-penalty", options.generate.repetition_penalty, "1: off")->capture_default_str();
  app.add_option("--seed", options.generate.seed, "of sampling")->capture_default_str();
  app.add_option("--stop", options.stop_strings, "stop string, repeatable");
  app.add_option("--backend", options.backend_name, "cpu or cuda (activations in bf16)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--device", options.backend.device, "of CUDA")->capture_default_str();
  app.add_option("--precision", options.precision, "of activations on the CPU: bf16-weights (float) or bf16")
      ->check(CLI::IsMember({"bf16-weights", "bf16"}))
      ->capture_default_str();
  app.add_option("--threads", options.backend.threads, "0: all")->capture_default_str();
  app.add_option("--isa", options.backend.isa, "generic, avx2, avx512, avx512_bf16; empty: the best");
  app.add_flag("--ids", options.ids, "print token ids");
  CLI11_PARSE(app, argc, argv);
  try {
    JET_CHECK(!options.prompt.empty() || !options.chat.empty() || !options.prompt_ids.empty(),
              "give --prompt, --chat or --prompt-ids");
    dispatch<TinyJet, jet::SmolLM2_135M, jet::SmolLM2_360M, jet::Qwen2_5_0_5B, jet::Qwen2_5_1_5B, jet::Qwen3_0_6B,
             jet::Llama3_2_1B, jet::JetNemotron2B>(options.model,
                                                   [&]<class Model>() { run_as_asked<Model>(options); });
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
