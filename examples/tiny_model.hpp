// A six-layer Jet-Nemotron small enough to keep a checkpoint of it beside the tests (tests/data/golden/tiny_jet_a).
#pragma once

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/model/causal_lm.hpp>

inline constexpr jet::AttentionConfig tiny_attention{
    .d_model = 64, .heads = 4, .kv_heads = 2, .head = 16, .qkv_bias = true, .rope_theta = 1e6};
inline constexpr jet::JetBlockConfig tiny_block{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64};

struct TinyJet
    : jet::CausalLM<jet::LmConfig{.vocab = 512, .d_model = 64, .mlp = 176}, "JASJSA",
                    jet::Bind<'J', jet::JetBlock<tiny_block>>, jet::Bind<'A', jet::FullAttention<tiny_attention>>,
                    jet::Bind<'S', jet::SlidingWindow<tiny_attention, 16>>> {};
