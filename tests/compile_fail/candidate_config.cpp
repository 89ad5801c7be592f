// expect: jet: GatedDeltaNetConfig needs d_model, heads, head_k, head_v > 0 and value_heads a multiple of heads
#include <jet/block/gated_deltanet.hpp>

inline constexpr jet::GatedDeltaNetConfig block{
    .d_model = 16, .heads = 3, .value_heads = 4, .head_k = 8, .head_v = 8};

jet::i64 const n = jet::num_params<jet::GatedDeltaNet<block>>();
