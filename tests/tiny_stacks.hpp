// Small models whose layers are not mixer and SwiGLU under RMSNorm.
#pragma once

#include <jet/model/mamba2.hpp>
#include <jet/model/rwkv7.hpp>

namespace tiny_stacks {

inline constexpr jet::Rwkv7Config time_mix{
    .d_model = 18, .heads = 2, .head = 8, .decay_rank = 3, .rate_rank = 4, .gate_rank = 5};
inline constexpr jet::ChannelMixConfig channel_mix{.d_model = 18, .hidden = 26};

struct TinyRwkv7
    : jet::CausalLM<
          jet::LmConfig{
              .vocab = 37, .d_model = 18, .eps = 1e-5, .tied = false, .layer_norm = true, .embedding_norm = true},
          "FRR", jet::Bind<'F', jet::Rwkv7<time_mix>, jet::Rwkv7ChannelMix<channel_mix>>,
          jet::Bind<'R', jet::Rwkv7<jet::with_value_residual(time_mix, 2)>, jet::Rwkv7ChannelMix<channel_mix>>> {
  using names = jet::Rwkv7Names;
};

inline constexpr jet::Mamba2Config ssd{.d_model = 18, .heads = 3, .head = 8, .state = 6};
struct TinyMamba2 : jet::CausalLM<jet::LmConfig{.vocab = 37, .d_model = 18, .eps = 1e-5}, "MM",
                                  jet::Bind<'M', jet::Mamba2<ssd>>> {
  using names = jet::Mamba2Names;
};

}  // namespace tiny_stacks
