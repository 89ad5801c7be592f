// Cutting a sequence into calls changes neither outputs nor state; batches give what separate calls give.
#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::reference::concatenate;
using jet::reference::rows_of;

template <class M, class B> void splits() {
  constexpr i64 total = 200;
  Subject<M, B> block(harness_options(1));
  Matrix const x = normal(total, M::width, 5);
  Matrix const whole = in_pieces(block, x, {total});
  auto const state = block.state(0);
  double const bound = split_bound(B::precision);
  auto const check = [&](std::vector<i64> const& pieces) {
    CHECK(relative_rms(in_pieces(block, x, pieces), whole) <= bound);
    CHECK(block.length(0) == total);
    CHECK(state_distance(block.state(0), state) <= bound);
  };
  for (i64 const n : {i64{1}, i64{2}, i64{3}, i64{15}, i64{16}, i64{17}, window - 1, window, window + 1, i64{63},
                      i64{64}, i64{65}}) {
    CAPTURE(n);
    check(pieces_of(n, total));
    check({n, total - n});  // a prompt of n, then many
    check({total - n, n});
  }
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    check(random_pieces(seed, total));
  }
  std::vector<i64> decode{150};  // prefill, then decode
  decode.insert(decode.end(), 50, 1);
  check(decode);
}
TEST_CASE_TEMPLATE("split anywhere: full attention", B, F64, F32, Bf16) {
  splits<Full, B>();
}
TEST_CASE_TEMPLATE("split anywhere: sliding window", B, F64, F32, Bf16) {
  splits<Window, B>();
}
TEST_CASE_TEMPLATE("split anywhere: JetBlock", B, F64, F32, Bf16) {
  splits<Jet, B>();
}
TEST_CASE_TEMPLATE("split anywhere: MLP", B, F64, F32, Bf16) {
  splits<Mlp, B>();
}

// Sequences of any lengths in one call, continued in another with other neighbours and another order.
template <class M, class B> void ragged() {
  std::vector<i64> const first{5, 0, 1, 70, 1, 33, 16}, second{1, 4, 0, 1, 66, 1, 17};
  std::vector<i64> const order{3, 0, 6, 5, 1, 4, 2};
  auto const n = static_cast<i64>(first.size());
  Subject<M, B> together(harness_options(n)), alone(harness_options(1));
  std::vector<Matrix> x, y(first.size());
  for (i64 i = 0; i < n; ++i) {
    auto const s = static_cast<std::size_t>(i);
    x.push_back(normal(first[s] + second[s], M::width, static_cast<std::uint64_t>(40 + i)));
    y[s] = Matrix(0, M::width);
  }
  auto const call = [&](std::vector<i64> const& lengths, std::vector<i64> const& sequences) {
    Batch batch;
    Matrix packed(0, M::width);
    for (i64 const i : sequences) {
      auto const s = static_cast<std::size_t>(i);
      batch.add(static_cast<std::int32_t>(n - 1 - i), lengths[s], y[s].rows);
      packed = concatenate(packed, rows_of(x[s], y[s].rows, lengths[s]));
    }
    Matrix const out = together.forward(batch, packed);
    i64 at = 0;
    for (i64 const i : sequences) {
      auto const s = static_cast<std::size_t>(i);
      y[s] = concatenate(y[s], rows_of(out, at, lengths[s]));
      at += lengths[s];
    }
  };
  std::vector<i64> straight(first.size());
  std::iota(straight.begin(), straight.end(), 0);
  call(first, straight);
  call(second, order);
  for (i64 i = 0; i < n; ++i) {
    CAPTURE(i);
    auto const s = static_cast<std::size_t>(i);
    Matrix const expected = in_pieces(alone, x[s], {first[s], second[s]});
    CHECK(relative_rms(y[s], expected) <= split_bound(B::precision));
    CHECK(state_distance(together.state(n - 1 - i), alone.state(0)) <= split_bound(B::precision));
  }
}
TEST_CASE_TEMPLATE("a ragged batch equals separate calls", B, F64, F32, Bf16) {
  SUBCASE("full attention") {
    ragged<Full, B>();
  }
  SUBCASE("sliding window") {
    ragged<Window, B>();
  }
  SUBCASE("JetBlock") {
    ragged<Jet, B>();
  }
  SUBCASE("MLP") {
    ragged<Mlp, B>();
  }
}

// Nothing but empty sequences, and no sequence at all.
template <class M, class B> void empty() {
  Subject<M, B> block(harness_options(2));
  block.forward(0, normal(9, M::width, 1));
  auto const before = block.raw_state(0);
  Batch nothing, batch;
  batch.add(0, 0, 9);
  batch.add(1, 0, 0);
  CHECK(block.forward(batch, Matrix(0, M::width)).rows == 0);
  CHECK(block.forward(nothing, Matrix(0, M::width)).rows == 0);
  CHECK(block.raw_state(0) == before);
}
TEST_CASE_TEMPLATE("empty calls", B, F64, Bf16) {
  empty<Full, B>();
  empty<Window, B>();
  empty<Jet, B>();
  empty<Mlp, B>();
}

}  // namespace
