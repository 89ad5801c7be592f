// RWKV-7 on the device, as the first layer of a stack and as a later one. Exit status: 0 right, 1 wrong, 77 no
// device.
#include "candidate_checks.hpp"

namespace {

using namespace candidates;
using jet::Rwkv7;
using jet::Rwkv7Config;
using jet::reference::Matrix;
using jet::testing::BlockHarness;
using jet::testing::normal;

inline constexpr Rwkv7Config odd{
    .d_model = 20, .heads = 3, .head = 9, .decay_rank = 5, .rate_rank = 4, .gate_rank = 6};
inline constexpr Rwkv7Config fast{
    .d_model = 64, .heads = 2, .head = 32, .decay_rank = 8, .rate_rank = 8, .gate_rank = 16};
inline constexpr Rwkv7Config later_odd{
    .d_model = 20, .heads = 2, .head = 12, .decay_rank = 4, .rate_rank = 5, .value_rank = 3, .gate_rank = 4};
inline constexpr Rwkv7Config later_fast{
    .d_model = 64, .heads = 1, .head = 64, .decay_rank = 8, .rate_rank = 8, .value_rank = 8, .gate_rank = 16};

// With the first layer's values given.
template <Rwkv7Config C, class B> void with_values() {
  using M = Rwkv7<C>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 512});
  block.randomise(11);
  tests::Reference<M> reference(block);
  i64 position = 0;
  for (i64 const n : {i64{65}, i64{1}, i64{2}, i64{0}, i64{130}}) {
    CAPTURE(n);
    auto const seed = static_cast<std::uint64_t>(n);
    Matrix const x = tests::rounded(normal(n, M::width, seed), B::precision.act);
    reference.v_first = tests::rounded(normal(n, C.dim(), seed + 1), B::precision.acc);
    jet::testing::Activation<B> const in(block.backend(), x, B::precision.act),
        out(block.backend(), n, M::width, B::precision.act);
    jet::testing::Activation<B> const values(block.backend(), reference.v_first, B::precision.acc);
    jet::testing::run_planned(block.backend(), tests::one(n, 0, position), [&](jet::Context<B>& ctx) {
      ctx.declare_shared(M::shared().v_first);
      jet::SharedSlot& shared = ctx.shared(M::shared().v_first);
      shared.value = values.view();
      shared.filled = true;
      block.forward(ctx, in.view(), out.view());
    });
    position += n;
    using tests::Check;
    Matrix const expected = reference.forward(x);
    CHECK(tests::relative_rms(out.values(), expected) <=
          tests::tolerance(B::precision, n > 5 ? Check::block : Check::token));
    CHECK(jet::testing::same_bits(values.values(), reference.v_first));
    CHECK(tests::state_distance(block.state(0), reference.state()) <= tests::tolerance(B::precision, Check::state));
  }
}

}  // namespace

TEST_CASE("golden files") {
  golden_layer<Rwkv7<Rwkv7Config{
      .d_model = 64, .heads = 2, .head = 32, .decay_rank = 16, .rate_rank = 16, .gate_rank = 16}>>("rwkv7", false);
}

TEST_CASE_TEMPLATE("equal to the reference", B, F32, Bf16) {
  against_reference<Rwkv7<odd>, B>(few);
  against_reference<Rwkv7<fast>, B>();
  with_values<later_odd, B>();
  with_values<later_fast, B>();
}

// Decays at both ends (e^-0.6 is the strongest that there is), rates at 1, a key of zeros.
TEST_CASE("gates at their ends, 2048 tokens") {
  using M = Rwkv7<fast>;
  BlockHarness<M, F32> block({.slots = 1, .max_len = 2048});
  block.randomise(5);
  std::vector<double> w(64), keys = block.param("k_k");
  std::vector<double> const rates(64, 50.0);
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = i % 2 == 0 ? -40 : 40;
  }
  std::fill_n(keys.begin(), 32, 0.0);
  block.set_param("w_lora.lora.2.bias", w);
  block.set_param("a_lora.lora.2.bias", rates);
  block.set_param("k_k", keys);
  tests::Reference<M> reference(block);
  Matrix const x = tests::rounded(normal(2048, 64, 8), jet::DType::f32);
  CHECK(tests::relative_rms(block.forward(0, x), reference.forward(x)) <= 1e-5);
  // half of the channels forget nothing in 2048 tokens: measured 1.33e-5
  CHECK(tests::state_distance(block.state(0), reference.state()) <= 2e-5);
}

TEST_CASE_TEMPLATE("what every block promises", B, F32, Bf16) {
  conforms<Rwkv7<fast>, B>();
}
TEST_CASE("what every block promises, odd sizes") {
  conforms<Rwkv7<odd>, F32>();
}
