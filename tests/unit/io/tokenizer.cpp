// The tokenizer against texts whose ids were made with Hugging Face `tokenizers`, against small vocabularies worked
// out by hand, and against damaged files.
#include <unistd.h>  // mkdtemp on some systems

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
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

namespace {

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;
namespace fs = std::filesystem;

class TempDir {
 public:
  TempDir() {
    std::string name = (fs::temp_directory_path() / "jet_tokenizer_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  TempDir(TempDir const&) = delete;
  TempDir& operator=(TempDir const&) = delete;
  ~TempDir() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  fs::path write(std::string const& name, std::string const& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  fs::path const& path() const { return path_; }

 private:
  fs::path path_;
};

std::string read(fs::path const& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream);
  return {std::istreambuf_iterator<char>(stream), {}};
}

fs::path qwen2_path() {
  return fs::path(JET_TEST_DATA) / "qwen2";
}
jet::Tokenizer const& qwen2() {
  static jet::Tokenizer const tokenizer = jet::Tokenizer::from_file(qwen2_path());
  return tokenizer;
}

constexpr char const* qwen2_pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
constexpr char const* llama3_pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

Json byte_level(bool prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
Json split(std::string const& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json sequence(char const* list, std::vector<Json> const& steps) {
  return {{"type", "Sequence"}, {list, steps}};
}
Json digits(bool individual) {
  return {{"type", "Digits"}, {"individual_digits", individual}};
}
Json added(int id, std::string const& content, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// A GPT-2 style file with a vocabulary small enough to work out by hand.
Json tiny() {
  Json vocab = {{"h", 0},
                {"e", 1},
                {"l", 2},
                {"o", 3},
                {"\u0120", 4},
                {"w", 5},
                {"r", 6},
                {"d", 7},
                {"he", 8},
                {"ll", 9},
                {"hell", 10},
                {"hello", 11},
                {"\u0120w", 12},
                {"1", 13},
                {"2", 14},
                {"12", 15},
                {"'", 16},
                {"s", 17},
                {"'s", 18},
                {"el", 19},
                {"\u00c3", 20},
                {"\u00a9", 21},
                {"\u00c3\u00a9", 22},
                {"world", 23}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({added(24, "<|end|>")})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level(false, true)},
          {"post_processor", byte_level(true, true)},
          {"decoder", byte_level(true, true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges",
             Json::array({"h e", "l l", "he ll", "hell o", "\u0120 w", "1 2", "' s", "e l", "\u00c3 \u00a9"})}}}};
}

jet::Tokenizer load(Json const& json) {
  TempDir const dir;
  return jet::Tokenizer::from_file(dir.write("tokenizer.json", json.dump()));
}

std::string message_of(std::function<void()> const& action) {
  try {
    action();
  } catch (jet::Error const& e) {
    return e.what();
  }
  return "";
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
  Json const config = Json::parse(read(from / "tokenizer_config.json"));
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
  json["model"]["vocab"] = Json::parse(read(from / "vocab.json"));
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
  CHECK(message_of([&] { t.encode("he\xff"); }).find("not valid UTF-8 at byte 2") != std::string::npos);
  CHECK(message_of([&] { t.encode("he\xc3"); }).find("not valid UTF-8 at byte 2") != std::string::npos);
  CHECK(message_of([&] { t.encode("he\xc3\xa9"); }).empty());
  CHECK(message_of([&] { t.encode("z"); }).find("byte 122") != std::string::npos);
  CHECK(message_of([&] { t.decode(25); }).find("token id 25") != std::string::npos);
  CHECK(message_of([&] { t.decode(-1); }).find("token id -1") != std::string::npos);
  CHECK(message_of([&] { t.decode(24); }).empty());
  CHECK(message_of([&] { t.is_special(1 << 30); }).find("is not in the tokenizer") != std::string::npos);
}

TEST_CASE("what a tokenizer.json may not hold") {
  struct Case {
    char const* where;  // JSON pointer
    Json bad;
    char const* message;
    Json good;
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
  auto const templated = [](Json const& single, Json const& ids) -> Json {
    return {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"b", {{"ids", ids}}}}}};
  };
  Json const text_part = {{"Sequence", {{"id", "A"}}}};
  Json const token_part = {{"SpecialToken", {{"id", "b"}}}};
  Json const good_template = templated({token_part, text_part}, {1});
  std::vector<Case> const cases = {
      {"/model/type", "Unigram", "model \"Unigram\" is not supported", "BPE"},
      {"/model/type", "WordPiece", "model \"WordPiece\" is not supported", "BPE"},
      {"/model/type", 3, "must be a string, found number", "BPE"},
      {"/model", nullptr, "has no \"model\"", tiny()["model"]},
      {"/model/dropout", 0.1, "\"dropout\" is not supported", 0.0},
      {"/model/byte_fallback", true, "\"byte_fallback\" is not supported", false},
      {"/model/byte_fallback", "no", "must be true or false", false},
      {"/model/continuing_subword_prefix", "##", "\"continuing_subword_prefix\" is not supported", ""},
      {"/model/end_of_word_suffix", "</w>", "\"end_of_word_suffix\" is not supported", nullptr},
      {"/model/unk_token", "h", "unk_token \"h\" is not supported", nullptr},
      {"/model/vocab/d", 6, "have the same id 6", 7},
      {"/model/vocab/d", -1, "out of range: -1", 7},
      {"/model/vocab/d", 2147483647, "out of range: 2147483647", 25},
      {"/model/vocab/d", 18446744073709551615u, "out of range", 30},
      {"/model/vocab/d", 1.5, "must be an integer, found 1.5", 7},
      {"/model/vocab/d", "7", "must be an integer", 7},
      {"/model/vocab", Json::object(), "vocab is empty", tiny()["model"]["vocab"]},
      {"/model/merges/0", "h q", "needs the token \"q\"", "h e"},
      {"/model/merges/0", "h d", "needs the token \"hd\"", Json::array({"h", "e"})},
      {"/model/merges/0", "he", "two tokens with a space between", "h e"},
      {"/model/merges/0", "h e l", "two tokens with a space between", "h e"},
      {"/model/merges/0", " e", "two tokens with a space between", "h e"},
      {"/model/merges/0", Json::array({"h", "e", "l"}), "a string or a pair", Json::array({"h", "e"})},
      {"/model/merges/0", Json::array({"h", 1}), "must be a string", Json::array({"h", "e"})},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer \"NFKC\" is not supported", {{"type", "NFC"}}},
      {"/normalizer", {{"type", "ByteLevel"}}, "normalizer \"ByteLevel\" is not supported", {{"type", "NFC"}}},
      {"/normalizer", "NFC", "must be an object, found string", {{"type", "NFC"}}},
      {"/pre_tokenizer", unsupported, "pre_tokenizer \"Metaspace\" is not supported", byte_level(false, true)},
      {"/pre_tokenizer", nullptr, "has no ByteLevel", byte_level(true, false)},
      {"/pre_tokenizer", sequence("pretokenizers", {byte_level(false, false), digits(true)}),
       "\"Digits\" after ByteLevel", sequence("pretokenizers", {digits(true), byte_level(false, false)})},
      {"/pre_tokenizer", then_bytes(split(R"(\p{Han}+|.)")), R"(Split pattern "\p{Han}+|.")", good_split},
      {"/pre_tokenizer", then_bytes(removed), "Split behavior \"Removed\"", good_split},
      {"/pre_tokenizer", then_bytes(inverted), "\"invert\" is not supported", good_split},
      {"/pre_tokenizer", then_bytes(literal), "Split pattern \"{\"String\"", good_split},
      {"/decoder", nullptr, "expected one decoder", byte_level(true, true)},
      {"/decoder", {{"type", "WordPiece"}}, "decoder \"WordPiece\" is not supported", byte_level(true, true)},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor \"BertProcessing\"", nullptr},
      {"/post_processor", templated({token_part, text_part}, {99}), "adds id 99", good_template},
      {"/post_processor", templated(Json::array({token_part}), {1}), "does not hold the text", good_template},
      {"/post_processor", templated({{{"SpecialToken", {{"id", "c"}}}}, text_part}, {1}), "has no \"c\"",
       good_template},
      {"/truncation", {{"max_length", 3}}, "\"truncation\" is not supported", nullptr},
      {"/padding", {{"pad_id", 3}}, "\"padding\" is not supported", nullptr},
      {"/added_tokens/0/id", 23, "have the same id 23", 24},
      {"/added_tokens/0/id", 1 << 20, "out of range", 40},
      {"/added_tokens/0", added(24, "hello"), "is in the vocab with id 11", added(11, "hello")},
      {"/added_tokens/0/content", "", "has no content", "x"},
      {"/added_tokens/1", added(25, "<|end|>"), "occurs twice", added(25, "<|end2|>")},
      {"/added_tokens", 3, "must be an array", Json::array()},
  };
  for (Case const& c : cases) {
    Json json = tiny();
    CAPTURE(c.where);
    CAPTURE(c.message);
    json[Json::json_pointer(c.where)] = c.good;
    CHECK(message_of([&] { load(json); }) == "");
    json[Json::json_pointer(c.where)] = c.bad;
    std::string const message = message_of([&] { load(json); });
    CAPTURE(message);
    CHECK(message.find(c.message) != std::string::npos);
    CHECK(message.find("tokenizer.json") != std::string::npos);
  }
}

TEST_CASE("damaged files") {
  TempDir const dir;
  std::string const good = tiny().dump();
  auto const result = [&](std::string const& text) {
    fs::path const path = dir.write("tokenizer.json", text);
    return message_of([&] { jet::Tokenizer::from_file(path); });
  };
  auto const nested = [&](std::size_t depth) {
    return good.substr(0, good.size() - 1) + ",\"more\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  CHECK(result(good) == "");
  CHECK(result(good.substr(0, good.size() / 2)).find("tokenizer.json: the file is not valid JSON") !=
        std::string::npos);
  CHECK(result("[]").find("expected a JSON object, found array") != std::string::npos);
  CHECK(result("").find("not valid JSON") != std::string::npos);
  CHECK(result(nested(20)) == "");
  CHECK(result(nested(1'000'000)).find("nested more than 64 levels") != std::string::npos);
  CHECK(message_of([&] { jet::Tokenizer::from_file(dir.path() / "none.json"); }).find("none.json: there is no") !=
        std::string::npos);
  // Any cut of the file is refused and nothing else happens.
  for (std::size_t cut = 0; cut < good.size(); cut += 37) {
    CHECK_FALSE(result(good.substr(0, cut)).empty());
  }
}

TEST_CASE("directories without tokenizer.json") {
  TempDir const dir;
  auto const load_dir = [&] { return jet::Tokenizer::from_file(dir.path()); };
  auto const result = [&] { return message_of([&] { load_dir(); }); };
  Json const model = tiny()["model"];
  Json vocab = model["vocab"];
  vocab["<|endoftext|>"] = 24;
  Json config = {{"tokenizer_class", "GPT2Tokenizer"}};
  std::string merges = "#version: 0.2\n";
  for (Json const& merge : model["merges"]) {
    merges += merge.get<std::string>() + "\n";
  }
  CHECK(result().find("expected tokenizer.json, or vocab.json and merges.txt") != std::string::npos);
  dir.write("vocab.json", vocab.dump());
  dir.write("merges.txt", merges);
  CHECK(result().find("tokenizer_config.json: there is no such file") != std::string::npos);
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
  CHECK(result().find("tokenizer_class \"LlamaTokenizer\" is not supported") != std::string::npos);
  config = {{"tokenizer_class", "GPT2Tokenizer"}, {"eos_token", "<|none|>"}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(result().find("special token \"<|none|>\" has no id") != std::string::npos);
  dir.write("added_tokens.json", Json{{"<|none|>", 25}, {"<plain>", 26}}.dump());
  CHECK(text_of(load_dir().encode("<|none|>e<plain>")) == text_of(Ids{25, 1, 26}));
  CHECK(load_dir().is_special(25));
  CHECK_FALSE(load_dir().is_special(26));
  for (char const* key : {"-25", "25x", "", "99999999999999999999", "<0x-1>"}) {
    config["added_tokens_decoder"] = {{key, {{"content", "<|none|>"}}}};
    dir.write("tokenizer_config.json", config.dump());
    CHECK(result().find("which is not an id in range") != std::string::npos);
  }
  config["added_tokens_decoder"] = {{"27", {{"content", "<|none|>"}}}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(result().find("\"<|none|>\" has two ids, 27 and 25") != std::string::npos);
  config["added_tokens_decoder"] = {{"25", {{"content", "<|none|>"}, {"lstrip", true}}}};
  dir.write("tokenizer_config.json", config.dump());
  CHECK(text_of(load_dir().encode("e <|none|>")) == text_of(Ids{1, 25}));

  dir.write("merges.txt", "#version: 0.2\r\nh e\r\n");
  CHECK(text_of(load_dir().encode("he")) == text_of(Ids{8}));
  dir.write("merges.txt", "#version: 0.2\nh e\nhe\n");
  CHECK(result().find("merges.txt line 3 must be two tokens") != std::string::npos);
  dir.write("tokenizer.json", tiny().dump());  // takes the place of the other files
  CHECK(text_of(load_dir().encode("e<|end|>")) == text_of(Ids{1, 24}));
}
