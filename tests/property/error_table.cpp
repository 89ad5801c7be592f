// How far ops and blocks are from float64, as a table: jet_test_property -tc="error table". The bounds are checked.
#include <cstdio>
#include <string>

#include <jet/op/linear.hpp>

#include "property_cases.hpp"

namespace {

using namespace tests;

inline constexpr jet::JetBlockConfig jet_large{.d_model = 192, .heads = 3, .head_k = 48, .head_v = 96};
inline constexpr jet::AttentionConfig attention_large{
    .d_model = 192, .heads = 6, .kv_heads = 2, .head = 32, .qkv_bias = true, .qk_norm = true};

void line(std::string const& what, std::string_view policy, double error, double bound) {
  std::printf("%-44s %-14s %9.1e   %7.1e\n", what.c_str(), std::string(policy).c_str(), error, bound);
  CAPTURE(what);
  CHECK(error <= bound);
}

template <class M, class B> void block_row(std::string const& name, std::string_view policy) {
  constexpr i64 tokens = 300;
  BlockHarness<M, B> block({.slots = 1, .max_len = tokens, .backend = {.threads = 2}});
  block.randomise(3);
  Reference<M> reference(block);
  Matrix const x = rounded(normal(tokens, M::width, 1), B::precision.act);
  Matrix const y = block.forward(0, x);
  line(name + ", 300 tokens", policy, relative_rms(y, reference.forward(x)), tolerance(B::precision, Check::block));
  if (!block.state(0).empty()) {
    line(name + ", its state", policy, state_distance(block.state(0), reference.state()),
         tolerance(B::precision, Check::state));
  }
}

template <class B> void linear_row(i64 k, std::string_view policy) {
  B backend({.threads = 2});
  Matrix const w = rounded(normal(96, k, 1, 1 / std::sqrt(static_cast<double>(k))), B::precision.weights);
  Matrix const x = rounded(normal(70, k, 2), B::precision.act);
  Activation<B> const weight(backend, w, B::precision.weights), in(backend, x, B::precision.act);
  Activation<B> const out(backend, 70, 96, B::precision.acc);
  run_planned(backend, one(70), [&](jet::Context<B>& ctx) {
    ctx.run(jet::op::Linear{}, weight.slot({96, k}), in.view(), out.view());
  });
  line("product of " + std::to_string(k) + " terms", policy,
       relative_rms(out.values(), jet::reference::linear(x, w)),
       product_tolerance(B::precision, k, B::precision.acc));
}

template <class B> void rows(std::string_view policy) {
  linear_row<B>(192, policy);
  linear_row<B>(8960, policy);
  block_row<jet::SwiGluMlp<mlp_config>, B>("SwiGLU MLP", policy);
  block_row<jet::FullAttention<attention_large>, B>("full attention", policy);
  block_row<jet::SlidingWindow<attention_large, 64>, B>("sliding window of 64", policy);
  block_row<jet::JetBlock<jet_large>, B>("JetBlock", policy);
}

TEST_CASE("error table") {
  std::printf("%-44s %-14s %9s   %7s\n", "relative RMS error against float64", "policy", "measured", "bound");
  rows<F64>("f64");
  rows<F32>("f32");
  rows<Bf16Weights>("bf16_weights");
  rows<Bf16>("bf16");
}

}  // namespace
