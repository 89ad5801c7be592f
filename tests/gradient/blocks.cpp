// What every block's backward keeps to: frozen rows, null gradients, sums that are added to, calls that follow each
// other, threads, precisions.
#include <atomic>

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/block/swiglu_mlp.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
inline constexpr jet::AttentionConfig attention{
    .d_model = 12, .heads = 4, .kv_heads = 2, .head = 6, .qkv_bias = true, .qk_norm = true};
using Jet = jet::JetBlock<jet::JetBlockConfig{
    .d_model = 12, .heads = 3, .head_k = 5, .head_v = 8, .conv = 4, .gen_reduction = 3}>;
using Full = jet::FullAttention<attention>;
using Window = jet::SlidingWindow<attention, 24>;
using Mlp = jet::SwiGluMlp<jet::MlpConfig{12, 23}>;
std::vector<i64> const ragged{65, 0, 3, 17};

TEST_CASE_TEMPLATE("each row may be frozen without a change to the others; null gradients are not formed", M, Jet,
                   Full, Window, Mlp) {
  GradientHarness<M, F64> block(ragged, true, 30);
  auto const whole = block.gradients();
  for (std::size_t i = 0; i < whole.params.size(); ++i) {
    auto const g = block.gradients({.frozen = {i}, .dx = i % 2 == 0, .ds_begin = i % 3 == 0});
    for (std::size_t j = 0; j < whole.params.size(); ++j) {
      if (j != i) {
        CHECK(same_bits(g.params[j], whole.params[j]));
      }
    }
    CHECK(same_bits(g.dx, whole.dx) == (i % 2 == 0));
    for (std::size_t j = 0; j < whole.state.size(); ++j) {
      CHECK((i % 3 == 0) == same_bits(g.state[j], whole.state[j]));
    }
    CHECK(same_bits(g.y, whole.y));
  }
}

TEST_CASE_TEMPLATE("gradients of parameters are added to", M, Jet, Full, Mlp) {
  GradientHarness<M, F64> block(ragged, false);
  auto const from_zero = block.gradients();
  auto const more = block.gradients({.start = 3});
  for (std::size_t i = 0; i < more.params.size(); ++i) {
    Matrix shifted = from_zero.params[i];
    for (double& v : shifted.data) {
      v += 3;
    }
    CHECK(jet::reference::max_abs(more.params[i], shifted) <= 1e-11);
  }
  CHECK(same_bits(more.dx, from_zero.dx));
}

TEST_CASE_TEMPLATE("saving changes nothing in the forward; a null gradient of the end is zero", M, Jet, Full,
                   Window, Mlp) {
  GradientHarness<M, F64> block(ragged, true, 30);
  CHECK(same_bits(block.gradients().y, block.forward().y));
  auto const null_end = block.gradients({.ds_end = false});
  for (Matrix& c : block.cs) {
    std::fill(c.data.begin(), c.data.end(), 0);
  }
  auto const zero_end = block.gradients();
  CHECK(same_bits(null_end.dx, zero_end.dx));
  for (std::size_t i = 0; i < null_end.state.size(); ++i) {
    CHECK(same_bits(null_end.state[i], zero_end.state[i]));
  }
}

// A sequence in two calls: backward of the second, then of the first with the gradient of the state between them.
TEST_CASE_TEMPLATE("gradients chain through the state of two calls", M, Jet, Full, Window) {
  i64 const total = 100;
  GradientHarness<M, F64> whole({total}, true, 0);
  auto const expected = whole.gradients();
  for (i64 const cut : {i64{1}, i64{2}, i64{37}, i64{64}, i64{99}}) {
    CAPTURE(cut);
    GradientHarness<M, F64> first({cut}, true, 0, 1, total), second({total - cut}, true, cut, 1, total);
    auto const piece = [&](GradientHarness<M, F64>& h, i64 at, i64 n) {
      h.params = whole.params;
      h.x = jet::reference::rows_of(whole.x, at, n);
      h.cy = jet::reference::rows_of(whole.cy, at, n);
    };
    piece(first, 0, cut);
    piece(second, cut, total - cut);
    first.state = whole.state;
    second.state = first.forward().state;
    second.cs = whole.cs;
    auto const late = second.gradients();
    first.cs = late.state;
    for (std::size_t i = 0; i < first.cs.size(); ++i) {  // rows of no sequence, and rows that nothing was kept in
      for (std::size_t j = 0; j < first.cs[i].data.size(); ++j) {
        first.cs[i].data[j] = second.usable_state()[i][j] ? first.cs[i].data[j] : 0;
      }
    }
    auto const early = first.gradients();
    CHECK(relative_rms(jet::reference::concatenate(early.dx, late.dx), expected.dx) <= 1e-12);
    for (std::size_t i = 0; i < expected.params.size(); ++i) {
      CHECK(relative_rms(jet::reference::add(early.params[i], late.params[i]), expected.params[i]) <= 1e-11);
    }
    for (std::size_t i = 0; i < expected.state.size(); ++i) {
      Vector a, b;
      for (std::size_t j = 0; j < expected.state[i].data.size(); ++j) {
        if (whole.usable_state()[i][j]) {
          a.push_back(early.state[i].data[j]);
          b.push_back(expected.state[i].data[j]);
        }
      }
      CHECK(relative_rms(a, b) <= 1e-11);
    }
  }
}

TEST_CASE_TEMPLATE("gradients do not depend on the number of threads, bit for bit", M, Jet, Full, Window, Mlp) {
  GradientHarness<M, F32> one_thread(ragged, true, 30, 1, 0, 1), three(ragged, true, 30, 1, 0, 3);
  auto const a = one_thread.gradients(), b = three.gradients();
  CHECK(same_bits(a.dx, b.dx));
  for (std::size_t i = 0; i < a.params.size(); ++i) {
    CHECK(same_bits(a.params[i], b.params[i]));
  }
  for (std::size_t i = 0; i < a.state.size(); ++i) {
    CHECK(same_bits(a.state[i], b.state[i]));
  }
}

TEST_CASE_TEMPLATE("a sequence's gradients do not depend on its neighbours in the batch", M, Jet, Full, Window,
                   Mlp) {
  GradientHarness<M, F64> batch(ragged, false);
  auto const together = batch.gradients();
  for (std::size_t i = 0, at = 0; i < ragged.size(); at += static_cast<std::size_t>(ragged[i]), ++i) {
    GradientHarness<M, F64> alone({ragged[i]}, false);
    alone.params = batch.params;
    alone.x = jet::reference::rows_of(batch.x, static_cast<i64>(at), ragged[i]);
    alone.cy = jet::reference::rows_of(batch.cy, static_cast<i64>(at), ragged[i]);
    CHECK(same_bits(alone.gradients().dx, jet::reference::rows_of(together.dx, static_cast<i64>(at), ragged[i])));
  }
}

template <class M, class B> void compare_precision(double bound) {
  for (bool const state : {false, true}) {
    GradientHarness<M, B> low({130, 0, 3}, state, state ? 30 : 0);
    GradientHarness<M, F64> exact({130, 0, 3}, state, state ? 30 : 0);
    exact.params = low.params;  // as they are stored
    exact.x = low.x;
    exact.cy = low.cy;
    exact.cs = low.cs;
    exact.state = low.state;
    auto const a = low.gradients();
    auto const b = exact.gradients();
    CHECK(relative_rms(a.dx, b.dx) <= bound);
    constexpr auto specs = jet::param_specs<M>();
    for (std::size_t i = 0; i < specs.size(); ++i) {
      if (specs[i].present()) {
        CAPTURE(std::string(specs[i].name.view()));
        // sums over all tokens of what mostly cancels
        double const wider = specs[i].keep_f32 ? 5 : 1;
        CHECK(relative_rms(a.params[i], b.params[i]) <= wider * bound);
      }
    }
  }
}
TEST_CASE_TEMPLATE("gradients in float equal those in double", M, Jet, Full, Window, Mlp) {
  compare_precision<M, F32>(2e-5);
  compare_precision<M, Bf16Weights>(2e-5);
}
TEST_CASE_TEMPLATE("gradients with bf16 activations are near those in double", M, Jet, Full, Window, Mlp) {
  compare_precision<M, Bf16>(3e-2);
}

// ---- products of frozen rows

// A backend that counts multiply-adds of its products.
struct Counting : F64 {
  static inline std::atomic<i64> work{0};
  using Table = jet::cpu::KernelTable<double>;
  static Table make() {
    Table t = jet::cpu::kernels<double>(jet::cpu::Isa::generic);
    t.gemm_nn[0] = [](jet::cpu::GemmNn<double> const& g) {
      work += g.m * g.n * g.k;
      jet::cpu::kernels<double>(jet::cpu::Isa::generic).gemm_nn[0](g);
    };
    return t;
  }
  Table table = make();
  using F64::F64;
  Table const& kernels() const { return table; }
};

template <class M> i64 backward_work(std::set<std::size_t> const& frozen, bool dx) {
  GradientHarness<M, Counting> block({30}, false);
  Counting::work = 0;
  i64 const before = Counting::work;
  block.gradients({.frozen = frozen, .dx = dx});
  return Counting::work - before;
}

TEST_CASE_TEMPLATE("no product is formed for a frozen matrix, nor for an input that nobody asks for", M, Jet, Full,
                   Mlp) {
  constexpr auto specs = jet::param_specs<M>();
  i64 const whole = backward_work<M>({}, true);
  i64 into_input = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    bool const matrix = specs[i].present() && specs[i].shape.rank == 2;
    i64 const saved = whole - backward_work<M>({i}, true);
    CHECK(saved == (matrix ? 30 * specs[i].shape.numel() : 0));
    if (matrix && specs[i].shape[1] == M::width) {  // fed by the block's input
      into_input += 30 * specs[i].shape.numel();
    }
  }
  CHECK(whole - backward_work<M>({}, false) == into_input);
}

}  // namespace
