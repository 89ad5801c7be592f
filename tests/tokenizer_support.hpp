// Parts of tokenizer.json files for tests.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tests {

inline constexpr char const* qwen2_pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
inline constexpr char const* llama3_pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

inline nlohmann::json byte_level(bool prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
inline nlohmann::json split(std::string const& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
inline nlohmann::json sequence(char const* list, std::vector<nlohmann::json> const& steps) {
  return {{"type", "Sequence"}, {list, steps}};
}
inline nlohmann::json digits(bool individual) {
  return {{"type", "Digits"}, {"individual_digits", individual}};
}
inline nlohmann::json added(int id, std::string const& content, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// A GPT-2 style file with a vocabulary small enough to work out by hand.
inline nlohmann::json tiny() {
  nlohmann::json vocab = {{"h", 0},
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
          {"added_tokens", nlohmann::json::array({added(24, "<|end|>")})},
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
            {"merges", nlohmann::json::array(
                           {"h e", "l l", "he ll", "hell o", "\u0120 w", "1 2", "' s", "e l", "\u00c3 \u00a9"})}}}};
}

}  // namespace tests
