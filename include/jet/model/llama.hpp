/// \file
/// Llama-3.2 (arXiv 2407.21783) and SmolLM2 (2502.02737) as types.
#pragma once

#include <jet/block/full_attention.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

struct Llama3_2_1B
    : CausalLM<LmConfig{.vocab = 128256, .d_model = 2048, .mlp = 8192, .eps = 1e-5}, "AAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{.d_model = 2048,
                                                       .heads = 32,
                                                       .kv_heads = 8,
                                                       .head = 64,
                                                       .rope_theta = 5e5,
                                                       .rope_scaling = {.factor = 32,
                                                                        .low_freq_factor = 1,
                                                                        .high_freq_factor = 4,
                                                                        .original_max_position = 8192}}>>> {};

struct Llama3_2_3B
    : CausalLM<LmConfig{.vocab = 128256, .d_model = 3072, .mlp = 8192, .eps = 1e-5}, "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{.d_model = 3072,
                                                       .heads = 24,
                                                       .kv_heads = 8,
                                                       .head = 128,
                                                       .rope_theta = 5e5,
                                                       .rope_scaling = {.factor = 32,
                                                                        .low_freq_factor = 1,
                                                                        .high_freq_factor = 4,
                                                                        .original_max_position = 8192}}>>> {};

inline constexpr AttentionConfig attention_smollm2_135m{
    .d_model = 576, .heads = 9, .kv_heads = 3, .head = 64, .rope_theta = 1e5};

struct SmolLM2_135M : CausalLM<LmConfig{.vocab = 49152, .d_model = 576, .mlp = 1536, .eps = 1e-5},
                               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Bind<'A', FullAttention<attention_smollm2_135m>>> {
  static constexpr AttentionConfig attention = attention_smollm2_135m;
};
struct SmolLM2_360M
    : CausalLM<LmConfig{.vocab = 49152, .d_model = 960, .mlp = 2560, .eps = 1e-5},
               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{
                             .d_model = 960, .heads = 15, .kv_heads = 5, .head = 64, .rope_theta = 1e5}>>> {};
struct SmolLM2_1_7B
    : CausalLM<LmConfig{.vocab = 49152, .d_model = 2048, .mlp = 8192, .eps = 1e-5}, "AAAAAAAAAAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{
                             .d_model = 2048, .heads = 32, .kv_heads = 32, .head = 64, .rope_theta = 1.3e5}>>> {};

JET_NAMESPACE_END
