// Gradients of the scan: every decay and update, against differences of the library's own forward in double.
#include <jet/op/gated_scan.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
using jet::op::Decay;
using jet::op::ScanShape;
using jet::op::Update;

// All inputs of one scan; loss = <o, co> + <state after, cs>.
template <ScanShape C> struct ScanCase {
  static constexpr i64 key = C.heads * C.head_k, value = C.heads * C.head_v, size = C.heads * C.head_k * C.head_v;
  F64 backend{jet::BackendOptions{.threads = 2}};
  Batch batch;
  Matrix q, k, v, g, beta, state, co, cs;

  explicit ScanCase(std::vector<i64> const& lengths, double gate_scale = 0.2) {
    std::int32_t slot = 0;
    for (i64 const n : lengths) {
      batch.add(slot++, n, 0);
    }
    i64 const t = batch.tokens(), slots = std::ssize(lengths);
    q = normal(t, key, 1, 0.6);
    k = normal(t, key, 2, 0.7 / std::sqrt(static_cast<double>(C.head_k)));
    v = normal(t, value, 3);
    g = uniform(t, C.decay_width(), 4, -gate_scale, 0);
    beta = uniform(t, C.heads, 5, 0, 1);
    beta.data[0] = 0;  // nothing may be divided by it
    state = normal(slots, size, 6, 0.4);
    co = normal(t, value, 7);
    cs = normal(slots, size, 8);
  }
  jet::Shape state_shape() const { return {state.rows, C.heads, C.head_k, C.head_v}; }
  static View view_of(Activation<F64> const& a) { return C.decay == Decay::none ? View{} : a.view(); }

  double loss() {
    Activation<F64> const qa(backend, q, DType::f64), ka(backend, k, DType::f64), va(backend, v, DType::f64),
        ga(backend, g, DType::f64), ba(backend, beta, DType::f64), sa(backend, state, DType::f64),
        o(backend, v.rows, value, DType::f64);
    run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(jet::op::GatedScan<C>{}, qa.view(), ka.view(), va.view(), view_of(ga), ba.view(),
              sa.slot(state_shape()), o.view());
    });
    return dot(o.values().data, co.data) + dot(sa.values().data, cs.data);
  }

  Worst compare() {
    Activation<F64> const qa(backend, q, DType::f64), ka(backend, k, DType::f64), va(backend, v, DType::f64),
        ga(backend, g, DType::f64), ba(backend, beta, DType::f64), sa(backend, state, DType::f64),
        o(backend, v.rows, value, DType::f64), d_o(backend, co, DType::f64), end(backend, cs, DType::f64);
    i64 const chunks = jet::SavedRows::of(batch.view()).chunks;
    Activation<F64> const states(backend, chunks, size, DType::f64);
    Activation<F64> const dq(backend, q.rows, q.cols, DType::f64), dk(backend, q.rows, q.cols, DType::f64),
        dv(backend, v.rows, v.cols, DType::f64), dg(backend, g.rows, g.cols, DType::f64),
        dbeta(backend, beta.rows, beta.cols, DType::f64), begin(backend, state.rows, state.cols, DType::f64);
    run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(jet::op::GatedScan<C>{}, qa.view(), ka.view(), va.view(), view_of(ga), ba.view(),
              sa.slot(state_shape()), o.view(), states.view());
    });
    run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(jet::op::Backward{jet::op::GatedScan<C>{}}, qa.view(), ka.view(), va.view(), view_of(ga), ba.view(),
              states.view(), d_o.view(),
              jet::op::ScanGradient{dq.view(), dk.view(), dv.view(), view_of(dg), dbeta.view(),
                                    end.slot(state_shape()), begin.slot(state_shape())});
    });
    Worst worst;
    auto const now = [&] { return loss(); };
    compare_differences("q", q.data, dq.values().data, now, worst);
    compare_differences("k", k.data, dk.values().data, now, worst);
    compare_differences("v", v.data, dv.values().data, now, worst);
    if (C.decay != Decay::none) {
      compare_differences("g", g.data, dg.values().data, now, worst);
    }
    compare_differences("beta", beta.data, dbeta.values().data, now, worst);
    compare_differences("state", state.data, begin.values().data, now, worst);
    return worst;
  }
};

template <ScanShape C> void check_scan(double gate_scale = 0.2) {
  for (auto const& lengths : gradient_lengths()) {
    CAPTURE(lengths.front());
    CAPTURE(lengths.size());
    Worst const worst = ScanCase<C>(lengths, gate_scale).compare();
    INFO("worst: ", worst.error, " of ", worst.where);
    CHECK(worst.error <= difference_bound);
  }
}

TEST_CASE("scan with a decay per head") {
  check_scan<ScanShape{3, 5, 4, Decay::head, Update::delta}>();
  check_scan<ScanShape{1, 4, 7, Decay::head, Update::additive}>();
  check_scan<ScanShape{2, 3, 3, Decay::head, Update::delta, 1.0}>(
      8.0);  // strong gates: states die within a few tokens
}
TEST_CASE("scan without decay") {
  check_scan<ScanShape{2, 5, 3, Decay::none, Update::delta}>();
  check_scan<ScanShape{1, 3, 5, Decay::none, Update::additive}>();
}
TEST_CASE("scan with a decay per channel") {
  check_scan<ScanShape{2, 5, 3, Decay::channel, Update::delta}>();
  check_scan<ScanShape{1, 3, 5, Decay::channel, Update::additive}>();
}

}  // namespace
