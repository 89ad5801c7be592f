// expect: jet: AttentionConfig needs d_model, heads, kv_heads, head > 0, heads a multiple of kv_heads
#include <jet/block/full_attention.hpp>

inline constexpr jet::AttentionConfig attention{.d_model = 16, .heads = 3, .kv_heads = 2, .head = 8};

jet::i64 const n = jet::num_params<jet::FullAttention<attention>>();
