// Values at the edges, through whole blocks: gates that keep or forget everything, writes of strength 0 and 1,
// equal keys, zeros, huge queries, long sequences. (Those of the ops alone are in unit/op.)
#include <numbers>

#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::reference::rows_of;

// Outputs and state against the reference, in one call and in pieces.
template <class M, class B>
void against_reference(Subject<M, B>& block, Matrix const& x, double output_bound, double state_bound) {
  for (auto const& pieces : {std::vector<i64>{x.rows}, random_pieces(3, x.rows)}) {
    Reference<M> reference(block);
    Matrix const y = in_pieces(block, x, pieces);
    CHECK(all_finite(y));
    CHECK(relative_rms(y, reference.forward(x)) <= output_bound);
    CHECK(state_distance(block.state(0), reference.state()) <= state_bound);
  }
}
template <class M, class B> void against_reference(Subject<M, B>& block, Matrix const& x) {
  against_reference(block, x, tolerance(B::precision, Check::block), tolerance(B::precision, Check::state));
}

template <class H> void fill_param(H& block, std::string const& name, double value) {
  block.set_param(name, Vector(block.param(name).size(), value));
}

// ---- JetBlock's gates: g = -exp(A_log) softplus(a + dt_bias)

TEST_CASE_TEMPLATE("gates 0, -100 and anything between", B, F64, F32, Bf16Weights, Bf16) {
  Subject<Jet, B> block(harness_options(1));
  Matrix const x = rounded(normal(200, Jet::width, 21), B::precision.act);
  fill_param(block, "dt_bias", std::log(std::numbers::e - 1));  // softplus 1
  SUBCASE("all 0: nothing is forgotten") {
    fill_param(block, "a_proj.weight", 0);
    fill_param(block, "A_log", -80);
    against_reference(block, x);
  }
  SUBCASE("all -100: every token starts anew") {
    fill_param(block, "a_proj.weight", 0);
    fill_param(block, "A_log", std::log(100.0));
    against_reference(block, x);
  }
  SUBCASE("from 0 to below -100, changing with every token") {
    Matrix a = block.param_matrix("a_proj.weight");
    for (double& value : a.data) {
      value *= 40;
    }
    block.set_param("a_proj.weight", a.data);
    fill_param(block, "A_log", 0);
    against_reference(block, x);
  }
  SUBCASE("small ones, and every third -400") {
    // a chunk's gates add up to thousands while most are small: the differences of their sums must survive
    Matrix a = block.param_matrix("a_proj.weight"), marked = x;
    for (i64 h = 0; h < a.rows; ++h) {
      a.at(h, 0) = 400;
    }
    for (i64 i = 0; i < x.rows; ++i) {
      marked.at(i, 0) = i % 3 == 1 ? 1 : 0;
    }
    block.set_param("a_proj.weight", a.data);
    fill_param(block, "dt_bias", -2);
    fill_param(block, "A_log", 0);
    against_reference(block, marked);
  }
}

// ---- recall

// Columns of the block's input: one-hot keys, then what a token says of itself.
inline constexpr i64 keys = 24, says_beta = keys, says_value = keys + 1, value_width = 6;
inline constexpr jet::JetBlockConfig recall_config{
    .d_model = keys + 1 + value_width, .heads = 1, .head_k = keys, .head_v = value_width, .gen_reduction = 2};

// Keys are orthonormal, nothing decays, a token's value goes through the last tap alone: what was written at
// strength 1 is read back exactly, by a later token that writes nothing.
TEST_CASE_TEMPLATE("beta 1 recalls exactly, beta 0 writes nothing", B, F64, F32) {
  using Recall = jet::JetBlock<recall_config>;
  constexpr i64 d = Recall::width;
  Subject<Recall, B> block({.slots = 1, .max_len = 400, .backend = {.threads = 2}});
  Matrix identity(keys, d), value(value_width, d), strength(1, d);
  for (i64 i = 0; i < keys; ++i) {
    identity.at(i, i) = 1e3;  // silu and the norm make it 1
  }
  for (i64 i = 0; i < value_width; ++i) {
    value.at(i, says_value + i) = 1;
  }
  strength.at(0, says_beta) = 1000;  // sigmoid(+-1000)
  block.set_param("q_proj.weight", identity.data);
  block.set_param("k_proj.weight", identity.data);
  block.set_param("v_proj.weight", value.data);
  block.set_param("b_proj.weight", strength.data);
  fill_param(block, "a_proj.weight", 0);
  fill_param(block, "A_log", -200);
  fill_param(block, "g_proj.weight", 0);
  Matrix gate(value_width, d);
  for (i64 i = 0; i < value_width; ++i) {
    for (i64 j = 0; j < keys; ++j) {
      gate.at(i, j) = 1;  // the same for every token
    }
  }
  block.set_param("g_proj.weight", gate.data);
  fill_param(block, "dynamic_conv1d.kernel_generator.w2.weight", 0);
  Vector last_tap(value_width * recall_config.conv);
  for (std::size_t i = 0; i < last_tap.size(); ++i) {
    last_tap[i] = (i + 1) % recall_config.conv == 0 ? 1 : 0;
  }
  block.set_param("dynamic_conv1d.kernel_generator.w2.bias", last_tap);

  Matrix writes = normal(keys, d, 31), reads(keys, d);
  for (i64 i = 0; i < keys; ++i) {
    for (i64 j = 0; j < keys; ++j) {
      writes.at(i, j) = i == j ? 1 : 0;
      reads.at(i, j) = i == keys - 1 - j ? 1 : 0;  // in reverse
    }
    writes.at(i, says_beta) = 1;
    reads.at(i, says_beta) = -1;
    for (i64 j = says_value; j < d; ++j) {
      reads.at(i, j) = 7;  // a value that must not be written
    }
  }
  for (auto const& pieces : {std::vector<i64>{2 * keys}, std::vector<i64>{keys, keys}, pieces_of(1, 2 * keys)}) {
    Matrix const y = in_pieces(block, jet::reference::concatenate(writes, reads), pieces);
    Matrix mirrored(keys, d);
    for (i64 i = 0; i < keys; ++i) {
      for (i64 j = 0; j < d; ++j) {
        mirrored.at(i, j) = y.at(keys - 1 - i, j);
      }
    }
    CHECK(relative_rms(rows_of(y, keys, keys), mirrored) <= (B::precision.acc == DType::f64 ? 1e-14 : 1e-6));
    CHECK(relative_rms(mirrored, Matrix(keys, d)) > 0);
  }
  block.reset(0);
  auto const nothing = block.state(0);
  CHECK(relative_rms(block.forward(0, reads), Matrix(keys, d)) == 0);  // nothing was written, zeros are read
  CHECK(same_bits(block.state(0)[0].values, nothing[0].values));
}

// ---- equal tokens, zeros

template <class M, class B> void odd_inputs() {
  Subject<M, B> block(harness_options(1));
  Matrix x = rounded(normal(150, M::width, 41), B::precision.act);
  SUBCASE("the same token again and again") {
    for (i64 i = 1; i < x.rows; ++i) {
      for (i64 j = 0; j < x.cols; ++j) {
        x.at(i, j) = x.at(0, j);
      }
    }
    // equal roundings do not average out
    against_reference(block, x, tolerance(B::precision, Check::token), tolerance(B::precision, Check::token));
  }
  SUBCASE("zero vectors between others") {
    for (i64 i = 0; i < x.rows; i += 2) {
      for (i64 j = 0; j < x.cols; ++j) {
        x.at(i, j) = 0;
      }
    }
    against_reference(block, x);
  }
  SUBCASE("nothing but zero vectors") {
    x = Matrix(x.rows, x.cols);
    against_reference(block, x, tolerance(B::precision, Check::token), tolerance(B::precision, Check::token));
  }
}
TEST_CASE_TEMPLATE("equal tokens and zeros: full attention", B, F64, F32, Bf16) {
  odd_inputs<Full, B>();
}
TEST_CASE_TEMPLATE("equal tokens and zeros: sliding window", B, F64, F32, Bf16) {
  odd_inputs<Window, B>();
}
TEST_CASE_TEMPLATE("equal tokens and zeros: JetBlock", B, F64, F32, Bf16) {
  odd_inputs<Jet, B>();
}

// ---- huge

// Scores of 1e4: their absolute error, and so that of the logarithm of a weight, is 1e4 times that of a number.
template <class M, class B> void huge_queries() {
  Subject<M, B> block(harness_options(1));
  block.set_param("q_norm.weight", Vector(attention_config.head, 1e4));
  Matrix const x = rounded(normal(130, M::width, 51), B::precision.act);
  double const output = B::precision.acc == DType::f64 ? 1e-10 : B::precision.act == DType::bf16 ? 0.2 : 1e-2;
  against_reference(block, x, output, tolerance(B::precision, Check::state));
}
TEST_CASE_TEMPLATE("queries of 1e4", B, F64, F32, Bf16) {
  SUBCASE("full attention") {
    huge_queries<Full, B>();
  }
  SUBCASE("sliding window") {
    huge_queries<Window, B>();
  }
  SUBCASE("JetBlock normalises them") {
    Subject<Jet, B> block(harness_options(1));
    auto q = block.param("q_proj.weight");
    for (double& value : q) {
      value *= 1e4;
    }
    block.set_param("q_proj.weight", q);
    against_reference(block, rounded(normal(130, Jet::width, 52), B::precision.act));
  }
}

// ---- long

TEST_CASE_TEMPLATE("JetBlock's state after 2048 tokens", B, F64, F32) {
  Subject<Jet, B> block({.slots = 1, .max_len = 2048, .backend = {.threads = 2}});
  Matrix const x = rounded(normal(2048, Jet::width, 61), B::precision.act);
  against_reference(block, x, tolerance(B::precision, Check::block), tolerance(B::precision, Check::long_scan));
}

}  // namespace
