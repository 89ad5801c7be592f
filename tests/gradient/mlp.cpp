// Gradients of the SwiGLU MLP.
#include <jet/block/swiglu_mlp.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
using Mlp = jet::SwiGluMlp<jet::MlpConfig{11, 23}>;

TEST_CASE("SwiGluMlp: gradients equal differences") {
  for (auto const& lengths : gradient_lengths()) {
    CAPTURE(lengths.back());
    Worst const worst = GradientHarness<Mlp, F64>(lengths, false).compare();
    INFO("worst: ", worst.error, " of ", worst.where);
    CHECK(worst.error <= difference_bound);
  }
}

}  // namespace
