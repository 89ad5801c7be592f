// The MLP's activation against the float64 reference.
#include <jet/op/swiglu.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;

TEST_CASE_TEMPLATE("SwiGlu equals the reference", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (i64 const t : odd_sizes()) {
      for (i64 const n : {i64{1}, i64{31}, i64{200}}) {
        CAPTURE(t);
        CAPTURE(n);
        Matrix const gate = rounded(normal(t, n, 1, 4), p.acc), up = rounded(normal(t, n, 2), p.acc);
        Activation<B> const g(backend, gate, p.acc), u(backend, up, p.acc), y(backend, t, n, p.act);
        run_planned(backend, one(t), [&](auto& ctx) { ctx.run(jet::op::SwiGlu{}, g.view(), u.view(), y.view()); });
        Matrix expected = jet::reference::silu(gate);
        for (std::size_t i = 0; i < expected.data.size(); ++i) {
          expected.data[i] *= up.data[i];
        }
        CHECK(relative_rms(y.values(), expected) <= tolerance(p, Check::op));
      }
    }
  });
}

TEST_CASE_TEMPLATE("SwiGlu far from zero", B, F64, F32, Bf16) {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    Matrix const gate(1, 6, {-1e4, -100, 0, 100, 1e4, -20}), up = filled(1, 6, 2);
    Activation<B> const g(backend, gate, p.acc), u(backend, up, p.acc), y(backend, 1, 6, p.act);
    run_planned(backend, one(1), [&](auto& ctx) { ctx.run(jet::op::SwiGlu{}, g.view(), u.view(), y.view()); });
    Matrix const v = y.values();
    CHECK(std::abs(v.at(0, 0)) < 1e-30);
    CHECK(std::abs(v.at(0, 1)) < 1e-30);
    CHECK(v.at(0, 2) == 0);
    CHECK(v.at(0, 3) == 200);
    CHECK(v.at(0, 4) == doctest::Approx(20000).epsilon(0.004));
    CHECK(v.at(0, 5) == doctest::Approx(-40 * std::exp(-20)).epsilon(0.01));
  });
}

}  // namespace
