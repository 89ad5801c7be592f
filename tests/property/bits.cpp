// What holds bit for bit: neighbours of a batch, repeats, thread counts, inactive rows, slots that were not
// touched.
#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::reference::rows_of;

// Five sequences, the third of them watched, some with a history.
struct Setup {
  std::vector<i64> history{9, 0, 40, 70, 3};
  std::vector<i64> tokens{1, 33, 20, 65, 5};
  static constexpr std::size_t watched = 2;

  i64 begin(std::size_t i) const {
    return std::accumulate(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(i), i64{0});
  }
  Batch batch() const {
    Batch b;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      b.add(static_cast<std::int32_t>(i), tokens[i], history[i]);
    }
    return b;
  }
  template <class H> void prepare(H& block, std::uint64_t neighbours) const {
    for (std::size_t i = 0; i < history.size(); ++i) {
      block.forward(static_cast<i64>(i), normal(history[i], H::block::width, i == watched ? 1 : neighbours + i));
    }
  }
  // Neighbours from a seed, or NaN.
  Matrix input(i64 width, std::uint64_t neighbours, bool nan = false) const {
    i64 const total = begin(tokens.size());
    Matrix x = nan ? filled(total, width, std::nan("")) : normal(total, width, neighbours);
    Matrix const own = normal(tokens[watched], width, 2);
    std::copy(own.data.begin(), own.data.end(), x.data.begin() + begin(watched) * width);
    return x;
  }
};

template <class M, class B> void neighbours() {
  Setup const setup;
  auto const watched = static_cast<i64>(Setup::watched);
  auto const run = [&](std::uint64_t seed, bool nan) {
    Subject<M, B> block(harness_options(5));
    setup.prepare(block, seed);
    Matrix const y = block.forward(setup.batch(), setup.input(M::width, seed, nan));
    // one more step for all, so that what the call left is used as well
    Batch next;
    for (std::int32_t i = 0; i < 5; ++i) {
      next.add(i, 1, block.length(i));
    }
    Matrix x = nan ? filled(5, M::width, std::nan("")) : normal(5, M::width, seed + 9);
    Matrix const own = normal(1, M::width, 3);
    std::copy(own.data.begin(), own.data.end(), x.data.begin() + watched * M::width);
    Matrix const z = block.forward(next, x);
    return std::tuple{rows_of(y, setup.begin(Setup::watched), setup.tokens[Setup::watched]), rows_of(z, watched, 1),
                      block.state(watched)};
  };
  auto const [y, z, state] = run(100, false);
  CHECK(all_finite(y));
  CHECK(all_finite(z));
  for (bool const nan : {false, true}) {
    CAPTURE(nan);
    auto const [y2, z2, state2] = run(200, nan);
    CHECK(same_bits(y, y2));
    CHECK(same_bits(z, z2));
    CHECK(same_bits(state, state2));
  }
}
TEST_CASE_TEMPLATE("a sequence does not see its neighbours", B, F64, F32, Bf16Weights, Bf16) {
  SUBCASE("full attention") {
    neighbours<Full, B>();
  }
  SUBCASE("sliding window") {
    neighbours<Window, B>();
  }
  SUBCASE("JetBlock") {
    neighbours<Jet, B>();
  }
  SUBCASE("MLP") {
    neighbours<Mlp, B>();
  }
}

// Repeats, and any number of threads.
template <class M, class B> void threads() {
  Setup const setup;
  auto const run = [&](int count, std::string const& isa) {
    HarnessOptions options = harness_options(5, count);
    options.backend.isa = isa;
    Subject<M, B> block(options);
    setup.prepare(block, 50);
    Matrix const y = block.forward(setup.batch(), setup.input(M::width, 60));
    std::vector<std::vector<std::byte>> states;
    for (i64 i = 0; i < 5; ++i) {
      states.push_back(block.raw_state(i));
    }
    return std::pair{y, states};
  };
  for (std::string const& isa : isas<B>()) {
    CAPTURE(isa);
    auto const [y, states] = run(1, isa);
    for (int const count : {1, 2, 2, 3, 7}) {
      CAPTURE(count);
      auto const [y2, states2] = run(count, isa);
      CHECK(same_bits(y, y2));
      CHECK(states == states2);
    }
  }
}
TEST_CASE_TEMPLATE("repeats and thread counts", B, F64, F32, Bf16) {
  SUBCASE("full attention") {
    threads<Full, B>();
  }
  SUBCASE("sliding window") {
    threads<Window, B>();
  }
  SUBCASE("JetBlock") {
    threads<Jet, B>();
  }
  SUBCASE("MLP") {
    threads<Mlp, B>();
  }
}

// Inactive rows: those of slot -1 change nothing for the others and no state at all; nor do calls touch other
// slots.
template <class M, class B> void inactive() {
  Subject<M, B> block(harness_options(4)), alone(harness_options(4));
  for (auto* const b : {&block, &alone}) {
    b->forward(1, normal(30, M::width, 1));
    b->forward(2, normal(7, M::width, 2));
    b->forward(3, normal(80, M::width, 3));
  }
  auto const slot0 = block.raw_state(0), slot1 = block.raw_state(1), slot3 = block.raw_state(3);
  for (i64 const n : {i64{1}, i64{20}, i64{66}}) {
    CAPTURE(n);
    Batch batch, active;
    batch.add(-1, n, 0);
    batch.add(2, n, block.length(2));
    batch.add(-1, 3, 55);
    batch.add(-1, 1, 399);
    Matrix x = filled(2 * n + 4, M::width, std::nan(""));
    Matrix const own = normal(n, M::width, static_cast<std::uint64_t>(n));
    std::copy(own.data.begin(), own.data.end(), x.data.begin() + n * M::width);
    Matrix const y = block.forward(batch, x);
    CHECK(all_finite(rows_of(y, n, n)));
    CHECK(same_bits(rows_of(y, n, n), alone.forward(2, own)));
    CHECK(block.raw_state(2) == alone.raw_state(2));
    CHECK(block.raw_state(0) == slot0);
    CHECK(block.raw_state(1) == slot1);
    CHECK(block.raw_state(3) == slot3);
  }
}
TEST_CASE_TEMPLATE("inactive rows and other slots", B, F64, F32, Bf16) {
  SUBCASE("full attention") {
    inactive<Full, B>();
  }
  SUBCASE("sliding window") {
    inactive<Window, B>();
  }
  SUBCASE("JetBlock") {
    inactive<Jet, B>();
  }
  SUBCASE("MLP") {
    inactive<Mlp, B>();
  }
}

}  // namespace
