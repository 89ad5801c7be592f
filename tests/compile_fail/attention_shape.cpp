// expect: jet: attention needs heads to be a multiple of kv_heads
#include <jet/op/attention.hpp>

jet::op::Attention<jet::op::AttentionShape{.heads = 3, .kv_heads = 2, .head = 8}> attention;
