/// \file
/// Text to token ids and back: byte-level BPE tokenizers as Hugging Face `tokenizers` runs them.
///
/// An optional component: it needs nlohmann-json, PCRE2 (8-bit, Unicode) and utf8proc, and <jet/jet.hpp> leaves it
/// out when JET_NO_TOKENIZER is defined. The rest of the library takes ids.
///
/// What a file asks for is either done or refused by name; nothing is guessed.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/added_tokens.hpp>
#include <jet/io/byte_pair.hpp>
#include <jet/io/text_split.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

struct EncodeOptions {
  /// Adds what the file's post-processor adds around one text (a beginning-of-text token, for example).
  bool add_special_tokens = true;
  /// Tokens marked special are ordinary text: for text from outside. Added tokens that are not marked special are
  /// still recognised, as in `tokenizers` (`encode_special_tokens`).
  bool special_as_text = false;
};

namespace detail {

/// One step of cutting text into words.
struct WordStep {
  bool prefix_space = false;        ///< begins every piece with a space where it has none
  std::optional<SplitRegex> regex;  ///< then cuts it
};

/// A tokenizer as its files state it, before ids are checked against each other.
struct TokenizerSpec {
  std::string source;  ///< file or directory, for messages
  i64 id_limit = 0;    ///< size of the files in bytes: no id of an honest file is as large
  std::vector<std::pair<std::string, std::int32_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<AddedToken> added;
  std::optional<std::string> unknown_token;
  bool ignore_merges = false;
  bool nfc = false;
  std::vector<WordStep> steps;
  std::vector<std::int32_t> before;  ///< ids that the post-processor puts before a text
  std::vector<std::int32_t> after;
};

/// Reads the files of a tokenizer.
class TokenizerReader {
 public:
  static TokenizerSpec read(std::filesystem::path const& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    TokenizerReader reader;
    reader.spec_.source = path.string();
    if (!fs::is_directory(path, error)) {
      reader.read_tokenizer_json(path);
    } else if (fs::exists(path / "tokenizer.json", error)) {
      reader.spec_.source = (path / "tokenizer.json").string();
      reader.read_tokenizer_json(path / "tokenizer.json");
    } else {
      JET_CHECK(fs::exists(path / "vocab.json", error) && fs::exists(path / "merges.txt", error), path.string(),
                ": expected tokenizer.json, or vocab.json and merges.txt");
      reader.read_directory(path);
    }
    return std::move(reader.spec_);
  }

 private:
  using Json = nlohmann::json;
  static constexpr int max_depth = 64;

  std::string read_file(std::filesystem::path const& path) {
    std::error_code error;
    JET_CHECK(std::filesystem::is_regular_file(path, error), path.string(), ": there is no such file");
    std::ifstream stream(path, std::ios::binary | std::ios::ate);
    auto const end = static_cast<i64>(stream.tellg());
    JET_CHECK(stream && end >= 0, path.string(), ": the file cannot be read");
    std::string text(static_cast<std::size_t>(end), '\0');
    stream.seekg(0);
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    JET_CHECK(stream, path.string(), ": the file cannot be read");
    spec_.id_limit += end;
    return text;
  }

  Json read_json(std::filesystem::path const& path) {
    std::string const text = read_file(path);
    Json json;
    try {
      json = Json::parse(text.begin(), text.end(), [&](int depth, Json::parse_event_t, Json&) {
        JET_CHECK(depth <= max_depth, path.string(), ": the JSON is nested more than ", max_depth, " levels deep");
        return true;
      });
    } catch (Json::exception const& e) {
      fail(path.string(), ": the file is not valid JSON: ", e.what());
    }
    JET_CHECK(json.is_object(), path.string(), ": expected a JSON object, found ", json.type_name());
    return json;
  }

  // Members of a JSON object. A member that is absent and one that is null are the same.
  Json const* find(Json const& object, char const* key) const {
    auto const it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }
  Json const& member(Json const& object, char const* key, std::string_view where) const {
    JET_CHECK(object.is_object(), spec_.source, ": ", where, " must be an object, found ", object.type_name());
    Json const* const value = find(object, key);
    JET_CHECK(value != nullptr, spec_.source, ": ", where, " has no \"", key, "\"");
    return *value;
  }
  std::string const& text_of(Json const& value, std::string_view where) const {
    JET_CHECK(value.is_string(), spec_.source, ": ", where, " must be a string, found ", value.type_name());
    return value.get_ref<std::string const&>();
  }
  bool flag(Json const& object, char const* key, bool otherwise) const {
    Json const* const value = find(object, key);
    if (value == nullptr) {
      return otherwise;
    }
    JET_CHECK(value->is_boolean(), spec_.source, ": \"", key, "\" must be true or false, found ",
              value->type_name());
    return value->get<bool>();
  }
  Json const& array_of(Json const& value, std::string_view where) const {
    JET_CHECK(value.is_array(), spec_.source, ": ", where, " must be an array, found ", value.type_name());
    return value;
  }
  std::int32_t id_of(Json const& value, std::string_view where) const {
    JET_CHECK(value.is_number_integer(), spec_.source, ": the id of ", where, " must be an integer, found ",
              value.dump());
    bool const fits =
        value.is_number_unsigned() && value.get<std::uint64_t>() < static_cast<std::uint64_t>(limit());
    JET_CHECK(fits, spec_.source, ": the id of ", where, " is out of range: ", value.dump());
    return value.get<std::int32_t>();
  }
  i64 limit() const { return std::min(spec_.id_limit, static_cast<i64>(std::numeric_limits<std::int32_t>::max())); }

  [[noreturn]] void refuse(std::string_view what, std::string_view found, std::string_view supported) const {
    fail(spec_.source, ": ", what, " \"", found, "\" is not supported (supported: ", supported, ")");
  }

  /// The steps of a component: none for null, the members of a Sequence (`list` names them), or itself.
  void flatten(Json const* component, char const* list, std::string_view where,
               std::vector<Json const*>& out) const {
    if (component == nullptr || component->is_null()) {
      return;
    }
    if (text_of(member(*component, "type", where), "a type") != "Sequence") {
      out.push_back(component);
      return;
    }
    for (Json const& step : array_of(member(*component, list, where), list)) {
      flatten(&step, list, where, out);
    }
  }
  std::vector<Json const*> steps_of(Json const& root, char const* key, char const* list) const {
    std::vector<Json const*> steps;
    flatten(find(root, key), list, key, steps);
    return steps;
  }
  std::string const& type_of_step(Json const& step) const { return step.at("type").get_ref<std::string const&>(); }

  void read_tokenizer_json(std::filesystem::path const& path) {
    Json const root = read_json(path);
    for (char const* key : {"truncation", "padding"}) {
      JET_CHECK(find(root, key) == nullptr, spec_.source, ": \"", key, "\" is not supported (supported: null)");
    }
    read_model(member(root, "model", "the file"));
    if (Json const* const added = find(root, "added_tokens")) {
      for (Json const& token : array_of(*added, "added_tokens")) {
        std::string const& content =
            text_of(member(token, "content", "an added token"), "an added token's content");
        read_added(content, id_of(member(token, "id", "an added token"), concat("token \"", content, "\"")), token);
      }
    }
    for (Json const* step : steps_of(root, "normalizer", "normalizers")) {
      if (type_of_step(*step) != "NFC") {
        refuse("normalizer", type_of_step(*step), "null, NFC, Sequence");
      }
      spec_.nfc = true;
    }
    read_pre_tokenizer(root);
    read_decoder(root);
    read_post_processor(root);
  }

  void read_added(std::string const& content, std::int32_t id, Json const& flags) {
    AddedToken token;
    token.content = content;
    token.id = id;
    token.special = flag(flags, "special", false);
    token.lstrip = flag(flags, "lstrip", false);
    token.rstrip = flag(flags, "rstrip", false);
    token.single_word = flag(flags, "single_word", false);
    token.normalized = flag(flags, "normalized", !token.special);
    spec_.added.push_back(std::move(token));
  }

  void read_vocab(Json const& vocab, std::string_view where) {
    JET_CHECK(vocab.is_object(), spec_.source, ": ", where, " must be an object, found ", vocab.type_name());
    for (auto const& [text, id] : vocab.items()) {
      spec_.vocab.emplace_back(text, id_of(id, concat("token \"", text, "\"")));
    }
    JET_CHECK(!spec_.vocab.empty(), spec_.source, ": ", where, " is empty");
  }

  void add_merge(std::string_view merge, std::string_view where) {
    std::size_t const space = merge.find(' ');
    bool const two = space != std::string_view::npos && space > 0 && space + 1 < merge.size() &&
                     merge.find(' ', space + 1) == std::string_view::npos;
    JET_CHECK(two, spec_.source, ": ", where, " must be two tokens with a space between, found \"", merge, "\"");
    spec_.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }

  void read_model(Json const& model) {
    JET_CHECK(model.is_object(), spec_.source, ": model must be an object, found ", model.type_name());
    if (std::string const& type = text_of(member(model, "type", "model"), "the model's type"); type != "BPE") {
      refuse("model", type, "BPE");
    }
    if (Json const* const dropout = find(model, "dropout")) {
      JET_CHECK(dropout->is_number() && dropout->get<double>() == 0.0, spec_.source,
                ": the model's \"dropout\" is not supported (supported: null, 0), found ", dropout->dump());
    }
    JET_CHECK(!flag(model, "byte_fallback", false), spec_.source,
              ": the model's \"byte_fallback\" is not supported (supported: false)");
    for (char const* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (Json const* const affix = find(model, key)) {
        JET_CHECK(text_of(*affix, key).empty(), spec_.source, ": the model's \"", key,
                  "\" is not supported (supported: null, empty), found ", affix->dump());
      }
    }
    if (Json const* const unknown = find(model, "unk_token")) {
      spec_.unknown_token = text_of(*unknown, "unk_token");
    }
    spec_.ignore_merges = flag(model, "ignore_merges", false);
    read_vocab(member(model, "vocab", "model"), "the model's vocab");
    std::size_t index = 0;
    for (Json const& merge : array_of(member(model, "merges", "model"), "the model's merges")) {
      std::string const where = concat("merge ", index++);
      if (merge.is_string()) {
        add_merge(merge.get_ref<std::string const&>(), where);
      } else {
        JET_CHECK(merge.is_array() && merge.size() == 2, spec_.source, ": ", where,
                  " must be a string or a pair of strings, found ", merge.dump());
        spec_.merges.emplace_back(text_of(merge[0], where), text_of(merge[1], where));
      }
    }
  }

  void add_byte_level(bool prefix_space, bool use_regex) {
    WordStep step;
    step.prefix_space = prefix_space;
    if (use_regex) {
      step.regex.emplace(split_patterns::gpt2);
    }
    spec_.steps.push_back(std::move(step));
  }
  void add_split(std::string_view pattern) {
    WordStep step;
    step.regex.emplace(pattern);
    spec_.steps.push_back(std::move(step));
  }

  void read_pre_tokenizer(Json const& root) {
    bool byte_level = false;
    for (Json const* step : steps_of(root, "pre_tokenizer", "pretokenizers")) {
      std::string const& type = type_of_step(*step);
      JET_CHECK(!byte_level, spec_.source, ": pre_tokenizer \"", type, "\" after ByteLevel is not supported");
      if (type == "ByteLevel") {
        byte_level = true;
        add_byte_level(flag(*step, "add_prefix_space", true), flag(*step, "use_regex", true));
      } else if (type == "Digits") {
        add_split(flag(*step, "individual_digits", false) ? split_patterns::digit : split_patterns::digits);
      } else if (type == "Split") {
        read_split(*step);
      } else {
        refuse("pre_tokenizer", type, "ByteLevel, Split, Digits, Sequence");
      }
    }
    JET_CHECK(byte_level, spec_.source, ": the pre_tokenizer has no ByteLevel; only byte-level BPE is supported");
  }

  void read_split(Json const& step) {
    Json const& pattern = member(step, "pattern", "Split");
    if (!pattern.is_object() || !pattern.contains("Regex")) {
      refuse("Split pattern", pattern.dump(), "Regex");
    }
    std::string const& regex = text_of(pattern.at("Regex"), "Split's Regex");
    auto const known = std::find(split_patterns::known.begin(), split_patterns::known.end(), regex);
    if (known == split_patterns::known.end()) {
      refuse("Split pattern", regex, "the patterns of GPT-2, Qwen2 and Llama 3");
    }
    if (std::string const& behavior = text_of(member(step, "behavior", "Split"), "Split's behavior");
        behavior != "Isolated") {
      refuse("Split behavior", behavior, "Isolated");
    }
    JET_CHECK(!flag(step, "invert", false), spec_.source,
              ": Split's \"invert\" is not supported (supported: false)");
    add_split(*known);
  }

  void read_decoder(Json const& root) {
    std::vector<Json const*> const steps = steps_of(root, "decoder", "decoders");
    for (Json const* step : steps) {
      if (type_of_step(*step) != "ByteLevel") {
        refuse("decoder", type_of_step(*step), "ByteLevel");
      }
    }
    JET_CHECK(steps.size() == 1, spec_.source, ": expected one decoder of type ByteLevel, found ", steps.size(),
              " decoders");
  }

  void read_post_processor(Json const& root) {
    for (Json const* step : steps_of(root, "post_processor", "processors")) {
      std::string const& type = type_of_step(*step);
      if (type == "TemplateProcessing") {
        read_template(*step);
      } else if (type != "ByteLevel") {  // ByteLevel moves offsets only
        refuse("post_processor", type, "null, ByteLevel, TemplateProcessing, Sequence");
      }
    }
  }

  void read_template(Json const& step) {
    std::vector<std::int32_t> before;
    std::vector<std::int32_t> after;
    bool text_seen = false;
    for (Json const& piece :
         array_of(member(step, "single", "TemplateProcessing"), "TemplateProcessing's single")) {
      if (piece.is_object() && piece.contains("Sequence")) {
        JET_CHECK(!text_seen, spec_.source, ": TemplateProcessing's single holds the text twice");
        text_seen = true;
        continue;
      }
      std::string const& name =
          text_of(member(member(piece, "SpecialToken", "TemplateProcessing's single"), "id", "SpecialToken"),
                  "a SpecialToken's id");
      Json const& token = member(member(step, "special_tokens", "TemplateProcessing"), name.c_str(),
                                 "TemplateProcessing's special_tokens");
      for (Json const& id : array_of(member(token, "ids", "a special token"), "a special token's ids")) {
        (text_seen ? after : before).push_back(id_of(id, concat("token \"", name, "\"")));
      }
    }
    JET_CHECK(text_seen, spec_.source, ": TemplateProcessing's single does not hold the text");
    // A later processor wraps what the earlier ones gave.
    spec_.before.insert(spec_.before.begin(), before.begin(), before.end());
    spec_.after.insert(spec_.after.end(), after.begin(), after.end());
  }

  /// vocab.json and merges.txt, as the Python tokenizers of `transformers` read them.
  void read_directory(std::filesystem::path const& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    Json const config = read_json(path / "tokenizer_config.json");
    Json const named = fs::exists(path / "special_tokens_map.json", error)
                           ? read_json(path / "special_tokens_map.json")
                           : Json(Json::object());
    Json const added = fs::exists(path / "added_tokens.json", error) ? read_json(path / "added_tokens.json")
                                                                     : Json(Json::object());
    read_vocab(read_json(path / "vocab.json"), "vocab.json");
    read_merges(read_file(path / "merges.txt"));

    std::string family = text_of(member(config, "tokenizer_class", "tokenizer_config.json"), "tokenizer_class");
    if (family.ends_with("Fast")) {
      family.resize(family.size() - 4);
    }
    bool const prefix_space = flag(config, "add_prefix_space", false);
    if (family == "Qwen2Tokenizer") {
      spec_.nfc = true;
      add_split(split_patterns::qwen2);
      add_byte_level(prefix_space, false);
    } else if (family == "GPT2Tokenizer") {
      add_byte_level(prefix_space, true);
    } else {
      refuse("tokenizer_class", family, "Qwen2Tokenizer, GPT2Tokenizer, or any with a tokenizer.json");
    }
    JET_CHECK(!flag(config, "add_eos_token", false), spec_.source,
              ": tokenizer_config.json's \"add_eos_token\" is not supported (supported: false)");

    // Both families name this token for whatever the files leave open.
    constexpr std::string_view default_special = "<|endoftext|>";
    std::map<std::string, Json> special;  // content -> its flags where they are stated
    std::set<std::string> required;
    for (Json const* names : {&config, &named}) {
      for (char const* key :
           {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        if (Json const* const token = find(*names, key)) {
          read_name(*token, special);
        }
      }
      if (Json const* const tokens = find(*names, "additional_special_tokens")) {
        for (Json const& token : array_of(*tokens, "additional_special_tokens")) {
          read_name(token, special);
        }
      }
    }
    for (auto const& [content, flags] : special) {
      required.insert(content);
    }
    special.emplace(default_special, Json::object());

    std::map<std::string, std::int32_t> ids;  // every added token
    auto const add = [&](std::string const& content, std::int32_t id, Json const& flags) {
      auto const [it, fresh] = ids.emplace(content, id);
      JET_CHECK(it->second == id, spec_.source, ": added token \"", content, "\" has two ids, ", it->second,
                " and ", id);
      if (fresh) {
        read_added(content, id, flags);
        if (special.contains(content)) {
          spec_.added.back().special = true;
          spec_.added.back().normalized = flag(flags, "normalized", false);
        }
      }
    };
    if (Json const* const stated = find(config, "added_tokens_decoder")) {
      JET_CHECK(stated->is_object(), spec_.source, ": added_tokens_decoder must be an object, found ",
                stated->type_name());
      for (auto const& [key, token] : stated->items()) {
        std::int32_t id = -1;
        auto const [end, failed] = std::from_chars(key.data(), key.data() + key.size(), id);
        JET_CHECK(failed == std::errc{} && end == key.data() + key.size() && id >= 0 && id < limit(), spec_.source,
                  ": added_tokens_decoder has the key \"", key, "\", which is not an id in range");
        add(text_of(member(token, "content", "an added token"), "an added token's content"), id, token);
      }
    }
    for (auto const& [content, id] : added.items()) {
      auto const it = special.find(content);
      add(content, id_of(id, concat("token \"", content, "\"")),
          it == special.end() ? Json(Json::object()) : it->second);
    }
    std::map<std::string_view, std::int32_t> vocab;
    for (auto const& [text, id] : spec_.vocab) {
      if (special.contains(text)) {
        vocab.emplace(text, id);
      }
    }
    for (auto const& [content, flags] : special) {
      if (ids.contains(content)) {
        continue;
      }
      auto const it = vocab.find(content);
      if (it != vocab.end()) {
        add(content, it->second, flags);
      } else {
        JET_CHECK(!required.contains(content), spec_.source, ": special token \"", content, "\" has no id");
      }
    }
    if (flag(config, "add_bos_token", false)) {
      Json const* bos = find(config, "bos_token");
      bos = bos == nullptr ? find(named, "bos_token") : bos;
      std::string const content = bos == nullptr ? std::string(default_special) : content_of(*bos);
      JET_CHECK(ids.contains(content), spec_.source, ": add_bos_token is set but \"", content, "\" has no id");
      spec_.before.push_back(ids.at(content));
    }
  }

  std::string const& content_of(Json const& token) const {
    return text_of(token.is_object() ? member(token, "content", "a special token") : token, "a special token");
  }
  void read_name(Json const& token, std::map<std::string, Json>& special) const {
    Json& flags = special.try_emplace(content_of(token), Json::object()).first->second;
    if (token.is_object()) {
      flags = token;
    }
  }

  void read_merges(std::string_view text) {
    std::size_t line_number = 0;
    while (!text.empty()) {
      std::size_t const end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      ++line_number;
      if (line.ends_with('\r')) {
        line.remove_suffix(1);
      }
      if (!line.empty() && !line.starts_with("#version")) {
        add_merge(line, concat("merges.txt line ", line_number));
      }
    }
  }

  TokenizerSpec spec_;
};

}  // namespace detail

/// A byte-level BPE tokenizer. Immutable: any number of threads may use one object.
///
/// Supported in tokenizer.json: model BPE (merges as strings or pairs, ignore_merges); normalizer NFC;
/// pre_tokenizer ByteLevel, Digits, Split by the expression of GPT-2, Qwen2 or Llama 3 (Isolated); decoder
/// ByteLevel; post_processor ByteLevel and TemplateProcessing; Sequences of these; added tokens with all their
/// flags.
class Tokenizer {
 public:
  /// Reads a tokenizer.json, or a directory: its tokenizer.json, or else vocab.json and merges.txt with
  /// tokenizer_config.json (tokenizer_class Qwen2Tokenizer or GPT2Tokenizer), added_tokens.json and
  /// special_tokens_map.json. Throws jet::Error when a file is missing or damaged, or asks for what is not
  /// supported.
  static Tokenizer from_file(std::filesystem::path const& path) {
    return Tokenizer(detail::TokenizerReader::read(path));
  }

  /// Token ids of a text, which must be valid UTF-8 (else the error names the byte). Time is linear in the length
  /// of the text but for a logarithm in the length of its longest word. Throws also for a byte that the vocabulary
  /// has no token for; `tokenizers` would leave it out silently.
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions const& options = {}) const {
    std::size_t const invalid = utf8_find_invalid(text);
    JET_CHECK(invalid == std::string_view::npos, "the text to encode is not valid UTF-8 at byte ", invalid);
    std::vector<std::int32_t> ids;
    if (options.add_special_tokens) {
      ids = before_;
    }
    Words words;
    std::vector<detail::TextPart> parts;
    added_.split(text, options.special_as_text, parts);
    for (detail::TextPart const& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      std::string_view normal = part.text;
      if (nfc_) {
        normal = words.kept.emplace_back(detail::normalize_nfc(part.text));
      }
      std::vector<detail::TextPart> inner;
      added_normalized_.split(normal, options.special_as_text, inner);
      for (detail::TextPart const& piece : inner) {
        if (piece.id >= 0) {
          ids.push_back(piece.id);
        } else {
          encode_plain(piece.text, words, ids);
        }
      }
    }
    if (options.add_special_tokens) {
      ids.insert(ids.end(), after_.begin(), after_.end());
    }
    return ids;
  }

  /// Text of ids, valid UTF-8: invalid sequences become U+FFFD. `skip_special` leaves out tokens marked special.
  /// Throws for an id that no token has (models often have more rows than their tokenizer has tokens).
  std::string decode(std::span<std::int32_t const> ids, bool skip_special = false) const {
    std::string bytes;
    for (std::int32_t const id : ids) {
      std::string const& token = entry(id).bytes;
      if (!skip_special || !is_special(id)) {
        bytes += token;
      }
    }
    return utf8_lossy(bytes);
  }
  /// The bytes of one token, which need not be whole characters.
  std::string decode(std::int32_t id) const { return entry(id).bytes; }

  /// One more than the largest id.
  i64 vocab_size() const { return static_cast<i64>(entries_.size()); }
  /// The id of a token as the files spell it ("Ġthe", "<|im_end|>").
  std::optional<std::int32_t> token_to_id(std::string_view token) const {
    auto const it = ids_.find(token);
    return it == ids_.end() ? std::nullopt : std::optional(it->second);
  }
  /// The token of an id as the files spell it. Throws for an id that no token has.
  std::string id_to_token(std::int32_t id) const { return entry(id).text; }
  /// Whether the token is marked special. Throws for an id that no token has.
  bool is_special(std::int32_t id) const { return entry(id).special; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  template <class Value> using TextMap = std::unordered_map<std::string, Value, Hash, std::equal_to<>>;

  struct Entry {
    std::string text;
    std::string bytes;
    bool present = false;
    bool special = false;
  };

  /// The words of one call: text that is not part of the caller's, and where in the ids a word has been seen.
  struct Words {
    struct Seen {
      std::size_t at;
      std::size_t count;
    };
    std::deque<std::string> kept;
    std::unordered_map<std::string_view, Seen> seen;
    std::vector<std::string_view> pieces;
    std::vector<std::string_view> cut;
  };

  explicit Tokenizer(detail::TokenizerSpec spec)
      : steps_(std::move(spec.steps)),
        before_(std::move(spec.before)),
        after_(std::move(spec.after)),
        nfc_(spec.nfc),
        ignore_merges_(spec.ignore_merges) {
    std::string const& source = spec.source;
    std::int32_t largest = -1;
    for (auto const& [text, id] : spec.vocab) {
      largest = std::max(largest, id);
    }
    for (detail::AddedToken const& token : spec.added) {
      largest = std::max(largest, token.id);
    }
    entries_.resize(static_cast<std::size_t>(largest) + 1);
    ids_.reserve(spec.vocab.size() + spec.added.size());

    std::array<std::int32_t, 256> byte_ids;
    byte_ids.fill(-1);
    for (auto const& [text, id] : spec.vocab) {
      insert(text, id, source);
      std::optional<std::string> const bytes = detail::bytes_of_token(text);
      if (bytes && bytes->size() == 1) {
        byte_ids[static_cast<std::uint8_t>((*bytes)[0])] = id;
      }
      if (bytes && ignore_merges_) {
        whole_words_.emplace(*bytes, id);
      }
    }
    if (spec.unknown_token) {
      JET_CHECK(std::find(byte_ids.begin(), byte_ids.end(), -1) == byte_ids.end(), source,
                ": the model's unk_token \"", *spec.unknown_token,
                "\" is not supported unless the vocab holds every byte");
    }
    std::vector<detail::BytePair::Merge> merges;
    merges.reserve(spec.merges.size());
    for (auto const& merge : spec.merges) {
      auto const id = [&](std::string const& token) {
        auto const it = ids_.find(token);
        JET_CHECK(it != ids_.end(), source, ": merge ", merges.size(), " (\"", merge.first, "\", \"", merge.second,
                  "\") needs the token \"", token, "\", which is not in the vocab");
        return it->second;
      };
      merges.push_back({id(merge.first), id(merge.second), id(merge.first + merge.second)});
    }
    byte_pair_ = detail::BytePair(byte_ids, merges);
    insert_added(std::move(spec.added), source);
    for (std::vector<std::int32_t> const* ids : {&before_, &after_}) {
      for (std::int32_t const id : *ids) {
        JET_CHECK(id < vocab_size() && entries_[static_cast<std::size_t>(id)].present, source,
                  ": the post_processor adds id ", id, ", which no token has");
      }
    }
  }

  void insert(std::string const& text, std::int32_t id, std::string const& source) {
    Entry& entry = entries_[static_cast<std::size_t>(id)];
    JET_CHECK(!entry.present, source, ": tokens \"", entry.text, "\" and \"", text, "\" have the same id ", id);
    // As `tokenizers` decodes: a token that is not of the byte alphabet stands for itself, and this holds for added
    // tokens too.
    entry = {text, detail::bytes_of_token(text).value_or(text), true, false};
    ids_.emplace(text, id);
  }

  void insert_added(std::vector<detail::AddedToken> tokens, std::string const& source) {
    std::vector<detail::AddedToken> raw;
    std::vector<detail::AddedToken> normalized;
    std::set<std::string> contents;
    std::set<std::string> looked_for;
    for (detail::AddedToken& token : tokens) {
      JET_CHECK(!token.content.empty(), source, ": the added token with id ", token.id, " has no content");
      JET_CHECK(contents.insert(token.content).second, source, ": added token \"", token.content,
                "\" occurs twice");
      auto const it = ids_.find(token.content);
      if (it == ids_.end()) {
        insert(token.content, token.id, source);
      } else {
        JET_CHECK(it->second == token.id, source, ": added token \"", token.content, "\" has id ", token.id,
                  " but is in the vocab with id ", it->second);
      }
      entries_[static_cast<std::size_t>(token.id)].special = token.special;
      if (token.normalized) {
        if (nfc_) {
          token.content = detail::normalize_nfc(token.content);
        }
        JET_CHECK(looked_for.insert(token.content).second, source, ": two added tokens are \"", token.content,
                  "\" when normalized");
        normalized.push_back(std::move(token));
      } else {
        raw.push_back(std::move(token));
      }
    }
    added_ = detail::AddedTokenFinder(std::move(raw));
    added_normalized_ = detail::AddedTokenFinder(std::move(normalized));
  }

  Entry const& entry(std::int32_t id) const {
    JET_CHECK(id >= 0 && id < vocab_size() && entries_[static_cast<std::size_t>(id)].present, "token id ", id,
              " is not in the tokenizer, whose ids end at ", vocab_size() - 1);
    return entries_[static_cast<std::size_t>(id)];
  }

  /// Appends the ids of text without added tokens.
  void encode_plain(std::string_view text, Words& words, std::vector<std::int32_t>& ids) const {
    words.pieces.assign(1, text);
    for (detail::WordStep const& step : steps_) {
      words.cut.clear();
      for (std::string_view piece : words.pieces) {
        if (step.prefix_space && piece.front() != ' ') {
          piece = words.kept.emplace_back(concat(' ', piece));
        }
        if (step.regex) {
          step.regex->split(piece, words.cut);
        } else {
          words.cut.push_back(piece);
        }
      }
      std::swap(words.pieces, words.cut);
    }
    for (std::string_view const word : words.pieces) {
      auto const [it, fresh] = words.seen.try_emplace(word, typename Words::Seen{ids.size(), 0});
      typename Words::Seen& seen = it->second;
      if (fresh) {
        encode_word(word, ids);
        seen.count = ids.size() - seen.at;
      } else {
        for (std::size_t i = 0; i < seen.count; ++i) {
          std::int32_t const id = ids[seen.at + i];
          ids.push_back(id);
        }
      }
    }
  }

  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
    if (ignore_merges_) {
      if (auto const it = whole_words_.find(word); it != whole_words_.end()) {
        ids.push_back(it->second);
        return;
      }
    }
    byte_pair_.encode(word, ids);
  }

  std::vector<Entry> entries_;
  TextMap<std::int32_t> ids_;
  TextMap<std::int32_t> whole_words_;  ///< by bytes; filled for ignore_merges
  detail::BytePair byte_pair_;
  detail::AddedTokenFinder added_;
  detail::AddedTokenFinder added_normalized_;
  std::vector<detail::WordStep> steps_;
  std::vector<std::int32_t> before_;
  std::vector<std::int32_t> after_;
  bool nfc_;
  bool ignore_merges_;
};

/// Decodes ids one at a time for printing: characters that span tokens come out when they are whole. The joined
/// results are what `Tokenizer::decode` gives for all ids. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer const& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}
  explicit StreamDecoder(Tokenizer&&, bool = false) = delete;

  /// What can be printed now; may be empty. Throws for an id that no token has.
  std::string push(std::int32_t id) {
    std::string const bytes = tokenizer_->decode(id);
    return skip_special_ && tokenizer_->is_special(id) ? std::string() : stream_.push(bytes);
  }
  /// Ends the text: a character that is not whole becomes U+FFFD.
  std::string flush() { return stream_.flush(); }

 private:
  Tokenizer const* tokenizer_;
  bool skip_special_;
  Utf8Stream stream_;
};

JET_NAMESPACE_END
