// Gradients of the JetBlock.
#include <jet/block/jet_block.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
using Wide = jet::JetBlock<jet::JetBlockConfig{
    .d_model = 11, .heads = 3, .head_k = 5, .head_v = 6, .conv = 4, .gen_reduction = 3}>;
using Single = jet::JetBlock<jet::JetBlockConfig{
    .d_model = 7, .heads = 1, .head_k = 9, .head_v = 4, .conv = 3, .gen_reduction = 2}>;

// More than one block of channels, and one that is not full.
using Channels = jet::JetBlock<jet::JetBlockConfig{
    .d_model = 5, .heads = 2, .head_k = 3, .head_v = 36, .conv = 4, .gen_reduction = 8}>;

TEST_CASE_TEMPLATE("JetBlock: gradients equal differences, with and without a state before", M, Wide, Single,
                   Channels) {
  for (auto const& lengths : gradient_lengths()) {
    for (bool const state : {false, true}) {
      CAPTURE(lengths.front());
      CAPTURE(lengths.size());
      CAPTURE(state);
      Worst const worst = GradientHarness<M, F64>(lengths, state).compare();
      INFO("worst: ", worst.error, " of ", worst.where);
      CHECK(worst.error <= difference_bound);
    }
  }
}

}  // namespace
