// Gradients of attention: full and sliding window, grouped queries, biases, query/key norms, rotations, caches.
#include <jet/block/full_attention.hpp>
#include <jet/block/sliding_window.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
inline constexpr jet::AttentionConfig plain{.d_model = 11, .heads = 3, .kv_heads = 3, .head = 6};
inline constexpr jet::AttentionConfig grouped{
    .d_model = 11, .heads = 6, .kv_heads = 2, .head = 4, .qkv_bias = true, .qk_norm = true};
using Plain = jet::FullAttention<plain>;
using Grouped = jet::FullAttention<grouped>;
using Window = jet::SlidingWindow<grouped, 24>;
using Narrow = jet::SlidingWindow<plain, 1>;

TEST_CASE_TEMPLATE("attention: gradients equal differences, from the start of a sequence", M, Plain, Grouped,
                   Window, Narrow) {
  for (auto const& lengths : gradient_lengths()) {
    CAPTURE(lengths.front());
    CAPTURE(lengths.size());
    Worst const worst = GradientHarness<M, F64>(lengths, false).compare();
    INFO("worst: ", worst.error, " of ", worst.where);
    CHECK(worst.error <= difference_bound);
  }
}

TEST_CASE_TEMPLATE("attention: gradients through the caches of what came before", M, Plain, Grouped, Window) {
  for (auto const& lengths : std::vector<std::vector<i64>>{{1}, {5}, {70}, {65, 0, 3, 1}}) {
    for (i64 const position : {i64{0}, i64{7}, i64{24}, i64{90}}) {
      CAPTURE(lengths.front());
      CAPTURE(lengths.size());
      CAPTURE(position);
      Worst const worst = GradientHarness<M, F64>(lengths, true, position).compare();
      INFO("worst: ", worst.error, " of ", worst.where);
      CHECK(worst.error <= difference_bound);
    }
  }
}

}  // namespace
