// The scan of the linear-attention family against the float64 reference: every decay, every update, the gates, the
// composition that JetBlock runs, and values at the edges.
#include <jet/op/gated_scan.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
using jet::op::Decay;
using jet::op::ScanShape;
using jet::op::Update;
namespace reference = jet::reference;

// A scan's inputs. Keys have norm 1 (the delta rule diverges for others), gates lie where training puts them.
struct Inputs {
  Matrix q, k, v, g, beta;
};
template <ScanShape C> Inputs inputs(i64 tokens, std::uint64_t seed, DType type, double strongest = 0.3) {
  Inputs in;
  in.q = rounded(reference::l2_norm(normal(tokens, C.heads * C.head_k, seed), 0, C.heads), type);
  in.k = rounded(reference::l2_norm(normal(tokens, C.heads * C.head_k, seed + 1), 0, C.heads), type);
  in.v = rounded(normal(tokens, C.heads * C.head_v, seed + 2), type);
  in.beta = rounded(uniform(tokens, C.heads, seed + 3, 0, 1), type);
  if (C.decay != Decay::none) {
    in.g = rounded(uniform(tokens, C.decay_width(), seed + 4, -strongest, 0), type);
  }
  return in;
}
Inputs piece(Inputs const& in, i64 first, i64 count) {
  auto const cut = [&](Matrix const& m) { return m.empty() ? m : reference::rows_of(m, first, count); };
  return {cut(in.q), cut(in.k), cut(in.v), cut(in.g), cut(in.beta)};
}

template <ScanShape C> reference::ScanConfig reference_config() {
  return {.heads = C.heads,
          .decay = C.decay == Decay::none   ? reference::Decay::none
                   : C.decay == Decay::head ? reference::Decay::per_head
                                            : reference::Decay::per_channel,
          .update = C.update == Update::additive ? reference::Update::additive : reference::Update::delta,
          .scale = C.scale != 0 ? C.scale : 1 / std::sqrt(static_cast<double>(C.head_k))};
}
template <ScanShape C> Matrix expected(Inputs const& in, reference::ScanState& state) {
  return reference::scan(reference_config<C>(), in.q, in.k, in.v, in.g, in.beta, state);
}

// One run in slot 1 of `state` (null: none kept).
template <ScanShape C, class B> Matrix scan(B& backend, Inputs const& in, Slot const& state, i64 position = 0) {
  constexpr DType acc = B::precision.acc;
  Activation<B> const q(backend, in.q, acc), k(backend, in.k, acc), v(backend, in.v, acc), g(backend, in.g, acc),
      beta(backend, in.beta, acc), o(backend, in.q.rows, C.heads * C.head_v, acc);
  run_planned(backend, one(in.q.rows, 1, position), [&](auto& ctx) {
    ctx.run(jet::op::GatedScan<C>{}, q.view(), k.view(), v.view(), C.decay == Decay::none ? View{} : g.view(),
            in.beta.empty() ? View{} : beta.view(), state, o.view());
  });
  return o.values();
}

template <ScanShape C, class B> class State {
 public:
  explicit State(B& backend, DType type = B::precision.state)
      : memory_(backend, filled(2 * C.heads * C.head_k, C.head_v, 0), type) {}
  Slot slot() const { return memory_.slot({i64{2}, C.heads, C.head_k, C.head_v}); }
  Vector values(i64 slot = 1) const {
    return reference::rows_of(memory_.values(), slot * C.heads * C.head_k, C.heads * C.head_k).data;
  }

 private:
  Activation<B> memory_;
};
Vector joined(reference::ScanState const& state) {
  Vector v;
  for (Matrix const& head : state) {
    v.insert(v.end(), head.data.begin(), head.data.end());
  }
  return v;
}

template <ScanShape C, class B> void against_reference(B& backend) {
  constexpr jet::Precision p = B::precision;
  for (i64 const t : odd_sizes()) {
    CAPTURE(t);
    Inputs const all = inputs<C>(t + 6, static_cast<std::uint64_t>(t), p.acc);
    State<C, B> const state(backend);
    reference::ScanState history;
    i64 at = 0;
    for (i64 const n : {t, i64{1}, i64{5}}) {
      CAPTURE(n);
      Inputs const in = piece(all, at, n);
      Matrix const o = scan<C>(backend, in, state.slot(), at);
      if (at == 0) {
        CHECK(same_bits(o, scan<C>(backend, in, Slot{})));  // null state: zero, not kept
      }
      CHECK(relative_rms(o, expected<C>(in, history)) <= tolerance(p, Check::scan));
      if (!history.empty()) {
        CHECK(relative_rms(state.values(), joined(history)) <= tolerance(p, Check::scan));
      }
      at += n;
    }
    CHECK(same_bits(state.values(0), Vector(state.values(0).size())));  // the other slot
  }
}

template <class B, Decay D, Update U> void family() {
  for_isas<B>([](B& backend) {
    against_reference<ScanShape{1, 12, 20, D, U}>(backend);
    against_reference<ScanShape{3, 24, 9, D, U}>(backend);
    against_reference<ScanShape{12, 5, 8, D, U, 0.7}>(backend);
  });
}
TEST_CASE_TEMPLATE("scan without decay", B, F64, F32) {
  SUBCASE("additive") {
    family<B, Decay::none, Update::additive>();
  }
  SUBCASE("delta") {
    family<B, Decay::none, Update::delta>();
  }
}
TEST_CASE_TEMPLATE("scan with a decay per head", B, F64, F32) {
  SUBCASE("additive") {
    family<B, Decay::head, Update::additive>();
  }
  SUBCASE("delta") {
    family<B, Decay::head, Update::delta>();
  }
}
TEST_CASE_TEMPLATE("scan with a decay per channel", B, F64, F32) {
  SUBCASE("additive") {
    family<B, Decay::channel, Update::additive>();
  }
  SUBCASE("delta") {
    family<B, Decay::channel, Update::delta>();
  }
}
TEST_CASE_TEMPLATE("scan with JetBlock's sizes", B, F64, F32) {
  for_isas<B>([](B& backend) {
    constexpr ScanShape C{1, 96, 256};
    State<C, B> const state(backend);
    Inputs const in = inputs<C>(100, 3, B::precision.acc);
    reference::ScanState history;
    Matrix const o = scan<C>(backend, in, state.slot());
    CHECK(relative_rms(o, expected<C>(in, history)) <= tolerance(B::precision, Check::scan));
    CHECK(relative_rms(state.values(), joined(history)) <= tolerance(B::precision, Check::scan));
  });
}
TEST_CASE_TEMPLATE("a null beta is one", B, F64, F32) {
  B backend(jet::BackendOptions{.threads = 2});
  constexpr ScanShape C{2, 6, 10};
  for (i64 const t : {i64{3}, i64{70}}) {
    Inputs in = inputs<C>(t, 5, B::precision.acc);
    in.beta = filled(t, 2, 1);
    Matrix const with = scan<C>(backend, in, Slot{});
    in.beta = {};
    CHECK(same_bits(with, scan<C>(backend, in, Slot{})));
  }
}

// ---- values

// Gates of 0 keep everything, gates of -100 forget everything.
template <class B, Decay D, Update U> void gates() {
  B backend(jet::BackendOptions{.threads = 2});
  constexpr ScanShape C{2, 8, 6, D, U};
  for (i64 const t : {i64{5}, i64{64}, i64{130}}) {
    CAPTURE(t);
    Inputs in = inputs<C>(t, 9, B::precision.acc);
    for (int const kind : {0, 1, 2}) {
      CAPTURE(kind);  // all 0, all -100, every third -100 between zeros
      for (std::size_t i = 0; i < in.g.data.size(); ++i) {
        i64 const row = static_cast<i64>(i) / in.g.cols;
        in.g.data[i] = kind == 0 ? 0 : kind == 1 || row % 3 == 1 ? -100 : 0;
      }
      State<C, B> const state(backend);
      reference::ScanState history;
      Matrix const o = scan<C>(backend, in, state.slot());
      CHECK(relative_rms(o, expected<C>(in, history)) <= tolerance(B::precision, Check::scan));
      CHECK(relative_rms(state.values(), joined(history)) <= tolerance(B::precision, Check::scan));
      if (kind == 0) {
        constexpr ScanShape N{2, 8, 6, Decay::none, U};
        Inputs without = in;
        without.g = {};
        CHECK(relative_rms(o, scan<N>(backend, without, Slot{})) <= tolerance(B::precision, Check::scan));
      }
    }
  }
}
TEST_CASE_TEMPLATE("gates 0 and -100", B, F64, F32) {
  SUBCASE("head, delta") {
    gates<B, Decay::head, Update::delta>();
  }
  SUBCASE("head, additive") {
    gates<B, Decay::head, Update::additive>();
  }
  SUBCASE("channel, delta") {
    gates<B, Decay::channel, Update::delta>();
  }
  SUBCASE("channel, additive") {
    gates<B, Decay::channel, Update::additive>();
  }
}

// After sums of -2000 float has lost gates of -0.02, yet rows written since then decay by them alone.
template <class B, Decay D, Update U> void weak_after_complete() {
  for_isas<B>([](B& backend) {
    constexpr ScanShape C{2, 12, 10, D, U};
    Inputs in = inputs<C>(200, 15, B::precision.acc, 0.02);
    for (std::size_t i = 0; i < in.g.data.size(); i += 11) {
      in.g.data[i] = -2000;
    }
    State<C, B> const state(backend);
    reference::ScanState history;
    CHECK(relative_rms(scan<C>(backend, in, state.slot()), expected<C>(in, history)) <=
          tolerance(B::precision, Check::op));
    CHECK(relative_rms(state.values(), joined(history)) <= tolerance(B::precision, Check::op));
  });
}
TEST_CASE_TEMPLATE("weak gates after complete ones", B, F64, F32) {
  SUBCASE("head, delta") {
    weak_after_complete<B, Decay::head, Update::delta>();
  }
  SUBCASE("channel, delta") {
    weak_after_complete<B, Decay::channel, Update::delta>();
  }
  SUBCASE("channel, additive") {
    weak_after_complete<B, Decay::channel, Update::additive>();
  }
}

TEST_CASE_TEMPLATE("beta 0 writes nothing, beta 1 recalls exactly", B, F64, F32) {
  constexpr i64 dk = 80, dv = 7;
  constexpr ScanShape C{1, dk, dv, Decay::none, Update::delta};
  for_isas<B>([&](B& backend) {
    for (i64 const t : {i64{4}, i64{16}, i64{17}, i64{64}, i64{80}}) {
      CAPTURE(t);
      Inputs in = inputs<C>(t, 21, B::precision.acc);
      in.k = Matrix(t, dk);
      for (i64 i = 0; i < t; ++i) {
        in.k.at(i, i) = 1;  // orthonormal
      }
      in.q = in.k;
      in.beta = filled(t, 1, 1);
      Matrix recalled = in.v;
      for (double& x : recalled.data) {
        x /= std::sqrt(static_cast<double>(dk));
      }
      CHECK(relative_rms(scan<C>(backend, in, Slot{}), recalled) <=
            (B::precision.acc == DType::f64 ? 1e-15 : 1e-7));
      in.beta = filled(t, 1, 0);
      State<C, B> const state(backend);
      CHECK(relative_rms(scan<C>(backend, in, state.slot()), Matrix(t, dv)) == 0);
      CHECK(relative_rms(state.values(), Vector(static_cast<std::size_t>(dk * dv))) == 0);
    }
  });
}

// The same key again and again: with beta 1 the state answers with the newest value.
TEST_CASE_TEMPLATE("identical keys", B, F64, F32) {
  constexpr ScanShape C{1, 10, 6, Decay::head, Update::delta};
  for_isas<B>([&](B& backend) {
    for (i64 const t : {i64{3}, i64{64}, i64{200}}) {
      CAPTURE(t);
      Inputs in = inputs<C>(t, 31, B::precision.acc);
      for (i64 i = 0; i < t; ++i) {
        for (i64 j = 0; j < 10; ++j) {
          in.k.at(i, j) = in.k.at(0, j);
        }
      }
      for (double const beta : {0.5, 1.0}) {
        in.beta = filled(t, 1, beta);
        State<C, B> const state(backend);
        reference::ScanState history;
        CHECK(relative_rms(scan<C>(backend, in, state.slot()), expected<C>(in, history)) <=
              tolerance(B::precision, Check::scan));
        CHECK(relative_rms(state.values(), joined(history)) <= tolerance(B::precision, Check::scan));
      }
    }
  });
}

TEST_CASE_TEMPLATE("zero vectors and huge queries", B, F64, F32) {
  constexpr ScanShape C{2, 10, 6};
  for_isas<B>([&](B& backend) {
    for (i64 const t : {i64{3}, i64{100}}) {
      CAPTURE(t);
      Inputs in = inputs<C>(t, 41, B::precision.acc);
      for (i64 i = 0; i < t; i += 2) {
        for (i64 j = 0; j < in.k.cols; ++j) {
          in.k.at(i, j) = 0;
        }
      }
      for (double& x : in.q.data) {
        x *= 1e4;
      }
      in.q = rounded(in.q, B::precision.acc);
      reference::ScanState history;
      CHECK(relative_rms(scan<C>(backend, in, Slot{}), expected<C>(in, history)) <=
            tolerance(B::precision, Check::scan));
      for (double& x : in.v.data) {
        x = 0;
      }
      CHECK(relative_rms(scan<C>(backend, in, Slot{}), Matrix(t, 12)) == 0);
    }
  });
}

TEST_CASE_TEMPLATE("the state after 2048 tokens", B, F64, F32) {
  auto const run = []<ScanShape C>(std::integral_constant<ScanShape, C>, B& backend) {
    Inputs const in = inputs<C>(2048, 51, B::precision.acc, C.decay == Decay::channel ? 0.05 : 0.02);
    State<C, B> const state(backend);
    reference::ScanState history;
    Matrix const o = scan<C>(backend, in, state.slot());
    CHECK(relative_rms(o, expected<C>(in, history)) <= tolerance(B::precision, Check::scan));
    CHECK(relative_rms(state.values(), joined(history)) <= tolerance(B::precision, Check::long_scan));
  };
  for_isas<B>([&](B& backend) {
    run(std::integral_constant<ScanShape, ScanShape{1, 16, 24}>{}, backend);
    run(std::integral_constant<ScanShape, ScanShape{1, 16, 12, Decay::none, Update::delta}>{}, backend);
    run(std::integral_constant<ScanShape, ScanShape{1, 16, 12, Decay::channel, Update::delta}>{}, backend);
    run(std::integral_constant<ScanShape, ScanShape{1, 16, 12, Decay::channel, Update::additive}>{}, backend);
  });
}

// ---- the state's dtype

template <DType S> using WithState = jet::Cpu<jet::Precision{DType::f32, DType::f32, DType::f32, S}>;

// Rounded once per call, so one call differs from float state by one rounding.
TEST_CASE_TEMPLATE("state kept as f32, bf16, f16", B, WithState<DType::f32>, WithState<DType::bf16>,
                   WithState<DType::f16>) {
  constexpr ScanShape C{3, 12, 10};
  B backend(jet::BackendOptions{.threads = 2});
  F32 full(jet::BackendOptions{.threads = 2});
  for (i64 const t : {i64{1}, i64{16}, i64{65}, i64{200}}) {
    CAPTURE(t);
    Inputs const in = inputs<C>(t, 61, DType::f32), next = inputs<C>(2, 62, DType::f32);
    State<C, B> const state(backend);
    State<C, F32> const exact(full);
    CHECK(same_bits(scan<C>(backend, in, state.slot()), scan<C>(full, in, exact.slot())));
    Matrix const rounded_state = rounded(Matrix(1, std::ssize(exact.values()), exact.values()), B::precision.state);
    CHECK(same_bits(state.values(), rounded_state.data));
    // the next call starts from what was kept
    reference::ScanState history;
    for (i64 h = 0; h < C.heads; ++h) {
      auto const begin = rounded_state.data.begin() + h * C.head_k * C.head_v;
      history.push_back(Matrix(C.head_k, C.head_v, Vector(begin, begin + C.head_k * C.head_v)));
    }
    CHECK(relative_rms(scan<C>(backend, next, state.slot(), t), expected<C>(next, history)) <= 1e-6);
  }
}

// ---- gates and the composition

TEST_CASE_TEMPLATE("DeltaGates equals the reference", B, F64, F32) {
  constexpr DType acc = B::precision.acc;
  for_isas<B>([&](B& backend) {
    for (i64 const t : odd_sizes()) {
      for (i64 const heads : {1, 3, 12}) {
        Matrix a = rounded(normal(t, heads, 1, 4), acc), b = rounded(normal(t, heads, 2, 4), acc);
        if (t > 3) {
          a.at(0, 0) = 100, a.at(1, 0) = -100, b.at(0, 0) = 100, b.at(1, 0) = -100, b.at(2, 0) = 1e4;
        }
        Matrix const a_log = rounded(uniform(1, heads, 3, -4, 3), acc),
                     dt_bias = rounded(uniform(1, heads, 4, -7, 1), acc);
        Activation<B> const aa(backend, a, acc), ba(backend, b, acc), la(backend, a_log, acc),
            da(backend, dt_bias, acc), g(backend, t, heads, acc), beta(backend, t, heads, acc);
        run_planned(backend, one(t), [&](auto& ctx) {
          ctx.run(jet::op::DeltaGates{}, aa.view(), ba.view(), la.slot({heads}), da.slot({heads}), g.view(),
                  beta.view());
        });
        CHECK(relative_rms(g.values(), reference::softplus_decay(a, a_log.data, dt_bias.data)) <=
              tolerance(B::precision, Check::op));
        CHECK(relative_rms(beta.values(), reference::sigmoid(b)) <= tolerance(B::precision, Check::op));
      }
    }
  });
}

template <ScanShape C, class B> void delta_mix() {
  constexpr jet::Precision p = B::precision;
  for_isas<B>([&](B& backend) {
    for (bool const silu : {true, false}) {
      for (i64 const t : odd_sizes()) {
        CAPTURE(silu);
        CAPTURE(t);
        i64 const keys = C.heads * C.head_k, width = C.heads * C.head_v;
        Matrix const q = rounded(normal(t, keys, 1), p.acc), k = rounded(normal(t, keys, 2), p.acc),
                     v = rounded(normal(t, width, 3), p.acc), a = rounded(normal(t, C.heads, 4), p.acc),
                     b = rounded(normal(t, C.heads, 5), p.acc), z = rounded(normal(t, width, 6), p.acc),
                     a_log = rounded(uniform(1, C.heads, 7, -3, 1), p.acc),
                     dt_bias = rounded(uniform(1, C.heads, 8, -6, 0), p.acc),
                     norm = rounded(uniform(1, C.head_v, 9, 0.5, 1.5), p.acc);
        Activation<B> const qa(backend, q, p.acc), ka(backend, k, p.acc), va(backend, v, p.acc),
            aa(backend, a, p.acc), ba(backend, b, p.acc), za(backend, z, p.acc), la(backend, a_log, p.acc),
            da(backend, dt_bias, p.acc), na(backend, norm, p.acc), y(backend, t, width, p.act);
        State<C, B> const state(backend);
        run_planned(backend, one(t, 1), [&](auto& ctx) {
          ctx.run(jet::op::DeltaMix<C>{1e-5, silu}, qa.view(), ka.view(), va.view(), aa.view(), ba.view(),
                  la.slot({C.heads}), da.slot({C.heads}), state.slot(), za.view(), na.slot({C.head_v}), y.view());
        });
        auto const unit = [&](Matrix const& m) {
          return reference::l2_norm(silu ? reference::silu(m) : m, 1e-6, C.heads);
        };
        Inputs const in{unit(q), unit(k), v, reference::softplus_decay(a, a_log.data, dt_bias.data),
                        reference::sigmoid(b)};
        reference::ScanState history;
        Matrix const o = expected<C>(in, history);
        Matrix const want =
            reference::gated_rms_norm(reference::GateOrder::norm_first, o, z, norm.data, 1e-5, C.heads);
        CHECK(relative_rms(y.values(), want) <=
              (p.act == DType::bf16 ? bf16_bounds.op : tolerance(p, Check::scan)));
        if (!history.empty()) {
          CHECK(relative_rms(state.values(), joined(history)) <= tolerance(p, Check::scan));
        }
      }
    }
  });
}
TEST_CASE_TEMPLATE("DeltaMix equals the reference", B, F64, F32, Bf16) {
  delta_mix<ScanShape{3, 12, 18}, B>();
}

}  // namespace
