// Generation: prompts of different lengths in one batch give what each gives alone, sampled ones too.
#include <doctest/doctest.h>

#include "small.hpp"

using contract::make_weights;
using contract::Small;
using contract::tokens;
using B = jet::Cpu<jet::precision::f32>;

namespace {

std::vector<std::int32_t> alone(jet::Engine<Small, B>& lm, std::vector<std::int32_t> const& prompt,
                                jet::GenerateOptions const& options) {
  std::vector<std::int32_t> out;
  for (std::int32_t const id : lm.generate(prompt, options)) {
    out.push_back(id);
  }
  return out;
}

}  // namespace

TEST_CASE("a batch of prompts of different lengths, more than there are slots, equals each alone") {
  jet::Engine<Small, B> lm(make_weights<Small, B>(7), {.slots = 2, .max_len = 90, .chunk = 16, .poison = true});
  std::vector<std::vector<std::int32_t>> const prompts{tokens(40, 1), tokens(1, 2), tokens(17, 3), tokens(5, 4)};
  auto batch = jet::generate(lm, prompts, {.max_new = 9});
  std::vector<std::vector<std::int32_t>> streamed(4);
  while (auto const token = batch.next()) {
    streamed[static_cast<std::size_t>(token->sequence)].push_back(token->id);
  }
  for (std::size_t i = 0; i < 4; ++i) {
    auto const own = batch.generated(static_cast<jet::i64>(i));
    CHECK(streamed[i] == std::vector<std::int32_t>(own.begin(), own.end()));
    CHECK(batch.finish(static_cast<jet::i64>(i)) == jet::Finish::max_new);
    CHECK(streamed[i] == alone(lm, prompts[i], {.max_new = 9}));
  }
}

TEST_CASE("sampling repeats with its seed; stop tokens, max_len and a caller's stop end a sequence") {
  jet::Engine<Small, B> lm(make_weights<Small, B>(8), {.slots = 1, .max_len = 30, .chunk = 8, .poison = true});
  auto const prompt = tokens(6, 5);
  jet::GenerateOptions const sampled{.max_new = 12, .temperature = 1.0, .top_p = 0.9, .seed = 3};
  auto const first = alone(lm, prompt, sampled);
  CHECK(first.size() == 12);
  CHECK(first == alone(lm, prompt, sampled));
  auto other = sampled;
  other.seed = 4;
  CHECK(first != alone(lm, prompt, other));

  auto stopping = sampled;
  stopping.stop_tokens = {first[5]};
  auto const stopped = alone(lm, prompt, stopping);
  CHECK(stopped.size() <= 5);
  CHECK(std::equal(stopped.begin(), stopped.end(), first.begin()));

  auto generation = lm.generate(prompt, {.max_new = 1000});
  int count = 0;
  for (std::int32_t const id : generation) {
    CHECK((id >= 0 && id < 97));
    ++count;
  }
  CHECK(generation.finish(0) == jet::Finish::max_len);
  CHECK(count == 25);  // 30 - 6, and one that has no room to be fed back

  auto cut = lm.generate(prompt, {.max_new = 20});
  CHECK(cut.next().has_value());
  cut.stop(0);
  CHECK_FALSE(cut.next().has_value());
  CHECK(cut.finish(0) == jet::Finish::stopped);
}

TEST_CASE("bad prompts and options are refused by name") {
  jet::Engine<Small, B> lm(make_weights<Small, B>(9), {.slots = 1, .max_len = 30, .chunk = 8});
  CHECK_THROWS_WITH_AS(lm.generate({}),
                       "jet: generate: prompt 0 is empty; give at least one token (a begin-of-text token, if any)",
                       jet::Error);
  CHECK_THROWS_WITH_AS(lm.generate(tokens(31, 1)),
                       "jet: generate: prompt 0 has 31 tokens, the engine was made for max_len 30", jet::Error);
  CHECK_THROWS_AS(lm.generate({1}, {.temperature = -1}), jet::Error);
  CHECK_THROWS_AS(lm.generate({1}, {.max_new = -1}), jet::Error);
  CHECK_NOTHROW(lm.generate({1}, {.max_new = 0}));
}
