// What throughput runs on a CPU: stacks of each kind, so small that their figures say only that the command works.
#include <jet/cpu/cpu.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/rwkv7.hpp>

#include "../cpu_machine.hpp"
#include "../tiny_model.hpp"
#include "models.hpp"

namespace {

using B = jet::Cpu<jet::precision::bf16_weights>;

struct TinyAttention : jet::CausalLM<jet::LmConfig{.vocab = 512, .d_model = 64, .mlp = 176}, "AAAAAA",
                                     jet::Bind<'A', jet::FullAttention<tiny_attention>>> {};

inline constexpr jet::Mamba2Config tiny_ssd{.d_model = 64, .heads = 4, .head = 32, .state = 16};
struct TinyMamba2
    : jet::CausalLM<jet::LmConfig{.vocab = 512, .d_model = 64}, "MMMM", jet::Bind<'M', jet::Mamba2<tiny_ssd>>> {};

inline constexpr jet::Rwkv7Config tiny_time_mix{
    .d_model = 64, .heads = 2, .head = 32, .decay_rank = 8, .rate_rank = 8, .gate_rank = 8};
inline constexpr jet::ChannelMixConfig tiny_channel_mix{.d_model = 64, .hidden = 256};
struct TinyRwkv7
    : jet::CausalLM<jet::LmConfig{
                        .vocab = 512, .d_model = 64, .tied = false, .layer_norm = true, .embedding_norm = true},
                    "FRRR", jet::Bind<'F', jet::Rwkv7<tiny_time_mix>, jet::Rwkv7ChannelMix<tiny_channel_mix>>,
                    jet::Bind<'R', jet::Rwkv7<jet::with_value_residual(tiny_time_mix, 8)>,
                              jet::Rwkv7ChannelMix<tiny_channel_mix>>> {};

}  // namespace

Machine this_cpu() {
  return cpu_machine();
}

std::vector<Subject> small_models() {
  return {make_subject<TinyJet, B>("tiny-hybrid"), make_subject<TinyAttention, B>("tiny-attention"),
          make_subject<TinyMamba2, B>("tiny-mamba2"), make_subject<TinyRwkv7, B>("tiny-rwkv7")};
}
