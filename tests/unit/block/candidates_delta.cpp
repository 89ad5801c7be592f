// Gated DeltaNet and DeltaNet against the float64 reference, with the options that published models use.
#include "block_cases.hpp"
#include "candidate_support.hpp"

namespace {

using namespace tests;
using jet::Activation;
using jet::DeltaNet;
using jet::DeltaNetConfig;
using jet::GatedDeltaNet;
using jet::GatedDeltaNetConfig;

std::vector<i64> const few{0, 1, 2, 5, 63, 65, 130};

inline constexpr GatedDeltaNetConfig shared_keys{
    .d_model = 20, .heads = 2, .value_heads = 6, .head_k = 9, .head_v = 12, .norm_eps = 1e-6};
inline constexpr GatedDeltaNetConfig no_options{
    .d_model = 16, .heads = 2, .head_k = 12, .head_v = 10, .conv = 0, .gate = false, .neg_eigval = true};
inline constexpr DeltaNetConfig usual{.d_model = 20, .heads = 3, .head_k = 10, .head_v = 7};
inline constexpr DeltaNetConfig no_conv{
    .d_model = 16, .heads = 2, .head_k = 8, .head_v = 8, .conv = 0, .gate = true, .neg_eigval = true};
inline constexpr DeltaNetConfig mapped{
    .d_model = 16, .heads = 2, .head_k = 8, .head_v = 8, .activation = Activation::elu_plus_one};

TEST_CASE_TEMPLATE("Gated DeltaNet equals the reference", B, F64, F32, Bf16) {
  against_reference<GatedDeltaNet<shared_keys>, B>();
}
TEST_CASE_TEMPLATE("DeltaNet equals the reference", B, F64, F32, Bf16) {
  against_reference<DeltaNet<usual>, B>();
}
TEST_CASE("delta rules on every instruction set") {
  every_isa<GatedDeltaNet<shared_keys>, F32>();
  every_isa<DeltaNet<usual>, F32>();
}
TEST_CASE("delta rules without convolution and gate, with beta up to 2, with another activation") {
  against_reference<GatedDeltaNet<no_options>, F64>(few);
  against_reference<DeltaNet<no_conv>, F64>(few);
  against_reference<DeltaNet<mapped>, F64>(few);
}

// Equal keys written with strength 1 over 2048 tokens: (I + A) is then the matrix of ones below the diagonal.
TEST_CASE_TEMPLATE("DeltaNet: parallel keys, beta 1, 2048 tokens", B, F64, F32) {
  using M = DeltaNet<DeltaNetConfig{.d_model = 8, .heads = 2, .head_k = 6, .head_v = 5, .conv = 0}>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 2048, .backend = {.threads = 2}});
  block.randomise(5);
  Matrix x = normal(2048, 8, 6), k(12, 8), b(2, 8);
  for (i64 t = 0; t < x.rows; ++t) {
    x.at(t, 0) = 3;  // the only input that keys and strengths see
  }
  for (i64 i = 0; i < k.rows; ++i) {
    k.at(i, 0) = 0.2 + 0.1 * static_cast<double>(i);
  }
  b.at(0, 0) = b.at(1, 0) = 40;
  block.set_param("k_proj.weight", k.data);
  block.set_param("b_proj.weight", b.data);
  Reference<M> reference(block);
  Matrix const rows = rounded(x, B::precision.act);
  CHECK(relative_rms(block.forward(0, rows), reference.forward(rows)) <= tolerance(B::precision, Check::block));
  CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
}

// Decays from nearly 1 to nearly 0 that change with every token.
TEST_CASE_TEMPLATE("Gated DeltaNet: decays from none to complete", B, F64, F32) {
  using M = GatedDeltaNet<GatedDeltaNetConfig{.d_model = 12, .heads = 2, .head_k = 6, .head_v = 5}>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 512, .backend = {.threads = 2}});
  block.randomise(5);
  Vector a = block.param("a_proj.weight");
  for (double& value : a) {
    value *= 60;
  }
  block.set_param("a_proj.weight", a);
  block.set_param("A_log", {-6, 2});
  Reference<M> reference(block);
  Matrix const x = rounded(normal(400, 12, 8), B::precision.act);
  CHECK(relative_rms(block.forward(0, x), reference.forward(x)) <= tolerance(B::precision, Check::block));
  CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
}

}  // namespace
