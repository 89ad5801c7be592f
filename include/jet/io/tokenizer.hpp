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
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
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

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/added_tokens.hpp>
#include <jet/io/byte_pair.hpp>
#include <jet/io/json.hpp>
#include <jet/io/mapped_file.hpp>
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
  i64 file_bytes = 0;  ///< of all files
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
  /// Far more than files have. Each step costs a compiled expression; each id of a template may be named many times
  /// in a short file, and each piece is looked up; text is compared with added tokens at every byte.
  static constexpr std::size_t max_steps = 32;
  static constexpr std::size_t max_template_ids = 1024;
  static constexpr std::size_t max_added_bytes = 1024;

  /// A component of the file, not a Sequence.
  struct Step {
    std::string type;
    Json const* json;
  };

  /// A part of the file for messages.
  std::string at(std::string_view part) const { return key_path(spec_.source, part); }

  Json read_json(std::filesystem::path const& path) {
    MappedFile const file(path);
    spec_.file_bytes += file.size();
    return parse_json(file.text(), path.string());
  }

  /// The id of a token, whose text is for messages. No id of an honest file is beyond the limit: an entry of a
  /// vocabulary takes six bytes or more.
  std::int32_t checked_id(i64 id, std::string_view token) const {
    i64 const limit = std::min(spec_.file_bytes / 4, i64{std::numeric_limits<std::int32_t>::max()});
    JET_CHECK(id >= 0 && id < limit, spec_.source, ": token ", in_quotes(token), ": id ", id,
              " is out of range: expected 0 to ", limit - 1, " in files of this size");
    return static_cast<std::int32_t>(id);
  }
  std::int32_t id_of(Json const& value, std::string_view token) const {
    if (!value.is_number_integer()) {
      fail(spec_.source, ": token ", in_quotes(token), ": expected an integer as its id, found ", shown(value));
    }
    return checked_id(int_from(value, spec_.source), token);
  }

  [[noreturn]] void refuse(std::string_view what, std::string_view found, std::string_view supported) const {
    fail(spec_.source, ": ", what, " ", in_quotes(found, 400), " is not supported (supported: ", supported, ")");
  }

  /// Appends the steps of a component: none for null, the members of a Sequence (`list` names them), or itself.
  void flatten(Json const& component, std::string_view list, std::string const& where,
               std::vector<Step>& out) const {
    if (component.is_null()) {
      return;
    }
    std::string type = get_string(component, "type", where);
    if (type != "Sequence") {
      JET_CHECK(out.size() < max_steps, where, ": expected at most ", max_steps, " steps, found more");
      out.push_back({std::move(type), &component});
      return;
    }
    for (Json const& step : get_array(component, list, where)) {
      flatten(step, list, where, out);
    }
  }
  std::vector<Step> steps_of(Json const& root, std::string_view key, std::string_view list) const {
    std::vector<Step> steps;
    if (Json const* const component = find_member(root, key, spec_.source)) {
      flatten(*component, list, at(key), steps);
    }
    return steps;
  }

  void read_tokenizer_json(std::filesystem::path const& path) {
    Json const root = read_json(path);
    for (char const* key : {"truncation", "padding"}) {
      JET_CHECK(find_member(root, key, spec_.source) == nullptr, spec_.source, ": \"", key,
                "\" is not supported (supported: null)");
    }
    read_model(get_object(root, "model", spec_.source));
    if (Json const* const added = find_array(root, "added_tokens", spec_.source)) {
      std::string const where = at("added_tokens");
      for (Json const& token : *added) {
        std::string const content = get_string(token, "content", where);
        read_added(content, id_of(get_member(token, "id", where), content), token);
      }
    }
    for (Step const& step : steps_of(root, "normalizer", "normalizers")) {
      if (step.type != "NFC") {
        refuse("normalizer", step.type, "null, NFC, Sequence");
      }
      spec_.nfc = true;
    }
    read_pre_tokenizer(root);
    read_decoder(root);
    read_post_processor(root);
  }

  void read_added(std::string const& content, std::int32_t id, Json const& flags) {
    std::string const where = at("added token " + in_quotes(content));
    JET_CHECK(content.size() <= max_added_bytes, where, ": expected at most ", max_added_bytes, " bytes, found ",
              content.size());
    AddedToken token;
    token.content = content;
    token.id = id;
    token.special = get_bool(flags, "special", where, false);
    token.lstrip = get_bool(flags, "lstrip", where, false);
    token.rstrip = get_bool(flags, "rstrip", where, false);
    token.single_word = get_bool(flags, "single_word", where, false);
    token.normalized = get_bool(flags, "normalized", where, !token.special);
    spec_.added.push_back(std::move(token));
  }

  void read_vocab(Json const& vocab, std::string_view where) {
    for (auto const& [text, id] : object_from(vocab, where).get_ref<Json::object_t const&>()) {
      spec_.vocab.emplace_back(text, id_of(id, text));
    }
    JET_CHECK(!spec_.vocab.empty(), where, ": the vocabulary is empty");
  }

  /// `where`: the merge, for messages.
  void add_merge(std::string_view merge, std::string_view where) {
    std::size_t const space = merge.find(' ');
    bool const two = space != std::string_view::npos && space > 0 && space + 1 < merge.size() &&
                     merge.find(' ', space + 1) == std::string_view::npos;
    JET_CHECK(two, where, ": expected two tokens with a space between, found ", in_quotes(merge));
    spec_.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }

  void read_model(Json const& model) {
    std::string const where = at("model");
    if (std::string const type = get_string(model, "type", where); type != "BPE") {
      refuse("model", type, "BPE");
    }
    JET_CHECK(get_number(model, "dropout", where, 0) == 0, where,
              ": dropout is not supported (supported: null, 0)");
    JET_CHECK(!get_bool(model, "byte_fallback", where, false), where,
              ": byte_fallback is not supported (supported: false)");
    for (char const* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      JET_CHECK(get_string(model, key, where, "").empty(), where, ": ", key,
                " is not supported (supported: null, empty)");
    }
    spec_.unknown_token = find_string(model, "unk_token", where);
    spec_.ignore_merges = get_bool(model, "ignore_merges", where, false);
    read_vocab(get_object(model, "vocab", where), key_path(where, "vocab"));
    Json const& merges = get_array(model, "merges", where);
    spec_.merges.reserve(merges.size());
    for (Json const& merge : merges) {
      std::string const place = concat(where, ": merge ", spec_.merges.size());
      if (merge.is_array()) {
        JET_CHECK(merge.size() == 2, place, ": expected two tokens, found ", merge.size());
        spec_.merges.emplace_back(string_from(merge[0], place), string_from(merge[1], place));
      } else {
        add_merge(string_from(merge, place), place);
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
    std::string const where = at("pre_tokenizer");
    bool byte_level = false;
    for (Step const& step : steps_of(root, "pre_tokenizer", "pretokenizers")) {
      JET_CHECK(!byte_level, where, ": ", in_quotes(step.type), " after ByteLevel is not supported");
      if (step.type == "ByteLevel") {
        byte_level = true;
        add_byte_level(get_bool(*step.json, "add_prefix_space", where, true),
                       get_bool(*step.json, "use_regex", where, true));
      } else if (step.type == "Digits") {
        add_split(get_bool(*step.json, "individual_digits", where, false) ? split_patterns::digit
                                                                          : split_patterns::digits);
      } else if (step.type == "Split") {
        read_split(*step.json, where);
      } else {
        refuse("pre_tokenizer", step.type, "ByteLevel, Split, Digits, Sequence");
      }
    }
    JET_CHECK(byte_level, where, ": there is no ByteLevel; only byte-level BPE is supported");
  }

  void read_split(Json const& step, std::string const& where) {
    std::string const regex =
        get_string(get_object(step, "pattern", where), "Regex", key_path(where, "the pattern of a Split"));
    auto const known = std::find(split_patterns::known.begin(), split_patterns::known.end(), regex);
    if (known == split_patterns::known.end()) {
      refuse("Split pattern", regex, "the patterns of GPT-2, Qwen2 and Llama 3");
    }
    if (std::string const behavior = get_string(step, "behavior", where); behavior != "Isolated") {
      refuse("Split behavior", behavior, "Isolated");
    }
    JET_CHECK(!get_bool(step, "invert", where, false), where,
              ": invert of a Split is not supported (supported: false)");
    add_split(*known);
  }

  void read_decoder(Json const& root) {
    std::vector<Step> const steps = steps_of(root, "decoder", "decoders");
    for (Step const& step : steps) {
      if (step.type != "ByteLevel") {
        refuse("decoder", step.type, "ByteLevel");
      }
    }
    JET_CHECK(steps.size() == 1, spec_.source, ": expected one decoder of type ByteLevel, found ", steps.size(),
              " decoders");
  }

  void read_post_processor(Json const& root) {
    for (Step const& step : steps_of(root, "post_processor", "processors")) {
      if (step.type == "TemplateProcessing") {
        read_template(*step.json, at("post_processor"));
      } else if (step.type != "ByteLevel") {  // ByteLevel moves offsets only
        refuse("post_processor", step.type, "null, ByteLevel, TemplateProcessing, Sequence");
      }
    }
  }

  void read_template(Json const& step, std::string const& where) {
    std::vector<std::int32_t> before;
    std::vector<std::int32_t> after;
    bool text_seen = false;
    Json const& single = get_array(step, "single", where);
    JET_CHECK(single.size() <= max_template_ids, where, ": expected at most ", max_template_ids, " pieces, found ",
              single.size());
    for (Json const& piece : single) {
      if (find_member(piece, "Sequence", where) != nullptr) {
        JET_CHECK(!text_seen, where, ": single holds the text twice");
        text_seen = true;
        continue;
      }
      std::string const name = get_string(get_object(piece, "SpecialToken", where), "id", where);
      Json const* const token = find_object(get_object(step, "special_tokens", where), name, where);
      JET_CHECK(token != nullptr, where, ": special_tokens has no ", in_quotes(name));
      for (Json const& id : get_array(*token, "ids", where)) {
        JET_CHECK(before.size() + after.size() + spec_.before.size() + spec_.after.size() < max_template_ids, where,
                  ": expected at most ", max_template_ids, " ids, found more");
        (text_seen ? after : before).push_back(id_of(id, name));
      }
    }
    JET_CHECK(text_seen, where, ": single does not hold the text");
    // A later processor wraps what the earlier ones gave.
    spec_.before.insert(spec_.before.begin(), before.begin(), before.end());
    spec_.after.insert(spec_.after.end(), after.begin(), after.end());
  }

  /// vocab.json and merges.txt, as the Python tokenizers of `transformers` read them.
  void read_directory(std::filesystem::path const& path) {
    std::string const config_path = (path / "tokenizer_config.json").string();
    std::string const names_path = (path / "special_tokens_map.json").string();
    std::string const added_path = (path / "added_tokens.json").string();
    std::string const vocab_path = (path / "vocab.json").string();
    auto const read_optional = [&](std::string const& file) {
      std::error_code error;
      return std::filesystem::exists(file, error) ? read_json(file) : Json(Json::object());
    };
    Json const config = read_json(config_path);
    Json const named = read_optional(names_path);
    Json const added = read_optional(added_path);
    read_vocab(read_json(vocab_path), vocab_path);
    read_merges(path / "merges.txt");

    std::string family = get_string(config, "tokenizer_class", config_path);
    if (family.ends_with("Fast")) {
      family.resize(family.size() - 4);
    }
    bool const prefix_space = get_bool(config, "add_prefix_space", config_path, false);
    if (family == "Qwen2Tokenizer") {
      spec_.nfc = true;
      add_split(split_patterns::qwen2);
      add_byte_level(prefix_space, false);
    } else if (family == "GPT2Tokenizer") {
      add_byte_level(prefix_space, true);
    } else {
      refuse("tokenizer_class", family, "Qwen2Tokenizer, GPT2Tokenizer, or any with a tokenizer.json");
    }
    JET_CHECK(!get_bool(config, "add_eos_token", config_path, false), config_path,
              ": add_eos_token is not supported (supported: false)");

    // Both families name this token for whatever the files leave open.
    constexpr std::string_view default_special = "<|endoftext|>";
    std::map<std::string, Json> special;  // content -> its flags where they are stated
    std::set<std::string> required;
    for (auto const& [names, file] : {std::pair(&config, &config_path), std::pair(&named, &names_path)}) {
      for (char const* key :
           {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        if (Json const* const token = find_member(*names, key, *file)) {
          read_name(*token, key_path(*file, key), special);
        }
      }
      if (Json const* const tokens = find_array(*names, "additional_special_tokens", *file)) {
        for (Json const& token : *tokens) {
          read_name(token, key_path(*file, "additional_special_tokens"), special);
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
      JET_CHECK(it->second == id, spec_.source, ": added token ", in_quotes(content), " has two ids, ", it->second,
                " and ", id);
      if (fresh) {
        read_added(content, id, flags);
        if (special.contains(content)) {
          spec_.added.back().special = true;
          spec_.added.back().normalized = get_bool(flags, "normalized", spec_.source, false);
        }
      }
    };
    if (Json const* const stated = find_object(config, "added_tokens_decoder", config_path)) {
      std::string const where = key_path(config_path, "added_tokens_decoder");
      for (auto const& [key, token] : stated->get_ref<Json::object_t const&>()) {
        std::optional<i64> const id = whole_number(key);
        JET_CHECK(id.has_value(), where, ": the key ", in_quotes(key), " is not an id");
        std::string const content = get_string(token, "content", where);
        add(content, checked_id(*id, content), token);
      }
    }
    for (auto const& [content, id] : object_from(added, added_path).get_ref<Json::object_t const&>()) {
      auto const it = special.find(content);
      add(content, id_of(id, content), it == special.end() ? Json(Json::object()) : it->second);
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
        JET_CHECK(!required.contains(content), spec_.source, ": special token ", in_quotes(content), " has no id");
      }
    }
    if (get_bool(config, "add_bos_token", config_path, false)) {
      Json const* bos = find_member(config, "bos_token", config_path);
      bos = bos == nullptr ? find_member(named, "bos_token", names_path) : bos;
      std::string const content = bos == nullptr ? std::string(default_special) : content_of(*bos, config_path);
      JET_CHECK(ids.contains(content), config_path, ": add_bos_token is set, but ", in_quotes(content),
                " has no id");
      spec_.before.push_back(ids.at(content));
    }
  }

  /// A special token is its text, or an object with flags that holds the text.
  static std::string content_of(Json const& token, std::string const& where) {
    return token.is_object() ? get_string(token, "content", where) : string_from(token, where);
  }
  static void read_name(Json const& token, std::string const& where, std::map<std::string, Json>& special) {
    Json& flags = special.try_emplace(content_of(token, where), Json::object()).first->second;
    if (token.is_object()) {
      flags = token;
    }
  }

  void read_merges(std::filesystem::path const& path) {
    MappedFile const file(path);
    JET_CHECK(file.size() <= json_max_bytes, path.string(), ": expected at most ", json_max_bytes, " bytes, found ",
              file.size());
    spec_.file_bytes += file.size();
    std::string_view text = file.text();
    i64 line_number = 0;
    while (!text.empty()) {
      std::size_t const end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      ++line_number;
      if (line.ends_with('\r')) {
        line.remove_suffix(1);
      }
      if (!line.empty() && !line.starts_with("#version")) {
        add_merge(line, concat(path.string(), ": line ", line_number));
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
                ": the model's unk_token ", detail::in_quotes(*spec.unknown_token),
                " is not supported unless the vocab holds every byte");
    }
    std::vector<detail::BytePair::Merge> merges;
    merges.reserve(spec.merges.size());
    for (auto const& merge : spec.merges) {
      auto const id = [&](std::string const& token) {
        auto const it = ids_.find(token);
        JET_CHECK(it != ids_.end(), source, ": merge ", merges.size(), " (", detail::in_quotes(merge.first), ", ",
                  detail::in_quotes(merge.second), ") needs the token ", detail::in_quotes(token),
                  ", which is not in the vocab");
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
    JET_CHECK(!entry.present, source, ": tokens ", detail::in_quotes(entry.text), " and ", detail::in_quotes(text),
              " have the same id ", id);
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
      JET_CHECK(contents.insert(token.content).second, source, ": added token ", detail::in_quotes(token.content),
                " occurs twice");
      auto const it = ids_.find(token.content);
      if (it == ids_.end()) {
        insert(token.content, token.id, source);
      } else {
        JET_CHECK(it->second == token.id, source, ": added token ", detail::in_quotes(token.content), " has id ",
                  token.id, " but is in the vocab with id ", it->second);
      }
      entries_[static_cast<std::size_t>(token.id)].special = token.special;
      if (token.normalized) {
        if (nfc_) {
          token.content = detail::normalize_nfc(token.content);
        }
        JET_CHECK(looked_for.insert(token.content).second, source, ": two added tokens are ",
                  detail::in_quotes(token.content), " when normalized");
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
