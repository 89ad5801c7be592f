// JetBlock against the float64 reference.
#include "block_cases.hpp"

namespace {

using namespace tests;
using jet::JetBlock;
using jet::JetBlockConfig;

inline constexpr JetBlockConfig one_head{
    .d_model = 20, .heads = 1, .head_k = 12, .head_v = 16, .conv = 4, .gen_reduction = 2};
inline constexpr JetBlockConfig three_heads{.d_model = 24, .heads = 3, .head_k = 16, .head_v = 40};
inline constexpr JetBlockConfig twelve_heads{
    .d_model = 36, .heads = 12, .head_k = 6, .head_v = 10, .conv = 2, .gen_reduction = 5, .norm_eps = 1e-6};
inline constexpr JetBlockConfig no_history{
    .d_model = 16, .heads = 2, .head_k = 24, .head_v = 8, .conv = 1, .gen_reduction = 4};
inline constexpr JetBlockConfig five_taps{
    .d_model = 16, .heads = 2, .head_k = 9, .head_v = 35, .conv = 5, .gen_reduction = 7};

TEST_CASE_TEMPLATE("JetBlock equals the reference", B, F64, F32, Bf16Weights, Bf16) {
  SUBCASE("one head") {
    against_reference<JetBlock<one_head>, B>();
  }
  SUBCASE("three heads") {
    against_reference<JetBlock<three_heads>, B>();
  }
  SUBCASE("twelve heads") {
    against_reference<JetBlock<twelve_heads>, B>();
  }
}

TEST_CASE_TEMPLATE("JetBlock with one and with five taps", B, F64, F32) {
  SUBCASE("one") {
    against_reference<JetBlock<no_history>, B>();
  }
  SUBCASE("five") {
    against_reference<JetBlock<five_taps>, B>();
  }
}

TEST_CASE("JetBlock on every instruction set") {
  every_isa<JetBlock<three_heads>, F32>();
  every_isa<JetBlock<three_heads>, Bf16>();
}

}  // namespace
