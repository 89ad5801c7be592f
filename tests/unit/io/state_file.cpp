#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <jet/cpu/cpu.hpp>
#include <jet/io/state_file.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>

#include "file_support.hpp"
#include "golden/tiny_models.hpp"

namespace {

using golden::TinyJet;
using jet::DType;
using jet::i64;
using tests::contains;
using tests::message_of;
using tests::ScratchDirectory;

using B = jet::Cpu<jet::precision::f32>;

std::vector<std::int32_t> tokens(i64 count, i64 first) {
  std::vector<std::int32_t> ids;
  for (i64 i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>((first + i) * 37 % 512));
  }
  return ids;
}

/// A state of two small rows of plan "AB".
jet::SavedState small_state() {
  jet::SavedState state{"AB", 5, {}};
  state.rows.push_back({0, 'A', "mixer.key", DType::bf16, {5, 1, 2}, std::vector<std::byte>(20, std::byte{1})});
  state.rows.push_back({0, 'A', "mixer.empty", DType::f32, {0, 3}, {}});
  state.rows.push_back({1, 'B', "mlp.shift", DType::f32, {3}, std::vector<std::byte>(12, std::byte{2})});
  return state;
}

void check_same(jet::SavedState const& a, jet::SavedState const& b) {
  CHECK(a.plan == b.plan);
  CHECK(a.position == b.position);
  REQUIRE(a.rows.size() == b.rows.size());
  for (std::size_t i = 0; i < a.rows.size(); ++i) {
    CHECK(a.rows[i].layer == b.rows[i].layer);
    CHECK(a.rows[i].letter == b.rows[i].letter);
    CHECK(a.rows[i].name == b.rows[i].name);
    CHECK(a.rows[i].dtype == b.rows[i].dtype);
    CHECK(a.rows[i].shape == b.rows[i].shape);
    CHECK(a.rows[i].data == b.rows[i].data);
  }
}

}  // namespace

TEST_CASE("state_file: a sequence goes on in another engine as if it had not stopped") {
  ScratchDirectory directory;
  auto weights = std::make_shared<jet::Weights<TinyJet>>();
  weights->allocate(B());
  jet::initialise(*weights, 1);
  jet::EngineOptions const options{.slots = 2, .max_len = 64};
  jet::Engine<TinyJet, B> first(weights, options);
  jet::Engine<TinyJet, B> second(weights, options);
  std::vector<std::int32_t> const more = tokens(5, 30);
  for (i64 const seen : {30, 3, 0}) {
    first.reset(0);
    if (seen > 0) {
      first.append(0, tokens(seen, 0));
    }
    jet::SavedState const state = first.save(0);
    jet::save_state(directory.path / "state", state);
    CHECK(directory.names() == std::set<std::string>{"state"});
    jet::SavedState const loaded = jet::load_state(directory.path / "state");
    check_same(state, loaded);
    second.load(1, loaded);
    jet::View const expected = first.append(0, more);
    jet::View const found = second.append(1, more);
    CHECK(std::memcmp(expected.data, found.data, static_cast<std::size_t>(expected.numel()) * 4) == 0);
  }
}

TEST_CASE("state_file: rows keep their order, dtypes and emptiness") {
  ScratchDirectory directory;
  jet::save_state(directory.path / "state", small_state());
  check_same(small_state(), jet::load_state(directory.path / "state"));
  jet::SavedState none{"AB", 0, {}};
  jet::save_state(directory.path / "state", none);
  check_same(none, jet::load_state(directory.path / "state"));
}

TEST_CASE("state_file: states that contradict themselves are not written") {
  ScratchDirectory directory;
  auto const check = [&](auto const& change, std::string const& part) {
    jet::SavedState state = small_state();
    change(state);
    std::string const message = message_of([&] { jet::save_state(directory.path / "state", state); });
    CAPTURE(message);
    CHECK(contains(message, part));
    CHECK(directory.names().empty());
  };
  check([](auto& s) { s.position = -1; }, "position -1");
  check([](auto& s) { s.rows[2].letter = 'A'; }, "layer 1 (A), which is not in plan \"AB\"");
  check([](auto& s) { s.rows[2].layer = 2; }, "layer 2 (B), which is not in plan");
  check([](auto& s) { s.rows[2].layer = -1; }, "which is not in plan");
  check([](auto& s) { s.rows[2].shape = {4}; }, "shape [4] of f32 expects 16 bytes, found 12");
  check([](auto& s) { s.rows[2].shape = {-3}; }, "negative extent");
  check([](auto& s) { s.rows[2].dtype = DType::none; }, "dtype is not stated");
  check([](auto& s) { s.rows[2].name = ""; }, "is not a name");
  check([](auto& s) { s.rows[2].name = "a\nb"; }, "is not a name");
  check([](auto& s) { s.plan += '\n'; }, "plan \"AB\\x0a\" is not of letters");
  check([](auto& s) { s.rows[1] = s.rows[0]; }, "layers.0.mixer.key");
}

TEST_CASE("state_file: a state of another model is refused by the pool") {
  ScratchDirectory directory;
  auto weights = std::make_shared<jet::Weights<TinyJet>>();
  weights->allocate(B());
  jet::initialise(*weights, 1);
  jet::Engine<TinyJet, B> engine(weights, {.max_len = 32});
  engine.append(0, tokens(4, 0));
  jet::SavedState state = engine.save(0);
  state.rows[0].shape[0] += 1;
  state.rows[0].data.resize(state.rows[0].data.size() / 2 * 3);
  jet::save_state(directory.path / "state", state);
  jet::SavedState const loaded = jet::load_state(directory.path / "state");
  CHECK(contains(message_of([&] { engine.load(0, loaded); }), "has another shape"));
}
