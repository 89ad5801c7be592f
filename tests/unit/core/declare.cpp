// Declaring parameters and state, and what derives from the declarations: core/param.hpp, state.hpp, shape.hpp,
// view.hpp, arena.hpp.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <doctest/doctest.h>

#include <jet/core/arena.hpp>
#include <jet/core/param.hpp>
#include <jet/core/shape.hpp>
#include <jet/core/state.hpp>
#include <jet/core/view.hpp>

using jet::DType;
using jet::i64;
using jet::ParamSpec;
using jet::Role;
using jet::Shape;
using jet::Slot;
using jet::StateSpec;
using jet::View;

namespace {

/// A block with a row that its config switches on or off.
template <bool Bias> struct Block {
  template <class T> struct Params { T q, bias, A_log; };
  template <class T> struct State { T recurrent, conv, keys; };
  static constexpr Params<ParamSpec> params() {
    return {.q = {"q_proj.weight", {6, 4}},
            .bias = jet::present_if(Bias, {.name = "q_proj.bias", .shape = {6}, .decay = false}),
            .A_log = {.name = "A_log", .shape = {3}, .init = jet::Init::log_uniform(1, 16), .keep_f32 = true}};
  }
  static constexpr State<StateSpec> state() {
    return {.recurrent = {.name = "recurrent", .shape = {3, 2, 5}, .role = Role::recurrent},
            .conv = {.name = "conv", .shape = {3, 7}, .role = Role::conv},
            .keys = {.name = "keys", .shape = {2, 16}, .per_token = true, .window = 8, .role = Role::kv}};
  }
};

/// Nothing to learn and nothing to remember.
struct Empty {
  template <class T> struct Params {};
  template <class T> struct State {};
  static constexpr Params<ParamSpec> params() { return {}; }
  static constexpr State<StateSpec> state() { return {}; }
};

/// No state at all, and one parameter.
struct Stateless {
  template <class T> struct Params { T weight; };
  static constexpr Params<ParamSpec> params() { return {.weight = {"weight", {2, 3, 4, 5}}}; }
};

ParamSpec row(jet::Name const& name, Shape const& shape) {
  ParamSpec spec;
  spec.name = name;
  spec.shape = shape;
  return spec;
}

}  // namespace

TEST_CASE("shape: rank, extents, elements") {
  static_assert(Shape{}.rank == 0 && Shape{}.numel() == 0);
  static_assert(Shape{7}.rank == 1 && Shape{7}.numel() == 7);
  static_assert(Shape{2, 3, 4, 5}.rank == 4 && Shape{2, 3, 4, 5}.numel() == 120);
  static_assert(Shape{2, 0, 4}.numel() == 0);
  static_assert(Shape{151936, std::int64_t{1} << 20}.numel() == i64{151936} << 20);  // beyond 32 bits
  static_assert(Shape{2, 3}[1] == 3);
  static_assert(Shape{2, 3} == Shape{2, 3});
  static_assert(!(Shape{2, 1} == Shape{2}));
}

TEST_CASE("name: stored by value") {
  constexpr jet::Name name("o_norm.weight");
  static_assert(name.view() == "o_norm.weight");
  static_assert(name == jet::Name("o_norm.weight") && !(name == jet::Name("o_norm")));
  static_assert(jet::Name{}.empty() && !name.empty());
  constexpr jet::Name longest("123456789012345678901234567890123456789012345678901234567890123");
  static_assert(longest.view().size() == 63);
}

TEST_CASE("params: arity, count, order") {
  static_assert(jet::HasParams<Block<true>> && jet::HasParams<Empty> && !jet::HasParams<int>);
  static_assert(jet::param_arity<Block<true>> == 3);
  static_assert(jet::param_arity<Block<false>> == 3);  // absent rows keep their place
  static_assert(jet::param_arity<Empty> == 0);
  static_assert(jet::param_arity<Stateless> == 1);
  static_assert(jet::num_params<Block<true>>() == 24 + 6 + 3);
  static_assert(jet::num_params<Block<false>>() == 24 + 3);
  static_assert(jet::num_params<Empty>() == 0);
  static_assert(jet::num_params<Stateless>() == 120);
  constexpr auto rows = jet::param_specs<Block<true>>();
  static_assert(rows.size() == 3);
  CHECK(rows[0].name.view() == "q_proj.weight");
  CHECK(rows[1].name.view() == "q_proj.bias");
  CHECK(rows[2].name.view() == "A_log");
  CHECK(rows[0].decay);
  CHECK_FALSE(rows[1].decay);
  CHECK(rows[2].keep_f32);
  CHECK(rows[2].init == jet::Init::log_uniform(1, 16));
  CHECK(rows[0].init == jet::Init::normal(0.0, 0.02));
  constexpr auto without = jet::param_specs<Block<false>>();
  CHECK_FALSE(without[1].present());
  CHECK(without[1].shape.numel() == 0);
  CHECK(without[2].name.view() == "A_log");
}

TEST_CASE("params: what is well formed") {
  using jet::detail::well_formed;
  CHECK(well_formed(std::array<ParamSpec, 0>{}));
  CHECK(well_formed(std::array{row("a", {1}), row("b", {1, 2, 3, 4})}));
  CHECK(well_formed(std::array<jet::ParamSpec, 3>{jet::absent, row("b", {1}), jet::absent}));
  CHECK_FALSE(well_formed(std::array<jet::ParamSpec, 2>{row("b", {1}), jet::ParamSpec{}}));  // a forgotten row
  CHECK_FALSE(well_formed(std::array{row("a", {1}), row("a", {2})}));      // the name twice
  CHECK_FALSE(well_formed(std::array{row("a", {1}), row("b", Shape{})}));  // no shape
  CHECK_FALSE(well_formed(std::array{row("a", {1}), row("b", {3, 0})}));   // an empty axis
  CHECK_FALSE(well_formed(std::array{row("a", {1}), row("b", {3, -1})}));  // a negative one
  CHECK_FALSE(well_formed(std::array{row("a", {1}), row("", {3})}));       // no name
}

TEST_CASE("params: binding keeps the order of the declaration") {
  float q[24];
  float a_log[3];
  std::array<Slot, 3> const slots{Slot(q, DType::f32, {6, 4}), Slot{}, Slot(a_log, DType::f32, {3})};
  auto const params = jet::as_params<Block<false>>(slots);
  CHECK(params.q.data == q);
  CHECK(params.A_log.data == a_log);
  CHECK(params.A_log.extent[0] == 3);
  CHECK_FALSE(static_cast<bool>(params.bias));
  CHECK(params.bias.numel() == 0);
  CHECK(params.bias.dtype == DType::none);
  auto const back = jet::as_slots<Block<false>>(params);
  static_assert(back.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(back[i].data == slots[i].data);
    CHECK(back[i].dtype == slots[i].dtype);
    CHECK(back[i].rank == slots[i].rank);
  }
  [[maybe_unused]] auto const none = jet::as_params<Empty>({});
  static_assert(decltype(jet::as_slots<Empty>(none)){}.empty());
}

TEST_CASE("state: rows, arity, binding") {
  static_assert(jet::HasState<Block<true>> && jet::HasState<Empty> && !jet::HasState<Stateless>);
  static_assert(jet::state_arity<Block<true>> == 3);
  static_assert(jet::state_arity<Empty> == 0);
  static_assert(jet::state_arity<Stateless> == 0);
  CHECK(jet::state_specs<Block<true>>()[2].name.view() == "keys");
  float data[3 * 30];
  auto const state = jet::as_state<Block<true>>({Slot(data, DType::f32, {3, 3, 2, 5}), Slot{}, Slot{}});
  CHECK(state.recurrent.data == data);
  CHECK(state.recurrent.row<float>(2) == data + 60);  // the pool's slot is axis 0
  CHECK_FALSE(static_cast<bool>(state.conv));
  [[maybe_unused]] auto const none = jet::as_state<Empty>({});
}

TEST_CASE("state: dtype by role") {
  constexpr jet::Precision p{DType::f16, DType::bf16, DType::f32, DType::f64, DType::f8e4m3};
  static_assert(jet::state_dtype(p, Role::recurrent) == DType::f64);
  static_assert(jet::state_dtype(p, Role::conv) == DType::bf16);
  static_assert(jet::state_dtype(p, Role::kv) == DType::f8e4m3);
  static_assert(jet::state_dtype(jet::precision::bf16, Role::kv) == DType::bf16);
}

TEST_CASE("state: capacity and bytes") {
  constexpr StateSpec once{.name = "s", .shape = {2, 3}};
  static_assert(once.capacity(1000) == 1 && once.numel(1000) == 6);
  constexpr StateSpec all{.name = "k", .shape = {2, 3}, .per_token = true, .role = Role::kv};
  static_assert(all.capacity(1000) == 1000 && all.numel(1000) == 6000);
  constexpr StateSpec ring{.name = "k", .shape = {2, 3}, .per_token = true, .window = 100, .role = Role::kv};
  static_assert(ring.capacity(1000) == 100 && ring.capacity(64) == 64);
  static_assert(StateSpec{}.numel(1000) == 0);

  constexpr jet::Precision p{DType::bf16, DType::bf16, DType::f32, DType::f32};
  // 30 f32, 21 bf16, 8 tokens of 32 bf16
  static_assert(jet::state_bytes<Block<true>>(p, 1, 1000) == 30 * 4 + 21 * 2 + 8 * 32 * 2);
  static_assert(jet::state_bytes<Block<true>>(p, 5, 3) == 5 * (30 * 4 + 21 * 2 + 3 * 32 * 2));
  static_assert(jet::state_bytes<Block<true>>(p, 0, 3) == 0);
  static_assert(jet::state_bytes<Empty>(p, 5, 3) == 0);
  static_assert(jet::state_bytes<Stateless>(p, 5, 3) == 0);
  // fp8: a byte an element, and one f16 scale per token and head
  constexpr jet::Precision fp8{DType::bf16, DType::bf16, DType::f32, DType::f32, DType::f8e4m3};
  static_assert(jet::state_bytes<Block<true>>(fp8, 1, 1000) == 30 * 4 + 21 * 2 + 8 * 32 + 8 * 2 * 2);
  static_assert(jet::state_bytes(all, fp8, 1000) == 6000 + 1000 * 2 * 2);
  static_assert(jet::state_bytes(StateSpec{.per_token = true, .role = Role::kv}, fp8, 1000) == 0);  // absent
  // beyond 32 bits
  static_assert(jet::state_bytes(all, jet::precision::f32, i64{1} << 32) == (i64{1} << 32) * 24);
}

TEST_CASE("view: dense strides, rows, columns") {
  float data[24];
  for (int i = 0; i < 24; ++i) {
    data[i] = static_cast<float>(i);
  }
  View const v(data, DType::f32, {6, 4});
  CHECK(static_cast<bool>(v));
  CHECK_FALSE(static_cast<bool>(View{}));
  CHECK(View{}.numel() == 0);
  CHECK(v.tokens() == 6);
  CHECK(v.width() == 4);
  CHECK(v.numel() == 24);
  CHECK(v.stride[0] == 4);
  CHECK(v.stride[1] == 1);
  CHECK(v.row<float>(2)[1] == 9.0f);
  CHECK(v.row_bytes(2) == data + 8);
  View const part = v.rows(2, 3).columns(1, 2);
  CHECK(part.tokens() == 3);
  CHECK(part.width() == 2);
  CHECK(part.numel() == 6);
  CHECK(part.row<float>(0)[0] == 9.0f);
  CHECK(part.row<float>(2)[1] == 18.0f);
  CHECK(part.row<float const>(1) == data + 13);
  View const deep(data, DType::f32, {2, 3, 2, 2});
  CHECK(deep.stride[0] == 12);
  CHECK(deep.stride[1] == 4);
  CHECK(deep.stride[2] == 2);
  CHECK(deep.stride[3] == 1);
  std::uint16_t halves[8];
  CHECK(View(halves, DType::bf16, {2, 4}).row_bytes(1) == halves + 4);
}

TEST_CASE("arena: alignment") {
  static_assert(jet::align_up(0) == 0);
  static_assert(jet::align_up(1) == 64 && jet::align_up(64) == 64 && jet::align_up(65) == 128);
  static_assert(jet::align_up((i64{1} << 40) + 1) == (i64{1} << 40) + 64);
}

TEST_CASE("arena: a host buffer") {
  jet::HostBuffer buffer(100);
  CHECK(buffer.bytes() == 100);
  CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
  buffer.poison();
  float x;
  std::memcpy(&x, buffer.data() + 96, sizeof x);
  CHECK(x != x);
  buffer.zero();
  std::memcpy(&x, buffer.data() + 96, sizeof x);
  CHECK(x == 0.0f);
  std::byte* const data = buffer.data();
  jet::HostBuffer const moved = std::move(buffer);
  CHECK(moved.data() == data);
  CHECK(moved.bytes() == 100);
  jet::HostBuffer none(0);
  CHECK(none.data() == nullptr);
  none.poison();
  none.zero();
  CHECK_THROWS_WITH_AS(jet::HostBuffer(-1), "jet: an allocation of -1 bytes was asked for", jet::Error);
}

TEST_CASE("arena: counting gives the peak that the run needs") {
  // the same requests on any stack: nested marks, odd sizes, an empty one
  auto const run = [](jet::ScratchStack& s) {
    s.take(100);
    i64 const outer = s.mark();
    s.take(1);
    s.take(0);
    i64 const inner = s.mark();
    s.take(1000);
    s.release(inner);
    s.take(64);
    s.release(outer);
    s.take(65);
  };
  jet::ScratchStack counting = jet::ScratchStack::counting();
  CHECK(counting.is_counting());
  run(counting);
  CHECK(counting.peak() == 128 + 64 + 1024);
  CHECK(counting.used() == 128 + 128);

  jet::HostBuffer memory(counting.peak());
  jet::ScratchStack real(memory.data(), memory.bytes());
  CHECK_FALSE(real.is_counting());
  CHECK(real.capacity() == counting.peak());
  run(real);
  CHECK(real.peak() == counting.peak());
  CHECK(real.used() == counting.used());

  jet::HostBuffer small(counting.peak() - 1);
  jet::ScratchStack short_of_one(small.data(), small.bytes());
  CHECK_THROWS_AS(run(short_of_one), jet::Error);
}

TEST_CASE("arena: scratch is aligned, distinct and reused after release") {
  jet::HostBuffer memory(1024);
  jet::ScratchStack s(memory.data(), memory.bytes());
  auto* const a = static_cast<std::byte*>(s.take(3));
  i64 const mark = s.mark();
  auto* const b = static_cast<std::byte*>(s.take(200));
  CHECK(a == memory.data());
  CHECK(b == a + 64);
  s.release(mark);
  CHECK(s.take(10) == b);
  CHECK(s.peak() == 64 + 256);
  s.release(0);
  CHECK(s.take(1024) == a);
  CHECK_THROWS_WITH_AS(
      s.take(1),
      "jet: scratch of 1024 bytes is too small: 1088 bytes are needed (was the memory plan made for "
      "fewer tokens?)",
      jet::Error);
  CHECK(s.used() == 1024);  // a refused request takes nothing
  CHECK_THROWS_AS(jet::ScratchStack{}.take(1), jet::Error);
}
