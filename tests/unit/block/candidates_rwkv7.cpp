// RWKV-7 against the float64 reference, as the first layer of a stack and as a later one.
#include "block_cases.hpp"
#include "candidate_support.hpp"

namespace {

using namespace tests;
using jet::Rwkv7;
using jet::Rwkv7Config;

inline constexpr Rwkv7Config first{
    .d_model = 20, .heads = 3, .head = 9, .decay_rank = 5, .rate_rank = 4, .gate_rank = 6};
inline constexpr Rwkv7Config later{
    .d_model = 20, .heads = 2, .head = 12, .decay_rank = 4, .rate_rank = 5, .value_rank = 3, .gate_rank = 4};

TEST_CASE_TEMPLATE("RWKV-7 equals the reference", B, F64, F32, Bf16) {
  against_reference<Rwkv7<first>, B>();
}

TEST_CASE("RWKV-7 on every instruction set") {
  every_isa<Rwkv7<first>, F32>();
}

TEST_CASE_TEMPLATE("RWKV-7 with a value residual equals the reference", B, F64, F32, Bf16) {
  using M = Rwkv7<later>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 512, .backend = {.threads = 2}});
  block.randomise(11);
  Reference<M> reference(block);
  i64 position = 0;
  for (i64 const n : {i64{65}, i64{1}, i64{2}, i64{0}, i64{130}}) {
    CAPTURE(n);
    auto const seed = static_cast<std::uint64_t>(n);
    Matrix const x = rounded(normal(n, M::width, seed), B::precision.act);
    reference.v_first = rounded(normal(n, later.dim(), seed + 1), B::precision.acc);
    Activation<B> const in(block.backend(), x, B::precision.act),
        out(block.backend(), n, M::width, B::precision.act);
    Activation<B> const values(block.backend(), reference.v_first, B::precision.acc);
    run_planned(block.backend(), one(n, 0, position), [&](jet::Context<B>& ctx) {
      ctx.declare_shared(M::shared().v_first);
      jet::SharedSlot& shared = ctx.shared(M::shared().v_first);
      shared.value = values.view();
      shared.filled = true;
      block.forward(ctx, in.view(), out.view());
    });
    position += n;
    Matrix const expected = reference.forward(x);
    CHECK(relative_rms(out.values(), expected) <= tolerance(B::precision, n > 5 ? Check::block : Check::token));
    CHECK(same_bits(values.values(), reference.v_first));
    CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
  }
}

TEST_CASE("RWKV-7 with a value residual and no layer before it is refused") {
  BlockHarness<Rwkv7<later>, F64> block;
  block.randomise(1);
  CHECK_THROWS_WITH(block.forward(0, normal(3, 20, 1)), doctest::Contains("value_rank 0 before it"));
}

// Decays at both ends (e^-0.6 is the strongest that there is), rates at 1, a key of zeros.
TEST_CASE_TEMPLATE("RWKV-7: gates at their ends, 2048 tokens", B, F64, F32) {
  using M = Rwkv7<first>;
  BlockHarness<M, B> block({.slots = 1, .max_len = 2048, .backend = {.threads = 2}});
  block.randomise(5);
  Vector w(27), rates(27, 50.0), keys = block.param("k_k");
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = i % 2 == 0 ? -40 : 40;
  }
  std::fill_n(keys.begin(), 9, 0.0);
  block.set_param("w_lora.lora.2.bias", w);
  block.set_param("a_lora.lora.2.bias", rates);
  block.set_param("k_k", keys);
  Reference<M> reference(block);
  Matrix const x = rounded(normal(2048, 20, 8), B::precision.act);
  CHECK(relative_rms(block.forward(0, x), reference.forward(x)) <= tolerance(B::precision, Check::block));
  CHECK(state_distance(block.state(0), reference.state()) <= tolerance(B::precision, Check::state));
}

}  // namespace
