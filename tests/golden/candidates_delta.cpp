// DeltaNet and Gated DeltaNet against the official layers.
#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>

#include "candidates.hpp"

TEST_CASE("golden: Gated DeltaNet") {
  golden::against_official<
      jet::GatedDeltaNet<jet::GatedDeltaNetConfig{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32}>>(
      "gated_deltanet", true);
}
TEST_CASE("golden: DeltaNet") {
  golden::against_official<
      jet::DeltaNet<jet::DeltaNetConfig{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 32}>>("deltanet", false);
}
