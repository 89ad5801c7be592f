// The tiny models of tests/data/golden as types, and what tests of their checkpoints share.
#pragma once

#include <cmath>
#include <filesystem>
#include <string_view>

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/core/view.hpp>
#include <jet/model/causal_lm.hpp>

namespace golden {

inline constexpr jet::AttentionConfig jet_attention{
    .d_model = 64, .heads = 4, .kv_heads = 2, .head = 16, .qkv_bias = true, .rope_theta = 1e6};

struct TinyJet
    : jet::CausalLM<
          jet::LmConfig{.vocab = 512, .d_model = 64, .mlp = 176}, "JASJSA",
          jet::Bind<'J', jet::JetBlock<jet::JetBlockConfig{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64}>>,
          jet::Bind<'A', jet::FullAttention<jet_attention>>,
          jet::Bind<'S', jet::SlidingWindow<jet_attention, 16>>> {
  static constexpr std::string_view directory = "tiny_jet_a";
};

struct TinyQwen2
    : jet::CausalLM<
          jet::LmConfig{.vocab = 128, .d_model = 32, .mlp = 80}, "AA",
          jet::Bind<
              'A',
              jet::FullAttention<jet::AttentionConfig{
                  .d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qkv_bias = true, .rope_theta = 1e6}>>> {
  static constexpr std::string_view directory = "tiny_qwen2";
};

struct TinyQwen3
    : jet::CausalLM<
          jet::LmConfig{.vocab = 128, .d_model = 32, .mlp = 80}, "AA",
          jet::Bind<
              'A',
              jet::FullAttention<jet::AttentionConfig{
                  .d_model = 32, .heads = 4, .kv_heads = 2, .head = 16, .qk_norm = true, .rope_theta = 1e6}>>> {
  static constexpr std::string_view directory = "tiny_qwen3";
};

struct TinyLlama : jet::CausalLM<jet::LmConfig{.vocab = 128, .d_model = 32, .mlp = 80, .tied = false}, "AA",
                                 jet::Bind<'A', jet::FullAttention<jet::AttentionConfig{
                                                    .d_model = 32, .heads = 4, .kv_heads = 2, .head = 8}>>> {
  static constexpr std::string_view directory = "tiny_llama";
};

struct TinyLlama3
    : jet::CausalLM<
          jet::LmConfig{.vocab = 160, .d_model = 64, .mlp = 160, .eps = 1e-5}, "AA",
          jet::Bind<'A', jet::FullAttention<jet::AttentionConfig{.d_model = 64,
                                                                 .heads = 4,
                                                                 .kv_heads = 2,
                                                                 .head = 16,
                                                                 .rope_scaling = {.factor = 8,
                                                                                  .low_freq_factor = 1,
                                                                                  .high_freq_factor = 4,
                                                                                  .original_max_position = 64}}>>> {
  static constexpr std::string_view directory = "tiny_llama3";
};

template <class Model> std::filesystem::path path_of() {
  return std::filesystem::path(JET_TEST_DATA) / "golden" / Model::directory;
}

// |x - expected| / |expected|, Frobenius, of n numbers.
template <class A, class B> double relative_error(A const* x, B const* expected, jet::i64 n) {
  double difference = 0;
  double size = 0;
  for (jet::i64 i = 0; i < n; ++i) {
    double const e = static_cast<double>(expected[i]);
    double const d = static_cast<double>(x[i]) - e;
    difference += d * d;
    size += e * e;
  }
  return std::sqrt(difference / size);
}

}  // namespace golden
