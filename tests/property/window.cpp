// The ring of sliding-window attention after it has wrapped, and windows as long as the sequence.
#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::reference::rows_of;

TEST_CASE_TEMPLATE("pieces of w - 1, w, w + 1 and 3 w after the ring has wrapped", B, F64, F32, Bf16) {
  Subject<Window, B> block(harness_options(1)), whole_block(harness_options(1));
  i64 const prompt = 2 * window + 7, total = prompt + 6 * window + 40;
  Matrix const x = normal(total, Window::width, 5);
  Matrix const whole = in_pieces(whole_block, x, {total});
  for (i64 const piece : {window - 1, window, window + 1, 3 * window}) {
    CAPTURE(piece);
    std::vector<i64> const pieces{prompt, piece, piece, 1, total - prompt - 2 * piece - 1};
    CHECK(relative_rms(in_pieces(block, x, pieces), whole) <= split_bound(B::precision));
    CHECK(state_distance(block.state(0), whole_block.state(0)) <= split_bound(B::precision));
  }
}

// Same parameters, another block type.
template <class M, class B> void equals_full(i64 total) {
  Subject<M, B> windowed(harness_options(1));
  Subject<Full, B> full(harness_options(1));
  Matrix const x = normal(total, Full::width, 8);
  for (auto const& pieces : {std::vector<i64>{total}, random_pieces(1, total), pieces_of(1, total)}) {
    CHECK(same_bits(in_pieces(windowed, x, pieces), in_pieces(full, x, pieces)));
    CHECK(same_bits(windowed.state(0), full.state(0)));
  }
}
TEST_CASE_TEMPLATE("a window of at least T is full attention, bit for bit", B, F64, F32, Bf16) {
  equals_full<jet::SlidingWindow<attention_config, 100>, B>(100);
  equals_full<jet::SlidingWindow<attention_config, 100>, B>(99);
  equals_full<jet::SlidingWindow<attention_config, 400>, B>(130);
  equals_full<jet::SlidingWindow<attention_config, 4000>, B>(130);
}
TEST_CASE("a window of T - 1 is not full attention, and differs in the last token only") {
  constexpr i64 total = 100;
  Subject<jet::SlidingWindow<attention_config, total - 1>, F64> windowed(harness_options(1));
  Subject<Full, F64> full(harness_options(1));
  Matrix const x = normal(total, Full::width, 8);
  Matrix const a = in_pieces(windowed, x, {total}), b = in_pieces(full, x, {total});
  CHECK(relative_rms(rows_of(a, 0, total - 1), rows_of(b, 0, total - 1)) <= 1e-12);
  CHECK(relative_rms(rows_of(a, total - 1, 1), rows_of(b, total - 1, 1)) > 1e-6);
}

// What has left the window is not read: NaN there changes nothing. (Rows of NaN input leave through the window as
// well, as the cache keeps them only so long.)
TEST_CASE_TEMPLATE("what has left the window has no effect", B, F64, F32, Bf16) {
  Subject<Window, B> clean(harness_options(1)), dirty(harness_options(1));
  i64 const prompt = 50;
  Matrix const x = normal(prompt + 40, Window::width, 9);
  Matrix bad = x;
  for (i64 j = 0; j < bad.cols; ++j) {
    bad.at(10, j) = std::nan("");
  }
  Matrix const a = in_pieces(clean, x, {prompt, 1, 30, 9}), b = in_pieces(dirty, bad, {prompt, 1, 30, 9});
  i64 const first = prompt;  // 10 + window <= prompt
  CHECK(all_finite(rows_of(b, first, a.rows - first)));
  CHECK(same_bits(rows_of(a, first, a.rows - first), rows_of(b, first, b.rows - first)));
  CHECK(same_bits(clean.state(0), dirty.state(0)));
}

}  // namespace
