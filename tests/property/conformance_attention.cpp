#include "conformance.hpp"

namespace {

using namespace tests;

TEST_CASE_TEMPLATE("conformance: full attention", B, F64, F32, Bf16Weights, Bf16) {
  conforms<Full, B>();
}
TEST_CASE_TEMPLATE("conformance: sliding window", B, F64, F32, Bf16Weights, Bf16) {
  conforms<Window, B>();
}

}  // namespace
