#include "conformance.hpp"

namespace {

using namespace tests;

TEST_CASE_TEMPLATE("conformance: JetBlock", B, F64, F32, Bf16Weights, Bf16) {
  conforms<Jet, B>();
}
TEST_CASE_TEMPLATE("conformance: MLP", B, F64, F32, Bf16Weights, Bf16) {
  conforms<Mlp, B>();
}

}  // namespace
