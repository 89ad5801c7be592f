// The tokenizer against texts whose ids were made with Hugging Face `tokenizers`, against small vocabularies worked
// out by hand.
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <jet/core/error.hpp>
#include <jet/io/tokenizer.hpp>
#include <jet/text/utf8.hpp>

#include "file_support.hpp"
#include "tokenizer_support.hpp"

namespace {

using tests::added;
using tests::byte_level;
using tests::contains;
using tests::digits;
using tests::llama3_pattern;
using tests::message_of;
using tests::qwen2_pattern;
using tests::read_file;
using tests::ScratchDirectory;
using tests::sequence;
using tests::split;
using tests::tiny;

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;
namespace fs = std::filesystem;

fs::path qwen2_path() {
  return fs::path(JET_TEST_DATA) / "qwen2";
}
jet::Tokenizer const& qwen2() {
  static jet::Tokenizer const tokenizer = jet::Tokenizer::from_file(qwen2_path());
  return tokenizer;
}

jet::Tokenizer load(Json const& json) {
  ScratchDirectory const dir;
  return jet::Tokenizer::from_file(dir.write("tokenizer.json", json.dump()));
}

std::string text_of(Ids const& ids) {
  return Json(ids).dump();
}

void check_qwen2_lines(jet::Tokenizer const& tokenizer) {
  std::ifstream stream(qwen2_path() / "qwen2_tokens.jsonl");
  std::string line;
  int lines = 0;
  while (std::getline(stream, line)) {
    Json const row = Json::parse(line);
    Ids const ids = row.at("ids").get<Ids>();
    CAPTURE(line.substr(0, 200));
    CHECK(tokenizer.encode(row.at("text").get<std::string>()) == ids);
    CHECK(tokenizer.decode(ids) == row.at("decoded").get<std::string>());
    jet::StreamDecoder stream_decoder(tokenizer);
    std::string streamed;
    for (std::int32_t const id : ids) {
      streamed += stream_decoder.push(id);
      if (jet::utf8_find_invalid(streamed) != std::string::npos) {
        FAIL_CHECK("the stream is not valid UTF-8");
      }
    }
    CHECK(streamed + stream_decoder.flush() == row.at("decoded").get<std::string>());
    ++lines;
  }
  CHECK(lines == 755);
}

}  // namespace

TEST_CASE("qwen2: every recorded text, from vocab.json and merges.txt") {
  check_qwen2_lines(qwen2());
  CHECK(qwen2().vocab_size() == 151665);
  CHECK(qwen2().token_to_id("<|im_end|>") == 151645);
  CHECK(qwen2().id_to_token(151645) == "<|im_end|>");
  CHECK(qwen2().is_special(151645));
  CHECK_FALSE(qwen2().is_special(151657));  // <tool_call> is added but not special
  CHECK(qwen2().id_to_token(220) == "\u0120");
  CHECK(qwen2().decode(220) == " ");
  CHECK_FALSE(qwen2().token_to_id("no such token").has_value());
}

TEST_CASE("qwen2: every recorded text, from a tokenizer.json") {
  fs::path const from = qwen2_path();
  Json const config = Json::parse(read_file(from / "tokenizer_config.json"));
  Json tokens = Json::array();
  for (auto const& [id, token] : config.at("added_tokens_decoder").items()) {
    Json row = token;
    row["id"] = std::stoi(id);
    tokens.push_back(row);
  }
  Json merges = Json::array();
  std::ifstream stream(from / "merges.txt");
  std::string line;
  std::getline(stream, line);  // the version
  while (std::getline(stream, line)) {
    std::size_t const space = line.find(' ');
    merges.push_back(Json::array({line.substr(0, space), line.substr(space + 1)}));
  }
  Json json = tiny();
  json["added_tokens"] = tokens;
  json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"] = sequence("pretokenizers", {split(qwen2_pattern), byte_level(false, false)});
  json["post_processor"] = byte_level(false, false);
  json["decoder"] = byte_level(false, false);
  json["model"]["vocab"] = Json::parse(read_file(from / "vocab.json"));
  json["model"]["merges"] = merges;
  jet::Tokenizer const tokenizer = load(json);
  check_qwen2_lines(tokenizer);
  CHECK(tokenizer.vocab_size() == 151665);
}

TEST_CASE("special tokens in the text") {
  std::string const text = "<|im_start|>user\nhi<|im_end|><tool_call>";
  CHECK(text_of(qwen2().encode(text)) == text_of(Ids{151644, 872, 198, 6023, 151645, 151657}));
  jet::EncodeOptions options;
  options.special_as_text = true;
  Ids const plain = qwen2().encode(text, options);
  CHECK(plain.front() == 27);     // "<"
  CHECK(plain.back() == 151657);  // added, not special
  CHECK(plain.size() > 8);
  CHECK(qwen2().decode(plain) == text);
  Ids const ids = qwen2().encode(text);
  CHECK(qwen2().decode(ids) == text);
  CHECK(qwen2().decode(ids, true) == "user\nhi<tool_call>");
  jet::StreamDecoder decoder(qwen2(), true);
  std::string streamed;
  for (std::int32_t const id : ids) {
    streamed += decoder.push(id);
  }
  CHECK(streamed + decoder.flush() == "user\nhi<tool_call>");
}

TEST_CASE("gpt2 style, by hand") {
  jet::Tokenizer const t = load(tiny());
  CHECK(text_of(t.encode("")) == text_of(Ids{}));
  CHECK(text_of(t.encode("hello world")) == text_of(Ids{11, 12, 3, 6, 2, 7}));
  CHECK(text_of(t.encode("hello  world")) ==
        text_of(Ids{11, 4, 12, 3, 6, 2, 7}));  // \s+(?!\S) leaves one space to the word
  CHECK(text_of(t.encode("hello  ")) == text_of(Ids{11, 4, 4}));
  CHECK(text_of(t.encode("hello's")) == text_of(Ids{11, 18}));
  CHECK(text_of(t.encode("12 12")) == text_of(Ids{15, 4, 15}));
  CHECK(text_of(t.encode("hel")) == text_of(Ids{8, 2}));  // "h e" comes before "e l"
  CHECK(text_of(t.encode("el")) == text_of(Ids{19}));
  CHECK(text_of(t.encode("lll")) == text_of(Ids{9, 2}));  // the leftmost of equal pairs
  CHECK(text_of(t.encode("\u00e9")) == text_of(Ids{22}));
  CHECK(text_of(t.encode("e<|end|>e")) == text_of(Ids{1, 24, 1}));
  CHECK(text_of(t.encode("world")) == text_of(Ids{5, 3, 6, 2, 7}));  // in the vocab, but no merges lead there
  CHECK(t.decode(Ids{11, 12, 3, 6, 2, 7, 24}) == "hello world<|end|>");
  CHECK(t.decode(20) == "\xc3");
  CHECK(t.vocab_size() == 25);
}

TEST_CASE("add_prefix_space, ignore_merges, use_regex") {
  Json json = tiny();
  json["pre_tokenizer"] = byte_level(true, true);
  CHECK(text_of(load(json).encode("world")) == text_of(Ids{12, 3, 6, 2, 7}));
  CHECK(text_of(load(json).encode(" world")) == text_of(Ids{12, 3, 6, 2, 7}));
  CHECK(text_of(load(json).encode("e<|end|>e")) ==
        text_of(Ids{4, 1, 24, 4, 1}));  // every part of the text gets one
  CHECK(text_of(load(json).encode("")) == text_of(Ids{}));
  json = tiny();
  json["model"]["ignore_merges"] = true;
  CHECK(text_of(load(json).encode("world")) == text_of(Ids{23}));
  json = tiny();
  json["pre_tokenizer"] = byte_level(false, false);
  json["model"]["merges"].push_back("12 '");
  json["model"]["vocab"]["12'"] = 24;
  json["added_tokens"] = Json::array();
  CHECK(text_of(load(json).encode("12's")) == text_of(Ids{15, 18}));  // "' s" has the lower rank
  CHECK(text_of(load(json).encode("12'")) == text_of(Ids{24}));       // one word: nothing cuts it
}

TEST_CASE("smollm style: digits alone") {
  Json json = tiny();
  json["pre_tokenizer"] = sequence("pretokenizers", {digits(true), byte_level(false, true)});
  jet::Tokenizer const t = load(json);
  CHECK(text_of(t.encode("hello 12")) == text_of(Ids{11, 4, 13, 14}));
  CHECK(text_of(t.encode("h12e")) == text_of(Ids{0, 13, 14, 1}));
  CHECK(text_of(t.encode("hello world")) == text_of(Ids{11, 12, 3, 6, 2, 7}));
  json["pre_tokenizer"] = sequence("pretokenizers", {digits(false), byte_level(false, true)});
  CHECK(text_of(load(json).encode("h12e 12")) == text_of(Ids{0, 15, 1, 4, 15}));
  json["pre_tokenizer"] = sequence("pretokenizers", {digits(true), byte_level(true, true)});
  CHECK(text_of(load(json).encode("12 1")) ==
        text_of(Ids{4, 13, 4, 14, 4, 4, 13}));  // the prefix goes before every piece
}

TEST_CASE("llama 3 style: groups of three digits and a template") {
  Json json = tiny();
  json["model"]["vocab"]["121"] = 25;
  json["model"]["merges"].push_back("12 1");
  json["pre_tokenizer"] = sequence("pretokenizers", {split(llama3_pattern), byte_level(false, false)});
  json["post_processor"] =
      sequence("processors",
               {byte_level(true, true),
                {{"type", "TemplateProcessing"},
                 {"single", Json::array({{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}},
                                         {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})},
                 {"pair", Json::array()},
                 {"special_tokens", {{"<|end|>", {{"id", "<|end|>"}, {"ids", {24}}, {"tokens", {"<|end|>"}}}}}}}});
  jet::Tokenizer const t = load(json);
  CHECK(text_of(t.encode("1212")) == text_of(Ids{24, 25, 14}));
  CHECK(text_of(t.encode("")) == text_of(Ids{24}));
  jet::EncodeOptions options;
  options.add_special_tokens = false;
  CHECK(text_of(t.encode("1212", options)) == text_of(Ids{25, 14}));
  json["pre_tokenizer"] = sequence("pretokenizers", {split(qwen2_pattern), byte_level(false, false)});
  CHECK(text_of(load(json).encode("1212")) == text_of(Ids{24, 13, 14, 13, 14}));  // one digit at a time
}

TEST_CASE("white space is that of Unicode") {
  // "\u0120" is the byte 0x20; the tokens of the other bytes are not needed: the words are looked at.
  jet::detail::SplitRegex const gpt2(jet::detail::split_patterns::gpt2);
  auto const words = [&](std::string_view text) {
    std::vector<std::string_view> out;
    gpt2.split(text, out);
    return std::vector<std::string>(out.begin(), out.end());
  };
  using Words = std::vector<std::string>;
  for (char const* space : {"\u0085", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000", "\t"}) {
    std::string const s = space;
    CHECK(words("a" + s + s + "b") == Words{"a", s, s, "b"});  // \s+(?!\S), then \s+
    CHECK(words("a" + s + s) == Words{"a", s + s});
  }
  for (char const* other : {"\u180e", "\u200b", "\ufeff"}) {  // not White_Space
    std::string const s = other;
    CHECK(words("a" + s + s + "b") == Words{"a", s + s, "b"});
    CHECK(words("a  " + s) == Words{"a", " ", " " + s});
  }
  CHECK(words("\U00031350\U00031351") == Words{"\U00031350\U00031351"});      // letters since Unicode 15.0
  CHECK(words("\U00031350\U0001e4f1") == Words{"\U00031350", "\U0001e4f1"});  // a number since Unicode 15.0
  jet::detail::SplitRegex const qwen(jet::detail::split_patterns::qwen2);
  std::vector<std::string_view> out;
  qwen.split("I'\u017f x \n\n y", out);  // the long s folds to s
  CHECK(std::vector<std::string>(out.begin(), out.end()) == Words{"I", "'\u017f", " x", " \n\n", " y"});
}

TEST_CASE("normal form C") {
  CHECK(jet::detail::normalize_nfc("e\u0301") == "\u00e9");
  CHECK(jet::detail::normalize_nfc("\u1100\u1161\u11a8") == "\uac01");
  CHECK(jet::detail::normalize_nfc("\u2126") == "\u03a9");
  CHECK(jet::detail::normalize_nfc("a\u0301\u0327") == "\u00e1\u0327");
  CHECK(jet::detail::normalize_nfc("q\u0301\u0327") == "q\u0327\u0301");  // reordered
  CHECK(jet::detail::normalize_nfc(std::string_view("a\0b\u0300", 5)) == std::string_view("a\0b\u0300", 5));
  CHECK(jet::detail::normalize_nfc("\u0958") == "\u0915\u093c");  // excluded from composition
  CHECK(qwen2().encode("e\u0301") == qwen2().encode("\u00e9"));
  Json json = tiny();
  CHECK(text_of(load(json).encode("\u00e9")) == text_of(Ids{22}));
  CHECK_THROWS_AS(load(json).encode("e\u0301"), jet::Error);  // not normalised: U+0301 has no tokens
  json["normalizer"] = sequence("normalizers", {{{"type", "NFC"}}});
  CHECK(text_of(load(json).encode("e\u0301")) == text_of(Ids{22}));
}

TEST_CASE("flags of added tokens") {
  Json json = tiny();
  auto const with = [&](char const* flag, std::string const& content = "<x>") {
    Json token = added(25, content);
    token[flag] = true;
    json["added_tokens"] = Json::array({added(24, "<|end|>"), token});
    return load(json);
  };
  CHECK(text_of(with("special").encode("e <x> e")) == text_of(Ids{1, 4, 25, 4, 1}));
  CHECK(text_of(with("lstrip").encode("e  <x> e")) == text_of(Ids{1, 25, 4, 1}));
  CHECK(text_of(with("rstrip").encode("e <x>  e")) == text_of(Ids{1, 4, 25, 1}));
  CHECK(text_of(with("rstrip").encode("<x>  ")) == text_of(Ids{25}));
  CHECK(text_of(with("single_word", "wd").encode("wd wd' wdd dwd")) ==
        text_of(Ids{25, 4, 25, 16, 12, 7, 7, 4, 7, 5, 7}));
  json["normalizer"] = {{"type", "NFC"}};
  CHECK(text_of(with("normalized", "<\u00e9>").encode("<e\u0301>")) ==
        text_of(Ids{25}));  // looked for after normalising
  CHECK_THROWS_AS(with("special", "<\u00e9>").encode("<e\u0301>"), jet::Error);
  // Of two tokens that begin at one place the longer counts.
  json["added_tokens"] = Json::array({added(24, "<x"), added(25, "<x>"), added(26, "x>")});
  CHECK(text_of(load(json).encode("<x><xx>")) == text_of(Ids{25, 24, 26}));
}

TEST_CASE("streaming of characters that span tokens") {
  jet::Tokenizer const t = load(tiny());
  jet::StreamDecoder decoder(t);
  CHECK(decoder.push(20) == "");
  CHECK(decoder.push(21) == "\u00e9");
  CHECK(decoder.push(20) == "");
  CHECK(decoder.push(1) == "\ufffde");
  CHECK(decoder.push(21) == "\ufffd");
  CHECK(decoder.push(20) == "");
  CHECK(decoder.flush() == "\ufffd");
  CHECK(decoder.flush() == "");
  CHECK(t.decode(Ids{20, 1, 21, 20}) == "\ufffde\ufffd\ufffd");

  // Bytes cut in any way give the same text, and the maximal-subpart rule holds.
  std::string const bytes =
      "a\xe6\x97\xa5\xf0\x9f\x98\x80\xf0\x9f\x98\xff\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe0\x80z\xe6\x97";
  std::string const expected =
      "a\u65e5\U0001f600\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdz\ufffd";
  CHECK(jet::utf8_lossy(bytes) == expected);
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    jet::Utf8Stream stream;
    std::string out = stream.push(std::string_view(bytes).substr(0, cut));
    out += stream.push(std::string_view(bytes).substr(cut));
    CHECK(out + stream.flush() == expected);
  }
}

TEST_CASE("long words take the same merges as short ones, and near-linear time") {
  // A random merge table against the definition: merge the pair of lowest rank, leftmost first, until none is left.
  std::mt19937 random(7);
  std::array<std::int32_t, 256> byte_ids{};
  for (std::size_t i = 0; i < 256; ++i) {
    byte_ids[i] = static_cast<std::int32_t>(i);
  }
  std::vector<jet::detail::BytePair::Merge> merges;
  auto const any = [&](std::size_t below) { return static_cast<std::int32_t>(random() % below); };
  for (std::int32_t id = 256; id < 400; ++id) {
    auto const symbol = [&] {
      std::int32_t const i = any(static_cast<std::size_t>(id - 256) + 4);
      return i < 4 ? 'a' + i : 256 + i - 4;
    };
    merges.push_back({symbol(), symbol(), id});
  }
  jet::detail::BytePair const pairs(byte_ids, merges);
  for (int trial = 0; trial < 300; ++trial) {
    std::string word(1 + random() % 150, 'a');
    for (char& c : word) {
      c = static_cast<char>('a' + any(4));
    }
    Ids expected(word.begin(), word.end());
    for (;;) {
      std::size_t best_rank = merges.size();
      std::size_t best_at = 0;
      for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
        for (std::size_t r = merges.size(); r-- > 0;) {  // the last of equal pairs counts
          if (merges[r].left == expected[i] && merges[r].right == expected[i + 1]) {
            if (r < best_rank) {
              best_rank = r;
              best_at = i;
            }
            break;
          }
        }
      }
      if (best_rank == merges.size()) {
        break;
      }
      expected[best_at] = merges[best_rank].merged;
      expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
    }
    Ids found;
    pairs.encode(word, found);
    CAPTURE(word);
    CHECK(found == expected);
  }

  std::string letters(1'000'000, 'a');
  for (char& c : letters) {
    c = static_cast<char>('a' + any(26));
  }
  std::string marks = "e";
  for (int i = 0; i < 250'000; ++i) {
    marks += "\u0301\u0327";
  }
  for (std::string const& text : {letters, std::string(1'000'000, ' '), std::string(1'000'000, '\n'), marks}) {
    std::clock_t const start = std::clock();
    Ids const ids = qwen2().encode(text);
    double const seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    CHECK(seconds < 20.0);  // well below a second when optimised; quadratic would be minutes
    CHECK(qwen2().decode(ids).size() == jet::detail::normalize_nfc(text).size());
  }
}

TEST_CASE("encode is safe to call from many threads") {
  std::string const text = "hello world, 12345 \u65e5\u672c\u8a9e e\u0301 <|im_end|>\n\n  the end";
  Ids const expected = qwen2().encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        count += qwen2().encode(text) == expected ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("bad text and ids") {
  jet::Tokenizer const t = load(tiny());
  CHECK(contains(message_of([&] { t.encode("he\xff"); }), "not valid UTF-8 at byte 2"));
  CHECK(contains(message_of([&] { t.encode("he\xc3"); }), "not valid UTF-8 at byte 2"));
  CHECK(message_of([&] { t.encode("he\xc3\xa9"); }) == "");
  CHECK(contains(message_of([&] { t.encode("z"); }), "byte 122"));
  CHECK(contains(message_of([&] { t.decode(25); }), "token id 25"));
  CHECK(contains(message_of([&] { t.decode(-1); }), "token id -1"));
  CHECK(message_of([&] { t.decode(24); }) == "");
  CHECK(contains(message_of([&] { t.is_special(1 << 30); }), "is not in the tokenizer"));
}

TEST_CASE("directories without tokenizer.json") {
  ScratchDirectory const dir;
  auto const load_dir = [&] { return jet::Tokenizer::from_file(dir.path); };
  auto const result = [&] { return message_of([&] { load_dir(); }); };
  Json const model = tiny()["model"];
  Json vocab = model["vocab"];
  vocab["<|endoftext|>"] = 24;
  Json config = {{"tokenizer_class", "GPT2Tokenizer"}};
  std::string merges = "#version: 0.2\n";
  for (Json const& merge : model["merges"]) {
    merges += merge.get<std::string>() + "\n";
  }
  CHECK(contains(result(), "expected tokenizer.json, or vocab.json and merges.txt"));
  dir.write("vocab.json", vocab.dump());
  dir.write("merges.txt", merges);
  CHECK(contains(result(), "tokenizer_config.json: cannot open: No such file or directory"));
  dir.write("tokenizer_config.json", config.dump());
  CHECK(text_of(load_dir().encode("hello world<|endoftext|>12")) == text_of(Ids{11, 12, 3, 6, 2, 7, 24, 15}));
  CHECK(load_dir().is_special(24));

  config["add_bos_token"] = true;
  config["add_prefix_space"] = true;
  config["tokenizer_class"] = "Qwen2TokenizerFast";
  dir.write("tokenizer_config.json", config.dump());
  CHECK(text_of(load_dir().encode("world 12")) == text_of(Ids{24, 12, 3, 6, 2, 7, 4, 4, 13, 4, 14}));

  config = {{"tokenizer_class", "LlamaTokenizer"}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(contains(result(), "tokenizer_class \"LlamaTokenizer\" is not supported"));
  config = {{"tokenizer_class", "GPT2Tokenizer"}, {"eos_token", "<|none|>"}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(contains(result(), "special token \"<|none|>\" has no id"));
  dir.write("added_tokens.json", Json{{"<|none|>", 25}, {"<plain>", 26}}.dump());
  CHECK(text_of(load_dir().encode("<|none|>e<plain>")) == text_of(Ids{25, 1, 26}));
  CHECK(load_dir().is_special(25));
  CHECK_FALSE(load_dir().is_special(26));
  for (char const* key : {"-25", "25x", "", "99999999999999999999", "<0x-1>"}) {
    config["added_tokens_decoder"] = {{key, {{"content", "<|none|>"}}}};
    dir.write("tokenizer_config.json", config.dump());
    CHECK(contains(result(), "added_tokens_decoder: the key \""));
  }
  config["added_tokens_decoder"] = {{"27", {{"content", "<|none|>"}}}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(contains(result(), "\"<|none|>\" has two ids, 27 and 25"));
  config["added_tokens_decoder"] = {{"25", {{"content", "<|none|>"}, {"lstrip", true}}}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(text_of(load_dir().encode("e <|none|>")) == text_of(Ids{1, 25}));

  dir.write("merges.txt", "#version: 0.2\r\nh e\r\n");
  CHECK(text_of(load_dir().encode("he")) == text_of(Ids{8}));
  dir.write("merges.txt", "#version: 0.2\nh e\nhe\n");
  CHECK(contains(result(), "merges.txt: line 3: expected two tokens with a space between, found \"he\""));
  dir.write("tokenizer.json", tiny().dump());  // takes the place of the other files
  CHECK(text_of(load_dir().encode("e<|end|>")) == text_of(Ids{1, 24}));
}
