// Letters and plans: the same code whether a plan is a type or a string; a store with several letters per layer.
#include <doctest/doctest.h>

#include "small.hpp"

using contract::make_weights;
using contract::rows;
using contract::same_bits;
using contract::Small;
using contract::tokens;
using B = jet::Cpu<jet::precision::f32>;

namespace {

jet::EngineOptions options(std::string plan = {}) {
  return {.slots = 2, .max_len = 96, .chunk = 40, .max_logits = 40, .plan = std::move(plan), .poison = true};
}

/// Prefill in two pieces, then five decode steps: all logits of one sequence.
template <class E> std::vector<float> run(E& engine, jet::i64 slot = 0) {
  auto const ids = tokens(60, 3);
  engine.reset(slot);
  std::vector<float> out = rows<float>(engine.append(slot, ids));
  auto const s = static_cast<std::int32_t>(slot);
  std::int32_t const token = 5;
  engine.begin_decode({&s, 1}, {&token, 1});
  for (int i = 0; i < 5; ++i) {
    auto const step = rows<float>(engine.decode_step());
    out.insert(out.end(), step.begin(), step.end());
  }
  return out;
}

}  // namespace

TEST_CASE("a plan given at run time gives bit for bit what the compile-time type gives") {
  struct Other : Small::replan<"SJMANA"> {};
  auto typed = make_weights<Other, B>(11);
  jet::Engine<Other, B> by_type(typed, options());

  auto store = std::make_shared<jet::Weights<Small>>(std::string_view("SJMANA"));
  store->allocate(B{});
  contract::randomise(*store, 11);
  jet::Engine<Small, B> by_string(store, options("SJMANA"));

  CHECK(same_bits(run(by_string), run(by_type)));
  CHECK(Small::num_params("SJMANA") == Other::num_params());
  CHECK(Small::state_bytes<B::precision>(3, 50, "SJMANA") == Other::state_bytes<B::precision>(3, 50));
}

TEST_CASE("50 random plans in alternation on one store and one state, each equal to a separately built model") {
  std::vector<std::string> const letters(6, "JA");
  auto store = make_weights<Small, B>(21, letters);
  jet::Engine<Small, B> super(store, options("JJJJJJ"));
  jet::i64 const pool_bytes = super.pool().bytes();
  jet::Random const random{5, 0};
  std::vector<std::string> plans;
  for (std::uint64_t i = 0; i < 50; ++i) {
    std::string plan;
    for (std::uint64_t l = 0; l < 6; ++l) {
      plan += random.uniform_below(6 * i + l, 2) != 0 ? 'J' : 'A';
    }
    plans.push_back(plan);
  }
  for (std::string const& plan : plans) {
    super.set_plan(plan);
    auto const got = run(super, 1);
    // The separate model: only this plan's letters, the same numbers.
    auto own = std::make_shared<jet::Weights<Small>>(std::string_view(plan));
    own->share(*store, [](jet::TensorKey const&) { return true; });
    own->allocate(B{});
    CHECK(own->owned_bytes() == 0);
    jet::Engine<Small, B> separate(own, options(plan));
    CHECK(same_bits(got, run(separate, 1)));
  }
  CHECK(super.pool().bytes() == pool_bytes);
}

TEST_CASE("letters of one layer share the model's MLP and norms, and have their own mixer weights") {
  jet::Weights<Small> store(std::vector<std::string>{"JA", "J", "J", "J", "J", "J"});
  int mlp_rows = 0, mixer_rows = 0, norm_rows = 0;
  store.visit([&](jet::TensorKey const& key, jet::Slot&) {
    if (key.layer == 0) {
      mlp_rows += key.module == jet::Module::mlp ? 1 : 0;
      norm_rows += key.module == jet::Module::mixer_norm || key.module == jet::Module::mlp_norm ? 1 : 0;
      mixer_rows += key.module == jet::Module::mixer ? 1 : 0;
    }
  });
  CHECK(mlp_rows == 3);
  CHECK(norm_rows == 2);
  CHECK(mixer_rows == 13 + 9);
}

TEST_CASE("a layer without an MLP and one with another MLP") {
  jet::i64 n = 97 * 48 + 48;
  jet::i64 const own_mlp = 3 * 48 * 80, other_mlp = 3 * 48 * 33;
  jet::i64 const jet_params = jet::num_params<jet::JetBlock<contract::jet_block>>();
  jet::i64 const attention = jet::num_params<jet::FullAttention<contract::attention>>();
  n += 2 * (jet_params + own_mlp + 2 * 48);  // J J
  n += 2 * (attention + own_mlp + 2 * 48);   // A S
  n += jet_params + 48;                      // N: one norm, no MLP
  n += attention + other_mlp + 2 * 48;       // M
  CHECK(Small::num_params() == n);

  auto weights = make_weights<Small, B>(31);
  jet::Engine<Small, B> engine(weights, options());
  // N adds no MLP output: its layer's mlp_out is never observed, its layer_out is the sum of input and mixer
  // output.
  std::vector<std::vector<float>> mixer_out(6), layer_out(6);
  int mlp_calls = 0;
  jet::Batch batch;
  batch.add(0, 20, 0);
  engine.forward(batch, tokens(20, 1), [&](jet::i64 l, jet::Point p, jet::View const& v) {
    auto const at = static_cast<std::size_t>(l);
    if (p == jet::Point::mixer_out) {
      mixer_out[at] = rows<float>(v);
    } else if (p == jet::Point::layer_out) {
      layer_out[at] = rows<float>(v);
    } else if (p == jet::Point::mlp_out) {
      CHECK(l != 2);
      ++mlp_calls;
    }
  });
  CHECK(mlp_calls == 5);
  std::vector<float> sum(layer_out[1]);
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i] += mixer_out[2][i];
  }
  CHECK(same_bits(sum, layer_out[2]));
}

TEST_CASE("a plan that the store cannot run is refused by name") {
  auto weights = make_weights<Small, B>(1);
  jet::Engine<Small, B> engine(weights, options());
  CHECK_THROWS_WITH_AS(engine.set_plan("JANMS"), "jet: plan \"JANMS\" has 5 letters, the model has 6 layers",
                       jet::Error);
  CHECK_THROWS_WITH_AS(engine.set_plan("JANMSX"), "jet: plan letter 'X' is not bound; bound are \"JASNM\"",
                       jet::Error);
  CHECK_THROWS_WITH_AS(engine.set_plan("AANMSJ"),
                       "jet: plan \"AANMSJ\": layer 0 has no weights for letter 'A', it holds \"J\"", jet::Error);
  CHECK_NOTHROW(engine.set_plan("JANMSJ"));
}
