// A small hybrid with every kind of layer, for the tests of the contract (design: values that later work stands
// on).
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <jet/jet.hpp>

namespace contract {

inline constexpr jet::AttentionConfig attention{
    .d_model = 48, .heads = 4, .kv_heads = 2, .head = 12, .qkv_bias = true, .qk_norm = true};
inline constexpr jet::JetBlockConfig jet_block{.d_model = 48, .heads = 3, .head_k = 8, .head_v = 16};

// A and J share the model's MLP, N has none, M has another one.
struct Small
    : jet::CausalLM<jet::LmConfig{.vocab = 97, .d_model = 48, .mlp = 80}, "JANMSJ",
                    jet::Bind<'J', jet::JetBlock<jet_block>>, jet::Bind<'A', jet::FullAttention<attention>>,
                    jet::Bind<'S', jet::SlidingWindow<attention, 7>>,
                    jet::Bind<'N', jet::JetBlock<jet_block>, jet::NoMlp>,
                    jet::Bind<'M', jet::FullAttention<attention>, jet::SwiGluMlp<jet::MlpConfig{48, 33}>>> {};

/// The value of every generator weight must matter, so nothing stays zero.
template <class Model> void randomise(jet::Weights<Model>& weights, std::uint64_t seed) {
  jet::initialise(weights, seed);
  std::vector<double> values;
  std::uint64_t tensor = 0;
  weights.visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    jet::Random const random{seed, 1000 + tensor++};
    bool const vector = key.spec.shape.rank == 1;
    values.resize(static_cast<std::size_t>(slot.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      double const x = static_cast<double>(random.normal(i));
      values[i] = key.spec.init.kind == jet::Init::Kind::ones ? 1 + 0.1 * x : vector ? 0.3 * x : 0.2 * x;
    }
    jet::detail::store_as(slot.dtype, values.data(), slot.numel(), slot.data);
  });
}

template <class Model, class B>
std::shared_ptr<jet::Weights<Model>> make_weights(std::uint64_t seed, std::vector<std::string> letters = {}) {
  auto weights = letters.empty() ? std::make_shared<jet::Weights<Model>>()
                                 : std::make_shared<jet::Weights<Model>>(std::move(letters));
  weights->allocate(B{});
  randomise(*weights, seed);
  return weights;
}

inline std::vector<std::int32_t> tokens(std::size_t n, std::uint64_t seed, std::uint64_t vocab = 97) {
  jet::Random const random{seed, 7};
  std::vector<std::int32_t> ids(n);
  for (std::size_t i = 0; i < n; ++i) {
    ids[i] = static_cast<std::int32_t>(random.uniform_below(i, vocab));
  }
  return ids;
}

/// A row of logits (or any rank-2 view) copied.
template <class T> std::vector<T> rows(jet::View const& v) {
  std::vector<T> out;
  for (jet::i64 i = 0; i < v.tokens(); ++i) {
    out.insert(out.end(), v.row<T>(i), v.row<T>(i) + v.width());
  }
  return out;
}

template <class T> bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T> double relative_rms(std::vector<T> const& a, std::vector<T> const& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    double const d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  double const ratio = std::sqrt(difference / norm);
  return a.size() == b.size() && std::isfinite(ratio) ? ratio : HUGE_VAL;
}

}  // namespace contract
