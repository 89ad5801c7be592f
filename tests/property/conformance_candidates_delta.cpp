#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>

#include "candidate_cases.hpp"

namespace {

using namespace tests;
using GatedDelta = jet::GatedDeltaNet<jet::GatedDeltaNetConfig{
    .d_model = 20, .heads = 2, .value_heads = 4, .head_k = 9, .head_v = 6}>;
using Delta = jet::DeltaNet<jet::DeltaNetConfig{.d_model = 20, .heads = 3, .head_k = 10, .head_v = 7}>;

TEST_CASE_TEMPLATE("conformance: Gated DeltaNet", B, F64, F32, Bf16) {
  candidate_conforms<GatedDelta, B>();
}
TEST_CASE_TEMPLATE("conformance: DeltaNet", B, F64, F32, Bf16) {
  candidate_conforms<Delta, B>();
}

}  // namespace
