// A hybrid with frozen MLPs overfits one batch by plain gradient steps.
#include <cstring>
#include <memory>

#include <jet/jet.hpp>
#include <jet/model/training.hpp>

#include "test_support.hpp"

namespace {

using namespace tests;
inline constexpr jet::JetBlockConfig jet_config{.d_model = 24, .heads = 2, .head_k = 8, .head_v = 12};
inline constexpr jet::AttentionConfig attention{
    .d_model = 24, .heads = 4, .kv_heads = 2, .head = 6, .qkv_bias = true, .qk_norm = true};
struct Hybrid
    : jet::CausalLM<jet::LmConfig{.vocab = 31, .d_model = 24, .mlp = 40}, "JA",
                    jet::Bind<'J', jet::JetBlock<jet_config>>, jet::Bind<'A', jet::FullAttention<attention>>> {};

// Bytes of all tensors of a role.
std::vector<std::byte> bytes_of(jet::Weights<Hybrid>& weights, jet::Role role) {
  std::vector<std::byte> bytes;
  weights.visit([&](jet::TensorKey const& key, Slot& slot) {
    if (key.spec.role == role) {
      auto const* from = static_cast<std::byte const*>(slot.data);
      bytes.insert(bytes.end(), from, from + slot.numel() * jet::size_of(slot.dtype));
    }
  });
  return bytes;
}

template <class B> void overfit(double rate) {
  using T = typename B::scalar;
  auto weights = std::make_shared<jet::Weights<Hybrid>>();
  weights->allocate(B{});
  jet::initialise(*weights, 3);
  auto const trained = [](jet::TensorKey const& key) { return key.spec.role != jet::Role::mlp; };
  jet::TrainStep<Hybrid, B> step(weights, {.tokens = 96, .seqs = 3, .loss_rows = 20, .poison = true}, trained);
  std::vector<std::int64_t> const ends{0, 40, 41, 75};
  std::vector<std::int32_t> ids, targets;
  jet::Random const random{5, 1};
  for (std::size_t t = 0; t < 75; ++t) {
    ids.push_back(static_cast<std::int32_t>(random.uniform_below(t, 31)));
  }
  for (std::size_t t = 0; t < 75; ++t) {
    bool const last = t == 39 || t == 40 || t == 74;
    targets.push_back(last ? -100 : ids[t + 1]);
  }
  auto const frozen = bytes_of(*weights, jet::Role::mlp);
  auto const mixers = bytes_of(*weights, jet::Role::mixer);
  double first = 0, last = 0;
  for (int i = 0; i < 400; ++i) {
    step.zero_gradients();
    last = step.loss_and_gradients({ends, ids, targets});
    first = i == 0 ? last : first;
    if (last < 0.05 * first) {
      MESSAGE("steps: ", i, ", loss ", first, " to ", last);
      break;
    }
    std::vector<Slot> gradients;  // in the order in which the weights are visited
    step.gradients().visit([&](jet::TensorKey const&, Slot& slot) { gradients.push_back(slot); });
    auto gradient = gradients.begin();
    weights->visit([&](jet::TensorKey const& key, Slot& slot) {
      if (trained(key)) {
        T* const w = slot.as<T>();
        T const* const d = (gradient++)->template as<T>();
        for (i64 j = 0; j < slot.numel(); ++j) {
          w[j] -= static_cast<T>(rate) * d[j];
        }
      }
    });
  }
  CHECK(first == doctest::Approx(std::log(31.0)).epsilon(0.1));
  CHECK(last < 0.05 * first);
  CHECK(bytes_of(*weights, jet::Role::mlp) == frozen);
  CHECK_FALSE(bytes_of(*weights, jet::Role::mixer) == mixers);
}

TEST_CASE_TEMPLATE("a hybrid with frozen MLPs overfits one batch", B, F64, F32) {
  overfit<B>(0.5);
}

}  // namespace
