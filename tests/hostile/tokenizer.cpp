// Tokenizers that are damaged, ask for what is not supported, or are bombs.
#include <doctest/doctest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include <jet/io/tokenizer.hpp>

#include "hostile.hpp"
#include "tokenizer_support.hpp"

namespace {

using hostile::appended;
using hostile::becomes;
using hostile::Case;
using hostile::Change;
using hostile::cut_at;
using hostile::replaced;
using tests::added;
using tests::byte_level;
using tests::digits;
using tests::qwen2_pattern;
using tests::sequence;
using tests::split;
using tests::tiny;

using Json = nlohmann::json;

// Sets the member at a JSON pointer.
Change set(std::string const& pointer, Json const& value) {
  return [pointer, value](std::string const& text) {
    Json json = Json::parse(text);
    json[Json::json_pointer(pointer)] = value;
    return json.dump();
  };
}

void check_file(std::vector<Case> const& cases) {
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "tokenizer.json";
  hostile::check(path, tiny().dump(), cases, [&] { jet::Tokenizer::from_file(path); });
}

Json templated(Json const& single, Json const& ids) {
  return {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"b", {{"ids", ids}}}}}};
}

}  // namespace

TEST_CASE("hostile tokenizer: what a tokenizer.json may not hold") {
  struct Row {
    char const* where;  // JSON pointer
    Json bad;
    char const* words;
    Json twin;
  };
  Json const unsupported = {{"type", "Metaspace"}, {"replacement", "_"}};
  Json removed = split(qwen2_pattern);
  removed["behavior"] = "Removed";
  Json inverted = split(qwen2_pattern);
  inverted["invert"] = true;
  Json literal = split(qwen2_pattern);
  literal["pattern"] = {{"String", " "}};
  auto const then_bytes = [](Json const& first) {
    return sequence("pretokenizers", {first, byte_level(false, false)});
  };
  Json const good_split = then_bytes(split(qwen2_pattern));
  Json const text_part = {{"Sequence", {{"id", "A"}}}};
  Json const token_part = {{"SpecialToken", {{"id", "b"}}}};
  Json const good_template = templated({token_part, text_part}, {1});
  std::vector<Row> const rows = {
      {"/model/type", "Unigram", "model \"Unigram\" is not supported", "BPE"},
      {"/model/type", "WordPiece", "model \"WordPiece\" is not supported", "BPE"},
      {"/model/type", 3, "model: type: expected a string, found 3", "BPE"},
      {"/model", nullptr, "model: required, but absent or null", tiny()["model"]},
      {"/model/dropout", 0.1, "dropout is not supported", 0.0},
      {"/model/byte_fallback", true, "byte_fallback is not supported", false},
      {"/model/byte_fallback", "no", "byte_fallback: expected true or false, found the string \"no\"", false},
      {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix is not supported", ""},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix is not supported", nullptr},
      {"/model/unk_token", "h", "unk_token \"h\" is not supported", nullptr},
      {"/model/vocab/d", 6, "have the same id 6", 7},
      {"/model/vocab/d", -1, "token \"d\": id -1 is out of range", 7},
      {"/model/vocab/d", 2147483647, "id 2147483647 is out of range", 25},
      {"/model/vocab/d", 18446744073709551615u, "expected an integer of 64 bits", 30},
      {"/model/vocab/d", 1.5, "token \"d\": expected an integer as its id, found 1.5", 7},
      {"/model/vocab/d", "7", "expected an integer as its id, found the string \"7\"", 7},
      {"/model/vocab", Json::object(), "vocab: the vocabulary is empty", tiny()["model"]["vocab"]},
      {"/model/merges/0", "h q", "needs the token \"q\"", "h e"},
      {"/model/merges/0", "h d", "needs the token \"hd\"", Json::array({"h", "e"})},
      {"/model/merges/0", "he", "two tokens with a space between", "h e"},
      {"/model/merges/0", "h e l", "two tokens with a space between", "h e"},
      {"/model/merges/0", " e", "two tokens with a space between", "h e"},
      {"/model/merges/0", Json::array({"h", "e", "l"}), "merge 0: expected two tokens, found 3",
       Json::array({"h", "e"})},
      {"/model/merges/0", Json::array({"h", 1}), "merge 0: expected a string, found 1", Json::array({"h", "e"})},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer \"NFKC\" is not supported", {{"type", "NFC"}}},
      {"/normalizer", {{"type", "ByteLevel"}}, "normalizer \"ByteLevel\" is not supported", {{"type", "NFC"}}},
      {"/normalizer", "NFC", "normalizer: expected an object, found the string \"NFC\"", {{"type", "NFC"}}},
      {"/pre_tokenizer", unsupported, "pre_tokenizer \"Metaspace\" is not supported", byte_level(false, true)},
      {"/pre_tokenizer", nullptr, "there is no ByteLevel", byte_level(true, false)},
      {"/pre_tokenizer", sequence("pretokenizers", {byte_level(false, false), digits(true)}),
       "\"Digits\" after ByteLevel", sequence("pretokenizers", {digits(true), byte_level(false, false)})},
      {"/pre_tokenizer", then_bytes(split(R"(\p{Han}+|.)")), R"(Split pattern "\p{Han}+|.")", good_split},
      {"/pre_tokenizer", then_bytes(removed), "Split behavior \"Removed\"", good_split},
      {"/pre_tokenizer", then_bytes(inverted), "invert of a Split is not supported", good_split},
      {"/pre_tokenizer", then_bytes(literal), "the pattern of a Split: Regex: required, but absent or null",
       good_split},
      {"/decoder", nullptr, "expected one decoder", byte_level(true, true)},
      {"/decoder", {{"type", "WordPiece"}}, "decoder \"WordPiece\" is not supported", byte_level(true, true)},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor \"BertProcessing\"", nullptr},
      {"/post_processor", templated({token_part, text_part}, {99}), "adds id 99", good_template},
      {"/post_processor", templated(Json::array({token_part}), {1}), "does not hold the text", good_template},
      {"/post_processor", templated({{{"SpecialToken", {{"id", "c"}}}}, text_part}, {1}),
       "special_tokens has no \"c\"", good_template},
      {"/truncation", {{"max_length", 3}}, "\"truncation\" is not supported", nullptr},
      {"/padding", {{"pad_id", 3}}, "\"padding\" is not supported", nullptr},
      {"/added_tokens/0/id", 23, "have the same id 23", 24},
      {"/added_tokens/0/id", 1 << 20, "out of range", 40},
      {"/added_tokens/0", added(24, "hello"), "is in the vocab with id 11", added(11, "hello")},
      {"/added_tokens/0/content", "", "has no content", "x"},
      {"/added_tokens/1", added(25, "<|end|>"), "occurs twice", added(25, "<|end2|>")},
      {"/added_tokens", 3, "added_tokens: expected an array, found 3", Json::array()},
  };
  std::vector<Case> cases;
  for (Row const& row : rows) {
    cases.push_back({std::string(row.where) + ": " + row.words,
                     set(row.where, row.bad),
                     {row.words},
                     set(row.where, row.twin)});
  }
  check_file(cases);
}

TEST_CASE("hostile tokenizer: damaged files") {
  auto const nested = [](std::size_t depth) {
    return [depth](std::string const& text) {
      return text.substr(0, text.size() - 1) + ",\"more\":" + std::string(depth, '[') + std::string(depth, ']') +
             "}";
    };
  };
  check_file({
      {"cut in the middle",
       [](std::string const& text) { return text.substr(0, text.size() / 2); },
       {"not valid JSON"}},
      {"cut by a byte", cut_at(-1), {"not valid JSON"}},
      {"empty", becomes(""), {"not valid JSON"}},
      {"an array", becomes("[]"), {"expected an object, found an array"}},
      {"a zero byte and more", appended(std::string("\0{}", 3)), {"zero byte"}, appended("  ")},
      {"two documents", appended("{}"), {"not valid JSON"}},
      {"65 levels", nested(64), {"nested deeper than 64 levels"}, nested(63)},
      {"a million levels", nested(1'000'000), {"nested deeper than 64 levels"}},
      {"a token twice",
       replaced("\"he\":", "\"h\":"),
       {"duplicate key \"h\""},
       replaced("\"he\":", "\"\\u0068e\":")},
      {"a token twice, spelled otherwise", replaced("\"he\":", "\"\\u0068\":"), {"duplicate key \"h\""}},
      {"a model twice",
       [](std::string const& text) { return text.substr(0, text.size() - 1) + ",\"model\":{}}"; },
       {"duplicate key \"model\""}},
      {"invalid UTF-8 in a token", replaced("\"he\":", "\"\xff\":"), {"invalid UTF-8"}},
      {"an escape sequence in a token",
       replaced("\"he\":8", "\"\\u001b[2J\":-8"),
       {"token \"\\x1b[2J\": id -8 is out of range"},
       replaced("\"world\":", "\"\\u001b[2J\":")},
  });
  // Any cut of the file is refused, and nothing else happens.
  std::string const good = tiny().dump();
  tests::ScratchDirectory const directory;
  for (std::size_t cut = 0; cut < good.size(); cut += 37) {
    std::filesystem::path const path = directory.write("tokenizer.json", good.substr(0, cut));
    CHECK(tests::message_of([&] { jet::Tokenizer::from_file(path); }) != "");
  }
}

TEST_CASE("hostile tokenizer: a short file may not ask for much") {
  auto const splits = [](int count) {
    std::vector<Json> steps(static_cast<std::size_t>(count), split(qwen2_pattern));
    steps.push_back(byte_level(false, false));
    return sequence("pretokenizers", steps);
  };
  auto const ids = [](std::size_t pieces, std::size_t each) {
    Json single = std::vector<Json>(pieces, Json{{"SpecialToken", {{"id", "b"}}}});
    single.push_back({{"Sequence", {{"id", "A"}}}});
    return templated(single, std::vector<int>(each, 1));
  };
  Json deep = byte_level(false, true);
  for (int i = 0; i < 20; ++i) {
    deep = sequence("pretokenizers", {deep});
  }
  Json const twice = sequence("processors", {ids(16, 32), ids(16, 33)});
  check_file({
      {"33 expressions to compile",
       set("/pre_tokenizer", splits(32)),
       {"pre_tokenizer: expected at most 32 steps"},
       set("/pre_tokenizer", splits(31))},
      {"1025 pieces",
       set("/post_processor", ids(1024, 0)),
       {"post_processor: expected at most 1024 pieces, found 1025"},
       set("/post_processor", ids(1023, 0))},
      {"an added token of 1025 bytes",
       set("/added_tokens/0/content", std::string(1025, 'a')),
       {"expected at most 1024 bytes, found 1025"},
       set("/added_tokens/0/content", std::string(1024, 'a'))},
      {"a thousand pieces of a thousand ids",
       set("/post_processor", ids(1000, 1000)),
       {"post_processor: expected at most 1024 ids"},
       set("/post_processor", ids(32, 32))},
      {"1025 ids",
       set("/post_processor", ids(1, 1025)),
       {"post_processor: expected at most 1024 ids"},
       set("/post_processor", ids(1, 1024))},
      {"1040 ids of two templates",
       set("/post_processor", twice),
       {"post_processor: expected at most 1024 ids"},
       set("/post_processor", sequence("processors", {ids(16, 32), ids(16, 32)}))},
      {"an id as large as the file",
       [](std::string const& text) { return set("/model/vocab/d", text.size())(text); },
       {"token \"d\": id ", "is out of range: expected 0 to"},
       [](std::string const& text) { return set("/model/vocab/d", text.size() / 5)(text); }},
      {"an added token beyond 32 bits",
       set("/added_tokens/0/id", std::int64_t{1} << 32),
       {"id 4294967296 is out of range"}},
      {"a sequence without end",
       set("/pre_tokenizer", sequence("pretokenizers", {sequence("pretokenizers", {})})),
       {"there is no ByteLevel"},
       set("/pre_tokenizer", deep)},
  });
}

TEST_CASE("hostile tokenizer: the files of a directory") {
  tests::ScratchDirectory const directory;
  Json vocab = tiny()["model"]["vocab"];
  vocab["<|endoftext|>"] = 24;
  std::string const merges = "#version: 0.2\nh e\nl l\nhe ll\nhell o\n";
  std::string const config =
      R"({"tokenizer_class":"GPT2Tokenizer","added_tokens_decoder":{"24":{"content":"<|endoftext|>"}}})";
  directory.write("vocab.json", vocab.dump());
  directory.write("merges.txt", merges);
  directory.write("tokenizer_config.json", config);
  directory.write("special_tokens_map.json", "{}");
  directory.write("added_tokens.json", "{}");
  auto const check = [&](std::string const& name, std::string const& good, std::vector<Case> const& cases) {
    hostile::check(
        directory.path / name, good, cases, [&] { jet::Tokenizer::from_file(directory.path); },
        directory.path.string());
    directory.write(name, good);
  };
  check("vocab.json", vocab.dump(),
        {{"an array", becomes("[]"), {"vocab.json: expected an object, found an array"}},
         {"empty", becomes("{}"), {"vocab.json: the vocabulary is empty"}},
         {"a negative id", replaced("\"he\":8", "\"he\":-8"), {"token \"he\": id -8"}}});
  check("merges.txt", merges,
        {{"one token", appended("he\n"), {"merges.txt: line 6: expected two tokens"}, appended("\n")},
         {"bytes that are no text", appended("\xff\xfe \x1b[2J\n"), {"\\xff\\xfe", "which is not in the vocab"}},
         {"a zero byte",
          appended(std::string("h\0e\n", 4)),
          {"line 6: expected two tokens with a space between, found \"h\\x00e\""}},
         {"tokens that are not there", appended("z z\n"), {"needs the token \"z\""}, appended("1 2\r\n")}});
  check("tokenizer_config.json", config,
        {{"an array", becomes("[]"), {"tokenizer_config.json: expected an object"}},
         {"no class", becomes("{}"), {"tokenizer_class: required"}},
         {"an id of letters", replaced("\"24\"", "\"<0x-1>\""), {"the key \"<0x-1>\" is not an id"}},
         {"an id with a sign", replaced("\"24\"", "\"-0\""), {"the key \"-0\" is not an id"}},
         {"an id beyond 64 bits", replaced("\"24\"", "\"99999999999999999999\""), {"is not an id"}},
         {"an id beyond the files", replaced("\"24\"", "\"99999\""), {"id 99999 is out of range"}},
         {"a token without content",
          replaced("\"content\"", "\"contents\""),
          {"added_tokens_decoder: content: required"}},
         {"a flag in words",
          replaced("{\"content\"", "{\"lstrip\":\"yes\",\"content\""),
          {"lstrip: expected true or false"},
          replaced("{\"content\"", "{\"lstrip\":true,\"content\"")},
         {"a beginning that no token is",
          replaced("{\"tok", "{\"add_bos_token\":true,\"bos_token\":\"\\u001b\",\"tok"),
          {"special token \"\\x1b\" has no id"},
          replaced("{\"tok", "{\"add_bos_token\":true,\"bos_token\":\"he\",\"tok")}});
  check("special_tokens_map.json", "{}",
        {{"an array", becomes("[]"), {"special_tokens_map.json: expected an object"}},
         {"a token that is a number",
          becomes("{\"eos_token\":3}"),
          {"special_tokens_map.json: eos_token: expected a string, found 3"},
          becomes("{\"eos_token\":\"he\"}")},
         {"tokens that are no list",
          becomes("{\"additional_special_tokens\":\"he\"}"),
          {"additional_special_tokens: expected an array"},
          becomes("{\"additional_special_tokens\":[\"he\"]}")}});
  check("added_tokens.json", "{}",
        {{"an id that another token has", becomes("{\"new\":8}"), {"have the same id 8"}, becomes("{\"new\":25}")},
         {"a second id",
          becomes("{\"<|endoftext|>\":25}"),
          {"has two ids, 24 and 25"},
          becomes("{\"<|endoftext|>\":24}")},
         {"an empty token", becomes("{\"\":25}"), {"has no content"}}});
}
