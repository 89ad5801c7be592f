// Sliding-window attention as a whole block against the float64 reference.
#include "block_cases.hpp"

namespace {

using namespace tests;
using jet::AttentionConfig;
using jet::SlidingWindow;

inline constexpr AttentionConfig plain{.d_model = 24, .heads = 3, .kv_heads = 3, .head = 10};
inline constexpr AttentionConfig grouped{
    .d_model = 40, .heads = 12, .kv_heads = 2, .head = 8, .qkv_bias = true, .rope_theta = 1e6};
inline constexpr AttentionConfig normed{
    .d_model = 24, .heads = 6, .kv_heads = 3, .head = 16, .qk_norm = true, .norm_eps = 1e-5};

// The lengths 63, 64, 65 have the window 64 at T + 1, T and T - 1.
TEST_CASE_TEMPLATE("sliding-window attention equals the reference", B, F64, F32, Bf16) {
  SUBCASE("window 1") {
    against_reference<SlidingWindow<plain, 1>, B>();
  }
  SUBCASE("window 2") {
    against_reference<SlidingWindow<grouped, 2>, B>();
  }
  SUBCASE("window 7") {
    against_reference<SlidingWindow<normed, 7>, B>();
  }
  SUBCASE("window 64") {
    against_reference<SlidingWindow<grouped, 64>, B>();
  }
}
TEST_CASE_TEMPLATE("a window as long as, and longer than the state may grow", B, F64, F32) {
  SUBCASE("as long") {
    against_reference<SlidingWindow<plain, 512>, B>();
  }
  SUBCASE("longer") {
    against_reference<SlidingWindow<plain, 1000>, B>();
  }
}

// Beyond 1024 keys a single query's keys are split and merged.
TEST_CASE_TEMPLATE("one query over a long ring", B, F64, F32) {
  long_decode<SlidingWindow<plain, 1100>, B>(2100);
}

TEST_CASE("sliding-window attention on every instruction set") {
  every_isa<SlidingWindow<grouped, 64>, F32>();
  every_isa<SlidingWindow<normed, 7>, Bf16>();
}

}  // namespace
