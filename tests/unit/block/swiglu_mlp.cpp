// The SwiGLU MLP against the float64 reference.
#include "block_cases.hpp"

namespace {

using namespace tests;
using jet::MlpConfig;
using jet::SwiGluMlp;

inline constexpr MlpConfig small{.d_model = 7, .hidden = 19};
inline constexpr MlpConfig wide{.d_model = 48, .hidden = 130};

TEST_CASE_TEMPLATE("the MLP equals the reference", B, F64, F32, Bf16Weights, Bf16) {
  SUBCASE("small") {
    against_reference<SwiGluMlp<small>, B>();
  }
  SUBCASE("wide") {
    against_reference<SwiGluMlp<wide>, B>();
  }
}

TEST_CASE("the MLP on every instruction set") {
  every_isa<SwiGluMlp<wide>, F32>();
  every_isa<SwiGluMlp<wide>, Bf16>();
}

}  // namespace
