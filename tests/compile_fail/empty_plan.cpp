// expect: jet: a layer plan has at least one letter
#include <jet/block/full_attention.hpp>
#include <jet/model/causal_lm.hpp>

inline constexpr jet::LmConfig lm{.vocab = 32, .d_model = 16, .mlp = 32};
inline constexpr jet::AttentionConfig attention{.d_model = 16, .heads = 2, .kv_heads = 1, .head = 8};

struct Model : jet::CausalLM<lm, "", jet::Bind<'A', jet::FullAttention<attention>>> {};

jet::i64 const n = Model::layers;
