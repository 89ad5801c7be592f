// The generalised delta rule against a loop in float64: sizes, cuts, instruction sets, gates at both ends, long
// sequences, and the delta rule as its special case.
#include <jet/op/rwkv7.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
using jet::op::Decay;
using jet::op::ScanShape;
using jet::op::Update;
namespace reference = jet::reference;

struct Inputs {
  Matrix q, k, v, a, b, g;
};
// a = -kappa and b = kappa rate with |kappa| = 1, as RWKV-7 has them.
template <ScanShape C> Inputs inputs(i64 tokens, std::uint64_t seed, DType type, double strongest = 0.6) {
  i64 const keys = C.heads * C.head_k;
  auto const unit = [&](std::uint64_t s) { return reference::l2_norm(normal(tokens, keys, s), 0, C.heads); };
  Inputs in{unit(seed),
            unit(seed + 1),
            normal(tokens, C.heads * C.head_v, seed + 2),
            unit(seed + 3),
            uniform(tokens, keys, seed + 4, 0, 1),
            uniform(tokens, keys, seed + 5, -strongest, 0)};
  for (std::size_t i = 0; i < in.a.data.size(); ++i) {
    in.b.data[i] *= in.a.data[i];
    in.a.data[i] *= -1;
  }
  for (Matrix* const m : {&in.q, &in.k, &in.v, &in.a, &in.b, &in.g}) {
    *m = rounded(*m, type);
  }
  return in;
}
Inputs piece(Inputs const& in, i64 first, i64 count) {
  auto const cut = [&](Matrix const& m) { return reference::rows_of(m, first, count); };
  return {cut(in.q), cut(in.k), cut(in.v), cut(in.a), cut(in.b), cut(in.g)};
}

template <ScanShape C> double scale() {
  return C.scale != 0 ? C.scale : 1 / std::sqrt(static_cast<double>(C.head_k));
}
// state [heads * head_k, head_v]
template <ScanShape C> Matrix expected(Inputs const& in, Matrix& state) {
  if (state.empty()) {
    state = Matrix(C.heads * C.head_k, C.head_v);
  }
  Matrix o(in.q.rows, C.heads * C.head_v);
  for (i64 t = 0; t < in.q.rows; ++t) {
    for (i64 h = 0; h < C.heads; ++h) {
      for (i64 j = 0; j < C.head_v; ++j) {
        double answer = 0;
        for (i64 c = h * C.head_k; c < (h + 1) * C.head_k; ++c) {
          answer += state.at(c, j) * in.a.at(t, c);
        }
        for (i64 c = h * C.head_k; c < (h + 1) * C.head_k; ++c) {
          double& s = state.at(c, j);
          s = std::exp(in.g.at(t, c)) * s + in.b.at(t, c) * answer + in.k.at(t, c) * in.v.at(t, h * C.head_v + j);
          o.at(t, h * C.head_v + j) += scale<C>() * s * in.q.at(t, c);
        }
      }
    }
  }
  return o;
}

// Slot 1 of `state` [2, heads, head_k, head_v] (null: none kept).
template <ScanShape C, class B> Matrix scan(B& backend, Inputs const& in, Slot const& state, i64 position = 0) {
  constexpr DType acc = B::precision.acc;
  Activation<B> const q(backend, in.q, acc), k(backend, in.k, acc), v(backend, in.v, acc), a(backend, in.a, acc),
      b(backend, in.b, acc), g(backend, in.g, acc), o(backend, in.q.rows, C.heads * C.head_v, acc);
  run_planned(backend, one(in.q.rows, 1, position), [&](auto& ctx) {
    ctx.run(jet::op::GeneralDeltaScan<C>{}, q.view(), k.view(), v.view(), a.view(), b.view(), g.view(), state,
            o.view());
  });
  return o.values();
}

template <ScanShape C, class B> void against_loop(B& backend, Inputs const& all, std::vector<i64> const& pieces) {
  i64 const rows = C.heads * C.head_k;
  Activation<B> const memory(backend, filled(2 * rows, C.head_v, 0), B::precision.acc);
  Slot const state = memory.slot({i64{2}, C.heads, C.head_k, C.head_v});
  Matrix history;
  i64 at = 0;
  for (i64 const n : pieces) {
    CAPTURE(n);
    Inputs const in = piece(all, at, n);
    Matrix const o = scan<C>(backend, in, state, at);
    if (at == 0) {
      CHECK(same_bits(o, scan<C>(backend, in, Slot{})));
    }
    CHECK(relative_rms(o, expected<C>(in, history)) <= tolerance(B::precision, Check::scan));
    CHECK(relative_rms(reference::rows_of(memory.values(), rows, rows), history) <=
          tolerance(B::precision, n > 1000 ? Check::long_scan : Check::scan));
    at += n;
  }
  CHECK(same_bits(reference::rows_of(memory.values(), 0, rows), Matrix(rows, C.head_v)));  // the other slot
}

TEST_CASE_TEMPLATE("the generalised delta rule equals its loop", B, F64, F32) {
  for_isas<B>([](B& backend) {
    for (i64 const t : odd_sizes()) {
      CAPTURE(t);
      constexpr ScanShape narrow{3, 9, 20, Decay::channel}, wide{2, 24, 7, Decay::channel, Update::delta, 0.7};
      std::vector<i64> const pieces{t, 1, 5};
      against_loop<narrow>(backend, inputs<narrow>(t + 6, 1, B::precision.acc), pieces);
      against_loop<wide>(backend, inputs<wide>(t + 6, 2, B::precision.acc), pieces);
    }
  });
}

// Gates of 0, complete ones of -2000, and weak ones after them, whose digits no sum may lose.
TEST_CASE_TEMPLATE("the generalised delta rule with gates at their ends", B, F64, F32) {
  for_isas<B>([](B& backend) {
    constexpr ScanShape C{2, 12, 10, Decay::channel};
    for (double const weak : {0.0, 0.02}) {
      CAPTURE(weak);
      Inputs in = inputs<C>(200, 3, B::precision.acc, weak);
      for (std::size_t i = 0; i < in.g.data.size(); i += 11) {
        in.g.data[i] = -2000;
      }
      against_loop<C>(backend, in, {130, 3, 67});
    }
  });
}

TEST_CASE_TEMPLATE("the generalised delta rule over 8192 tokens", B, F64, F32) {
  constexpr ScanShape C{1, 16, 12, Decay::channel};
  B backend(jet::BackendOptions{.threads = 2});
  against_loop<C>(backend, inputs<C>(8192, 4, B::precision.acc, 0.02), {8192});
}

// With a = e^g k, b = -beta k and k beta in k's place it is the delta rule, here with neighbouring keys parallel.
TEST_CASE_TEMPLATE("the delta rule is a case of the generalised one", B, F64, F32) {
  constexpr ScanShape C{2, 10, 6, Decay::channel};
  constexpr DType acc = B::precision.acc;
  B backend(jet::BackendOptions{.threads = 2});
  Inputs in = inputs<C>(150, 5, acc);
  Matrix const beta = filled(150, C.heads, 1);
  for (i64 t = 0; t < 150; ++t) {
    for (i64 c = 0; c < in.k.cols; ++c) {
      in.k.at(t, c) = in.k.at(t / 20, c);
      in.a.at(t, c) = std::exp(in.g.at(t, c)) * in.k.at(t, c);
      in.b.at(t, c) = -in.k.at(t, c);
    }
  }
  reference::ScanState history;
  Matrix const want = reference::scan({.heads = C.heads,
                                       .decay = reference::Decay::per_channel,
                                       .update = reference::Update::delta,
                                       .scale = scale<C>()},
                                      in.q, in.k, in.v, in.g, beta, history);
  CHECK(relative_rms(scan<C>(backend, in, Slot{}), want) <= tolerance(B::precision, Check::scan));
}

}  // namespace
