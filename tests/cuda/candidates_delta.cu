// DeltaNet and Gated DeltaNet on the device. Exit status: 0 right, 1 wrong, 77 no device.
#include "candidate_checks.hpp"

namespace {

using namespace candidates;
using jet::Activation;
using jet::DeltaNet;
using jet::DeltaNetConfig;
using jet::GatedDeltaNet;
using jet::GatedDeltaNetConfig;

// More value heads than key heads; layers without convolutions, with negative eigenvalues, with a feature map.
inline constexpr GatedDeltaNetConfig shared_odd{
    .d_model = 20, .heads = 2, .value_heads = 6, .head_k = 9, .head_v = 12, .norm_eps = 1e-6};
inline constexpr GatedDeltaNetConfig shared_fast{
    .d_model = 32, .heads = 2, .value_heads = 4, .head_k = 32, .head_v = 16};
inline constexpr GatedDeltaNetConfig no_options{
    .d_model = 16, .heads = 2, .head_k = 16, .head_v = 32, .conv = 0, .gate = false, .neg_eigval = true};
inline constexpr DeltaNetConfig odd{.d_model = 20, .heads = 3, .head_k = 10, .head_v = 7};
inline constexpr DeltaNetConfig fast{
    .d_model = 32, .heads = 2, .head_k = 32, .head_v = 16, .conv = 0, .gate = true, .neg_eigval = true};
inline constexpr DeltaNetConfig mapped{
    .d_model = 16, .heads = 2, .head_k = 16, .head_v = 16, .activation = Activation::elu_plus_one};

}  // namespace

TEST_CASE("golden files") {
  golden_layer<GatedDeltaNet<GatedDeltaNetConfig{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32}>>(
      "gated_deltanet", true);
  golden_layer<DeltaNet<DeltaNetConfig{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 32}>>("deltanet", false);
}

TEST_CASE_TEMPLATE("equal to the reference", B, F32, Bf16) {
  against_reference<GatedDeltaNet<shared_odd>, B>(few);
  against_reference<GatedDeltaNet<shared_fast>, B>();
  against_reference<GatedDeltaNet<no_options>, B>(few);
  against_reference<DeltaNet<odd>, B>(few);
  against_reference<DeltaNet<fast>, B>();
  against_reference<DeltaNet<mapped>, B>(few);
}

// beta = 1 and keys that all point one way: every token replaces what the one before wrote.
TEST_CASE("parallel keys with beta 1") {
  using M = DeltaNet<DeltaNetConfig{.d_model = 16, .heads = 2, .head_k = 16, .head_v = 16, .conv = 0}>;
  jet::testing::BlockHarness<M, F32> block({.slots = 1, .max_len = 512});
  block.randomise(5);
  auto b = block.param("b_proj.weight");
  auto k = block.param("k_proj.weight");
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = i % 16 == 0 ? 1.0 + 0.01 * static_cast<double>(i / 16) : 1e-3 * k[i];  // reads the first input
  }
  for (std::size_t i = 0; i < b.size(); ++i) {
    b[i] = i % 16 == 0 ? 60.0 : 0.0;
  }
  block.set_param("k_proj.weight", k);
  block.set_param("b_proj.weight", b);
  auto x = jet::testing::normal(300, 16, 3);
  for (i64 t = 0; t < x.rows; ++t) {
    x.at(t, 0) = 1;
  }
  x = tests::rounded(x, jet::DType::f32);
  tests::Reference<M> reference(block);
  CHECK(tests::relative_rms(block.forward(0, x), reference.forward(x)) < 1e-4);
  CHECK(tests::state_distance(block.state(0), reference.state()) < 1e-4);
}

TEST_CASE_TEMPLATE("what every block promises", B, F32, Bf16) {
  conforms<GatedDeltaNet<shared_fast>, B>();
  conforms<DeltaNet<fast>, B>();
}
TEST_CASE("what every block promises, odd sizes") {
  conforms<GatedDeltaNet<shared_odd>, F32>();
  conforms<DeltaNet<odd>, F32>();
}
