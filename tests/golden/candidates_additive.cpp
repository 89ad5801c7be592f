// GLA, RetNet and Mamba2 against the official layers.
#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>

#include "candidates.hpp"

TEST_CASE("golden: GLA") {
  golden::against_official<jet::Gla<jet::GlaConfig{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32}>>("gla",
                                                                                                            true);
}
TEST_CASE("golden: RetNet") {
  golden::against_official<jet::RetNet<jet::RetNetConfig{.d_model = 64, .heads = 4, .head_k = 16, .head_v = 32}>>(
      "retnet", false);
}
TEST_CASE("golden: Mamba2") {
  // stored [heads, head, state]: values first
  golden::against_official<jet::Mamba2<jet::Mamba2Config{.d_model = 64, .heads = 4, .head = 32, .state = 16}>>(
      "mamba2", true);
}
