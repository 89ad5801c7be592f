// RWKV-7 against the official layer: the first of a stack.
#include <jet/block/rwkv7.hpp>

#include "candidates.hpp"

TEST_CASE("golden: RWKV-7") {
  golden::against_official<jet::Rwkv7<jet::Rwkv7Config{
      .d_model = 64, .heads = 2, .head = 32, .decay_rank = 16, .rate_rank = 16, .gate_rank = 16}>>("rwkv7", false);
}
