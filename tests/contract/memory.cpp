// Memory: a dry run plans what is then allocated; a decode step allocates nothing.
#include <doctest/doctest.h>

#include "count_allocations.hpp"
#include "small.hpp"

using contract::make_weights;
using contract::Small;
using contract::tokens;
using tests::allocations;

TEST_CASE_TEMPLATE("memory_plan() equals what is then allocated", B, jet::Cpu<jet::precision::f64>,
                   jet::Cpu<jet::precision::f32>, jet::Cpu<jet::precision::bf16_weights>,
                   jet::Cpu<jet::precision::bf16>) {
  for (jet::i64 const slots : {1, 3, 40}) {
    for (jet::i64 const chunk : {1, 16, 100}) {
      jet::EngineOptions const o{.slots = slots, .max_len = 300, .chunk = chunk, .poison = true};
      jet::MemoryPlan const dry = jet::Engine<Small, B>::plan_memory(o);
      jet::Engine<Small, B> engine(make_weights<Small, B>(1), o);
      CHECK(dry == engine.allocated());
      CHECK(dry == engine.memory_plan());
      // and it is enough: the longest single prompt, the most ragged batch, a full decode step at the end of the
      // context
      engine.append(0, tokens(299, 1));
      std::vector<std::int32_t> slot_list, first;
      for (std::int32_t s = 0; s < slots; ++s) {
        if (s > 0) {
          engine.fork(0, s);
        }
        slot_list.push_back(s);
        first.push_back(1);
      }
      engine.begin_decode(slot_list, first);
      CHECK_NOTHROW(engine.decode_step());
      CHECK_THROWS_AS(engine.decode_step(), jet::Error);  // max_len
      jet::Batch ragged;
      for (std::int32_t s = 0; s < slots && s < chunk; ++s) {
        engine.reset(s);
        ragged.add(s, s + 1 < std::min(slots, chunk) ? 1 : chunk - s, 0);
      }
      if (chunk >= slots) {
        CHECK_NOTHROW(engine.forward(ragged, tokens(static_cast<std::size_t>(ragged.tokens()), 2)));
      }
    }
  }
}

TEST_CASE("state bytes are what the pool holds, up to alignment") {
  using B = jet::Cpu<jet::precision::f32>;
  jet::Engine<Small, B> engine(make_weights<Small, B>(1), {.slots = 1, .max_len = 256, .chunk = 8});
  jet::i64 const exact = Small::state_bytes<B::precision>(1, 256);
  CHECK(engine.pool().bytes() >= exact);
  CHECK(engine.pool().bytes() < exact + 64 * 2 * Small::layers);
}

TEST_CASE("a super network's state is sized for the largest letter of each layer") {
  using B = jet::Cpu<jet::precision::f32>;
  std::vector<std::string> const letters(6, "JA");
  jet::StatePool<Small> const both(B::precision, {1, 512, 0, 0}, letters);
  jet::StatePool<Small> const attention(B::precision, {1, 512, 0, 0}, std::vector<std::string>(6, "A"));
  jet::StatePool<Small> const linear(B::precision, {1, 512, 0, 0}, std::vector<std::string>(6, "J"));
  CHECK(both.bytes() <= attention.bytes() + linear.bytes());
  CHECK(both.bytes() >= std::max(attention.bytes(), linear.bytes()));
}

TEST_CASE_TEMPLATE("a decode step allocates nothing", B, jet::Cpu<jet::precision::f32>,
                   jet::Cpu<jet::precision::bf16>) {
  jet::Engine<Small, B> engine(make_weights<Small, B>(2), {.slots = 3, .max_len = 200, .chunk = 32});
  std::vector<std::int32_t> slots{0, 1, 2}, first{1, 2, 3};
  for (std::int32_t const s : slots) {
    engine.append(s, tokens(static_cast<std::size_t>(20 + s), 3));
  }
  engine.begin_decode(slots, first);
  engine.decode_step();  // the pool's threads exist after this
  long const before = allocations;
  for (int i = 0; i < 100; ++i) {
    engine.decode_step();
  }
  CHECK(allocations == before);
  long const counted = allocations;
  std::vector<int> const probe(10);
  CHECK(allocations == counted + 1);  // the counter does count
}
