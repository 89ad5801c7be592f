// expect: jet: a bound type is not a Mixer
#include <jet/block/full_attention.hpp>
#include <jet/model/causal_lm.hpp>

inline constexpr jet::LmConfig lm{.vocab = 32, .d_model = 16, .mlp = 32};
inline constexpr jet::AttentionConfig attention{.d_model = 16, .heads = 2, .kv_heads = 1, .head = 8};

struct NoMixer {
  static constexpr jet::i64 width = 16;
};

struct Model : jet::CausalLM<lm, "NN", jet::Bind<'N', NoMixer>> {};

jet::i64 const n = jet::num_params<jet::FullAttention<attention>>() + Model::layers;
