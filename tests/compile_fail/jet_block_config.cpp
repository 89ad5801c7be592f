// expect: jet: JetBlockConfig needs all sizes > 0 and heads * head_v a multiple of gen_reduction
#include <jet/block/jet_block.hpp>

inline constexpr jet::JetBlockConfig block{.d_model = 16, .heads = 3, .head_k = 8, .head_v = 9};

jet::i64 const n = jet::num_params<jet::JetBlock<block>>();
