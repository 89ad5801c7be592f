/// \file
/// Jet-Nemotron-2B and 4B (arXiv 2508.15884) as types.
#pragma once

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

inline constexpr JetBlockConfig jet_2b{.d_model = 1536, .heads = 12, .head_k = 96, .head_v = 256};
inline constexpr AttentionConfig attention_2b{
    .d_model = 1536, .heads = 12, .kv_heads = 2, .head = 128, .qkv_bias = true, .rope_theta = 1e6};

struct JetNemotron2B
    : CausalLM<LmConfig{.vocab = 151936, .d_model = 1536, .mlp = 8960}, "JJJJJJJJJJJJJJAJJJJASSJJJJJJ",
               Bind<'J', JetBlock<jet_2b>>, Bind<'A', FullAttention<attention_2b>>,
               Bind<'S', SlidingWindow<attention_2b, 1152>>> {};

inline constexpr JetBlockConfig jet_4b{.d_model = 2048, .heads = 16, .head_k = 128, .head_v = 256};
inline constexpr AttentionConfig attention_4b{
    .d_model = 2048, .heads = 16, .kv_heads = 2, .head = 128, .qkv_bias = true, .rope_theta = 1e6};

struct JetNemotron4B
    : CausalLM<LmConfig{.vocab = 151936, .d_model = 2048, .mlp = 11008}, "JJJJJSJJJJJJJJJJSAJSASSJJSJSJJJJAJJJ",
               Bind<'J', JetBlock<jet_4b>>, Bind<'A', FullAttention<attention_4b>>,
               Bind<'S', SlidingWindow<attention_4b, 2048>>> {};

JET_NAMESPACE_END
