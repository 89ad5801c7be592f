// Full attention as a whole block against the float64 reference.
#include "block_cases.hpp"

namespace {

using namespace tests;
using jet::AttentionConfig;
using jet::FullAttention;

inline constexpr AttentionConfig single{.d_model = 16, .heads = 1, .kv_heads = 1, .head = 16};
inline constexpr AttentionConfig plain{.d_model = 24, .heads = 3, .kv_heads = 3, .head = 10};
inline constexpr AttentionConfig grouped{
    .d_model = 40, .heads = 12, .kv_heads = 2, .head = 8, .qkv_bias = true, .rope_theta = 1e6};
inline constexpr AttentionConfig normed{
    .d_model = 24, .heads = 6, .kv_heads = 3, .head = 16, .qk_norm = true, .norm_eps = 1e-5};
inline constexpr AttentionConfig scaled{
    .d_model = 32,
    .heads = 4,
    .kv_heads = 1,
    .head = 32,
    .qkv_bias = true,
    .qk_norm = true,
    .rope_theta = 5e5,
    .rope_scaling = {.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 64}};

TEST_CASE_TEMPLATE("full attention equals the reference", B, F64, F32, Bf16) {
  SUBCASE("one head") {
    against_reference<FullAttention<single>, B>();
  }
  SUBCASE("three heads") {
    against_reference<FullAttention<plain>, B>();
  }
  SUBCASE("grouped, biases") {
    against_reference<FullAttention<grouped>, B>();
  }
  SUBCASE("query and key norm") {
    against_reference<FullAttention<normed>, B>();
  }
  SUBCASE("llama3 scaling, everything on") {
    against_reference<FullAttention<scaled>, B>();
  }
}
TEST_CASE("full attention equals the reference with bf16 weights") {
  against_reference<FullAttention<scaled>, Bf16Weights>();
}

// Beyond 1024 keys a single query's keys are split and merged.
TEST_CASE_TEMPLATE("one query over a long cache", B, F64, F32, Bf16) {
  long_decode<FullAttention<grouped>, B>(2100);
}

TEST_CASE("full attention on every instruction set") {
  every_isa<FullAttention<scaled>, F32>();
  every_isa<FullAttention<grouped>, Bf16>();
}

}  // namespace
