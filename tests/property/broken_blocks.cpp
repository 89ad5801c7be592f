// Conformance must be able to fail: a block broken in one way per property is caught by that property.
#include <array>
#include <string>
#include <vector>

#include <jet/op/linear.hpp>
#include <jet/testing/conformance.hpp>

#include "count_allocations.hpp"
#include "test_support.hpp"

namespace {

using namespace jet;

// What is wrong with the block: the name of a property, or nothing.
std::string broken;

inline constexpr i64 d = 12;

// h <- 0.9 h + u ; y = h + (u of the token before) + b, with h recurrent and u kept per token.
struct Lag {
  static constexpr std::string_view name = "lag";
};

struct LagBlock {
  static constexpr std::string_view kind = "lag";
  static constexpr i64 width = d;
  template <class T> struct Params { T weight, bias; };
  static constexpr Params<ParamSpec> params() {
    return {.weight = {"weight", {d, d}}, .bias = {"bias", {d}, Init::zeros(), false}};
  }
  template <class T> struct State { T h, seen; };
  static constexpr State<StateSpec> state() {
    return {.h = {"h", {d}}, .seen = {"seen", {1, d}, true, 0, Role::kv}};
  }
  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    View const u = ctx.accumulator(x.tokens(), d);
    View const h = ctx.accumulator(1, d);
    ctx.run(op::Linear{}, w.weight, x, u);
    ctx.run(Lag{}, w.bias, s.h, s.seen, x, u, h, y);
  }
};

}  // namespace

template <> struct jet::Kernel<Lag, jet::tag::cpu> {
  template <class B>
  static void run(Context<B>& ctx, Lag const&, Slot const& bias, Slot const& h_state, Slot const& seen,
                  View const& x, View const& u, View const& own, View const& y) {
    static double calls = 0;
    static std::array<double, 8> tokens_of_slot{};
    calls += 1;
    if (broken == "allocation") {
      std::vector<double> const copy(static_cast<std::size_t>(d), calls);
      calls = copy[0];
    }
    if (broken == "input" && x.tokens() > 0) {
      x.row<double>(0)[0] += 1;
    }
    for (i64 i = 0; i < ctx.seqs(); ++i) {
      Sequence const seq = ctx.sequence(i);
      i64 const slot = broken == "slots" && seq.slot < 0 ? 0 : seq.slot;
      if (slot < 0) {
        continue;
      }
      double* const h = h_state ? h_state.row<double>(slot) : own.row<double>(0);
      if (!h_state) {
        std::fill_n(h, d, broken == "null state" ? 1.0 : 0.0);
      }
      if (broken == "empty" && seq.tokens == 0) {
        h[0] *= 0.5;
      }
      for (i64 t = 0; t < seq.tokens; ++t) {
        i64 const position = seq.position + t;
        double const* const now = u.row<double>(seq.begin + t);
        double const* before = t > 0 ? u.row<double>(seq.begin + t - 1) : nullptr;
        if (before == nullptr && position > 0 && seen) {
          before = seen.row<double>(slot) + (position - 1) * seen.stride[1];
        }
        double* const out = y.row<double>(seq.begin + t);
        for (i64 c = 0; c < d; ++c) {
          h[c] = 0.9 * h[c] + now[c];
          double value = h[c] + (before != nullptr ? before[c] : 0);
          value += broken == "names" ? 0 : bias.row<double>(0)[c];
          value += broken == "splits" ? 1e-3 * static_cast<double>(seq.tokens) : 0;
          value += broken == "ragged" ? 1e-3 * static_cast<double>(seq.index) : 0;
          value += broken == "neighbours" ? 0 * u.row<double>(0)[c] : 0;
          value += broken == "repeats" ? 1e-9 * calls : 0;
          value += broken == "moves" ? 1e-3 * tokens_of_slot[static_cast<std::size_t>(slot)] : 0;
          if (!(broken == "poison" && t == 129 && c == d - 1)) {
            out[c] = value;
          }
          if (seen && !(broken == "state bytes" && position == 3)) {
            seen.row<double>(slot)[position * seen.stride[1] + c] = now[c];
          }
        }
        tokens_of_slot[static_cast<std::size_t>(slot)] += 1;
      }
    }
  }
};

namespace {

testing::Conformance check(std::string const& what, std::string const& only) {
  broken = what;
  testing::ConformanceOptions options;
  options.only = only;
  options.allocations = [] { return tests::allocations.load(); };
  auto const report = testing::conformance<LagBlock, tests::F64>(options);
  broken.clear();
  return report;
}

TEST_CASE("a sound block passes") {
  auto const report = check("", "");
  CHECK(report.findings.size() == 12);
  for (auto const& finding : report.findings) {
    CAPTURE(finding.property);
    CHECK(finding.failure == "");
  }
}
TEST_CASE("a block broken in one way is caught by the right check") {
  for (std::string const property : {"names", "state bytes", "poison", "splits", "ragged", "empty", "neighbours",
                                     "repeats", "slots", "null state", "moves", "allocation"}) {
    CAPTURE(property);
    auto const report = check(property, property);
    REQUIRE(report.findings.size() == 1);
    CHECK(report.findings[0].failure != "");
    CHECK_FALSE(report.passed());
    CHECK(report.text().find(property + ": jet: ") == 0);
  }
  CHECK_FALSE(check("input", "poison").passed());
}
TEST_CASE("a property that cannot run is named as not run") {
  auto const report = testing::conformance<LagBlock, tests::F64>({.only = "allocation"});
  CHECK(report.passed());
  CHECK(report.text() == "allocation: not run\n");
}

}  // namespace
