// Scores a Hugging Face checkpoint on JSONL questions and on the perplexity of texts (docs/scoring.md).
//   score MODEL_DIR arc_easy.jsonl piqa.jsonl --limit 100 --json scores.json --items items.jsonl
//   score MODEL_DIR --perplexity text.txt --window 1024 --stride 512
//   score MODEL_DIR arc_easy.jsonl --tokens-out tokens.jsonl      (token ids of everything, nothing is scored)
//   score MODEL_DIR --tokens-in tokens.jsonl                      (no tokenizer needed)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <jet/cuda_fwd.hpp>
#include <jet/io/atomic_file.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/jet.hpp>
#include <jet/text/progress.hpp>
#include <jet/text/scoring.hpp>
#include <jet/text/scoring_report.hpp>
#if defined(JET_EXAMPLE_TOKENIZER)
#include <jet/text/scoring_text.hpp>
#endif

#include "dispatch.hpp"
#include "tiny_model.hpp"

// What score runs on a GPU when built with JET_CUDA (score.cu): floats throughout, or bf16 weights and activations.
using CudaF32 = jet::Cuda<jet::precision::f32>;
using CudaBf16 = jet::Cuda<jet::precision::bf16>;
template <class Model> inline constexpr bool on_cuda = false;
#if defined(JET_EXAMPLE_CUDA)
template <> inline constexpr bool on_cuda<jet::SmolLM2_135M> = true;
extern template class jet::Engine<jet::SmolLM2_135M, CudaF32>;
extern template class jet::Engine<jet::SmolLM2_135M, CudaBf16>;
#endif

namespace {

struct Options {
  std::filesystem::path model, tokens_in, tokens_out, json, items;
  std::vector<std::filesystem::path> files, texts;
  std::string precision = "bf16-weights";
  std::string backend_name = "cpu";
  jet::i64 limit = 0;
  jet::i64 chunk = 512;
  double state_gib = 2;
  bool bos = false, separate = false, short_groups = false;
  jet::PerplexityOptions perplexity{};
  jet::BackendOptions backend{};
};

jet::ScoreTokens tokens_of(Options const& options) {
  if (!options.tokens_in.empty()) {
    auto tokens = jet::read_score_tokens(options.tokens_in);
    jet::limit_per_task(tokens.items, options.limit);
    return tokens;
  }
#if defined(JET_EXAMPLE_TOKENIZER)
  auto const tokenizer = jet::Tokenizer::from_file(options.model);
  return jet::encode_scores(tokenizer, options.model, options.files, options.limit, options.texts, options.bos);
#else
  jet::fail("built without a tokenizer: give --tokens-in (made with --tokens-out where there is one)");
#endif
}

template <class Model, class B> void run(Options const& options, jet::ScoreTokens const& tokens) {
  jet::i64 longest = tokens.longest();
  for (auto const& document : tokens.documents) {
    longest = std::max(longest, std::min(options.perplexity.window, std::ssize(document.ids) - 1));
  }
  auto engine_options = jet::scoring_engine_options<Model, B>(longest, options.backend,
                                                              static_cast<jet::i64>(options.state_gib * (1 << 30)));
  engine_options.chunk = options.chunk;
  auto lm = jet::load<Model, B>(options.model, engine_options);
  std::fprintf(stderr, "%zu questions, %zu texts on %s; %lld slots of %lld tokens\n", tokens.items.size(),
               tokens.documents.size(), options.backend_name.c_str(), static_cast<long long>(engine_options.slots),
               static_cast<long long>(engine_options.max_len));

  std::optional<jet::ProgressBar> bar;
  jet::ScoringOptions scoring{.share = !options.separate, .stop_tokens = tokens.stop_tokens};
  scoring.progress = [&](jet::i64 done) { bar->set(done); };
  if (!tokens.token_bytes.empty()) {
    scoring.token_bytes = [&](std::int32_t id) {
      auto const i = static_cast<std::size_t>(id);
      return i < tokens.token_bytes.size() ? tokens.token_bytes[i] : std::string();
    };
  }
  jet::Scorer scorer(lm, scoring);
  scorer.check(tokens.items);
  jet::i64 total = scorer.cost(tokens.items);
  for (auto const& document : tokens.documents) {
    scorer.check(document, options.perplexity);
    total += scorer.cost(document, options.perplexity);
  }

  auto const start = std::chrono::steady_clock::now();
  bar.emplace("scoring", total, "tok");
  std::ofstream log;
  if (!options.items.empty()) {
    log.open(options.items);
    JET_CHECK(log.is_open(), options.items.string(), ": cannot be written");
  }
  jet::ScoreReport report;
  scorer.score(tokens.items, [&](std::size_t i, jet::ItemScore const& score) {
    report.add(tokens.items[i], score);
    if (log.is_open()) {
      JET_CHECK(log << jet::item_line(tokens.items[i], score) << std::flush, options.items.string(),
                ": cannot be written");
    }
  });
  jet::Json texts = jet::Json::array();
  std::string lines;
  for (auto const& document : tokens.documents) {
    auto const score = scorer.score(document, options.perplexity);
    texts.push_back(jet::document_json(document, score, options.perplexity));
    char numbers[160];
    std::snprintf(numbers, sizeof numbers,
                  ": perplexity %.4f per token (%lld), %.4f per byte (%lld), %.4f bits per byte\n",
                  score.per_token(), static_cast<long long>(score.tokens), score.per_byte(),
                  static_cast<long long>(score.bytes), score.bits_per_byte());
    lines += document.source + numbers;
  }
  bar->finish();
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%s%s", tokens.items.empty() ? "" : report.table(options.short_groups).c_str(), lines.c_str());
  if (!options.json.empty()) {
    jet::Json json{{"model", options.model.string()},
                   {"backend", options.backend_name},
                   {"precision", options.precision},
                   {"seconds", seconds},
                   {"tokens", total},
                   {"scores", tokens.items.empty() ? jet::Json() : report.json()},
                   {"perplexity", texts}};
    jet::AtomicFile file(options.json);
    file.write(json.dump(2) + "\n");
    file.commit();
  }
}

/// On the backend and in the precision that were asked for.
template <class Model> void run_as_asked(Options const& options, jet::ScoreTokens const& tokens) {
  bool const floats = options.precision == "bf16-weights";
  if (options.backend_name == "cuda") {
    if constexpr (on_cuda<Model>) {
      return floats ? run<Model, CudaF32>(options, tokens) : run<Model, CudaBf16>(options, tokens);
    } else {
      jet::fail("option --backend cuda: this program was built without CUDA, or without this model for it");
    }
  }
  if (floats) {
    run<Model, jet::Cpu<jet::precision::bf16_weights>>(options, tokens);
  } else {
    run<Model, jet::Cpu<jet::precision::bf16>>(options, tokens);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Scores a Hugging Face checkpoint: multiple choice, generation, perplexity.");
  app.add_option("model", options.model, "directory with config.json, safetensors and tokenizer files")->required();
  app.add_option("files", options.files, "JSONL files of questions");
  app.add_option("--perplexity", options.texts, "text file, repeatable")->expected(1);
  app.add_option("--window", options.perplexity.window, "tokens of a window of --perplexity")
      ->capture_default_str();
  app.add_option("--stride", options.perplexity.stride, "tokens between windows")->capture_default_str();
  app.add_option("--limit", options.limit, "questions per task at most; 0: all")->capture_default_str();
  app.add_option("--json", options.json, "file for the accuracies, written at the end");
  app.add_option("--items", options.items, "JSONL file for each question's scores, written as they come");
  app.add_option("--tokens-out", options.tokens_out, "write token ids of all questions and texts, score nothing");
  app.add_option("--tokens-in", options.tokens_in, "score a file of --tokens-out; no tokenizer is needed");
  app.add_flag("--bos", options.bos, "put the begin-of-text token before every context");
  app.add_flag("--separate", options.separate, "compute shared contexts for every choice anew (to compare)");
  app.add_flag("--short", options.short_groups, "print groups of tasks as one line");
  app.add_option("--chunk", options.chunk, "tokens of one call")->capture_default_str();
  app.add_option("--state-gib", options.state_gib, "memory for states, in GiB")->capture_default_str();
  app.add_option("--precision", options.precision, "of activations: bf16-weights (float) or bf16")
      ->check(CLI::IsMember({"bf16-weights", "bf16"}))
      ->capture_default_str();
  app.add_option("--backend", options.backend_name, "cpu, or cuda (with bf16-weights: floats throughout)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", options.backend.threads, "0: all")->capture_default_str();
  app.add_option("--isa", options.backend.isa, "generic, avx2, avx512, avx512_bf16; empty: the best");
  CLI11_PARSE(app, argc, argv);
  try {
    JET_CHECK(options.tokens_in.empty() || (options.files.empty() && options.texts.empty()),
              "--tokens-in takes the place of files and --perplexity");
    JET_CHECK(!options.tokens_in.empty() || !options.files.empty() || !options.texts.empty(),
              "nothing to score: give JSONL files, --perplexity or --tokens-in");
    auto const tokens = tokens_of(options);
    if (!options.tokens_out.empty()) {
      jet::write_score_tokens(tokens, options.tokens_out);
      return 0;
    }
    dispatch<TinyJet, jet::SmolLM2_135M, jet::SmolLM2_360M, jet::Qwen2_5_0_5B, jet::Qwen2_5_1_5B, jet::Qwen3_0_6B,
             jet::Llama3_2_1B, jet::JetNemotron2B>(options.model,
                                                   [&]<class Model>() { run_as_asked<Model>(options, tokens); });
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
