/// \file
/// RWKV-7 (arXiv 2503.14456) as a type: channel mixing in the place of the MLP, layer norms, and one more norm
/// between the embedding and the first layer.
#pragma once

#include <string>
#include <string_view>

#include <jet/block/rwkv7.hpp>
#include <jet/block/rwkv7_channel_mix.hpp>
#include <jet/core/error.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/hf_names.hpp>

JET_NAMESPACE_BEGIN

/// Names of RWKV-7 checkpoints of flash-linear-attention.
struct Rwkv7Names {
  static std::string key(Module m, i64 layer, std::string_view row) {
    switch (m) {
      case Module::embedding_norm: return concat("model.layers.0.pre_norm.", row);
      case Module::mlp: return concat("model.layers.", layer, ".ffn.", row);
      case Module::mlp_norm: return concat("model.layers.", layer, ".ffn_norm.", row);
      default: return FlaNames::key(m, layer, row);
    }
  }
};

/// A layer that is not the first blends its values with those of the first.
constexpr Rwkv7Config with_value_residual(Rwkv7Config config, i64 rank) {
  config.value_rank = rank;
  return config;
}

inline constexpr Rwkv7Config rwkv7_1_5b{
    .d_model = 2048, .heads = 32, .head = 64, .decay_rank = 96, .rate_rank = 96, .gate_rank = 256};
inline constexpr ChannelMixConfig channel_mix_1_5b{.d_model = 2048, .hidden = 8192};

struct Rwkv7_1_5B
    : CausalLM<LmConfig{.vocab = 65536,
                        .d_model = 2048,
                        .eps = 1e-5,
                        .tied = false,
                        .layer_norm = true,
                        .embedding_norm = true},
               "FRRRRRRRRRRRRRRRRRRRRRRR", Bind<'F', Rwkv7<rwkv7_1_5b>, Rwkv7ChannelMix<channel_mix_1_5b>>,
               Bind<'R', Rwkv7<with_value_residual(rwkv7_1_5b, 64)>, Rwkv7ChannelMix<channel_mix_1_5b>>> {
  using names = Rwkv7Names;
};

JET_NAMESPACE_END
