// Products against the float64 reference: every storage type, odd sizes, bias, accumulation, strides.
#include <array>

#include <jet/op/linear.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
using jet::reference::linear;

struct Case {
  i64 tokens, in, out;
};
std::vector<Case> const& cases() {
  static std::vector<Case> const list{{0, 5, 7},      {1, 1, 1},     {1, 64, 13},  {2, 33, 12},   {3, 7, 5},
                                      {5, 100, 31},   {63, 65, 17},  {64, 64, 64}, {65, 63, 129}, {127, 40, 11},
                                      {129, 129, 25}, {300, 24, 50}, {1, 515, 64}, {2, 1536, 40}, {7, 2049, 13}};
  return list;
}

// Weights at the policy's type, input at act or acc, output at act or acc.
template <class B> void products(B& backend) {
  constexpr jet::Precision p = B::precision;
  for (Case const& c : cases()) {
    for (DType const in_type : {p.act, p.acc}) {
      for (DType const out_type : {p.act, p.acc}) {
        CAPTURE(c.tokens);
        CAPTURE(c.in);
        CAPTURE(c.out);
        CAPTURE(in_type);
        CAPTURE(out_type);
        Matrix const x = rounded(normal(c.tokens, c.in, 1), in_type);
        Matrix const w = rounded(normal(c.out, c.in, 2, 1 / std::sqrt(static_cast<double>(c.in))), p.weights);
        Matrix const bias = rounded(normal(1, c.out, 3), p.acc);
        Matrix const before = rounded(normal(c.tokens, c.out, 4), out_type);
        Activation<B> const xa(backend, x, in_type), wa(backend, w, p.weights), ba(backend, bias, p.acc);
        Slot const weight = wa.slot({c.out, c.in}), bias_slot = ba.slot({c.out});
        double const bound = product_tolerance(p, c.in, out_type);

        Activation<B> plain(backend, c.tokens, c.out, out_type), biased(backend, c.tokens, c.out, out_type);
        run_planned(backend, one(c.tokens), [&](auto& ctx) {
          ctx.run(jet::op::Linear{}, weight, Slot{}, xa.view(), plain.view());
          ctx.run(jet::op::Linear{}, weight, bias_slot, xa.view(), biased.view());
        });
        CHECK(relative_rms(plain.values(), linear(x, w)) <= bound);
        CHECK(relative_rms(biased.values(), linear(x, w, bias.data)) <= bound);

        Activation<B> added(backend, before, out_type), added_biased(backend, before, out_type);
        run_planned(backend, one(c.tokens), [&](auto& ctx) {
          ctx.run(jet::op::Linear{true}, weight, Slot{}, xa.view(), added.view());
          ctx.run(jet::op::Linear{.accumulate = true}, weight, bias_slot, xa.view(), added_biased.view());
        });
        CHECK(relative_rms(added.values(), jet::reference::add(before, linear(x, w))) <= bound);
        CHECK(relative_rms(added_biased.values(), jet::reference::add(before, linear(x, w, bias.data))) <= bound);
      }
    }
  }
}

TEST_CASE_TEMPLATE("Linear equals the reference", B, F64, F32, Bf16Weights, Bf16) {
  for_isas<B>([](B& backend) { products(backend); });
}

TEST_CASE_TEMPLATE("Linears equals its products one by one, bit for bit", B, F64, F32, Bf16Weights, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const t : odd_sizes()) {
      CAPTURE(t);
      i64 const in = 37;
      Activation<B> const x(backend, normal(t, in, 1), p.act);
      Activation<B> const w1(backend, normal(50, in, 2), p.weights), w2(backend, normal(3, in, 3), p.weights),
          w3(backend, normal(200, in, 4), p.weights), bias(backend, normal(1, 3, 5), p.acc);
      Activation<B> const y1(backend, t, 50, p.acc), y2(backend, t, 3, p.acc), y3(backend, t, 200, p.act);
      Activation<B> const z1(backend, t, 50, p.acc), z2(backend, t, 3, p.acc), z3(backend, t, 200, p.act);
      run_planned(backend, one(t), [&](auto& ctx) {
        ctx.run(jet::op::Linears{}, x.view(),
                std::array{jet::op::Projection{w1.slot({50, in}), {}, y1.view()},
                           jet::op::Projection{w2.slot({3, in}), bias.slot({3}), y2.view()},
                           jet::op::Projection{w3.slot({200, in}), {}, y3.view()}});
        ctx.run(jet::op::Linear{}, w1.slot({50, in}), Slot{}, x.view(), z1.view());
        ctx.run(jet::op::Linear{}, w2.slot({3, in}), bias.slot({3}), x.view(), z2.view());
        ctx.run(jet::op::Linear{}, w3.slot({200, in}), Slot{}, x.view(), z3.view());
      });
      CHECK(all_finite(y1.values()));
      CHECK(same_bits(y1.values(), z1.values()));
      CHECK(same_bits(y2.values(), z2.values()));
      CHECK(same_bits(y3.values(), z3.values()));
    }
  });
}

TEST_CASE_TEMPLATE("Linear reads and writes strided views and nothing beside them", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    Matrix const x = rounded(normal(9, 60, 1), p.act), w = rounded(normal(14, 21, 2), p.weights);
    Matrix const before = rounded(normal(9, 40, 3), p.act);
    Activation<B> const xa(backend, x, p.act), wa(backend, w, p.weights);
    Activation<B> const y(backend, before, p.act);
    run_planned(backend, one(9), [&](auto& ctx) {
      ctx.run(jet::op::Linear{}, wa.slot({14, 21}), Slot{}, xa.view().columns(13, 21), y.view().columns(5, 14));
    });
    Matrix narrow(9, 21), got(9, 14);
    Matrix const after = y.values();
    for (i64 t = 0; t < 9; ++t) {
      for (i64 j = 0; j < 21; ++j) {
        narrow.at(t, j) = x.at(t, 13 + j);
      }
      for (i64 j = 0; j < 40; ++j) {
        if (j >= 5 && j < 19) {
          got.at(t, j - 5) = after.at(t, j);
        } else {
          CHECK(after.at(t, j) == before.at(t, j));
        }
      }
    }
    CHECK(relative_rms(got, linear(narrow, w)) <= product_tolerance(p, 21, p.act));
  });
}

// The promise of the micro-kernels: an element is one fixed sequence of operations that depends on `in` alone.
TEST_CASE_TEMPLATE("a row does not depend on the rows beside it, bit for bit", B, F64, F32, Bf16Weights, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const in : {i64{1}, i64{31}, i64{100}, i64{600}}) {
      CAPTURE(in);
      i64 const tokens = 70, out = 45;
      Activation<B> const x(backend, normal(tokens, in, 1), p.act), w(backend, normal(out, in, 2), p.weights);
      Activation<B> const whole(backend, tokens, out, p.acc), pieces(backend, tokens, out, p.acc);
      run_planned(backend, one(tokens), [&](auto& ctx) {
        ctx.run(jet::op::Linear{}, w.slot({out, in}), Slot{}, x.view(), whole.view());
        i64 at = 0;
        for (i64 const n : {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 9}) {
          ctx.run(jet::op::Linear{}, w.slot({out, in}), Slot{}, x.view().rows(at, n), pieces.view().rows(at, n));
          at += n;
        }
      });
      CHECK(all_finite(whole.values()));
      CHECK(same_bits(whole.values(), pieces.values()));
    }
  });
}

}  // namespace
