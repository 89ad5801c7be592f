/// \file
/// Qwen2.5 (arXiv 2412.15115) and Qwen3 (2505.09388) as types.
#pragma once

#include <jet/block/full_attention.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

struct Qwen2_5_0_5B
    : CausalLM<
          LmConfig{.vocab = 151936, .d_model = 896, .mlp = 4864}, "AAAAAAAAAAAAAAAAAAAAAAAA",
          Bind<'A',
               FullAttention<AttentionConfig{
                   .d_model = 896, .heads = 14, .kv_heads = 2, .head = 64, .qkv_bias = true, .rope_theta = 1e6}>>> {
};
struct Qwen2_5_1_5B
    : CausalLM<LmConfig{.vocab = 151936, .d_model = 1536, .mlp = 8960}, "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{.d_model = 1536,
                                                       .heads = 12,
                                                       .kv_heads = 2,
                                                       .head = 128,
                                                       .qkv_bias = true,
                                                       .rope_theta = 1e6}>>> {};
struct Qwen2_5_3B
    : CausalLM<LmConfig{.vocab = 151936, .d_model = 2048, .mlp = 11008}, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
               Bind<'A', FullAttention<AttentionConfig{.d_model = 2048,
                                                       .heads = 16,
                                                       .kv_heads = 2,
                                                       .head = 128,
                                                       .qkv_bias = true,
                                                       .rope_theta = 1e6}>>> {};
struct Qwen3_0_6B
    : CausalLM<
          LmConfig{.vocab = 151936, .d_model = 1024, .mlp = 3072}, "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
          Bind<
              'A',
              FullAttention<AttentionConfig{
                  .d_model = 1024, .heads = 16, .kv_heads = 8, .head = 128, .qk_norm = true, .rope_theta = 1e6}>>> {
};
struct Qwen3_1_7B
    : CausalLM<
          LmConfig{.vocab = 151936, .d_model = 2048, .mlp = 6144}, "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
          Bind<
              'A',
              FullAttention<AttentionConfig{
                  .d_model = 2048, .heads = 16, .kv_heads = 8, .head = 128, .qk_norm = true, .rope_theta = 1e6}>>> {
};

JET_NAMESPACE_END
