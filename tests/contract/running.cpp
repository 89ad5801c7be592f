// Runs: from a layer on, observed, with shared storage, with inactive rows and device-advanced positions.
#include <doctest/doctest.h>

#include <limits>
#include <map>

#include "small.hpp"

using contract::make_weights;
using contract::rows;
using contract::same_bits;
using contract::Small;
using contract::tokens;
using B = jet::Cpu<jet::precision::f32>;

namespace {

jet::EngineOptions options() {
  return {.slots = 4, .max_len = 96, .chunk = 64, .max_logits = 64, .poison = true};
}

jet::Batch one(std::int32_t slot, jet::i64 n, jet::i64 position, jet::Logits logits = jet::Logits::all) {
  jet::Batch batch;
  batch.add(slot, n, position);
  batch.logits = logits;
  return batch;
}

}  // namespace

TEST_CASE("a run from layer l on equals the whole run, for every l") {
  auto weights = make_weights<Small, B>(41);
  jet::Engine<Small, B> engine(weights, options());
  auto const ids = tokens(30, 2);
  std::map<jet::i64, std::vector<float>> after;
  auto const whole =
      rows<float>(engine.forward(one(0, 30, 0), ids, [&](jet::i64 l, jet::Point p, jet::View const& v) {
        if (p == jet::Point::layer_out) {
          after[l] = rows<float>(v);
        }
      }));
  engine.reset(0);
  CHECK(same_bits(whole, rows<float>(engine.forward(one(0, 30, 0), ids))));
  for (jet::i64 from = 1; from <= Small::layers; ++from) {
    engine.reset(0);
    std::vector<float> x = after[from - 1];
    jet::View const view(x.data(), jet::DType::f32, {30, 48});
    CHECK(same_bits(whole, rows<float>(engine.forward_from(from, one(0, 30, 0), view))));
  }
}

TEST_CASE("taps: every point of every layer in order, and a tap may change what it sees") {
  auto weights = make_weights<Small, B>(42);
  jet::Engine<Small, B> engine(weights, options());
  auto const ids = tokens(9, 2);
  std::string order;
  auto const observed =
      rows<float>(engine.forward(one(0, 9, 0), ids, [&](jet::i64 l, jet::Point p, jet::View const& v) {
        order += jet::concat(l, jet::name_of(p), " ");
        CHECK(v.tokens() == 9);
        CHECK(v.width() == 48);
      }));
  std::string expected;
  for (jet::i64 l = 0; l < 6; ++l) {
    expected += jet::concat(l, "mixer_in ", l, "mixer_out ");
    expected += l == 2 ? "" : jet::concat(l, "mlp_out ");
    expected += jet::concat(l, "layer_out ");
  }
  CHECK(order == expected);
  engine.reset(0);
  CHECK(same_bits(observed, rows<float>(engine.forward(one(0, 9, 0), ids))));
  // Setting one layer's mixer output to zero is an ablation of that mixer.
  engine.reset(0);
  auto const ablated =
      rows<float>(engine.forward(one(0, 9, 0), ids, [&](jet::i64 l, jet::Point p, jet::View const& v) {
        if (l == 3 && p == jet::Point::mixer_out) {
          for (jet::i64 t = 0; t < 9; ++t) {
            std::fill_n(v.row<float>(t), 48, 0.0F);
          }
        }
      }));
  CHECK_FALSE(same_bits(observed, ablated));
}

TEST_CASE("a second engine, of another model too, shares frozen storage without a copy") {
  auto teacher = make_weights<Small, B>(43);
  jet::Engine<Small, B> first(teacher, options());
  auto const before = rows<float>(first.append(0, tokens(20, 1)));

  // The student has JetBlocks where the teacher has attention; MLPs, norms, embedding come from the teacher.
  struct Student : Small::replan<"JJNMJJ"> {};
  auto student = std::make_shared<jet::Weights<Student>>();
  jet::i64 expected_shared = 0;
  student->share(*teacher, [](jet::TensorKey const& key) { return key.spec.role != jet::Role::mixer; });
  student->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    CHECK(static_cast<bool>(slot) == (key.spec.role != jet::Role::mixer));
    expected_shared += slot ? slot.numel() * jet::size_of(slot.dtype) : 0;
  });
  student->allocate(B{});
  CHECK(student->shared_bytes() == expected_shared);
  jet::i64 mixers = 0;
  student->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    mixers += key.spec.role == jet::Role::mixer ? jet::align_up(slot.numel() * jet::size_of(slot.dtype)) : 0;
  });
  CHECK(student->owned_bytes() == mixers);
  CHECK(student->embedding.data == teacher->embedding.data);

  jet::initialise(*student, 9, [](jet::TensorKey const& key) { return key.spec.role == jet::Role::mixer; });
  jet::Engine<Student, B> second(student, options());
  CHECK(second.memory_plan().weights == mixers);
  second.append(0, tokens(20, 1));
  first.reset(0);
  CHECK(same_bits(before, rows<float>(first.append(0, tokens(20, 1)))));
  // The storage lives as long as somebody uses it.
  first = jet::Engine<Small, B>(make_weights<Small, B>(44), options());
  teacher.reset();
  second.reset(0);
  CHECK(std::isfinite(second.append(0, tokens(20, 1)).row<float>(0)[0]));
}

TEST_CASE("inactive rows read and write nothing; a batch with them gives the same as one without") {
  auto weights = make_weights<Small, B>(45);
  jet::Engine<Small, B> engine(weights, options());
  for (std::int32_t s = 0; s < 3; ++s) {
    engine.append(s, tokens(20, static_cast<std::uint64_t>(s)));
  }
  auto const untouched = engine.save(2);
  for (std::int32_t s = 0; s < 2; ++s) {
    engine.fork(s, s);
  }
  auto const state0 = engine.save(0), state1 = engine.save(1);

  std::int32_t const slots_plain[] = {0, 1};
  std::int32_t const tokens_plain[] = {3, 4};
  engine.begin_decode(slots_plain, tokens_plain);
  std::vector<std::vector<float>> plain;
  for (int i = 0; i < 4; ++i) {
    plain.push_back(rows<float>(engine.decode_step()));
  }
  engine.load(0, state0);
  engine.load(1, state1);
  // the same two, in a bucket of four with inactive rows between
  std::int32_t const slots_bucket[] = {-1, 0, -1, 1};
  std::int32_t const tokens_bucket[] = {0, 3, 0, 4};
  engine.begin_decode(slots_bucket, tokens_bucket);
  for (std::size_t i = 0; i < 4; ++i) {
    auto const step = rows<float>(engine.decode_step());
    CHECK(std::equal(step.begin() + 97, step.begin() + 2 * 97, plain[i].begin()));
    CHECK(std::equal(step.begin() + 3 * 97, step.begin() + 4 * 97, plain[i].begin() + 97));
  }
  auto const still = engine.save(2);
  REQUIRE(still.rows.size() == untouched.rows.size());
  for (std::size_t i = 0; i < still.rows.size(); ++i) {
    CHECK(still.rows[i].data == untouched.rows[i].data);
  }
}

TEST_CASE("a decode step advances positions in the backend's memory and reads nothing from the host") {
  auto weights = make_weights<Small, B>(46);
  jet::Engine<Small, B> engine(weights, options());
  jet::Engine<Small, B> stepwise(weights, options());
  auto const ids = tokens(15, 4);
  engine.append(1, ids);
  jet::View logits = stepwise.append(1, ids);
  std::vector<std::int32_t> slots{1};
  std::vector<std::int32_t> first{7};
  engine.begin_decode(slots, first);
  CHECK(engine.decode_positions()[0] == 15);
  slots[0] = 3;  // what the host holds from now on must not matter
  first[0] = -5;
  std::int32_t token = 7;
  for (jet::i64 i = 0; i < 6; ++i) {
    auto const got = rows<float>(engine.decode_step());
    CHECK(engine.decode_positions()[0] == 16 + i);
    CHECK(engine.length(1) == 16 + i);
    jet::Batch batch = one(1, 1, 15 + i, jet::Logits::last);
    logits = stepwise.forward(batch, {&token, 1});
    CHECK(same_bits(got, rows<float>(logits)));
    token = engine.decode_tokens()[0];
  }
}

TEST_CASE("a decode loop over pages equals single calls, and says where the pages end") {
  auto weights = make_weights<Small, B>(48);
  jet::EngineOptions paged = options();
  paged.page_size = 8;
  paged.pages = 12;
  jet::Engine<Small, B> loop(weights, paged), single(weights, paged);
  // entries 0 and 2 of the loop are slots 3 and 1
  std::vector<std::int32_t> const slots{3, -1, 1};
  std::vector<std::int32_t> const table[] = {{9, 4, 7}, {-1, -1, -1}, {2, 11, 0}};
  auto const pages = [&](std::size_t each) {
    std::vector<std::int32_t> all;
    for (auto const& entry : table) {
      all.insert(all.end(), entry.begin(), entry.begin() + static_cast<std::ptrdiff_t>(each));
    }
    return all;
  };
  auto const call = [&](jet::Engine<Small, B>& engine, std::size_t entry, std::span<std::int32_t const> ids) {
    jet::Batch batch = one(slots[entry], std::ssize(ids), engine.length(slots[entry]), jet::Logits::last);
    batch.page_size = 8;
    batch.pages = table[entry];
    return rows<float>(engine.forward(batch, ids));
  };
  for (auto* const engine : {&loop, &single}) {
    call(*engine, 0, tokens(13, 1));
    call(*engine, 2, tokens(6, 2));
  }
  std::vector<std::int32_t> next{5, 0, 6};
  loop.begin_decode(slots, next, pages(2));
  for (int i = 0; i < 9; ++i) {
    if (i == 3) {
      CHECK_THROWS_WITH_AS(loop.decode_step(), "jet: decode_step: slot 3 has reached the end of its pages at 16",
                           jet::Error);
      loop.begin_decode(slots, next, pages(3));
    }
    auto const got = rows<float>(loop.decode_step());
    for (std::size_t const entry : {std::size_t{0}, std::size_t{2}}) {
      auto const want = call(single, entry, {&next[entry], 1});
      CHECK(std::equal(want.begin(), want.end(), got.begin() + static_cast<std::ptrdiff_t>(entry) * 97));
    }
    auto const chosen = loop.decode_tokens();
    next.assign(chosen.begin(), chosen.end());
  }
  auto wrong = pages(3);
  wrong[8] = 12;  // slot 1 has seen 15 tokens: of a later step
  CHECK_THROWS_WITH_AS(loop.begin_decode(slots, next, wrong),
                       "jet: begin_decode: page 2 of entry 2 is 12, expected 0 to 11", jet::Error);
  CHECK_THROWS_AS(loop.begin_decode(slots, next, pages(2)), jet::Error);
  CHECK_THROWS_AS(loop.begin_decode(slots, next), jet::Error);
  wrong.pop_back();
  CHECK_THROWS_AS(loop.begin_decode(slots, next, wrong), jet::Error);
}

TEST_CASE("logits: last, all, none, a list; rows of empty sequences are zero") {
  auto weights = make_weights<Small, B>(47);
  jet::Engine<Small, B> engine(weights, options());
  auto const ids = tokens(12, 5);
  jet::Batch batch;
  batch.add(0, 5, 0);
  batch.add(1, 0, 0);
  batch.add(2, 7, 0);
  auto const again = [&](jet::Logits which) {
    for (jet::i64 s = 0; s < 3; ++s) {
      engine.reset(s);
    }
    batch.logits = which;
    return rows<float>(engine.forward(batch, ids));
  };
  auto const all = again(jet::Logits::all);
  REQUIRE(all.size() == 12 * 97);
  auto const last = again(jet::Logits::last);
  REQUIRE(last.size() == 3 * 97);
  CHECK(std::equal(last.begin(), last.begin() + 97, all.begin() + 4 * 97));
  CHECK(std::all_of(last.begin() + 97, last.begin() + 2 * 97, [](float x) { return x == 0; }));
  CHECK(std::equal(last.begin() + 2 * 97, last.end(), all.begin() + 11 * 97));
  CHECK(again(jet::Logits::none).empty());
  batch.logit_rows = {6, 1};
  auto const list = again(jet::Logits::list);
  REQUIRE(list.size() == 2 * 97);
  CHECK(std::equal(list.begin(), list.begin() + 97, all.begin() + 6 * 97));
  CHECK(std::equal(list.begin() + 97, list.end(), all.begin() + 97));
}

TEST_CASE("state: saved, loaded, forked, reset; what it cannot do is refused by name") {
  auto weights = make_weights<Small, B>(48);
  jet::Engine<Small, B> engine(weights, options());
  auto const ids = tokens(33, 6), more = tokens(11, 7);
  engine.append(0, ids);
  auto const saved = engine.save(0);
  CHECK(saved.position == 33);
  engine.fork(0, 3);
  auto const continued = rows<float>(engine.append(0, more));
  CHECK(same_bits(continued, rows<float>(engine.append(3, more))));
  engine.load(2, saved);
  CHECK(engine.length(2) == 33);
  CHECK(same_bits(continued, rows<float>(engine.append(2, more))));
  engine.reset(2);
  engine.append(2, ids);
  CHECK(same_bits(continued, rows<float>(engine.append(2, more))));

  CHECK_THROWS_WITH_AS(
      engine.truncate(0, 10),
      "jet: truncate: the state 'mixer.recurrent' of layer 0 (J) is recurrent and cannot go back from 44 to 10 "
      "tokens; fork or save the sequence at the point you want to return to",
      jet::Error);
  CHECK_NOTHROW(engine.truncate(0, 44));
  CHECK_NOTHROW(engine.truncate(0, 0));
  CHECK(engine.length(0) == 0);

  // Attention alone can go back, a window only while it has dropped nothing.
  struct Full : Small::replan<"AAAAAA"> {};
  jet::Engine<Full, B> full(make_weights<Full, B>(49), options());
  full.append(0, ids);
  auto const straight = rows<float>(full.append(0, more));
  full.truncate(0, 33);
  CHECK(same_bits(straight, rows<float>(full.append(0, more))));
  struct Window : Small::replan<"AASAAA"> {};
  jet::Engine<Window, B> window(make_weights<Window, B>(49), options());
  window.append(0, tokens(7, 1));
  CHECK_NOTHROW(window.truncate(0, 5));
  window.append(0, tokens(10, 1));
  CHECK_THROWS_WITH_AS(
      window.truncate(0, 12),
      "jet: truncate: the window of layer 2 (S) keeps 7 tokens and has dropped what it saw 15 tokens ago; it "
      "cannot go back to 12",
      jet::Error);

  auto wrong = saved;
  wrong.plan = "AAAAAA";
  CHECK_THROWS_AS(engine.load(1, wrong), jet::Error);
  wrong = saved;
  wrong.rows[0].data.pop_back();
  CHECK_THROWS_AS(engine.load(1, wrong), jet::Error);
  wrong = saved;
  wrong.rows.pop_back();
  CHECK_THROWS_AS(engine.load(1, wrong), jet::Error);
}

TEST_CASE("a malformed batch is refused with what was expected and found") {
  auto weights = make_weights<Small, B>(50);
  jet::Engine<Small, B> engine(weights, options());
  auto const ids = tokens(8, 6);
  auto const refuse = [&](jet::Batch const& batch, std::size_t n, char const* message) {
    std::string what;
    try {
      engine.forward(batch, std::span(ids).first(n));
    } catch (jet::Error const& e) {
      what = e.what();
    }
    CHECK_MESSAGE(what.find(message) != std::string::npos, what);
  };
  jet::Batch good = one(0, 8, 0);
  jet::Batch bad = good;
  bad.cu_seqlens[0] = 1;
  refuse(bad, 8, "cu_seqlens starts at 1, expected 0");
  bad = good;
  bad.add(1, -3, 0);
  refuse(bad, 5, "cu_seqlens decreases at sequence 1");
  bad = good;
  bad.slot[0] = 4;
  refuse(bad, 8, "slot of sequence 0 is 4, expected -1 to 3");
  bad = one(0, 4, 0);
  bad.add(0, 4, 0);
  refuse(bad, 8, "slot 0 is used by two sequences");
  refuse(one(0, 8, 92), 8, "would reach 100 tokens, but the state was made for max_len 96");
  refuse(one(0, 8, 3), 8, "says position 3, slot 0 has seen 0 tokens");
  refuse(good, 7, "cu_seqlens ends at 8 but 7 token rows were given");
  bad = good;
  bad.logits = jet::Logits::list;
  bad.logit_rows = {8};
  refuse(bad, 8, "a logits row is 8, expected 0 to 7");
  std::vector<std::int32_t> alien(8, 97);
  CHECK_THROWS_WITH_AS(engine.forward(good, alien), "jet: token 0 is 97, expected 0 to 96", jet::Error);
  CHECK_NOTHROW(engine.forward(good, ids));
  jet::Batch const empty;
  CHECK(engine.forward(empty, {}).tokens() == 0);
}
