/// \file
/// What is scored: questions with choices or a text to be produced, read from JSONL, as text and as token ids, and
/// documents for perplexity. docs/scoring.md describes the files and rules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/atomic_file.hpp>
#include <jet/io/json.hpp>
#include <jet/io/mapped_file.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

/// How generated text is judged. words: the target stands in it as whole words; begins: it begins with a space and
/// the target as whole words.
enum class MatchRule : std::uint8_t { words, begins };

constexpr std::string_view name_of(MatchRule rule) {
  return rule == MatchRule::begins ? "begins" : "words";
}

/// What both forms of a question have. A question with choices asks which one `answer` (an index) is; one without
/// asks for a text of at most `max_new` tokens that matches `target`.
struct ScoreQuestion {
  std::string source;  // "file:line", for messages
  std::string task;    // "name" or "group/name"
  i64 answer = 0;
  std::string target;
  i64 max_new = 0;
  MatchRule match = MatchRule::words;
};

/// A question as its file states it.
struct ScoreText : ScoreQuestion {
  std::string context;
  std::vector<std::string> choices;
  bool generates() const { return choices.empty(); }
};

/// A question in token ids.
struct ScoreItem : ScoreQuestion {
  std::vector<std::int32_t> context;               // at least one token
  std::vector<std::vector<std::int32_t>> choices;  // at least one token each
  std::vector<i64> bytes;                          // of the text of each choice
  bool generates() const { return choices.empty(); }
  /// Tokens that a state must hold to score it: the last token of an answer is never fed.
  i64 length() const {
    std::size_t longest = generates() ? static_cast<std::size_t>(max_new) : 0;
    for (auto const& choice : choices) {
      longest = std::max(longest, choice.size());
    }
    return static_cast<i64>(context.size() + longest) - 1;
  }
};

/// A text whose perplexity is asked: ids[0] is the token that the first token of the text is conditioned on.
struct ScoreDocument {
  std::string source;
  std::vector<std::int32_t> ids;
  i64 bytes = 0;  // of the text
};

/// Text to token ids.
struct ScoreEncoder {
  std::function<std::vector<std::int32_t>(std::string_view)> encode;  // adds no special tokens
  std::optional<std::int32_t> prefix;  // stands for an empty context: begin-of-text, or else end-of-text
  bool always_prefix = false;          // the prefix goes before every context
};

namespace detail {

/// Calls f(text, "path:line") for every line that is not blank.
template <class F> void for_each_json_line(std::filesystem::path const& path, F&& f) {
  MappedFile const file(path);
  std::string_view rest = file.text();
  for (i64 line = 1; !rest.empty(); ++line) {
    std::size_t const end = std::min(rest.find('\n'), rest.size());
    std::string_view const text = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (text.find_first_not_of(" \t\r") != std::string_view::npos) {
      f(text, concat(path.string(), ":", line));
    }
  }
}

inline std::vector<std::string> strings_from(Json const& array, std::string_view where) {
  std::vector<std::string> out;
  for (Json const& value : array) {
    out.push_back(string_from(value, concat(where, "[", out.size(), "]")));
  }
  return out;
}

inline std::int32_t token_from(Json const& value, std::string_view where) {
  i64 const id = int_from(value, where);
  JET_CHECK(id >= 0 && id <= std::numeric_limits<std::int32_t>::max(), where, ": expected a token id, found ", id);
  return static_cast<std::int32_t>(id);
}

/// A list of at least one token.
inline std::vector<std::int32_t> tokens_from(Json const& value, std::string_view where) {
  JET_CHECK(value.is_array() && !value.empty(), where, ": expected an array of at least one token id, found ",
            value.is_array() ? "an empty one" : shown(value));
  std::vector<std::int32_t> out;
  out.reserve(value.size());
  for (Json const& id : value) {
    out.push_back(token_from(id, where));
  }
  return out;
}

/// lastword_gen and svamp_gen count only from the start of what was generated.
inline MatchRule default_match(std::string_view task) {
  std::string_view const group = task.substr(0, task.find('/'));
  return group == "lastword_gen" || group == "svamp_gen" ? MatchRule::begins : MatchRule::words;
}

/// The members that text and tokens share; `choices` is their number, 0 for a generation task.
inline void read_question(Json const& object, std::string const& where, std::size_t choices, ScoreQuestion& out) {
  out.source = where;
  out.task = get_string(object, "task", where);
  JET_CHECK(!out.task.empty(), where, ": task: expected a name, found an empty string");
  if (choices > 0) {
    out.answer = get_int(object, "answer", where);
    JET_CHECK(out.answer >= 0 && out.answer < static_cast<i64>(choices), where, ": answer: expected 0 to ",
              choices - 1, " (the index of a choice), found ", out.answer);
    return;
  }
  constexpr i64 most = 1 << 20;
  out.target = get_string(object, "target", where);
  JET_CHECK(!out.target.empty(), where, ": target: expected a text, found an empty string");
  out.max_new = get_int(object, "max_new", where);
  JET_CHECK(out.max_new >= 1 && out.max_new <= most, where, ": max_new: expected 1 to ", most, ", found ",
            out.max_new);
  out.match = default_match(out.task);
  if (auto const match = find_string(object, "match", where)) {
    JET_CHECK(*match == "words" || *match == "begins", where, ": match: expected words or begins, found ",
              in_quotes(*match));
    out.match = *match == "begins" ? MatchRule::begins : MatchRule::words;
  }
}

/// Whether a line is of the choice form; it must be of exactly one form.
inline bool is_choice_form(Json const& object, std::string const& where) {
  bool const choice = find_member(object, "choices", where) != nullptr;
  bool const generation = find_member(object, "target", where) != nullptr;
  JET_CHECK(choice != generation, where, ": expected either choices and answer, or target and max_new; found ",
            choice ? "both" : "neither");
  return choice;
}

/// What str.isspace of Python says, White_Space of Unicode and the four separators from 1C on.
constexpr bool is_python_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// Bytes of valid text without the white space at its end.
inline std::size_t stripped_size(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t const start = utf8_previous(text, end);
    if (!is_python_space(utf8_step(text, start).code_point)) {
      break;
    }
    end = start;
  }
  return end;
}

}  // namespace detail

/// One line of a task file: {"task", "context", "choices", "answer"} or {"task", "context", "target", "max_new"}
/// and perhaps "match" ("words" or "begins"); other members are ignored. `where` names the line. Throws jet::Error.
inline ScoreText parse_score_text(std::string_view line, std::string const& where) {
  Json const object = parse_json(line, where);
  ScoreText out;
  out.context = get_string(object, "context", where);
  if (detail::is_choice_form(object, where)) {
    out.choices = detail::strings_from(get_array(object, "choices", where), detail::key_path(where, "choices"));
    JET_CHECK(!out.choices.empty(), where, ": choices: expected at least one, found an empty array");
    for (std::size_t i = 0; i < out.choices.size(); ++i) {
      JET_CHECK(!out.choices[i].empty(), where, ": choices[", i, "]: expected a text, found an empty string");
    }
  }
  detail::read_question(object, where, out.choices.size(), out);
  return out;
}

/// All questions of a JSONL file; blank lines are skipped. Throws jet::Error that names file and line.
inline std::vector<ScoreText> read_score_texts(std::filesystem::path const& path) {
  std::vector<ScoreText> out;
  detail::for_each_json_line(
      path, [&](std::string_view line, std::string const& where) { out.push_back(parse_score_text(line, where)); });
  JET_CHECK(!out.empty(), path.string(), ": expected a question per line, found none");
  return out;
}

/// Keeps the first `limit` questions of every task; 0: all.
template <class Question> void limit_per_task(std::vector<Question>& questions, i64 limit) {
  JET_CHECK(limit >= 0, "option limit is ", limit, ", expected at least 0");
  std::map<std::string, i64> seen;
  std::erase_if(questions, [&](Question const& q) { return limit > 0 && ++seen[q.task] > limit; });
}

/// Encodes a question as lm-evaluation-harness does (TemplateLM._encode_pair): white space at the end of a context
/// with choices belongs to the choices; context and choice are encoded together and cut after as many tokens as the
/// context has alone. An empty context is the prefix token. Throws where a choice has no token of its own.
inline ScoreItem encode_item(ScoreText const& text, ScoreEncoder const& encoder) {
  ScoreItem item;
  static_cast<ScoreQuestion&>(item) = text;
  std::string_view const all = text.context;
  std::string_view const context = text.generates() ? all : all.substr(0, detail::stripped_size(all));
  std::string_view const moved = all.substr(context.size());
  if (context.empty() || encoder.always_prefix) {
    JET_CHECK(encoder.prefix.has_value(), text.source,
              ": the context needs a begin-of-text or end-of-text token before it, and none is known");
    item.context.push_back(*encoder.prefix);
  }
  std::vector<std::int32_t> alone;
  if (!context.empty()) {
    alone = encoder.encode(context);
  }
  item.context.insert(item.context.end(), alone.begin(), alone.end());
  for (std::string const& choice : text.choices) {
    std::vector<std::int32_t> whole = encoder.encode(concat(context, moved, choice));
    JET_CHECK(whole.size() > alone.size(), text.source, ": choices[", item.choices.size(),
              "]: expected at least one token after the context's ", alone.size(), ", found ", whole.size(),
              " tokens of both together (the choice merges with the end of the context)");
    whole.erase(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(alone.size()));
    item.choices.push_back(std::move(whole));
    item.bytes.push_back(static_cast<i64>(choice.size()));
  }
  return item;
}

/// Encodes a whole text for perplexity. Throws when there is no prefix token, or nothing to predict.
inline ScoreDocument encode_document(std::string_view text, std::string source, ScoreEncoder const& encoder) {
  JET_CHECK(encoder.prefix.has_value(), source,
            ": the first token needs a begin-of-text or end-of-text token before it, and none is known");
  ScoreDocument document{std::move(source), encoder.encode(text), static_cast<i64>(text.size())};
  JET_CHECK(!document.ids.empty(), document.source, ": expected a text, found nothing to predict");
  document.ids.insert(document.ids.begin(), *encoder.prefix);
  return document;
}

/// Everything that a run needs, in token ids: made where the tokenizer is, scored anywhere.
struct ScoreTokens {
  std::vector<ScoreItem> items;
  std::vector<ScoreDocument> documents;
  std::vector<std::int32_t> stop_tokens;  // end a generated text
  std::vector<std::string> token_bytes;   // text of every id; empty unless items generate

  bool generate() const {
    return std::any_of(items.begin(), items.end(), [](ScoreItem const& item) { return item.generates(); });
  }
  /// Tokens that a state must hold for the items.
  i64 longest() const {
    i64 n = 0;
    for (ScoreItem const& item : items) {
      n = std::max(n, item.length());
    }
    return n;
  }
};

inline constexpr std::string_view score_tokens_format = "jet score tokens 1";

/// Writes JSONL: a header {"format", "stop_tokens", "token_bytes"}, then a line per item {"source", "task",
/// "context" ids, "choices" ids, "bytes", "answer"} or {..., "target", "max_new", "match"}, and per document
/// {"document", "ids", "bytes"}. token_bytes holds a string per id whose code points are its bytes. Throws.
inline void write_score_tokens(ScoreTokens const& tokens, std::filesystem::path const& path) {
  AtomicFile file(path);
  auto const line = [&](Json const& json) { file.write(json.dump() + "\n"); };
  Json header{{"format", score_tokens_format}, {"stop_tokens", tokens.stop_tokens}, {"token_bytes", Json::array()}};
  for (std::string const& bytes : tokens.token_bytes) {
    std::string text;
    for (char const byte : bytes) {
      utf8_append(text, static_cast<std::uint8_t>(byte));
    }
    header["token_bytes"].push_back(text);
  }
  line(header);
  for (ScoreItem const& item : tokens.items) {
    Json json{{"source", item.source}, {"task", item.task}, {"context", item.context}};
    if (item.generates()) {
      json["target"] = item.target;
      json["max_new"] = item.max_new;
      json["match"] = name_of(item.match);
    } else {
      json["choices"] = item.choices;
      json["bytes"] = item.bytes;
      json["answer"] = item.answer;
    }
    line(json);
  }
  for (ScoreDocument const& document : tokens.documents) {
    line({{"document", document.source}, {"ids", document.ids}, {"bytes", document.bytes}});
  }
  file.commit();
}

/// Reads what write_score_tokens wrote. Throws jet::Error that names file and line.
inline ScoreTokens read_score_tokens(std::filesystem::path const& path) {
  ScoreTokens tokens;
  bool header = true;
  detail::for_each_json_line(path, [&](std::string_view text, std::string const& where) {
    Json const object = parse_json(text, where);
    if (std::exchange(header, false)) {
      std::string const format = get_string(object, "format", where, "");
      JET_CHECK(format == score_tokens_format, where, ": format: expected ", detail::in_quotes(score_tokens_format),
                ", found ", detail::in_quotes(format));
      for (Json const& id : get_array(object, "stop_tokens", where)) {
        tokens.stop_tokens.push_back(detail::token_from(id, detail::key_path(where, "stop_tokens")));
      }
      std::string const name = detail::key_path(where, "token_bytes");
      for (std::string const& coded : detail::strings_from(get_array(object, "token_bytes", where), name)) {
        std::string& bytes = tokens.token_bytes.emplace_back();
        for (std::size_t at = 0; at < coded.size();) {
          Utf8Step const step = utf8_step(coded, at);
          JET_CHECK(step.code_point < 256, name, ": expected code points below 256, found ", step.code_point);
          bytes += static_cast<char>(static_cast<std::uint8_t>(step.code_point));
          at += step.length;
        }
      }
      return;
    }
    if (auto const source = find_string(object, "document", where)) {
      ScoreDocument& document = tokens.documents.emplace_back();
      document.source = detail::printable(*source, 400);  // messages begin with it
      document.ids = detail::tokens_from(get_member(object, "ids", where), detail::key_path(where, "ids"));
      document.bytes = get_int(object, "bytes", where);
      JET_CHECK(document.ids.size() > 1, where, ": ids: expected a prefix token and a text, found one token");
      JET_CHECK(document.bytes > 0, where, ": bytes: expected at least 1, found ", document.bytes);
      return;
    }
    ScoreItem& item = tokens.items.emplace_back();
    item.context = detail::tokens_from(get_member(object, "context", where), detail::key_path(where, "context"));
    if (detail::is_choice_form(object, where)) {
      for (Json const& choice : get_array(object, "choices", where)) {
        item.choices.push_back(detail::tokens_from(choice, concat(where, ": choices[", item.choices.size(), "]")));
      }
      JET_CHECK(!item.choices.empty(), where, ": choices: expected at least one, found an empty array");
      for (Json const& bytes : get_array(object, "bytes", where)) {
        item.bytes.push_back(detail::int_from(bytes, detail::key_path(where, "bytes")));
        JET_CHECK(item.bytes.back() > 0, where, ": bytes: expected at least 1, found ", item.bytes.back());
      }
      JET_CHECK(item.bytes.size() == item.choices.size(), where, ": bytes: expected ", item.choices.size(),
                " numbers, one per choice, found ", item.bytes.size());
    }
    detail::read_question(object, where, item.choices.size(), item);
    item.source = detail::printable(get_string(object, "source", where, where), 400);
  });
  JET_CHECK(!header, path.string(), ": expected a header line, found an empty file");
  return tokens;
}

JET_NAMESPACE_END
