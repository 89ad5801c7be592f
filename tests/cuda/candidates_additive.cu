// GLA, RetNet and Mamba2 on the device. Exit status: 0 right, 1 wrong, 77 no device.
#include "candidate_checks.hpp"

namespace {

using namespace candidates;
using jet::Activation;
using jet::Gla;
using jet::GlaConfig;
using jet::Mamba2;
using jet::Mamba2Config;
using jet::RetNet;
using jet::RetNetConfig;

// Heads that are shared, sizes that no fast kernel takes; the options of the layers; sizes that fast kernels take.
inline constexpr GlaConfig gla_odd{
    .d_model = 20, .heads = 4, .kv_heads = 2, .head_k = 9, .head_v = 12, .low_rank = 5, .conv = 4};
inline constexpr GlaConfig gla_fast{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 48};
inline constexpr RetNetConfig retnet_odd{.d_model = 20, .heads = 4, .kv_heads = 2, .head_k = 10, .head_v = 12};
inline constexpr RetNetConfig retnet_options{.d_model = 16,
                                             .heads = 3,
                                             .head_k = 16,
                                             .head_v = 32,
                                             .conv = 3,
                                             .gate = false,
                                             .feature_map = Activation::relu};
inline constexpr Mamba2Config mamba_odd{.d_model = 20, .heads = 6, .head = 7, .state = 9, .groups = 3};
inline constexpr Mamba2Config mamba_groups{
    .d_model = 32, .heads = 4, .head = 16, .state = 32, .groups = 2, .bias = true, .dt_min = 0.01, .dt_max = 0.2};

}  // namespace

TEST_CASE("golden files") {
  golden_layer<Gla<GlaConfig{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32}>>("gla", true);
  golden_layer<RetNet<RetNetConfig{.d_model = 64, .heads = 4, .head_k = 16, .head_v = 32}>>("retnet", false);
  golden_layer<Mamba2<Mamba2Config{.d_model = 64, .heads = 4, .head = 32, .state = 16}>>("mamba2", true);
}

TEST_CASE_TEMPLATE("equal to the reference", B, F32, Bf16) {
  against_reference<Gla<gla_odd>, B>(few);
  against_reference<Gla<gla_fast>, B>();
  against_reference<RetNet<retnet_odd>, B>(few);
  against_reference<RetNet<retnet_options>, B>();
  against_reference<Mamba2<mamba_odd>, B>(few);
  against_reference<Mamba2<mamba_groups>, B>();
}

TEST_CASE_TEMPLATE("what every block promises", B, F32, Bf16) {
  conforms<Gla<gla_fast>, B>();
  conforms<RetNet<retnet_options>, B>();
  conforms<Mamba2<mamba_groups>, B>();
}
TEST_CASE("what every block promises, odd sizes") {
  conforms<Gla<gla_odd>, F32>();
  conforms<RetNet<retnet_odd>, F32>();
  conforms<Mamba2<mamba_odd>, F32>();
}
