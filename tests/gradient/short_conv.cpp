// Gradients of the static short convolution, with and without silu, bias and a state before.
#include <jet/op/short_conv.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
namespace op = jet::op;

struct ConvCase {
  i64 channels, taps;
  bool silu, with_bias, with_state;
  F64 backend{jet::BackendOptions{.threads = 2}};
  Batch batch{};
  Matrix weight{}, bias{}, x{}, state{}, co{}, cs{};

  void fill(std::vector<i64> const& lengths) {
    std::int32_t slot = 0;
    for (i64 const n : lengths) {
      batch.add(slot++, n, 0);
    }
    i64 const slots = std::ssize(lengths);
    weight = normal(channels, taps, 1);
    bias = normal(1, channels, 2);
    x = normal(batch.tokens(), channels, 3);
    state = normal(slots, taps * channels, 4);
    co = normal(batch.tokens(), channels, 5);
    cs = normal(slots, taps * channels, 6);
  }
  Shape state_shape() const { return {state.rows, taps, channels}; }

  double loss() {
    Activation<F64> const wa(backend, weight, DType::f64), ba(backend, bias, DType::f64),
        xa(backend, x, DType::f64), sa(backend, state, DType::f64), y(backend, x.rows, channels, DType::f64);
    run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(op::ShortConv{taps, silu}, wa.slot({channels, 1, taps}), with_bias ? ba.slot({channels}) : Slot{},
              xa.view(), with_state ? sa.slot(state_shape()) : Slot{}, y.view());
    });
    return dot(y.values().data, co.data) + (with_state ? dot(sa.values().data, cs.data) : 0);
  }

  Worst compare() {
    Activation<F64> const wa(backend, weight, DType::f64), ba(backend, bias, DType::f64),
        xa(backend, x, DType::f64), sa(backend, state, DType::f64), dy(backend, co, DType::f64),
        end(backend, cs, DType::f64);
    Activation<F64> const dw(backend, filled(channels, taps, 0), DType::f64),
        db(backend, filled(1, channels, 0), DType::f64), dx(backend, x.rows, channels, DType::f64),
        begin(backend, state.rows, state.cols, DType::f64);
    run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(op::Backward{op::ShortConv{taps, silu}}, wa.slot({channels, 1, taps}),
              with_bias ? ba.slot({channels}) : Slot{}, xa.view(), with_state ? sa.slot(state_shape()) : Slot{},
              dy.view(), dx.view(), dw.slot({channels, 1, taps}), with_bias ? db.slot({channels}) : Slot{},
              with_state ? end.slot(state_shape()) : Slot{}, with_state ? begin.slot(state_shape()) : Slot{});
    });
    Worst worst;
    auto const now = [&] { return loss(); };
    compare_differences("weight", weight.data, dw.values().data, now, worst);
    compare_differences("x", x.data, dx.values().data, now, worst);
    if (with_bias) {
      compare_differences("bias", bias.data, db.values().data, now, worst);
    }
    if (with_state) {
      compare_differences("state", state.data, begin.values().data, now, worst);
    }
    return worst;
  }
};

TEST_CASE("ShortConv: gradients equal differences") {
  for (auto const& lengths : gradient_lengths()) {
    for (bool const silu : {false, true}) {
      for (bool const state : {false, true}) {
        for (i64 const channels : {i64{1}, i64{70}}) {
          CAPTURE(lengths.front());
          CAPTURE(silu);
          CAPTURE(state);
          CAPTURE(channels);
          ConvCase c{channels, channels == 1 ? 2 : 4, silu, silu, state};
          c.fill(lengths);
          Worst const worst = c.compare();
          INFO("worst: ", worst.error, " of ", worst.where);
          CHECK(worst.error <= difference_bound);
        }
      }
    }
  }
}

}  // namespace
