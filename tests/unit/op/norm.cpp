// Norms and additions against the float64 reference.
#include <jet/op/norm.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
namespace reference = jet::reference;

TEST_CASE_TEMPLATE("RmsNorm, Add, AddRmsNorm", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const t : odd_sizes()) {
      for (i64 const n : {i64{1}, i64{7}, i64{64}, i64{100}}) {
        CAPTURE(t);
        CAPTURE(n);
        Matrix const x = rounded(normal(t, n, 1), p.act), delta = rounded(normal(t, n, 2), p.act);
        Matrix const w = rounded(uniform(1, n, 3, 0.5, 1.5), p.acc);
        Matrix const sum = rounded(reference::add(x, delta), p.act);
        Activation<B> const xa(backend, x, p.act), da(backend, delta, p.act), wa(backend, w, p.acc);
        Activation<B> const y(backend, t, n, p.act), added(backend, x, p.act), both(backend, x, p.act),
            normed(backend, t, n, p.act), two_steps(backend, t, n, p.act);
        run_planned(backend, one(t), [&](auto& ctx) {
          ctx.run(jet::op::RmsNorm{1e-5}, wa.slot({n}), xa.view(), y.view());
          ctx.run(jet::op::Add{}, da.view(), added.view());
          ctx.run(jet::op::RmsNorm{1e-5}, wa.slot({n}), added.view(), two_steps.view());
          ctx.run(jet::op::AddRmsNorm{1e-5}, wa.slot({n}), da.view(), both.view(), normed.view());
        });
        double const bound = tolerance(p, Check::op);
        CHECK(relative_rms(y.values(), reference::rms_norm(x, w.data, 1e-5)) <= bound);
        // one rounding: the sum is exact in double, and rounds as the reference's does
        CHECK(relative_rms(added.values(), sum) == 0);
        CHECK(relative_rms(both.values(), sum) == 0);
        CHECK(relative_rms(normed.values(), reference::rms_norm(sum, w.data, 1e-5)) <= bound);
        CHECK(same_bits(normed.values(), two_steps.values()));
      }
    }
  });
}

TEST_CASE_TEMPLATE("norms per head", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  struct Heads {
    i64 heads, head;
  };
  for_isas<B>([&](B& backend) {
    for (i64 const t : odd_sizes()) {
      for (Heads const& h : {Heads{1, 33}, Heads{3, 16}, Heads{12, 5}}) {
        CAPTURE(t);
        CAPTURE(h.heads);
        i64 const n = h.heads * h.head;
        Matrix const x = rounded(normal(t, n, 1), p.acc), z = rounded(normal(t, n, 2, 3), p.acc);
        Matrix const w = rounded(uniform(1, h.head, 3, 0.5, 1.5), p.acc),
                     wide = rounded(uniform(1, n, 4, 0.5, 1.5), p.acc);
        Activation<B> const xa(backend, x, p.acc), za(backend, z, p.acc), wa(backend, w, p.acc),
            wide_a(backend, wide, p.acc);
        Activation<B> const normed(backend, x, p.acc), l2(backend, x, p.acc), silu_l2(backend, x, p.acc),
            norm_first(backend, t, n, p.act), gate_first(backend, t, n, p.act);
        run_planned(backend, one(t), [&](auto& ctx) {
          ctx.run(jet::op::HeadNorm{h.heads, h.head, 1e-6}, wa.slot({h.head}), normed.view());
          ctx.run(jet::op::L2Norm{h.heads, h.head, 1e-6, false}, l2.view());
          ctx.run(jet::op::L2Norm{h.heads, h.head, 1e-6, true}, silu_l2.view());
          ctx.run(jet::op::GatedRmsNorm{h.heads, h.head, 1e-5, false}, wa.slot({h.head}), xa.view(), za.view(),
                  norm_first.view());
          ctx.run(jet::op::GatedRmsNorm{h.heads, h.head, 1e-5, true}, wide_a.slot({n}), xa.view(), za.view(),
                  gate_first.view());
        });
        double const at_acc = tolerance(p.acc == DType::f64 ? jet::precision::f64 : jet::precision::f32, Check::op);
        CHECK(relative_rms(normed.values(), reference::rms_norm(x, w.data, 1e-6, h.heads)) <= at_acc);
        CHECK(relative_rms(l2.values(), reference::l2_norm(x, 1e-6, h.heads)) <= at_acc);
        CHECK(relative_rms(silu_l2.values(), reference::l2_norm(reference::silu(x), 1e-6, h.heads)) <= at_acc);
        double const bound = tolerance(p, Check::op);
        using reference::GateOrder;
        CHECK(relative_rms(norm_first.values(),
                           reference::gated_rms_norm(GateOrder::norm_first, x, z, w.data, 1e-5, h.heads)) <= bound);
        CHECK(relative_rms(gate_first.values(), reference::gated_rms_norm(GateOrder::gate_first, x, z, wide.data,
                                                                          1e-5, h.heads)) <= bound);
      }
    }
  });
}

TEST_CASE_TEMPLATE("norms of zero and of large vectors", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    i64 const n = 40;
    Matrix x = rounded(normal(3, n, 1, 1e4), p.act);
    for (i64 j = 0; j < n; ++j) {
      x.at(1, j) = 0;
    }
    Matrix const w = filled(1, n, 1);
    Activation<B> const xa(backend, x, p.act), wa(backend, w, p.acc), y(backend, 3, n, p.act),
        l2(backend, x, p.acc), gated(backend, 3, n, p.act), acc(backend, x, p.acc);
    run_planned(backend, one(3), [&](auto& ctx) {
      ctx.run(jet::op::RmsNorm{1e-6}, wa.slot({n}), xa.view(), y.view());
      ctx.run(jet::op::L2Norm{1, n, 1e-6, false}, l2.view());
      ctx.run(jet::op::GatedRmsNorm{1, n, 1e-5, false}, wa.slot({n}), acc.view(), acc.view(), gated.view());
    });
    CHECK(relative_rms(y.values(), reference::rms_norm(x, w.data, 1e-6)) <= tolerance(p, Check::op));
    CHECK(relative_rms(l2.values(), reference::l2_norm(x, 1e-6)) <= tolerance(p, Check::op));
    CHECK(relative_rms(gated.values(), reference::gated_rms_norm(reference::GateOrder::norm_first, x, x, w.data,
                                                                 1e-5)) <= tolerance(p, Check::op));
    for (i64 j = 0; j < n; ++j) {
      CHECK(y.values().at(1, j) == 0);
      CHECK(l2.values().at(1, j) == 0);
      CHECK(gated.values().at(1, j) == 0);
    }
  });
}

}  // namespace
