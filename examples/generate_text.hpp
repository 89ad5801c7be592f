// The text side of generate.cpp: a prompt as tokens, tokens as a stream of text. Needs jet::tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <jet/io/tokenizer.hpp>
#include <jet/text/stop.hpp>

class Text {
 public:
  Text(std::filesystem::path const& model, std::vector<std::string> const& stop_strings)
      : tokenizer_(jet::Tokenizer::from_file(model)), decoder_(tokenizer_, true), stop_({}, stop_strings) {}

  std::vector<std::int32_t> encode(std::string const& text) const { return tokenizer_.encode(text); }

  /// Ends of text that the tokenizer knows.
  std::vector<std::int32_t> stop_tokens() const {
    std::vector<std::int32_t> ids;
    for (char const* name : {"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"}) {
      if (auto const id = tokenizer_.token_to_id(name)) {
        ids.push_back(*id);
      }
    }
    return ids;
  }

  /// What can be printed after one more token, and at the end.
  std::string push(std::int32_t id) { return stop_.push(decoder_.push(id)); }
  std::string flush() { return stop_.stopped() ? "" : stop_.push(decoder_.flush()) + stop_.flush(); }
  bool stopped() const { return stop_.stopped(); }

 private:
  jet::Tokenizer tokenizer_;
  jet::StreamDecoder decoder_;
  jet::StopMatcher stop_;
};
