// Gradients of whole models: every parameter beside differences, tied and untied heads, freezing, observers, values
// that cross layers.
#include <memory>

#include <jet/jet.hpp>
#include <jet/model/training.hpp>

#include "gradient_support.hpp"

namespace {

using namespace tests;
inline constexpr jet::JetBlockConfig jet_config{
    .d_model = 10, .heads = 3, .head_k = 4, .head_v = 6, .conv = 4, .gen_reduction = 3};
inline constexpr jet::AttentionConfig attention{
    .d_model = 10, .heads = 4, .kv_heads = 2, .head = 4, .qkv_bias = true, .qk_norm = true};
template <bool Tied, class... Extra>
using Lm = jet::CausalLM<jet::LmConfig{.vocab = 13, .d_model = 10, .mlp = 15, .tied = Tied}, "JASN",
                         jet::Bind<'J', jet::JetBlock<jet_config>>, jet::Bind<'A', jet::FullAttention<attention>>,
                         jet::Bind<'S', jet::SlidingWindow<attention, 5>, jet::SwiGluMlp<jet::MlpConfig{10, 7}>>,
                         jet::Bind<'N', jet::JetBlock<jet_config>, jet::NoMlp>, Extra...>;
struct Tied : Lm<true> {};
struct Untied : Lm<false> {};

std::vector<std::int64_t> const ends{0, 20, 20, 23, 31};
struct Tokens {
  std::vector<std::int32_t> ids, targets;
  Tokens() {
    jet::Random const random{3, 1};
    for (std::uint64_t t = 0; t < 31; ++t) {
      ids.push_back(static_cast<std::int32_t>(random.uniform_below(2 * t, 13)));
      targets.push_back(t % 7 == 6 ? -100 : static_cast<std::int32_t>(random.uniform_below(2 * t + 1, 13)));
    }
  }
  jet::TrainBatch batch() const { return {ends, ids, targets}; }
};
jet::TrainOptions options(std::string const& plan = "") {
  return {.tokens = 40, .seqs = 5, .loss_rows = 9, .plan = plan, .poison = true, .backend = {.threads = 2}};
}
bool everything(jet::TensorKey const&) {
  return true;
}

template <class Model> std::shared_ptr<jet::Weights<Model>> make_weights(std::string const& plan = "") {
  auto weights = std::make_shared<jet::Weights<Model>>(plan.empty() ? Model::plan() : std::string_view(plan));
  weights->allocate(F64{});
  std::uint64_t seed = 0;
  weights->visit([&](jet::TensorKey const& key, Slot& slot) {
    double const scale = slot.rank == 1 ? 0.5 : 1 / std::sqrt(static_cast<double>(slot.extent[1]));
    Matrix const values = normal(1, slot.numel(), ++seed, scale);
    double const base = key.spec.init.kind == jet::Init::Kind::ones ? 1 : 0;
    for (i64 i = 0; i < slot.numel(); ++i) {
      slot.as<double>()[i] = base + values.at(0, i);
    }
  });
  return weights;
}

using Named = std::map<std::string, Vector>;
std::string name_of(jet::TensorKey const& key) {
  return jet::HfNames::key(key.module, key.layer, key.spec.name);
}
template <class Step> Named gradients_of(Step& step) {
  Named g;
  step.gradients().visit([&](jet::TensorKey const& key, Slot& slot) {
    g[name_of(key)] = Vector(slot.as<double>(), slot.as<double>() + slot.numel());
  });
  return g;
}

template <class Model> Worst compare(std::string const& plan = "") {
  auto weights = make_weights<Model>(plan);
  Tokens const tokens;
  jet::TrainStep<Model, F64> step(weights, options(plan), everything);
  double const loss = step.loss_and_gradients(tokens.batch());
  CHECK(loss == step.loss(tokens.batch()));
  Named const gradients = gradients_of(step);
  Worst worst;
  weights->visit([&](jet::TensorKey const& key, Slot& slot) {
    double* const w = slot.as<double>();
    Vector values(w, w + slot.numel());
    auto const now = [&] {
      std::copy(values.begin(), values.end(), w);
      return step.loss(tokens.batch());
    };
    compare_differences(name_of(key), values, gradients.at(name_of(key)), now, worst, {}, 1, 2);
    std::copy(values.begin(), values.end(), w);
  });
  return worst;
}

TEST_CASE_TEMPLATE("every parameter of a hybrid: gradients equal differences", Model, Tied, Untied) {
  Worst const worst = compare<Model>();
  INFO("worst: ", worst.error, " of ", worst.where);
  CHECK(worst.error <= difference_bound);
}

TEST_CASE("a frozen tensor has no gradient, and the others' do not change") {
  auto weights = make_weights<Tied>();
  Tokens const tokens;
  jet::TrainStep<Tied, F64> whole(weights, options(), everything);
  whole.loss_and_gradients(tokens.batch());
  Named const all = gradients_of(whole);
  auto const check = [&](auto const& trained) {
    jet::TrainStep<Tied, F64> step(weights, options(), trained);
    step.loss_and_gradients(tokens.batch());
    Named const some = gradients_of(step);
    std::size_t expected = 0;
    weights->visit([&](jet::TensorKey const& key, Slot&) {
      expected += trained(key) ? 1 : 0;
      CHECK(some.count(name_of(key)) == (trained(key) ? 1 : 0));
    });
    CHECK(some.size() == expected);
    for (auto const& [name, values] : some) {
      CHECK(same_bits(values, all.at(name)));
    }
    return step.memory().gradients;
  };
  i64 const mixers = check([](jet::TensorKey const& key) { return key.spec.role == jet::Role::mixer; });
  CHECK(mixers < whole.memory().gradients);
  check([](jet::TensorKey const& key) { return key.spec.role != jet::Role::mlp; });
  check([](jet::TensorKey const& key) { return key.spec.part == jet::Part::query; });
  check([](jet::TensorKey const& key) { return key.layer == 2; });
  check([](jet::TensorKey const& key) { return key.spec.role == jet::Role::embedding; });
  check([](jet::TensorKey const&) { return false; });
}

TEST_CASE("gradients of two calls are summed, zeroed on request; calls of other sizes in between do not matter") {
  auto weights = make_weights<Tied>();
  Tokens const tokens;
  jet::TrainStep<Tied, F64> step(weights, options(), everything);
  step.loss_and_gradients(tokens.batch());
  Named const once = gradients_of(step);
  step.loss_and_gradients(tokens.batch());
  for (auto const& [name, values] : gradients_of(step)) {
    Vector twice = once.at(name);
    for (double& v : twice) {
      v *= 2;
    }
    CHECK(relative_rms(values, twice) <= 1e-13);
  }
  std::vector<std::int64_t> const single{0, 1};
  step.loss_and_gradients({single, std::span(tokens.ids).first(1), std::span(tokens.targets).first(1)});
  step.zero_gradients();
  step.loss_and_gradients(tokens.batch());
  for (auto const& [name, values] : gradients_of(step)) {
    CHECK(same_bits(values, once.at(name)));
  }
}

TEST_CASE("observers: the forward's points in reverse, with the gradient, to which they may add") {
  auto weights = make_weights<Tied>();
  Tokens const tokens;
  jet::TrainStep<Tied, F64> step(weights, options(), everything);
  double const plain = step.loss_and_gradients(tokens.batch());
  Named const expected = gradients_of(step);
  std::vector<std::string> forward, backward;
  auto const note = [](std::vector<std::string>& to) {
    return [&to](i64 l, jet::Point p, View const& v) {
      CHECK(v.tokens() == 31);
      to.push_back(jet::concat(l, jet::name_of(p)));
    };
  };
  step.zero_gradients();
  CHECK(step.loss_and_gradients(tokens.batch(), note(forward), note(backward)) == plain);
  CHECK(forward.size() == 15);
  std::reverse(backward.begin(), backward.end());
  CHECK(forward == backward);
  for (auto const& [name, values] : gradients_of(step)) {
    CHECK(same_bits(values, expected.at(name)));
  }
  // loss = cross-entropy + <value at a point, c>: the gradient at that point grows by c
  Matrix const c = normal(31, 10, 77);
  for (i64 const layer : {i64{0}, i64{2}, i64{3}}) {
    for (jet::Point const point :
         {jet::Point::mixer_in, jet::Point::mixer_out, jet::Point::mlp_out, jet::Point::layer_out}) {
      if (layer == 3 && point == jet::Point::mlp_out) {
        continue;  // a layer without MLP
      }
      double extra = 0;
      auto const value = [&](i64 l, jet::Point p, View const& v) {
        if (l == layer && p == point) {
          extra = dot(Vector(v.as<double>(), v.as<double>() + v.numel()), c.data);
        }
      };
      auto const add = [&](i64 l, jet::Point p, View const& v) {
        for (i64 i = 0; l == layer && p == point && i < v.numel(); ++i) {
          v.as<double>()[i] += c.data[static_cast<std::size_t>(i)];
        }
      };
      step.zero_gradients();
      step.loss_and_gradients(tokens.batch(), {}, add);
      Named const gradients = gradients_of(step);
      Worst worst;
      weights->visit([&](jet::TensorKey const& key, Slot& slot) {
        if (key.module != jet::Module::embedding && key.spec.part != jet::Part::value) {
          return;
        }
        double* const w = slot.as<double>();
        Vector values(w, w + slot.numel());
        auto const now = [&] {
          std::copy(values.begin(), values.end(), w);
          step.zero_gradients();
          double const loss = step.loss_and_gradients(tokens.batch(), value, {});
          return loss + extra;
        };
        compare_differences(name_of(key), values, gradients.at(name_of(key)), now, worst, {}, 1, 0);
        std::copy(values.begin(), values.end(), w);
      });
      CAPTURE(layer);
      CAPTURE(jet::name_of(point));
      INFO("worst: ", worst.error, " of ", worst.where);
      CHECK(worst.error <= difference_bound);
    }
  }
}

// y = x W^T + v_first, where v_first is the first such layer's x W^T (as RWKV7's first-layer value).
struct FirstValue {
  static constexpr std::string_view kind = "first_value";
  static constexpr i64 width = 10;
  template <class T> struct Params { T w; };
  static constexpr Params<jet::ParamSpec> params() { return {.w = {"w.weight", {10, 10}}}; }
  template <class T> struct State {};
  static constexpr State<jet::StateSpec> state() { return {}; }
  template <class T> struct Saved { T wrote; };
  static constexpr Saved<jet::SavedSpec> saved() { return {.wrote = {"wrote", {1}, jet::Per::sequence}}; }
  template <class T> struct Shared { T first; };
  static constexpr Shared<jet::SharedSpec> shared() { return {.first = {"first", 10, 1, true}}; }

  template <jet::Backend B>
  static void forward(jet::Context<B>& ctx, Params<Slot> const& w, State<Slot>&, View x, View y,
                      Saved<Slot>* saved = nullptr) {
    jet::SharedSlot& first = ctx.shared(shared().first);
    if (saved != nullptr && !ctx.planning()) {
      saved->wrote.template as<double>()[0] = first.filled ? 0 : 1;
    }
    if (!first.filled) {
      ctx.run(jet::op::Linear{}, w.w, x, first.value);
      first.filled = true;
    }
    ctx.run(jet::op::Linear{}, w.w, x, y);
    ctx.run(jet::op::Add{}, first.value, y);
  }
  template <jet::Backend B>
  static void backward(jet::Context<B>& ctx, Params<Slot> const& w, State<Slot> const&, View x,
                       Saved<Slot> const& saved, View dy, View dx, Params<Slot> const& dw, State<Slot> const&,
                       State<Slot> const&) {
    jet::SharedSlot& first = ctx.shared(shared().first);
    View const d = ctx.accumulator(x.tokens(), width);
    copy_rows(ctx, dy, d);
    ctx.run(jet::op::Add{}, dy, first.grad);
    if (!ctx.planning() && saved.wrote.template as<double>()[0] == 1) {
      ctx.run(jet::op::Add{}, first.grad, d);
    }
    ctx.run(jet::op::Backward{jet::op::Linear{}}, w.w, x, d, dx, dw.w, Slot{});
  }
};
struct WithFirstValue : Lm<true, jet::Bind<'V', FirstValue>> {};

TEST_CASE("a value that crosses layers: later layers add to its gradient, the writer reads it") {
  Worst const worst = compare<WithFirstValue>("JVAV");
  INFO("worst: ", worst.error, " of ", worst.where);
  CHECK(worst.error <= difference_bound);
}

TEST_CASE("what a training step refuses") {
  auto weights = make_weights<Tied>();
  Tokens const tokens;
  jet::TrainStep<Tied, F64> step(weights, options(), everything);
  auto const refused = [&](jet::TrainBatch const& batch, std::string_view message) {
    CHECK_THROWS_WITH_AS(step.loss_and_gradients(batch), doctest::String(std::string(message).c_str()), jet::Error);
  };
  std::vector<std::int32_t> bad = tokens.ids;
  bad[3] = 13;
  refused({ends, bad, tokens.targets}, "jet: token 3 is 13, expected 0 to 12");
  bad[3] = -100;
  refused({ends, bad, tokens.targets}, "jet: token 3 is -100, expected 0 to 12");
  refused({ends, tokens.ids, std::span(tokens.targets).first(30)}, "jet: batch: 30 targets for 31 tokens");
  std::vector<std::int32_t> const none(31, -100);
  refused({ends, tokens.ids, none}, "jet: batch: no token has a target");
  std::vector<std::int64_t> const more{0, 31, 31, 31, 31, 31, 31};
  refused({more, tokens.ids, tokens.targets},
          "jet: batch: 6 sequences, the step was made for 1 to 5 (option seqs)");
  std::vector<std::int64_t> const falling{0, 20, 10, 31};
  CHECK_THROWS_AS(step.loss_and_gradients({falling, tokens.ids, tokens.targets}), jet::Error);
  refused({{}, tokens.ids, tokens.targets}, "jet: batch: -1 sequences, the step was made for 1 to 5 (option seqs)");
  auto const unbound = std::make_shared<jet::Weights<Tied>>();
  CHECK_THROWS_AS((jet::TrainStep<Tied, F64>(unbound, options(), everything)), jet::Error);
}

}  // namespace
