// What the tests of the scan on the device share: a pool of states and calls on it, each against the float64
// reference begun from the state as the device held it; slots that a call does not name must keep every bit.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <jet/core/rng.hpp>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/reference.hpp>

#include "check.hpp"

namespace scan_test {

using jet::DType;
using jet::i64;
using jet::Shape;
using jet::Slot;
using jet::op::Decay;
using jet::op::ScanShape;
using jet::op::Update;
using jet::reference::Matrix;
using jet::testing::Activation;

struct Part {
  std::int32_t slot;  // -1: inactive
  i64 tokens;
};

// What the numbers of a call are like.
enum class Values {
  typical,
  weak_decay,
  no_decay,
  strong_decay,
  beta_zero,
  beta_one,
  equal_keys,
  zeros,
  huge,
  tiny
};
inline char const* name_of(Values v) {
  constexpr char const* names[] = {"typical", "weak decay", "no decay",     "strong decay", "beta 0",
                                   "beta 1",  "equal keys", "zero vectors", "huge values",  "tiny values"};
  return names[static_cast<int>(v)];
}

struct Options {
  Values values = Values::typical;
  double bound = 2e-6;        // of outputs of more than 16 tokens, and of states where they are f32
  double few_bound = 2e-6;    // of fewer
  double state_bound = 2e-6;  // of states
  bool mix = false;           // DeltaMix instead of GatedScan
  bool silu = true;           // of q and k, in DeltaMix
  bool host = true;           // give the context the batch on the host
  bool state = true;
  bool beta = true;
  bool unit = true;  // norms of q and k, outside DeltaMix; else they differ from row to row
  i64 slots = 12;
};

inline double worst_chunk = 0, worst_few = 0, worst_state = 0;  // of a test program, as shares of their bounds
inline double largest_chunk = 0, largest_few = 0, largest_state = 0;

inline Matrix normal(i64 rows, i64 columns, std::uint64_t seed, double scale = 1) {
  Matrix m(rows, columns);
  jet::Random const random{seed, 11};
  for (std::size_t i = 0; i < m.data.size(); ++i) {
    m.data[i] = static_cast<double>(static_cast<float>(scale * static_cast<double>(random.normal(i))));
  }
  return m;
}
inline Matrix as_floats(Matrix m) {
  for (double& x : m.data) {
    x = static_cast<double>(static_cast<float>(x));
  }
  return m;
}

template <ScanShape C, jet::Precision P> class Harness {
 public:
  using Backend = jet::Cuda<P>;
  static constexpr i64 state_size = C.heads * C.head_k * C.head_v;

  explicit Harness(Options const& options)
      : options_(options),
        name_(jet::concat(options.mix ? "mix" : "scan", " of ", C.heads, " heads of ", C.head_k, " x ", C.head_v,
                          ", state ", jet::name_of(P.state), ", ", name_of(options.values),
                          options.host ? "" : ", lengths on the device alone")),
        state_(backend_, normal(options.slots, state_size, 77, 0.3), P.state) {}

  Backend& backend() { return backend_; }
  void set_states(Matrix const& x) { state_.set(x); }
  Matrix states() const { return state_.values(); }

  // Runs one call and checks it. Returns the output's bits.
  Matrix call(std::vector<Part> const& parts, std::uint64_t seed) {
    jet::Batch batch;
    for (Part const& p : parts) {
      batch.add(p.slot, p.tokens, 0);
    }
    i64 const tokens = batch.tokens();
    Inputs in = inputs(tokens, seed);
    Matrix const before = state_.values();
    DType const f32 = DType::f32;
    Activation<Backend> q(backend_, in.q, f32), k(backend_, in.k, f32), v(backend_, in.v, f32),
        z(backend_, in.z, f32);
    Activation<Backend> g(backend_, in.g, f32), beta(backend_, in.beta, f32);
    Activation<Backend> a_log(backend_, in.a_log, f32), dt_bias(backend_, in.dt_bias, f32), w(backend_, in.w, f32);
    Activation<Backend> out(backend_, tokens, C.heads * C.head_v, options_.mix ? P.act : f32);
    Slot const state = options_.state ? state_.slot({options_.slots, C.heads, C.head_k, C.head_v}) : Slot{};
    auto const body = [&](auto& ctx) {
      if constexpr (C.decay == Decay::head && C.update == Update::delta) {
        if (options_.mix) {
          ctx.run(jet::op::DeltaMix<C>{1e-5, options_.silu}, q.view(), k.view(), v.view(), g.view(), beta.view(),
                  a_log.slot({C.heads}), dt_bias.slot({C.heads}), state, z.view(), w.slot({C.head_v}), out.view());
          return;
        }
      }
      ctx.run(jet::op::GatedScan<C>{}, q.view(), k.view(), v.view(),
              C.decay == Decay::none ? jet::View{} : g.view(), options_.beta ? beta.view() : jet::View{}, state,
              out.view());
    };
    if (options_.host) {
      jet::testing::run_planned(backend_, batch, body);
    } else {
      without_host(batch, body);
    }
    Matrix const got = out.values();
    Matrix const after = state_.values();
    check(parts, batch, in, before, got, after);
    return got;
  }

 private:
  struct Inputs {
    Matrix q, k, v, z, g, beta, a_log, dt_bias, w;
  };

  Inputs inputs(i64 tokens, std::uint64_t seed) const {
    Values const kind = options_.values;
    Inputs in;
    in.q = normal(tokens, C.heads * C.head_k, seed * 16 + 1);
    in.k = normal(tokens, C.heads * C.head_k, seed * 16 + 2);
    in.v = normal(tokens, C.heads * C.head_v, seed * 16 + 3);
    in.z = normal(tokens, C.heads * C.head_v, seed * 16 + 4);
    in.g = normal(tokens, std::max<i64>(1, C.decay_width()), seed * 16 + 5);
    in.beta = normal(tokens, C.heads, seed * 16 + 6);
    in.a_log = normal(1, C.heads, seed * 16 + 7);
    in.dt_bias = normal(1, C.heads, seed * 16 + 8);
    in.w = normal(1, C.head_v, seed * 16 + 9);
    for (i64 t = 0; t < tokens; ++t) {
      for (i64 i = 0; i < in.k.cols; ++i) {
        if (kind == Values::equal_keys) {
          in.k.at(t, i) = in.k.at(0, i) + 1e-3 * in.k.at(t, i);
        }
        if (kind == Values::zeros && (t % 3 == 1 || t % 7 == 5)) {
          (t % 2 == 0 ? in.k : in.q).at(t, i) = 0;
        }
      }
      for (i64 i = 0; i < in.v.cols; ++i) {
        in.v.at(t, i) *= kind == Values::huge ? (t % 50 == 17 ? 6e4 : 1.0) : kind == Values::tiny ? 1e-7 : 1.0;
        in.v.at(t, i) = kind == Values::zeros && t % 5 == 2 ? 0 : in.v.at(t, i);
      }
      for (i64 i = 0; i < in.g.cols; ++i) {  // as log decays
        double& x = in.g.at(t, i);
        double const size = std::abs(x);
        x = kind == Values::weak_decay     ? -1e-3 * size
            : kind == Values::no_decay     ? 0
            : kind == Values::equal_keys   ? 0
            : kind == Values::strong_decay ? (t % 4 == 0 ? -100 : -0.05 * size)
                                           : -0.3 * size;
      }
      for (i64 i = 0; i < in.beta.cols; ++i) {
        double const x = in.beta.at(t, i);
        in.beta.at(t, i) = kind == Values::beta_zero    ? 0
                           : kind == Values::beta_one   ? 1
                           : kind == Values::equal_keys ? 1
                                                        : jet::reference::sigmoid(x);
      }
    }
    if (options_.mix) {  // logits that give such gates
      for (double& x : in.g.data) {
        x = x == 0 ? -200 : x == -100 ? 100 : x * 4 - 1;
      }
      for (double& x : in.beta.data) {
        x = x == 0 ? -200 : x == 1 ? 200 : 3 * x - 1;
      }
    } else if (options_.unit) {
      in.q = jet::reference::l2_norm(in.q, 1e-6, C.heads);
      in.k = jet::reference::l2_norm(in.k, 1e-6, C.heads);
    } else {
      for (i64 t = 0; t < tokens; ++t) {
        for (i64 i = 0; i < in.k.cols; ++i) {
          in.q.at(t, i) *= std::exp2(static_cast<double>(t % 5 * 6 - 12));
          in.k.at(t, i) *= std::exp2(static_cast<double>(t % 7 * 3 - 9));
        }
      }
    }
    for (Matrix* const m : {&in.q, &in.k, &in.v, &in.g, &in.beta, &in.a_log, &in.dt_bias}) {
      *m = as_floats(std::move(*m));
    }
    return in;
  }

  // As a recorded step sees it: no batch on the host.
  template <class F> void without_host(jet::Batch const& batch, F const& body) {
    jet::ScratchStack counting = jet::ScratchStack::counting();
    auto const ends = there(batch.cu_seqlens), positions = there(batch.position);
    auto const slots = there(batch.slot);
    jet::BatchView view = batch.view();
    view.cu_seqlens = reinterpret_cast<std::int64_t const*>(ends.data());
    view.position = reinterpret_cast<std::int64_t const*>(positions.data());
    view.slot = reinterpret_cast<std::int32_t const*>(slots.data());
    jet::Context<Backend> planning(backend_, view, counting);
    body(planning);
    jet::DeviceBuffer scratch(counting.peak());
    scratch.poison();
    jet::ScratchStack stack(scratch.data(), scratch.bytes());
    jet::Context<Backend> ctx(backend_, view, stack);
    body(ctx);
    backend_.sync();
  }
  template <class T> jet::DeviceBuffer there(std::vector<T> const& from) {
    jet::DeviceBuffer to = backend_.allocate(static_cast<i64>(from.size() * sizeof(T)));
    backend_.copy_from_host(to.data(), from.data(), to.bytes());
    return to;
  }

  void check(std::vector<Part> const& parts, jet::Batch const& batch, Inputs const& in, Matrix const& before,
             Matrix const& got, Matrix const& after) {
    using namespace jet::reference;
    std::vector<bool> named(static_cast<std::size_t>(options_.slots));
    for (std::size_t s = 0; s < parts.size(); ++s) {
      Part const& p = parts[s];
      i64 const begin = batch.cu_seqlens[s];
      auto const mine = [&](Matrix const& m) { return rows_of(m, begin, p.tokens); };
      std::string const what = jet::concat(name_, ": slot ", p.slot, ", ", p.tokens, " tokens");
      if (p.slot < 0) {
        if (!options_.mix) {
          bool kept = true;
          for (double const x : mine(got).data) {
            kept = kept && std::isnan(x);
          }
          expect(kept, what + ": wrote the output of an inactive sequence");
        }
        continue;
      }
      if (p.tokens == 0) {
        continue;
      }
      named[static_cast<std::size_t>(p.slot)] = options_.state;
      ScanState state;
      for (i64 h = 0; h < C.heads; ++h) {
        Matrix m(C.head_k, C.head_v);
        for (i64 i = 0; i < m.rows * m.cols; ++i) {
          m.data[static_cast<std::size_t>(i)] =
              options_.state ? before.at(p.slot, h * C.head_k * C.head_v + i) : 0.0;
        }
        state.push_back(m);
      }
      ScanConfig const config{
          .heads = C.heads,
          .decay = C.decay == Decay::none   ? jet::reference::Decay::none
                   : C.decay == Decay::head ? jet::reference::Decay::per_head
                                            : jet::reference::Decay::per_channel,
          .update = C.update == Update::delta ? jet::reference::Update::delta : jet::reference::Update::additive,
          .scale = C.scale != 0 ? C.scale : 1 / std::sqrt(static_cast<double>(C.head_k))};
      Matrix want;
      if (options_.mix) {
        auto const row = [](Matrix const& m) { return Vector(m.data.begin(), m.data.end()); };
        auto const prepared = [&](Matrix const& m) {
          return l2_norm(options_.silu ? silu(mine(m)) : mine(m), 1e-6, C.heads);
        };
        Matrix const o =
            scan(config, prepared(in.q), prepared(in.k), mine(in.v),
                 softplus_decay(mine(in.g), row(in.a_log), row(in.dt_bias)), sigmoid(mine(in.beta)), state);
        want = gated_rms_norm(GateOrder::norm_first, o, mine(in.z), row(in.w), 1e-5, C.heads);
      } else {
        want = scan(config, mine(in.q), mine(in.k), mine(in.v), C.decay == Decay::none ? Matrix{} : mine(in.g),
                    options_.beta ? mine(in.beta) : Matrix{}, state);
      }
      bool const few = p.tokens <= 16;
      record(relative_rms(mine(got), want), few ? options_.few_bound : options_.bound,
             few ? worst_few : worst_chunk, few ? largest_few : largest_chunk, what + ": output");
      if (options_.state) {
        Vector all;
        for (Matrix const& m : state) {
          all.insert(all.end(), m.data.begin(), m.data.end());
        }
        record(relative_rms(rows_of(after, p.slot, 1).data, all), options_.state_bound, worst_state, largest_state,
               what + ": state");
      }
    }
    for (i64 slot = 0; slot < options_.slots; ++slot) {
      bool const same = std::memcmp(before.data.data() + slot * state_size, after.data.data() + slot * state_size,
                                    static_cast<std::size_t>(state_size) * sizeof(double)) == 0;
      expect(named[static_cast<std::size_t>(slot)] || same, jet::concat(name_, ": slot ", slot, " was changed"));
    }
  }
  static void record(double error, double bound, double& worst, double& largest, std::string const& what) {
    worst = std::max(worst, error / bound);
    largest = std::max(largest, error);
    expect(error <= bound,
           jet::concat(what, ": relative error ", error * 1e6, "e-6, allowed ", bound * 1e6, "e-6"));
  }

  Options options_;
  std::string name_;
  Backend backend_;
  Activation<Backend> state_;
};

// Ragged calls with empty, single-token and inactive sequences; then parts on what they left; then decode steps.
template <ScanShape C, jet::Precision P> void ragged(Options const& options, i64 longest = 129) {
  Harness<C, P> h(options);
  h.call({{0, 0}, {1, 1}, {-1, 5}, {2, 2}, {3, 3}, {4, 63}, {-1, 1}, {5, 64}, {6, 65}, {7, longest}}, 1);
  h.call({{7, 1}, {0, 17}, {1, 2}, {4, 16}, {-1, 40}, {2, 66}, {5, 31}, {6, 0}, {3, 1}}, 2);
  for (std::uint64_t i = 0; i < 2; ++i) {
    h.call({{3, 1}, {-1, 1}, {0, 1}, {7, 1}, {6, 1}, {5, 1}, {4, 1}, {2, 1}, {1, 1}}, 3 + i);
  }
  h.call({{5, 1}}, 6);
}

// Decode steps alone.
template <ScanShape C, jet::Precision P> void steps(Options options) {
  for (bool const host : {true, false}) {
    options.host = host;
    Harness<C, P> h(options);
    for (std::uint64_t i = 0; i < 2; ++i) {
      h.call({{3, 1}, {-1, 1}, {0, 1}}, 3 + i);
    }
  }
}

inline bool same_bits(Matrix const& a, Matrix const& b) {
  return a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.size() * sizeof(double)) == 0;
}

// What must agree bit for bit. All tokens of a call have the numbers of their row: sequences that begin at the same
// row of a call with the same seed are equal.
template <ScanShape C, jet::Precision P> void bits(Options const& options) {
  using jet::reference::rows_of;
  Harness<C, P> h(options);
  Matrix start = h.states();
  for (i64 i = 0; i < start.cols; ++i) {
    start.at(1, i) = start.at(0, i);
  }
  std::string const name = jet::concat("bits of ", C.head_k, " x ", C.head_v, options.mix ? " mixed" : "");
  h.set_states(start);
  for (i64 const tokens : {1, 3, 130}) {
    h.set_states(start);
    Matrix const first = h.call({{0, tokens}}, 20);
    Matrix const first_state = rows_of(h.states(), 0, 1);
    h.set_states(start);
    Matrix const second = h.call({{0, tokens}}, 20);
    expect(same_bits(first, second) && same_bits(first_state, rows_of(h.states(), 0, 1)),
           jet::concat(name, ": a second run of ", tokens, " tokens differs"));
    for (i64 const others : {1, 70}) {
      h.set_states(start);
      Matrix const among = h.call({{1, tokens}, {-1, 1}, {2, others}, {3, 1}, {4, others}, {5, 1}, {6, 1}}, 20);
      expect(same_bits(first, rows_of(among, 0, tokens)) && same_bits(first_state, rows_of(h.states(), 1, 1)),
             jet::concat(name, ": ", tokens, " tokens alone differ from the same beside sequences of ", others));
    }
  }
  if (P.state == DType::f32 && C.decay != Decay::channel) {
    h.set_states(start);
    Matrix const whole = h.call({{0, 192}}, 21);
    Matrix const whole_state = rows_of(h.states(), 0, 1);
    h.set_states(start);
    Matrix const part = h.call({{0, 64}}, 21);  // the same numbers row by row
    expect(same_bits(part, rows_of(whole, 0, 64)), name + ": a prefix differs");
  }
}

inline int finish() {
  std::printf(
      "largest relative RMS errors: chunks %.3g (%.2f of its bound), few tokens %.3g (%.2f), states %.3g (%.2f)\n",
      largest_chunk, worst_chunk, largest_few, worst_few, largest_state, worst_state);
  return report();
}

}  // namespace scan_test
