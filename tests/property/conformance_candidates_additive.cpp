#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>

#include "candidate_cases.hpp"

namespace {

using namespace tests;
using Gla = jet::Gla<jet::GlaConfig{.d_model = 20, .heads = 2, .head_k = 9, .head_v = 6, .low_rank = 4, .conv = 4}>;
using RetNet = jet::RetNet<jet::RetNetConfig{.d_model = 20, .heads = 4, .kv_heads = 2, .head_k = 10, .head_v = 6}>;
using Mamba2 = jet::Mamba2<jet::Mamba2Config{.d_model = 20, .heads = 4, .head = 7, .state = 9, .groups = 2}>;

TEST_CASE_TEMPLATE("conformance: GLA", B, F64, F32, Bf16) {
  candidate_conforms<Gla, B>();
}
TEST_CASE_TEMPLATE("conformance: RetNet", B, F64, F32, Bf16) {
  candidate_conforms<RetNet, B>();
}
TEST_CASE_TEMPLATE("conformance: Mamba2", B, F64, F32, Bf16) {
  candidate_conforms<Mamba2, B>();
}

}  // namespace
