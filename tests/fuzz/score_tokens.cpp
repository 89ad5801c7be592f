// Any bytes as a file of tokens to be scored: refused, or written and read back equal.
#include <cstddef>
#include <cstdint>
#include <filesystem>

#include <jet/text/scoring_items.hpp>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {

bool same_question(jet::ScoreItem const& a, jet::ScoreItem const& b) {
  return a.source == b.source && a.task == b.task && a.context == b.context && a.choices == b.choices &&
         a.bytes == b.bytes && a.answer == b.answer && a.target == b.target && a.max_new == b.max_new &&
         a.match == b.match;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  static fuzz::Directory const directory;
  fuzz::MemoryFile const file(fuzz::text_of(data, size));
  fuzz::AllocationLimit const limit(size);
  fuzz::reads([&] {
    jet::ScoreTokens const tokens = jet::read_score_tokens(file.path());
    std::filesystem::path const path = directory.path() / "tokens";
    jet::write_score_tokens(tokens, path);
    jet::ScoreTokens const again = jet::read_score_tokens(path);
    fuzz::require(again.stop_tokens == tokens.stop_tokens && again.token_bytes == tokens.token_bytes &&
                      again.items.size() == tokens.items.size() &&
                      again.documents.size() == tokens.documents.size() && again.longest() == tokens.longest(),
                  "a written file says the same");
    for (std::size_t i = 0; i < tokens.items.size(); ++i) {
      fuzz::require(same_question(tokens.items[i], again.items[i]), "questions survive");
    }
    for (std::size_t i = 0; i < tokens.documents.size(); ++i) {
      fuzz::require(tokens.documents[i].ids == again.documents[i].ids, "documents survive");
    }
  });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed, false);
}
