// Gradients beside differences: a function of many tensors in double, its gradient by the library, and central
// differences of fourth order along random directions and single elements.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <jet/core/saved.hpp>

#include "test_support.hpp"

namespace tests {

// ---- differences

// What an error may be; see compare_differences for what it is relative to.
inline constexpr double difference_bound = 1e-8;

struct Worst {
  double error = 0;
  std::string where;
  void see(double e, std::string const& at) {
    if (!(e <= error)) {
      error = e;
      where = at;
    }
  }
};

inline double dot(Vector const& a, Vector const& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

// Moves `value` along directions and compares the change of loss() with <gradient, direction>. The error of an
// element is relative to the gradient's root mean square, that of a direction to the gradient's norm. `usable`
// masks elements (empty: all).
inline void compare_differences(std::string const& name, Vector& value, Vector const& gradient,
                                std::function<double()> const& loss, Worst& worst,
                                std::vector<bool> const& usable = {}, int directions = 2, int elements = 4) {
  REQUIRE(value.size() == gradient.size());
  if (value.empty()) {
    return;
  }
  std::size_t const n = value.size();
  Vector const saved = value;
  jet::Random const random{n + 17, 5};
  std::uint64_t at = 0;
  auto const allowed = [&](std::size_t i) { return usable.empty() || usable[i]; };
  double norm = 0;
  for (std::size_t i = 0; i < n; ++i) {
    norm += allowed(i) ? gradient[i] * gradient[i] : 0;
  }
  norm = std::sqrt(norm);
  auto const derivative = [&](Vector const& d, double h) {
    auto const at_step = [&](double step) {
      for (std::size_t i = 0; i < n; ++i) {
        value[i] = saved[i] + step * d[i];
      }
      return loss();
    };
    double const result = (8 * (at_step(h) - at_step(-h)) - (at_step(2 * h) - at_step(-2 * h))) / (12 * h);
    value = saved;
    return result;
  };
  for (int round = 0; round < directions + elements; ++round) {
    Vector d(n, 0);
    if (round < directions) {
      double length = 0;
      for (std::size_t i = 0; i < n; ++i) {
        d[i] = allowed(i) ? static_cast<double>(random.normal(at++)) : 0;
        length += d[i] * d[i];
      }
      length = std::sqrt(std::max(length, 1e-300));
      for (double& v : d) {
        v /= length;
      }
    } else {
      std::size_t const i = random.uniform_below(at++, static_cast<std::uint32_t>(n));
      if (!allowed(i)) {
        continue;
      }
      d[i] = 1;
    }
    double const scale = std::max(norm / std::sqrt(static_cast<double>(n)), 1e-3);
    // where the function bends too much for a step, a smaller one: a wrong gradient is wrong for all of them
    double error = std::numeric_limits<double>::infinity();
    for (double const h : {3e-4, 3e-5, 1e-5, 3e-6}) {
      error = std::min(error, std::abs(derivative(d, h) - dot(gradient, d)) / scale);
      if (error <= difference_bound) {
        break;
      }
    }
    worst.see(error, name);
  }
}

// ---- blocks

// A block on one batch with everything that its loss depends on as doubles: parameters, input, the state before the
// call. loss = <y, cy> + <state after, cs>, so that cs is the gradient of the state at the end.
template <class M, class B> class GradientHarness {
 public:
  using Params = typename M::template Params<Slot>;
  using State = typename M::template State<Slot>;
  using Saved = typename M::template Saved<Slot>;
  static constexpr jet::Precision p = B::precision;

  // Sequence i has lengths[i] tokens and sits in slot 2 i + 1, so that every second slot is used by nobody. Caches
  // have room for the longest sequence, and for max_len.
  GradientHarness(std::vector<i64> const& lengths, bool with_state, i64 position = 0, std::uint64_t seed = 1,
                  i64 max_len = 1, int threads = 2)
      : backend_(jet::BackendOptions{.threads = threads}),
        with_state_(with_state),
        position_(position),
        slots_(2 * std::ssize(lengths) + 1),
        max_len_(std::max<i64>(max_len, 1)) {
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      batch_.add(static_cast<std::int32_t>(2 * i + 1), lengths[i], position);
      max_len_ = std::max(max_len_, position + lengths[i]);
    }
    std::uint64_t stream = seed;
    for (auto const& row : jet::param_specs<M>()) {
      double const fan_in = static_cast<double>(row.present() ? row.shape.numel() / row.shape[0] : 1);
      params.push_back(
          row.present() ? normal(1, row.shape.numel(), ++stream, row.shape.rank == 1 ? 0.5 : 1 / std::sqrt(fan_in))
                        : Matrix(0, 0));
      if (row.init.kind == jet::Init::Kind::ones) {
        for (double& v : params.back().data) {
          v += 1;
        }
      }
      params.back() = row.present() ? rounded(params.back(), jet::param_dtype(p, row)) : params.back();
    }
    x = rounded(normal(batch_.tokens(), M::width, ++stream), p.act);
    cy = normal(batch_.tokens(), M::width, ++stream);
    for (auto const& row : jet::state_specs<M>()) {
      i64 const n = slots_ * row.numel(max_len_);
      state.push_back(rounded(normal(1, n, ++stream, 0.3), jet::state_dtype(p, row.role)));
      Matrix c = normal(1, n, ++stream);
      std::vector<bool> before(static_cast<std::size_t>(n)), after(static_cast<std::size_t>(n));
      for (i64 i = 0; i < n; ++i) {
        i64 const slot = i / row.numel(max_len_);
        i64 const at = i % row.numel(max_len_) / row.shape.numel();  // of a row kept per token
        i64 const seq = (slot - 1) / 2;
        bool const mine = slot % 2 == 1;
        auto const s = static_cast<std::size_t>(i);
        before[s] = mine && (!row.per_token || at < position);
        after[s] = mine && (!row.per_token || at < position + lengths[static_cast<std::size_t>(seq)]);
        c.data[s] = after[s] ? c.data[s] : 0;
      }
      cs.push_back(c);
      usable_before_.push_back(before);
    }
  }

  Matrix x, cy;
  std::vector<Matrix> params, state, cs;
  Batch const& batch() const { return batch_; }
  std::vector<std::vector<bool>> const& usable_state() const { return usable_before_; }

  struct Forward {
    Matrix y;
    std::vector<Matrix> state;
  };
  struct Gradients {
    Matrix y, dx;
    std::vector<Matrix> params, state;
  };
  struct Ask {
    std::set<std::size_t> frozen{};  // rows of params
    bool dx = true;
    bool ds_begin = true;
    bool ds_end = true;
    double start = 0;  // what gradients of parameters hold before
  };

  Forward forward() {
    Memory m(*this);
    jet::testing::Activation<B> const in(backend_, x, p.act), out(backend_, x.rows, x.cols, p.act);
    run_planned(backend_, batch_, [&](jet::Context<B>& ctx) {
      shared(ctx);
      State s = m.state;
      M::forward(ctx, m.params, s, in.view(), out.view());
    });
    return {out.values(), m.state_values()};
  }
  double loss() {
    Forward const f = forward();
    double sum = dot(f.y.data, cy.data);
    for (std::size_t i = 0; with_state_ && i < cs.size(); ++i) {
      sum += dot(f.state[i].data, cs[i].data);
    }
    return sum;
  }

  Gradients gradients() { return gradients(Ask{}); }
  Gradients gradients(Ask const& ask) {
    Memory after(*this), before(*this);
    jet::testing::Activation<B> const in(backend_, x, p.act), out(backend_, x.rows, x.cols, p.act);
    jet::SavedRows const rows = jet::SavedRows::of(batch_.view());
    auto const kept = backend_.allocate(jet::saved_bytes<M>(p, rows));
    jet::testing::poison(backend_, kept.data(), kept.bytes());
    Saved saved = jet::bind_saved<M>(p, rows, kept.data());
    run_planned(backend_, batch_, [&](jet::Context<B>& ctx) {
      shared(ctx);
      State s = after.state;
      M::forward(ctx, after.params, s, in.view(), out.view(), &saved);
    });
    jet::testing::Activation<B> const dy(backend_, cy, p.acc), dx(backend_, x.rows, x.cols, p.acc);
    std::vector<jet::testing::Activation<B>> dparams, ends, begins;
    std::array<Slot, jet::param_arity<M>> dw{};
    std::array<Slot, jet::state_arity<M>> end{}, begin{};
    constexpr auto specs = jet::param_specs<M>();
    for (std::size_t i = 0; i < specs.size(); ++i) {
      dparams.emplace_back(backend_, filled(1, std::ssize(params[i].data), ask.start), p.acc);
      if (specs[i].present() && ask.frozen.count(i) == 0) {
        dw[i] = dparams.back().slot(specs[i].shape);
      }
    }
    for (std::size_t i = 0; i < end.size(); ++i) {
      ends.emplace_back(backend_, cs[i], p.acc);
      begins.emplace_back(backend_, 1, cs[i].cols, p.acc);
      if (with_state_) {
        end[i] = ask.ds_end ? ends.back().slot(state_shape(i)) : Slot{};
        begin[i] = ask.ds_begin ? begins.back().slot(state_shape(i)) : Slot{};
      }
    }
    run_planned(backend_, batch_, [&](jet::Context<B>& ctx) {
      shared(ctx);
      M::backward(ctx, before.params, before.state, in.view(), saved, dy.view(), ask.dx ? dx.view() : View{},
                  jet::as_params<M>(dw), jet::as_state<M>(end), jet::as_state<M>(begin));
    });
    Gradients g{out.values(), dx.values(), {}, {}};
    for (auto const& d : dparams) {
      g.params.push_back(d.values());
    }
    for (auto const& d : begins) {
      g.state.push_back(d.values());
    }
    return g;
  }

  // Compares gradients() with differences of every parameter, the input and the state before the call.
  Worst compare() {
    Gradients const g = gradients();
    Worst worst;
    auto const loss_now = [&] { return loss(); };
    compare_differences("x", x.data, g.dx.data, loss_now, worst);
    constexpr auto specs = jet::param_specs<M>();
    for (std::size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].present()) {
        compare_differences(std::string(specs[i].name.view()), params[i].data, g.params[i].data, loss_now, worst);
      }
    }
    constexpr auto rows = jet::state_specs<M>();
    for (std::size_t i = 0; with_state_ && i < rows.size(); ++i) {
      if (std::count(usable_before_[i].begin(), usable_before_[i].end(), true) > 0) {
        Vector masked = g.state[i].data;
        for (std::size_t j = 0; j < masked.size(); ++j) {
          masked[j] = usable_before_[i][j] ? masked[j] : 0;
        }
        compare_differences("state " + std::string(rows[i].name.view()), state[i].data, masked, loss_now, worst,
                            usable_before_[i]);
      }
    }
    return worst;
  }

 private:
  Shape state_shape(std::size_t i) const {
    constexpr auto rows = jet::state_specs<M>();
    auto const& row = rows[i];
    Shape shape;
    int at = 0;
    shape.extent[at++] = slots_;
    if (row.per_token) {
      shape.extent[at++] = row.capacity(max_len_);
    }
    for (int axis = 0; axis < row.shape.rank; ++axis) {
      shape.extent[at++] = row.shape[axis];
    }
    shape.rank = at;
    return shape;
  }

  // Parameters and state in the backend's memory.
  struct Memory {
    explicit Memory(GradientHarness& h) {
      constexpr auto specs = jet::param_specs<M>();
      std::array<Slot, jet::param_arity<M>> w{};
      for (std::size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].present()) {
          held.emplace_back(h.backend_, h.params[i], jet::param_dtype(p, specs[i]));
          w[i] = held.back().slot(specs[i].shape);
        }
      }
      params = jet::as_params<M>(w);
      constexpr auto rows = jet::state_specs<M>();
      std::array<Slot, jet::state_arity<M>> s{};
      for (std::size_t i = 0; i < rows.size(); ++i) {
        states.emplace_back(h.backend_, h.state[i], jet::state_dtype(p, rows[i].role));
        s[i] = h.with_state_ ? states.back().slot(h.state_shape(i)) : Slot{};
      }
      state = jet::as_state<M>(s);
    }
    std::vector<Matrix> state_values() const {
      std::vector<Matrix> v;
      for (auto const& s : states) {
        v.push_back(s.values());
      }
      return v;
    }
    std::vector<jet::testing::Activation<B>> held, states;
    Params params;
    State state;
  };

  static void shared(jet::Context<B>& ctx) {
    if constexpr (jet::HasShared<M>) {
      for (auto const& spec : jet::detail::to_array<jet::SharedSpec>(M::shared())) {
        ctx.declare_shared(spec);
      }
    }
  }

  B backend_;
  Batch batch_;
  bool with_state_;
  i64 position_;
  i64 slots_;
  i64 max_len_;
  std::vector<std::vector<bool>> usable_before_;
};

// The lengths that gradients are tried on.
inline std::vector<std::vector<i64>> const& gradient_lengths() {
  static std::vector<std::vector<i64>> const lengths{{1}, {3}, {63}, {65}, {130}, {65, 0, 3, 17, 1}};
  return lengths;
}

}  // namespace tests
