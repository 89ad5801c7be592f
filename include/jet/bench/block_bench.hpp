/// \file
/// Google Benchmark cases for any block, derived from its declaration: what it holds, what a call has to move, how
/// its state grows. For the library's blocks and for your own alike:
///
///   bench::benchmark_block<MyBlock, Cpu<precision::bf16>>("my_block/bf16");
///   ...
///   benchmark::RunSpecifiedBenchmarks();
///
/// Cases of `name`:
///   block/<name>/prefill/tokens:T              a new sequence, in pieces of `chunk` tokens
///   block/<name>/stepwise/tokens:T             the same fed token by token
///   block/<name>/decode/seqs:S/context:L       one token of each of S sequences that have seen L tokens; their
///   state
///                                              is filled with random numbers, not computed
/// Counters: tokens/s; FLOP/s of the products with parameters (2 per element of a matrix and token); B/s of weights
/// and state that a decode step has to move (weights once, keys and values read, other state read and written);
/// state_bytes of one sequence at the case's length.
/// This header needs Google Benchmark; no other header includes it.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include <jet/core/param.hpp>
#include <jet/core/rng.hpp>
#include <jet/core/state.hpp>
#include <jet/testing/block_harness.hpp>

JET_NAMESPACE_BEGIN
namespace bench {

/// The axes of a block's cases.
struct BlockBenchmark {
  std::vector<i64> prefill{1024, 4096, 32768};   // tokens
  std::vector<i64> stepwise{};                   // tokens
  std::vector<i64> contexts{1024, 4096, 32768};  // tokens before a decode step
  std::vector<i64> seqs{1};                      // sequences of a decode step
  i64 chunk = 512;                               // tokens of one call of a prefill
  BackendOptions backend{};
};

/// Elements of a block's parameters: all, or those of matrices.
template <class M> constexpr i64 param_elements(bool matrices_only) {
  i64 n = 0;
  for (auto const& row : param_specs<M>()) {
    n += row.present() && (row.shape.rank > 1 || !matrices_only) ? row.shape.numel() : 0;
  }
  return n;
}

/// Bytes that one token of a sequence of `context` tokens moves: keys and values are read, other state is read and
/// written.
template <class M> constexpr i64 state_traffic(Precision const& p, i64 context) {
  i64 bytes = 0;
  for (auto const& row : state_specs<M>()) {
    bytes += state_bytes(row, p, context) * (row.per_token ? 1 : 2);
  }
  return bytes;
}

/// One block with random parameters and input of `rows` tokens.
template <Mixer M, Backend B> class BlockRunner {
 public:
  BlockRunner(testing::HarnessOptions const& options, i64 rows)
      : harness_(options),
        x_(harness_.backend(), rows, M::width, B::precision.act),
        y_(harness_.backend(), rows, M::width, B::precision.act) {
    harness_.randomise(1);
    reference::Matrix x(rows, M::width);
    Random const random{2, 0};
    for (std::size_t i = 0; i < x.data.size(); ++i) {
      x.data[i] = random.normal(i);
    }
    x_.set(x);
  }
  testing::BlockHarness<M, B>& harness() { return harness_; }

  /// The block on the first rows of the input.
  auto body() {
    return [this](Context<B>& ctx) {
      harness_.forward(ctx, x_.view().rows(0, ctx.tokens()), y_.view().rows(0, ctx.tokens()));
    };
  }

 private:
  testing::BlockHarness<M, B> harness_;
  testing::Activation<B> x_;
  testing::Activation<B> y_;
};

namespace detail {

inline Batch piece(i64 seqs, i64 tokens, i64 position) {
  Batch batch;
  for (i64 i = 0; i < seqs; ++i) {
    batch.add(static_cast<std::int32_t>(i), tokens, position);
  }
  return batch;
}

template <class M, class B>
void block_counters(benchmark::State& state, i64 seqs, i64 tokens, i64 context, i64 bytes) {
  using benchmark::Counter;
  auto const rate = Counter::kIsIterationInvariantRate;
  auto const all = static_cast<double>(seqs * tokens);
  state.counters["tokens/s"] = Counter(all, rate);
  state.counters["FLOP/s"] = Counter(2 * all * static_cast<double>(param_elements<M>(true)), rate);
  state.counters["state_bytes"] = Counter(static_cast<double>(state_bytes<M>(B::precision, 1, context)));
  if (bytes > 0) {
    state.counters["B/s"] = Counter(static_cast<double>(bytes), rate);
  }
}

template <class M, class B>
void block_prefill(benchmark::State& state, i64 tokens, i64 chunk, BackendOptions const& backend) {
  chunk = std::min(chunk, tokens);
  BlockRunner<M, B> runner({.slots = 1, .max_len = tokens, .backend = backend}, chunk);
  auto const body = runner.body();
  testing::PreparedCall<B> call(runner.harness().backend(), piece(1, chunk, tokens - chunk), body);
  for (auto _ : state) {
    runner.harness().pool().reset(runner.harness().backend(), 0);
    for (i64 at = 0; at < tokens; at += chunk) {
      call.set_batch(piece(1, std::min(chunk, tokens - at), at));
      call.run(body);
    }
    runner.harness().backend().sync();
  }
  block_counters<M, B>(state, 1, tokens, tokens, 0);
}

template <class M, class B>
void block_decode(benchmark::State& state, i64 seqs, i64 context, BackendOptions const& backend) {
  BlockRunner<M, B> runner({.slots = seqs, .max_len = context + 1, .backend = backend}, seqs);
  for (i64 i = 0; i < seqs; ++i) {
    runner.harness().fill(i, context);
  }
  auto const body = runner.body();
  testing::PreparedCall<B> call(runner.harness().backend(), piece(seqs, 1, context), body);
  for (auto _ : state) {  // the same position again and again
    call.run(body);
    runner.harness().backend().sync();
  }
  i64 const bytes =
      param_elements<M>(false) * size_of(B::precision.weights) + seqs * state_traffic<M>(B::precision, context + 1);
  block_counters<M, B>(state, seqs, 1, context, bytes);
}

}  // namespace detail

/// Registers the cases of a block.
template <Mixer M, Backend B> void benchmark_block(std::string const& name, BlockBenchmark const& axes = {}) {
  auto const add = [&](std::string const& what, auto const& run) {
    benchmark::RegisterBenchmark(("block/" + name + what).c_str(), run)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (i64 const tokens : axes.prefill) {
    add("/prefill/tokens:" + std::to_string(tokens),
        [=](benchmark::State& state) { detail::block_prefill<M, B>(state, tokens, axes.chunk, axes.backend); });
  }
  for (i64 const tokens : axes.stepwise) {
    add("/stepwise/tokens:" + std::to_string(tokens),
        [=](benchmark::State& state) { detail::block_prefill<M, B>(state, tokens, 1, axes.backend); });
  }
  for (i64 const seqs : axes.seqs) {
    for (i64 const context : axes.contexts) {
      add("/decode/seqs:" + std::to_string(seqs) + "/context:" + std::to_string(context),
          [=](benchmark::State& state) { detail::block_decode<M, B>(state, seqs, context, axes.backend); });
    }
  }
}

}  // namespace bench
JET_NAMESPACE_END
