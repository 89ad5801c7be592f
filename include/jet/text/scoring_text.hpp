/// \file
/// From text to what is scored, with the tokenizer of a Hugging Face directory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/json.hpp>
#include <jet/io/mapped_file.hpp>
#include <jet/io/tokenizer.hpp>
#include <jet/text/scoring_items.hpp>

JET_NAMESPACE_BEGIN

/// The token that a directory names as `name` ("bos_token", "eos_token"): in tokenizer_config.json or else in
/// special_tokens_map.json by its text, or else in config.json by "<name>_id". A null in the first file that has
/// the member means that there is none. Throws jet::Error.
inline std::optional<std::int32_t> named_token(std::filesystem::path const& directory, Tokenizer const& tokenizer,
                                               std::string const& name) {
  for (char const* const file : {"tokenizer_config.json", "special_tokens_map.json", "config.json"}) {
    if (!std::filesystem::exists(directory / file)) {
      continue;
    }
    std::string const where = (directory / file).string();
    Json const json = load_json(directory / file);
    if (std::string_view(file) == "config.json") {
      Json const* id = find_member(json, name + "_id", where);
      if (id != nullptr && id->is_array() && !id->empty()) {  // the first of several ends
        id = &id->front();
      }
      return id == nullptr ? std::nullopt : std::optional(detail::token_from(*id, where + ": " + name + "_id"));
    }
    if (!json.contains(name)) {
      continue;
    }
    Json const* const member = find_member(json, name, where);
    if (member == nullptr) {
      return std::nullopt;
    }
    std::string const text =
        member->is_object() ? get_string(*member, "content", where) : detail::string_from(*member, where);
    auto const id = tokenizer.token_to_id(text);
    JET_CHECK(id.has_value(), where, ": ", name, ": the tokenizer has no token ", detail::in_quotes(text));
    return id;
  }
  return std::nullopt;
}

/// The encoder of lm-evaluation-harness: no special tokens around a text; the begin-of-text token, or else the
/// end-of-text token, before an empty one. The tokenizer must outlive it.
inline ScoreEncoder score_encoder(Tokenizer const& tokenizer, std::filesystem::path const& directory) {
  ScoreEncoder encoder;
  encoder.encode = [&tokenizer](std::string_view text) {
    return tokenizer.encode(text, {.add_special_tokens = false});
  };
  encoder.prefix = named_token(directory, tokenizer, "bos_token");
  if (!encoder.prefix) {
    encoder.prefix = named_token(directory, tokenizer, "eos_token");
  }
  return encoder;
}

/// Ends of text: the directory's eos_token and the usual names.
inline std::vector<std::int32_t> end_tokens(Tokenizer const& tokenizer, std::filesystem::path const& directory) {
  std::vector<std::int32_t> ids;
  auto const add = [&](std::optional<std::int32_t> id) {
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) {
      ids.push_back(*id);
    }
  };
  add(named_token(directory, tokenizer, "eos_token"));
  for (char const* const name : {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"}) {
    add(tokenizer.token_to_id(name));
  }
  return ids;
}

/// Questions of `tasks` (JSONL files; at most `limit` per task, 0: all) and whole text files `documents`, encoded.
/// All of them are validated before anything is encoded. Throws jet::Error.
inline ScoreTokens encode_scores(Tokenizer const& tokenizer, std::filesystem::path const& directory,
                                 std::vector<std::filesystem::path> const& tasks, i64 limit,
                                 std::vector<std::filesystem::path> const& documents, bool always_prefix = false) {
  ScoreEncoder encoder = score_encoder(tokenizer, directory);
  encoder.always_prefix = always_prefix;
  ScoreTokens out;
  std::vector<ScoreText> texts;
  for (auto const& path : tasks) {
    std::vector<ScoreText> const more = read_score_texts(path);
    texts.insert(texts.end(), more.begin(), more.end());
  }
  limit_per_task(texts, limit);
  for (ScoreText const& text : texts) {
    out.items.push_back(encode_item(text, encoder));
  }
  for (auto const& path : documents) {
    out.documents.push_back(encode_document(MappedFile(path).text(), path.string(), encoder));
  }
  out.stop_tokens = end_tokens(tokenizer, directory);
  if (out.generate()) {
    for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      std::string& bytes = out.token_bytes.emplace_back();
      try {
        bytes = tokenizer.decode(id);
      } catch (Error const&) {  // an id that no token has: empty
      }
    }
  }
  return out;
}

JET_NAMESPACE_END
