// Declarations: counts, roles, parts, shapes and bytes of the published models are constant expressions.
#include <doctest/doctest.h>

#include "small.hpp"

using namespace jet;

static_assert(JetNemotron2B::num_params() == 1'964'806'208);
static_assert(JetNemotron4B::num_params() == 3'960'424'768);
static_assert(Qwen2_5_0_5B::num_params() == 494'032'768);
static_assert(Qwen2_5_1_5B::num_params() == 1'543'714'304);
static_assert(Qwen2_5_3B::num_params() == 3'085'938'688);
static_assert(Qwen3_0_6B::num_params() == 596'049'920);
static_assert(Qwen3_1_7B::num_params() == 1'720'574'976);
static_assert(Llama3_2_1B::num_params() == 1'235'814'400);
static_assert(SmolLM2_135M::num_params() == 134'515'008);
static_assert(SmolLM2_360M::num_params() == 361'821'120);
static_assert(num_params<JetBlock<jet_2b>>() == 23'052'568 && num_params<JetBlock<jet_4b>>() == 43'073'824);

namespace {
constexpr Precision bf16_kv{.act = DType::bf16};  // fp32 state, bf16 kv and convolution
constexpr Precision bf16_state{.act = DType::bf16, .state = DType::bf16};
constexpr Precision fp8_kv{.act = DType::bf16, .kv = DType::f8e4m3};
}  // namespace
static_assert(JetNemotron2B::state_bytes<bf16_kv>(1, 65536) == 165'478'400);
static_assert(JetNemotron4B::state_bytes<bf16_kv>(1, 65536) == 271'384'576);
static_assert(JetNemotron2B::state_bytes<bf16_state>(1, 65536) == 151'322'624);
static_assert(JetNemotron2B::state_bytes<bf16_kv>(3, 65536) == 3 * 165'478'400LL);
static_assert(Qwen2_5_0_5B::state_bytes<bf16_kv>(1, 1) == 12'288 &&
              Qwen2_5_1_5B::state_bytes<bf16_kv>(1, 1) == 28'672);
static_assert(Qwen2_5_3B::state_bytes<bf16_kv>(1, 1) == 36'864 &&
              Qwen3_0_6B::state_bytes<bf16_kv>(1, 1) == 114'688);
static_assert(Qwen3_1_7B::state_bytes<bf16_kv>(1, 1) == 114'688 &&
              Llama3_2_1B::state_bytes<bf16_kv>(1, 1) == 32'768);
static_assert(SmolLM2_135M::state_bytes<bf16_kv>(1, 1) == 23'040 &&
              SmolLM2_360M::state_bytes<bf16_kv>(1, 1) == 40'960);
// scales of fp8 keys and values are counted: one f16 per token, kv head and K or V
static_assert(Qwen2_5_0_5B::state_bytes<fp8_kv>(1, 1) == 12'288 / 2 + 24 * 2 * 2 * 2);

TEST_CASE("layer types of the published models") {
  auto const where = [](std::string_view plan, char letter) {
    std::vector<int> at;
    for (std::size_t i = 0; i < plan.size(); ++i) {
      if (plan[i] == letter) {
        at.push_back(static_cast<int>(i));
      }
    }
    return at;
  };
  CHECK(where(JetNemotron2B::plan(), 'A') == std::vector<int>{14, 19});
  CHECK(where(JetNemotron2B::plan(), 'S') == std::vector<int>{20, 21});
  CHECK(where(JetNemotron4B::plan(), 'A') == std::vector<int>{17, 20, 32});
  CHECK(where(JetNemotron4B::plan(), 'S') == std::vector<int>{5, 16, 19, 21, 22, 25, 27});
}

TEST_CASE("names and tensor counts of the published checkpoints") {
  auto const count = []<class M>(std::type_identity<M>) {
    Weights<M> w;
    int n = 0;
    w.visit([&](TensorKey const&, Slot&) { ++n; });
    return n;
  };
  CHECK(count(std::type_identity<JetNemotron2B>{}) == 482);
  CHECK(count(std::type_identity<JetNemotron4B>{}) == 590);
  Weights<JetNemotron2B> w;
  std::vector<std::string> names;
  w.visit([&](TensorKey const& key, Slot&) {
    names.push_back(JetNemotron2B::names::key(key.module, key.layer, key.spec.name));
  });
  auto const has = [&](char const* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  CHECK(has("model.embed_tokens.weight"));
  CHECK(has("model.layers.0.self_attn.dynamic_conv1d.kernel_generator.w2.bias"));
  CHECK(has("model.layers.14.self_attn.q_proj.bias"));
  CHECK_FALSE(has("model.layers.0.self_attn.q_proj.bias"));
  CHECK_FALSE(has("lm_head.weight"));
}

TEST_CASE("roles and parts select parameters without knowing a block") {
  Weights<contract::Small> w;
  i64 mixers = 0, everything = 0, queries = 0;
  w.visit([&](TensorKey const& key, Slot&) {
    everything += key.spec.shape.numel();
    mixers += key.spec.role == Role::mixer ? key.spec.shape.numel() : 0;
    queries += key.spec.part == Part::query && key.spec.shape.rank == 2 ? 1 : 0;
  });
  CHECK(everything == contract::Small::num_params());
  CHECK(mixers ==
        3 * num_params<JetBlock<contract::jet_block>>() + 3 * num_params<FullAttention<contract::attention>>());
  CHECK(queries == 6);
}

TEST_CASE("offsets beyond 2^31 by strides alone") {
  // A view whose rows are 2^33 elements apart: addresses are computed in 64 bits and never dereferenced here.
  View v(reinterpret_cast<void*>(std::uintptr_t{64}), DType::bf16, Shape{4, 8});
  v.stride[0] = i64{1} << 33;
  auto const at = reinterpret_cast<std::uintptr_t>(v.row_bytes(3));
  CHECK(at == 64 + 3 * (std::uintptr_t{1} << 34));
  CHECK(JetNemotron2B::state_bytes<bf16_kv>(1000, 262'144) > (i64{1} << 38));
}

TEST_CASE("initial values are reproducible, of the stated kind, and differ between layers") {
  using B = Cpu<precision::f32>;
  auto const make = [](std::uint64_t seed) {
    auto w = std::make_shared<Weights<contract::Small>>();
    w->allocate(B{});
    initialise(*w, seed);
    return w;
  };
  auto const a = make(1), b = make(1), c = make(2);
  double sum = 0, squares = 0;
  i64 n = 0;
  bool differ = false;
  std::vector<Slot> theirs, others;
  b->visit([&](TensorKey const&, Slot& s) { theirs.push_back(s); });
  c->visit([&](TensorKey const&, Slot& s) { others.push_back(s); });
  std::size_t at = 0;
  a->visit([&](TensorKey const& key, Slot& s) {
    auto const bytes = static_cast<std::size_t>(s.numel() * size_of(s.dtype));
    CHECK(std::memcmp(s.data, theirs[at].data, bytes) == 0);
    differ = differ || std::memcmp(s.data, others[at].data, bytes) != 0;
    ++at;
    float const* x = s.as<float>();
    for (i64 i = 0; i < s.numel(); ++i) {
      switch (key.spec.init.kind) {
        case Init::Kind::ones: CHECK(x[i] == 1); break;
        case Init::Kind::zeros: CHECK(x[i] == 0); break;
        case Init::Kind::normal:
          sum += static_cast<double>(x[i]);
          squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
          ++n;
          break;
        case Init::Kind::log_uniform: CHECK((x[i] >= std::log(1e-4F) && x[i] <= std::log(16.0F))); break;
        case Init::Kind::dt_bias: {
          double const dt = std::log1p(std::exp(static_cast<double>(x[i])));
          CHECK((dt >= 0.99e-3 && dt <= 1.01e-1));
          break;
        }
        default: break;
      }
    }
  });
  CHECK(differ);
  CHECK(std::abs(sum / static_cast<double>(n)) < 4 * 0.02 / std::sqrt(static_cast<double>(n)));
  CHECK(std::sqrt(squares / static_cast<double>(n)) == doctest::Approx(0.02).epsilon(0.02));
}
