// Short convolutions against the float64 reference: outputs and the state that they leave.
#include <jet/op/short_conv.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
namespace reference = jet::reference;

// The reference's state [channels, taps] as the library keeps it, [taps, channels].
Matrix transposed(Matrix const& m) {
  Matrix y(m.cols, m.rows);
  for (i64 i = 0; i < m.rows; ++i) {
    for (i64 j = 0; j < m.cols; ++j) {
      y.at(j, i) = m.at(i, j);
    }
  }
  return y;
}

constexpr double bound(jet::Precision const& p) {
  return p.acc == DType::f64 ? 1e-12 : 1e-6;
}

TEST_CASE_TEMPLATE("ShortConv equals the reference", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const taps : {1, 2, 3, 4, 5}) {
      for (i64 const t : odd_sizes()) {
        for (i64 const channels : {i64{3}, i64{70}}) {
          bool const with_bias = taps % 2 == 0;
          for (bool const silu : {false, true}) {
            CAPTURE(taps);
            CAPTURE(t);
            CAPTURE(channels);
            CAPTURE(silu);
            Matrix const x = rounded(normal(t, channels, 1), p.act), tail = rounded(normal(2, channels, 2), p.act);
            Matrix const w = rounded(normal(channels, taps, 3), p.acc),
                         bias = rounded(normal(1, channels, 4), p.acc);
            Activation<B> const xa(backend, x, p.act), ta(backend, tail, p.act), wa(backend, w, p.acc),
                ba(backend, bias, p.acc);
            Activation<B> const state(backend, filled(2 * taps, channels, 0), p.act);  // two slots
            Activation<B> const y(backend, t, channels, p.acc), y_tail(backend, 2, channels, p.acc),
                y_null(backend, t, channels, p.acc);
            Slot const weight = wa.slot({channels, i64{1}, taps}),
                       bias_slot = with_bias ? ba.slot({channels}) : Slot{},
                       state_slot = state.slot({i64{2}, taps, channels});
            jet::op::ShortConv const op{taps, silu};
            run_planned(backend, one(t, 1), [&](auto& ctx) {
              ctx.run(op, weight, bias_slot, xa.view(), state_slot, y.view());
              ctx.run(op, weight, bias_slot, xa.view(), Slot{}, y_null.view());
            });
            run_planned(backend, one(2, 1, t),
                        [&](auto& ctx) { ctx.run(op, weight, bias_slot, ta.view(), state_slot, y_tail.view()); });
            Matrix history;
            Vector const b = with_bias ? bias.data : Vector{};
            CHECK(relative_rms(y.values(), reference::short_conv(x, w, b, silu, history)) <= bound(p));
            CHECK(same_bits(y.values(), y_null.values()));  // from nothing, a kept state starts as a null one
            CHECK(relative_rms(y_tail.values(), reference::short_conv(tail, w, b, silu, history)) <= bound(p));
            Matrix const kept = state.values();
            CHECK(relative_rms(reference::rows_of(kept, taps, taps), transposed(history)) == 0);
            CHECK(relative_rms(reference::rows_of(kept, 0, taps), Matrix(taps, channels)) == 0);  // the other slot
          }
        }
      }
    }
  });
}

TEST_CASE_TEMPLATE("DynamicConv equals the reference", B, F64, F32, Bf16Weights, Bf16) {
  constexpr jet::Precision p = B::precision;
  // the generator's hidden values are rounded to act before the second product
  double const tolerated = p.act == DType::bf16 ? tests::bounds(p).op : p.acc == DType::f64 ? 1e-12 : 1e-6;
  for_isas<B>([&](B& backend) {
    for (i64 const taps : {1, 3, 4, 5}) {
      for (i64 const t : odd_sizes()) {
        for (i64 const channels : {i64{5}, i64{130}}) {
          CAPTURE(taps);
          CAPTURE(t);
          CAPTURE(channels);
          i64 const r = 9, d = 6;
          Matrix const u = rounded(normal(t, d, 1), p.act), u_tail = rounded(normal(1, d, 2), p.act);
          Matrix const x = rounded(normal(t, channels, 3), p.act), tail = rounded(normal(1, channels, 4), p.act);
          Matrix const w1 = rounded(normal(r, d, 5, 0.5), p.acc);
          Matrix const w2 = rounded(normal(channels * taps, r, 6), p.weights);
          Matrix const b2 = rounded(normal(1, channels * taps, 7), p.acc);
          Activation<B> const xa(backend, x, p.act), ta(backend, tail, p.act), w2a(backend, w2, p.weights),
              b2a(backend, b2, p.acc);
          Activation<B> const hidden(backend, reference::linear(u, w1), p.acc),
              hidden_tail(backend, reference::linear(u_tail, w1), p.acc);
          Activation<B> const state(backend, filled(taps, channels, 0), p.act);
          Activation<B> const y(backend, t, channels, p.acc), y_tail(backend, 1, channels, p.acc),
              y_null(backend, t, channels, p.acc);
          Slot const w2_slot = w2a.slot({channels * taps, r}), b2_slot = b2a.slot({channels * taps}),
                     state_slot = state.slot({i64{1}, taps, channels});
          jet::op::DynamicConv const op{taps};
          run_planned(backend, one(t), [&](auto& ctx) {
            ctx.run(op, hidden.view(), w2_slot, b2_slot, xa.view(), state_slot, y.view());
            ctx.run(op, hidden.view(), w2_slot, b2_slot, xa.view(), Slot{}, y_null.view());
          });
          run_planned(backend, one(1, 0, t), [&](auto& ctx) {
            ctx.run(op, hidden_tail.view(), w2_slot, b2_slot, ta.view(), state_slot, y_tail.view());
          });
          Matrix history;
          Matrix const expected = reference::dynamic_conv(u, x, w1, w2, b2.data, history);
          CHECK(relative_rms(y.values(), expected) <= tolerated);
          CHECK(same_bits(y.values(), y_null.values()));
          Matrix const expected_tail = reference::dynamic_conv(u_tail, tail, w1, w2, b2.data, history);
          CHECK(relative_rms(y_tail.values(), expected_tail) <= 2 * tolerated);
          CHECK(relative_rms(state.values(), transposed(history)) == 0);
        }
      }
    }
  });
}

}  // namespace
