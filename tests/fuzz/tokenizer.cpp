// Any bytes as the files of a tokenizer, and then any text for it. The input is cut at bytes 0x1e: one or two parts
// are a tokenizer.json and a text; more are tokenizer_config.json, vocab.json, merges.txt, special_tokens_map.json,
// added_tokens.json and a text.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <jet/io/tokenizer.hpp>
#include <jet/text/utf8.hpp>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {

// A text for every tokenizer.
constexpr std::string_view sample = "he said: hello 123 world's  caf\xc3\xa9 e\xcc\x81\n<|end|>";

std::vector<std::string_view> parts_of(std::string_view input) {
  std::vector<std::string_view> parts;
  for (std::size_t end = 0; end != input.npos && parts.size() < 6;) {
    end = parts.size() == 5 ? input.npos : input.find('\x1e');
    parts.push_back(input.substr(0, end));
    input.remove_prefix(end == input.npos ? input.size() : end + 1);
  }
  return parts;
}

void use(jet::Tokenizer const& tokenizer, std::string_view text) {
  for (bool const special_as_text : {false, true}) {
    fuzz::reads([&] {
      std::vector<std::int32_t> const ids = tokenizer.encode(text, {.special_as_text = special_as_text});
      std::string const decoded = tokenizer.decode(ids);
      fuzz::require(jet::utf8_find_invalid(decoded) == std::string_view::npos, "decoded text is UTF-8");
      jet::StreamDecoder stream(tokenizer);
      std::string streamed;
      for (std::int32_t const id : ids) {
        streamed += stream.push(id);
        fuzz::require(
            id >= 0 && id < tokenizer.vocab_size() && tokenizer.token_to_id(tokenizer.id_to_token(id)) == id,
            "ids are those of tokens");
      }
      fuzz::require(streamed + stream.flush() == decoded, "a stream decodes as the whole");
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::vector<std::string_view> const parts = parts_of(fuzz::text_of(data, size));
  auto const run = [](std::filesystem::path const& path, std::string_view text) {
    fuzz::reads([&] {
      jet::Tokenizer const tokenizer = jet::Tokenizer::from_file(path);
      use(tokenizer, sample);
      use(tokenizer, text);
    });
  };
  fuzz::AllocationLimit const limit(size);
  if (parts.size() <= 2) {
    fuzz::MemoryFile const file(parts[0]);
    run(file.path(), parts.back());
    return 0;
  }
  static fuzz::Directory const directory;
  constexpr char const* names[] = {"tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
                                   "added_tokens.json"};
  for (std::size_t i = 0; i < 5; ++i) {
    std::ofstream(directory.path() / names[i], std::ios::binary) << (i < parts.size() ? parts[i] : "{}");
  }
  run(directory.path(), parts.back());
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed, false);
}
