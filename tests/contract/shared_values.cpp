// Values that cross layers: the first layer of the plan that finds the slot empty fills it, later ones read it.
#include <doctest/doctest.h>

#include "small.hpp"

namespace {

using contract::rows;
using contract::same_bits;
using contract::tokens;
using B = jet::Cpu<jet::precision::f32>;

/// y = x W^T + v_first, where v_first is the first such layer's x W^T (as RWKV7's first-layer value).
struct FirstValue {
  static constexpr std::string_view kind = "first_value";
  static constexpr jet::i64 width = 48;
  template <class T> struct Params { T w; };
  static constexpr Params<jet::ParamSpec> params() { return {.w = {"w.weight", {48, 48}}}; }
  template <class T> struct State {};
  static constexpr State<jet::StateSpec> state() { return {}; }
  template <class T> struct Shared { T first; };
  static constexpr Shared<jet::SharedSpec> shared() { return {.first = {"first", 48, 1}}; }

  template <jet::Backend Back>
  static void forward(jet::Context<Back>& ctx, Params<jet::Slot> const& w, State<jet::Slot>&, jet::View x,
                      jet::View y) {
    jet::SharedSlot& first = ctx.shared(shared().first);
    ctx.run(jet::op::Linear{}, w.w, x, y);
    if (!first.filled) {
      ctx.run(jet::op::Linear{}, w.w, x, first.value);
      first.filled = true;
    }
    ctx.run(jet::op::Add{}, first.value, y);
  }
};

struct Model : contract::Small::with<jet::Bind<'V', FirstValue>>::replan<"JVAVVJ"> {};

}  // namespace

TEST_CASE("the first layer fills the value, later layers read it, every call anew") {
  auto weights = contract::make_weights<Model, B>(3);
  jet::Engine<Model, B> engine(weights, {.slots = 2, .max_len = 64, .chunk = 32, .max_logits = 32, .poison = true});
  auto const ids = tokens(20, 1);
  std::vector<float> in1, out1, in3, out3;
  jet::Batch batch;
  batch.add(0, 20, 0);
  engine.forward(batch, ids, [&](jet::i64 l, jet::Point p, jet::View const& v) {
    if (p == jet::Point::mixer_in && l == 3) {
      in3 = rows<float>(v);
    }
    if (p == jet::Point::mixer_out && l == 1) {
      out1 = rows<float>(v);
    }
    if (p == jet::Point::mixer_out && l == 3) {
      out3 = rows<float>(v);
    }
  });
  // layer 3: out = in W3^T + first, and first = out1 / 2
  jet::Slot const w = [&] {
    jet::Slot found;
    weights->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
      if (key.layer == 3 && key.module == jet::Module::mixer) {
        found = slot;
      }
    });
    return found;
  }();
  std::vector<float> expected;
  for (std::size_t t = 0; t < 20; ++t) {
    for (std::size_t o = 0; o < 48; ++o) {
      double sum = static_cast<double>(out1[t * 48 + o]) / 2;
      for (std::size_t i = 0; i < 48; ++i) {
        sum += static_cast<double>(in3[t * 48 + i]) * static_cast<double>(w.as<float>()[o * 48 + i]);
      }
      expected.push_back(static_cast<float>(sum));
    }
  }
  CHECK(contract::relative_rms(out3, expected) < 1e-5);
}

TEST_CASE("a prefix is resumed from the residual stream and the values that crossed it") {
  auto weights = contract::make_weights<Model, B>(4);
  jet::Engine<Model, B> engine(weights, {.slots = 1, .max_len = 64, .chunk = 32, .max_logits = 32, .poison = true});
  auto const ids = tokens(10, 2);
  jet::Batch batch;
  batch.add(0, 10, 0);
  batch.logits = jet::Logits::all;
  std::vector<float> x, first;
  auto const whole = rows<float>(engine.forward(batch, ids, [&](jet::i64 l, jet::Point p, jet::View const& v) {
    if (l == 1 && p == jet::Point::mixer_out) {
      first = rows<float>(v);
      for (float& f : first) {
        f /= 2;  // y = x W^T + x W^T: halving is exact
      }
    }
    if (l == 1 && p == jet::Point::layer_out) {
      x = rows<float>(v);
    }
  }));
  jet::View const x_view(x.data(), jet::DType::f32, {10, 48});
  jet::View const first_view(first.data(), jet::DType::f32, {10, 48});
  std::vector<float> kept = x;
  engine.reset(0);
  auto const resumed =
      rows<float>(engine.forward_from(2, batch, x_view, {{FirstValue::shared().first, first_view}}));
  CHECK(same_bits(whole, resumed));
  // without the value, a later layer uses its own: another answer
  engine.reset(0);
  x = kept;
  CHECK_FALSE(same_bits(whole, rows<float>(engine.forward_from(2, batch, x_view))));
}
