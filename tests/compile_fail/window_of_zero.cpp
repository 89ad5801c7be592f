// expect: jet: SlidingWindow needs a window of at least one token
#include <jet/block/sliding_window.hpp>

inline constexpr jet::AttentionConfig attention{.d_model = 16, .heads = 2, .kv_heads = 1, .head = 8};

jet::i64 const n = jet::num_params<jet::SlidingWindow<attention, 0>>();
