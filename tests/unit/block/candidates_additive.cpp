// GLA, RetNet and Mamba2 against the float64 reference, with the options that published models use.
#include "block_cases.hpp"
#include "candidate_support.hpp"

namespace {

using namespace tests;
using jet::Activation;
using jet::Gla;
using jet::GlaConfig;
using jet::Mamba2;
using jet::Mamba2Config;
using jet::RetNet;
using jet::RetNetConfig;

std::vector<i64> const few{0, 1, 2, 5, 63, 65, 130};

inline constexpr GlaConfig gla{.d_model = 20, .heads = 4, .kv_heads = 2, .head_k = 9, .head_v = 12, .low_rank = 5};
inline constexpr GlaConfig gla_options{.d_model = 16,
                                       .heads = 2,
                                       .head_k = 8,
                                       .head_v = 10,
                                       .low_rank = 3,
                                       .conv = 4,
                                       .gate = false,
                                       .feature_map = Activation::relu,
                                       .normalizer = 1,
                                       .clamps = true,
                                       .clamp_min = -0.5};
inline constexpr RetNetConfig retnet{.d_model = 20, .heads = 4, .kv_heads = 2, .head_k = 10, .head_v = 12};
inline constexpr RetNetConfig retnet_options{.d_model = 16,
                                             .heads = 3,
                                             .head_k = 8,
                                             .head_v = 6,
                                             .conv = 3,
                                             .gate = false,
                                             .feature_map = Activation::elu_plus_one};
inline constexpr Mamba2Config mamba{.d_model = 20, .heads = 6, .head = 7, .state = 9, .groups = 3};
inline constexpr Mamba2Config mamba_options{.d_model = 12,
                                            .heads = 2,
                                            .head = 8,
                                            .state = 6,
                                            .groups = 2,
                                            .conv = 3,
                                            .conv_bias = false,
                                            .bias = true,
                                            .dt_min = 0.01,
                                            .dt_max = 0.5};

TEST_CASE_TEMPLATE("GLA equals the reference", B, F64, F32, Bf16) {
  against_reference<Gla<gla>, B>();
}
TEST_CASE_TEMPLATE("RetNet equals the reference", B, F64, F32, Bf16) {
  against_reference<RetNet<retnet>, B>();
}
TEST_CASE_TEMPLATE("Mamba2 equals the reference", B, F64, F32, Bf16) {
  against_reference<Mamba2<mamba>, B>();
}
TEST_CASE("additive candidates on every instruction set") {
  every_isa<Gla<gla>, F32>();
  every_isa<RetNet<retnet>, F32>();
  every_isa<Mamba2<mamba>, F32>();
}
TEST_CASE("additive candidates with and without their options") {
  against_reference<Gla<gla_options>, F64>(few);
  against_reference<RetNet<retnet_options>, F64>(few);
  against_reference<Mamba2<mamba_options>, F64>(few);
}

// e^(-sum of decays) overflows; log decays from 0 to -30 in neighbouring channels and tokens.
TEST_CASE_TEMPLATE("GLA: decays from none to complete", B, F64, F32) {
  using M = Gla<GlaConfig{.d_model = 12, .heads = 2, .head_k = 6, .head_v = 5, .low_rank = 4, .normalizer = 1}>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 512, .backend = {.threads = 2}});
  block.randomise(5);
  Vector w = block.param("gk_proj.1.weight");
  for (double& value : w) {
    value *= 12;
  }
  block.set_param("gk_proj.1.weight", w);
  Reference<M> reference(block);
  Matrix const x = rounded(normal(400, 12, 8), B::precision.act);
  CHECK(relative_rms(block.forward(0, x), reference.forward(x)) <= tolerance(B::precision, Check::block));
  CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
}

TEST_CASE_TEMPLATE("RetNet: 2048 tokens and the positions after them", B, F64, F32) {
  using M = RetNet<retnet>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 2100, .backend = {.threads = 2}});
  block.randomise(5);
  Reference<M> reference(block);
  for (i64 const n : {i64{2048}, i64{1}, i64{20}}) {
    Matrix const x = rounded(normal(n, 20, static_cast<std::uint64_t>(n)), B::precision.act);
    CHECK(relative_rms(block.forward(0, x), reference.forward(x)) <= tolerance(B::precision, Check::block));
  }
  CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
}

}  // namespace
