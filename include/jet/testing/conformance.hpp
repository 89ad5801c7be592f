/// \file
/// What every block promises, checked on any type that satisfies the block concept: the library's own blocks and
/// yours.
///
///   testing::Conformance const report = testing::conformance<MyBlock, Cpu<precision::f64>>();
///   if (!report.passed()) { std::cerr << report.text(); }
///
/// - names: parameters and state have names that a checkpoint can hold, and every parameter has an effect
/// - state bytes: what the declaration says a state takes is what a pool allocates, and is within the bytes saved
/// - poison: with scratch, output and unwritten cache full of NaN, the output is finite and the input is kept
/// - splits: a sequence cut anywhere gives the same output and state; prefill then decode too
/// - ragged: a batch of sequences of any lengths equals separate calls
/// - empty: calls without sequences and sequences without tokens change nothing
/// - neighbours: bit for bit, a sequence does not depend on what else is in the batch, NaN included
/// - repeats: bit for bit, the same call gives the same result
/// - slots: bit for bit, inactive rows and other slots are neither read nor written
/// - null state: a null state is a zero state that is not kept
/// - moves: save, load, fork and reset: a sequence goes on bit for bit
/// - allocation: a decode step allocates nothing (where the program counts allocations)
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <jet/concepts.hpp>
#include <jet/core/error.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/compare.hpp>

JET_NAMESPACE_BEGIN
namespace testing {

struct ConformanceOptions {
  /// Largest relative RMS between two ways of cutting a sequence. 0: 1e-12 where sums are in double, 5e-3 with bf16
  /// activations, else 1e-5.
  double tolerance = 0;
  /// Lengths of pieces tried beside the usual ones: a window's size and its neighbours.
  std::vector<i64> pieces{};
  /// The number of heap allocations of the program so far; empty: the property is named as not run.
  std::function<long()> allocations{};
  BackendOptions backend{.threads = 2};
  /// Numbers of CPU threads that must give the same bits.
  std::vector<int> threads{};
  /// Runs this property alone; empty: all.
  std::string only{};
  std::uint64_t seed = 77;
};

/// The outcome of one property.
struct Finding {
  std::string property;
  bool run = true;
  std::string failure{};  // empty: holds
};

struct Conformance {
  std::vector<Finding> findings;

  bool passed() const {
    return std::all_of(findings.begin(), findings.end(), [](Finding const& f) { return f.failure.empty(); });
  }
  /// One line per property.
  std::string text() const {
    std::string lines;
    for (Finding const& f : findings) {
      lines += concat(f.property, ": ", !f.run ? "not run" : f.failure.empty() ? "holds" : f.failure, "\n");
    }
    return lines;
  }
};

/// Pieces of n, the last one shorter.
inline std::vector<i64> pieces_of(i64 n, i64 total) {
  std::vector<i64> pieces(static_cast<std::size_t>(total / n), n);
  if (total % n != 0) {
    pieces.push_back(total % n);
  }
  return pieces;
}
/// Random pieces, empty ones among them.
inline std::vector<i64> random_pieces(std::uint64_t seed, i64 total) {
  Random const random{seed, 3};
  std::vector<i64> pieces;
  i64 at = 0;
  for (std::uint64_t i = 0; at < total; ++i) {
    auto const limit = static_cast<std::uint64_t>(std::array{4, 20, 90}[random.uniform_below(2 * i, 3)]);
    i64 const n = std::min(total - at, static_cast<i64>(random.uniform_below(2 * i + 1, limit)));
    pieces.push_back(n);
    at += n;
  }
  return pieces;
}
/// Runs x in slot 0 from nothing, cut into the given pieces.
template <class H>
reference::Matrix in_pieces(H& block, reference::Matrix const& x, std::vector<i64> const& pieces) {
  block.reset(0);
  reference::Matrix y(0, x.cols);
  i64 at = 0;
  for (i64 const n : pieces) {
    y = reference::concatenate(y, block.forward(0, reference::rows_of(x, at, n)));
    at += n;
  }
  JET_CHECK(at == x.rows, "pieces of ", at, " tokens were given for ", x.rows);
  return y;
}

namespace detail {

/// The properties of block M on backend B. Each throws jet::Error where it does not hold.
template <Mixer M, Backend B> class Properties {
  using Matrix = reference::Matrix;
  using Block = BlockHarness<M, B>;
  static constexpr i64 max_len = 400;

 public:
  explicit Properties(ConformanceOptions const& options) : o_(options) {
    if (o_.tolerance <= 0) {
      o_.tolerance = B::precision.acc == DType::f64 ? 1e-12 : B::precision.act == DType::bf16 ? 5e-3 : 1e-5;
    }
  }

  void names() {
    std::set<std::string_view> seen;
    auto const check = [&](std::string_view what, std::string_view name) {
      bool good = !name.empty();
      for (char const c : name) {
        good = good && c > ' ' && c < 0x7f && c != '/' && c != '"' && c != '\\';
      }
      JET_CHECK(good, what, " '", name, "' has no name that a checkpoint can hold");
      JET_CHECK(seen.insert(name).second, "two rows are called '", name, "'");
    };
    for (auto const& row : param_specs<M>()) {
      if (row.present()) {
        check("a parameter", row.name.view());
      }
    }
    seen.clear();
    for (auto const& row : state_specs<M>()) {
      if (row.present()) {
        check("a state row", row.name.view());
      }
    }
    // NaN in a parameter must reach the output: one that is declared but not used would be loaded in vain.
    for (auto const& row : param_specs<M>()) {
      if (row.present()) {
        auto block = make(1);
        block->set_param(row.name.view(),
                         reference::Vector(static_cast<std::size_t>(row.shape.numel()), std::nan("")));
        JET_CHECK(!all_finite(block->forward(0, normal(70, M::width, 1))), "parameter '", row.name.view(),
                  "' has no effect on the output");
      }
    }
  }

  void state_bytes() {
    auto block = make(3);
    block->forward(1, normal(9, M::width, 1));
    i64 const declared = jet::state_bytes<M>(B::precision, 3, max_len);
    i64 const held = block->pool().bytes();
    i64 const padding = 3 * static_cast<i64>(state_specs<M>().size()) * alignment;
    JET_CHECK(held >= declared && held <= declared + padding, "three slots of ", max_len, " tokens hold ", held,
              " bytes, the declaration gives ", declared);
    auto const rows = block->state(1);
    std::size_t at = 0;
    for (auto const& row : state_specs<M>()) {
      if (!row.present()) {
        continue;
      }
      JET_CHECK(at < rows.size(), "state row '", row.name.view(), "' is not saved");
      JET_CHECK(all_finite(rows[at].values), "after 9 tokens the saved state row '", row.name.view(),
                "' holds numbers that were never written");
      ++at;
    }
  }

  void poison() {
    for (i64 const n : {i64{1}, i64{2}, i64{5}, i64{64}, i64{130}}) {
      auto block = make(1);
      Matrix const x = normal(n, M::width, static_cast<std::uint64_t>(n));
      JET_CHECK(all_finite(block->forward(0, x)), "of ", n,
                " tokens some output was not written, or depends on memory that nothing was written to");
      JET_CHECK(all_finite(block->forward(0, normal(1, M::width, 3))), "a token after ", n,
                " depends on memory that nothing was written to");
      // the input belongs to the caller
      Activation<B> const in(block->backend(), x, B::precision.act);
      Activation<B> const out(block->backend(), n, M::width, B::precision.act);
      Matrix const before = in.values();
      Batch batch;
      batch.add(0, n, block->length(0));
      run_planned(block->backend(), batch, [&](Context<B>& ctx) { block->forward(ctx, in.view(), out.view()); });
      JET_CHECK(same_bits(in.values(), before), "a call of ", n, " tokens changed its input");
    }
  }

  void splits() {
    constexpr i64 total = 200;
    auto block = make(1);
    Matrix const x = normal(total, M::width, 5);
    Matrix const whole = in_pieces(*block, x, {total});
    auto const state = block->state(0);
    auto const check = [&](std::vector<i64> const& pieces, std::string const& what) {
      double const y = reference::relative_rms(in_pieces(*block, x, pieces), whole);
      JET_CHECK(y <= o_.tolerance, "the output in ", what, " differs from the whole by ", y);
      double const s = state_distance(block->state(0), state);
      JET_CHECK(s <= o_.tolerance, "the state after ", what, " differs from the whole's by ", s);
    };
    std::vector<i64> lengths{1, 2, 3, 15, 16, 17, 63, 64, 65};
    lengths.insert(lengths.end(), o_.pieces.begin(), o_.pieces.end());
    for (i64 const n : lengths) {
      check(pieces_of(n, total), concat("pieces of ", n));
      check({n, total - n}, concat("pieces of ", n, " and ", total - n));
      check({total - n, n}, concat("pieces of ", total - n, " and ", n));
    }
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      check(random_pieces(seed, total), "random pieces");
    }
    std::vector<i64> decode{150};
    decode.insert(decode.end(), 50, 1);
    check(decode, "a prefill of 150 and 50 decode steps");
  }

  /// Sequences of any lengths in one call, continued in another with other neighbours and another order.
  void ragged() {
    std::vector<i64> const first{5, 0, 1, 70, 1, 33, 16}, second{1, 4, 0, 1, 66, 1, 17};
    std::vector<i64> const order{3, 0, 6, 5, 1, 4, 2};
    auto const n = static_cast<i64>(first.size());
    auto together = make(n), alone = make(1);
    std::vector<Matrix> x, y(first.size());
    for (std::size_t s = 0; s < first.size(); ++s) {
      x.push_back(normal(first[s] + second[s], M::width, 40 + s));
      y[s] = Matrix(0, M::width);
    }
    auto const call = [&](std::vector<i64> const& lengths, std::vector<i64> const& sequences) {
      Batch batch;
      Matrix packed(0, M::width);
      for (i64 const i : sequences) {
        auto const s = static_cast<std::size_t>(i);
        batch.add(static_cast<std::int32_t>(n - 1 - i), lengths[s], y[s].rows);
        packed = reference::concatenate(packed, reference::rows_of(x[s], y[s].rows, lengths[s]));
      }
      Matrix const out = together->forward(batch, packed);
      i64 at = 0;
      for (i64 const i : sequences) {
        auto const s = static_cast<std::size_t>(i);
        y[s] = reference::concatenate(y[s], reference::rows_of(out, at, lengths[s]));
        at += lengths[s];
      }
    };
    std::vector<i64> straight(first.size());
    std::iota(straight.begin(), straight.end(), i64{0});
    call(first, straight);
    call(second, order);
    for (i64 i = 0; i < n; ++i) {
      auto const s = static_cast<std::size_t>(i);
      double const distance = reference::relative_rms(y[s], in_pieces(*alone, x[s], {first[s], second[s]}));
      JET_CHECK(distance <= o_.tolerance, "sequence ", i, " of a ragged batch differs from its own call by ",
                distance);
      double const state = state_distance(together->state(n - 1 - i), alone->state(0));
      JET_CHECK(state <= o_.tolerance, "the state of sequence ", i, " of a ragged batch differs by ", state);
    }
  }

  void empty() {
    auto block = make(2);
    block->forward(0, normal(9, M::width, 1));
    auto const before = block->raw_state(0);
    Batch nothing, batch;
    batch.add(0, 0, 9);
    batch.add(1, 0, 0);
    JET_CHECK(block->forward(batch, Matrix(0, M::width)).rows == 0, "an empty sequence has output");
    JET_CHECK(block->forward(nothing, Matrix(0, M::width)).rows == 0, "an empty call has output");
    JET_CHECK(block->raw_state(0) == before, "an empty call changed a state");
  }

  /// Five sequences, the third of them watched, some with a history.
  struct Batched {
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
    /// Rows of the neighbours are normal, or NaN; the watched ones are always the same.
    Matrix input(std::uint64_t neighbours, bool nan = false) const {
      i64 const total = begin(tokens.size());
      Matrix x = nan ? filled(total, M::width, std::nan("")) : normal(total, M::width, neighbours);
      Matrix const own = normal(tokens[watched], M::width, 2);
      std::copy(own.data.begin(), own.data.end(), x.data.begin() + begin(watched) * M::width);
      return x;
    }
    void prepare(Block& block, std::uint64_t neighbours) const {
      for (std::size_t i = 0; i < history.size(); ++i) {
        block.forward(static_cast<i64>(i), normal(history[i], M::width, i == watched ? 1 : neighbours + i));
      }
    }
  };

  void neighbours() {
    Batched const b;
    auto const watched = static_cast<i64>(Batched::watched);
    auto const run = [&](std::uint64_t seed, bool nan) {
      auto block = make(5);
      b.prepare(*block, seed);
      Matrix const y = block->forward(b.batch(), b.input(seed, nan));
      Batch next;  // one more step for all, so that what the call left is used as well
      for (std::int32_t i = 0; i < 5; ++i) {
        next.add(i, 1, block->length(i));
      }
      Matrix x = nan ? filled(5, M::width, std::nan("")) : normal(5, M::width, seed + 9);
      Matrix const own = normal(1, M::width, 3);
      std::copy(own.data.begin(), own.data.end(), x.data.begin() + watched * M::width);
      Matrix const z = block->forward(next, x);
      return std::tuple{reference::rows_of(y, b.begin(Batched::watched), b.tokens[Batched::watched]),
                        reference::rows_of(z, watched, 1), block->state(watched)};
    };
    auto const [y, z, state] = run(100, false);
    for (bool const nan : {false, true}) {
      auto const [y2, z2, state2] = run(200, nan);
      JET_CHECK(same_bits(y, y2) && same_bits(z, z2), "the output of a sequence depends on ", nan ? "NaN in " : "",
                "its neighbours in the batch");
      JET_CHECK(same_bits(state, state2), "the state of a sequence depends on ", nan ? "NaN in " : "",
                "its neighbours in the batch");
    }
  }

  void repeats() {
    Batched const b;
    auto const run = [&](int threads) {
      auto block = make(5, true, threads);
      b.prepare(*block, 50);
      Matrix const y = block->forward(b.batch(), b.input(60));
      std::vector<std::vector<std::byte>> states;
      for (i64 i = 0; i < 5; ++i) {
        states.push_back(block->raw_state(i));
      }
      return std::pair{y, states};
    };
    int const usual = o_.backend.threads;
    auto const [y, states] = run(usual);
    std::vector<int> counts{usual, usual};
    counts.insert(counts.end(), o_.threads.begin(), o_.threads.end());
    for (int const threads : counts) {
      auto const [y2, states2] = run(threads);
      JET_CHECK(same_bits(y, y2) && states == states2, "the same call gave another result",
                threads == usual ? "" : concat(" with ", threads, " threads instead of ", usual));
    }
  }

  void slots() {
    auto block = make(4), alone = make(4);
    for (auto* const b : {block.get(), alone.get()}) {
      b->forward(1, normal(30, M::width, 1));
      b->forward(2, normal(7, M::width, 2));
      b->forward(3, normal(80, M::width, 3));
    }
    auto const slot0 = block->raw_state(0), slot1 = block->raw_state(1), slot3 = block->raw_state(3);
    for (i64 const n : {i64{1}, i64{20}, i64{66}}) {
      Batch batch;
      batch.add(-1, n, 0);
      batch.add(2, n, block->length(2));
      batch.add(-1, 3, 55);
      batch.add(-1, 1, max_len - 1);
      Matrix x = filled(2 * n + 4, M::width, std::nan(""));
      Matrix const own = normal(n, M::width, static_cast<std::uint64_t>(n));
      std::copy(own.data.begin(), own.data.end(), x.data.begin() + n * M::width);
      Matrix const y = reference::rows_of(block->forward(batch, x), n, n);
      JET_CHECK(same_bits(y, alone->forward(2, own)),
                "inactive rows (slot -1) changed the output of another sequence");
      JET_CHECK(block->raw_state(2) == alone->raw_state(2), "inactive rows changed the state of another sequence");
      JET_CHECK(block->raw_state(0) == slot0 && block->raw_state(1) == slot1 && block->raw_state(3) == slot3,
                "a call wrote to slots that are not in its batch");
    }
  }

  void null_state() {
    auto kept = make(1), null = make(1, false);
    auto const before = null->raw_state(0);
    for (i64 const n : {0, 1, 2, 3, 5, 63, 64, 65, 127, 129, 300}) {
      Matrix const x = normal(n, M::width, 4);
      kept->reset(0);
      null->reset(0);
      JET_CHECK(same_bits(kept->forward(0, x), null->forward(0, x)), "without a state, ", n,
                " tokens give another output than from a zero state");
      JET_CHECK(null->raw_state(0) == before, "a call without a state wrote to one");
    }
  }

  void moves() {
    auto block = make(3), other = make(2);
    for (i64 const prompt : {i64{0}, i64{1}, i64{3}, i64{24}, i64{53}}) {
      for (i64 slot = 0; slot < 3; ++slot) {
        block->reset(slot);
      }
      Matrix const x = normal(prompt + 20, M::width, 6);
      Matrix const head = reference::rows_of(x, 0, prompt), tail = reference::rows_of(x, prompt, 20);
      block->forward(1, normal(37, M::width, 7));  // what a slot held before must not matter
      Matrix const first = block->forward(0, head);
      SavedState const saved = block->save(0);
      auto const state = block->state(0);
      block->fork(0, 2);
      JET_CHECK(same_bits(block->state(2), state), "a fork after ", prompt, " tokens has another state");
      Matrix const y = block->forward(0, tail);
      JET_CHECK(same_bits(block->state(2), state), "a fork changed with its original");
      JET_CHECK(same_bits(block->forward(2, tail), y), "a fork after ", prompt, " tokens goes on differently");
      block->load(1, saved);
      JET_CHECK(same_bits(block->state(1), state), "a state that was saved and loaded is another one");
      JET_CHECK(same_bits(block->forward(1, tail), y), "a sequence goes on differently after save and load");
      other->load(1, saved);
      JET_CHECK(same_bits(other->forward(1, tail), y), "a sequence goes on differently in another pool");
      block->reset(0);
      JET_CHECK(same_bits(block->forward(0, head), first), "a sequence depends on what its slot held before reset");
    }
  }

  void allocation() {
    auto block = make(2);
    Activation<B> const x(block->backend(), normal(2, M::width, 1), B::precision.act);
    Activation<B> const y(block->backend(), 2, M::width, B::precision.act);
    for (i64 slot = 0; slot < 2; ++slot) {
      block->forward(slot, normal(20, M::width, 2));
    }
    auto const body = [&](Context<B>& ctx) { block->forward(ctx, x.view(), y.view()); };
    Batch batch;
    batch.add(0, 1, 20);
    batch.add(1, 1, 20);
    PreparedCall<B> call(block->backend(), batch, body);
    call.run(body);
    long const before = o_.allocations();
    for (int i = 0; i < 10; ++i) {
      call.run(body);
    }
    long const made = o_.allocations() - before;
    JET_CHECK(made == 0, "ten decode steps made ", made, " allocations");
  }

 private:
  std::unique_ptr<Block> make(i64 slots, bool keep_state = true, int threads = 0) {
    HarnessOptions options{.slots = slots, .max_len = max_len, .keep_state = keep_state, .backend = o_.backend};
    options.backend.threads = threads > 0 ? threads : o_.backend.threads;
    auto block = std::make_unique<Block>(options);
    block->randomise(o_.seed);
    return block;
  }
  ConformanceOptions o_;
};

}  // namespace detail

/// Runs every property of block M on backend B, all of them even if some fail. Takes seconds for a small block:
/// give it a config of odd, small sizes.
template <Mixer M, Backend B> Conformance conformance(ConformanceOptions const& options = {}) {
  using P = detail::Properties<M, B>;
  P properties(options);
  Conformance report;
  auto const check = [&](std::string_view name, void (P::*property)(), bool run = true) {
    if (!options.only.empty() && options.only != name) {
      return;
    }
    Finding finding{std::string(name), run};
    if (run) {
      try {
        (properties.*property)();
      } catch (Error const& error) {
        finding.failure = error.what();
      }
    }
    report.findings.push_back(std::move(finding));
  };
  check("names", &P::names);
  check("state bytes", &P::state_bytes);
  check("poison", &P::poison);
  check("splits", &P::splits);
  check("ragged", &P::ragged);
  check("empty", &P::empty);
  check("neighbours", &P::neighbours);
  check("repeats", &P::repeats);
  check("slots", &P::slots);
  check("null state", &P::null_state);
  check("moves", &P::moves);
  check("allocation", &P::allocation, static_cast<bool>(options.allocations));
  return report;
}

}  // namespace testing
JET_NAMESPACE_END
