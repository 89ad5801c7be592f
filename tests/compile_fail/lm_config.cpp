// expect: jet: LmConfig needs vocab and d_model > 0
#include <jet/block/full_attention.hpp>
#include <jet/model/causal_lm.hpp>

inline constexpr jet::LmConfig lm{.d_model = 16, .mlp = 32};
inline constexpr jet::AttentionConfig attention{.d_model = 16, .heads = 2, .kv_heads = 1, .head = 8};

struct Model : jet::CausalLM<lm, "AA", jet::Bind<'A', jet::FullAttention<attention>>> {};

jet::i64 const n = Model::layers;
