// What an engine promises, checked on any backend through the engine alone.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <jet/core/rng.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/model/engine.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/reference.hpp>

#include "golden/golden_file.hpp"
#include "golden/tiny_models.hpp"

namespace checks {

using jet::Batch;
using jet::DType;
using jet::Engine;
using jet::EngineOptions;
using jet::i64;
using jet::Logits;
using jet::View;
using Ids = std::vector<std::int32_t>;
using Bits = std::vector<std::byte>;

// Rows of logits as they are in memory; as doubles.
inline Bits bits(View const& v) {
  auto const* from = static_cast<std::byte const*>(v.data);
  return v.numel() == 0 ? Bits{} : Bits(from, from + v.numel() * jet::size_of(v.dtype));
}
inline Bits row_of(Bits const& all, i64 row, i64 rows) {
  i64 const n = std::ssize(all) / rows;
  return Bits(all.begin() + row * n, all.begin() + (row + 1) * n);
}
inline std::vector<double> doubles(View const& v) {
  return jet::testing::load_as(v.dtype, v.data, v.numel());
}

inline Ids random_ids(std::size_t n, std::uint64_t seed, i64 vocab) {
  jet::Random const random{seed, 7};
  Ids ids(n);
  for (std::size_t i = 0; i < n; ++i) {
    ids[i] = static_cast<std::int32_t>(random.uniform_below(i, static_cast<std::uint64_t>(vocab)));
  }
  return ids;
}

// Weights of which every number matters, in host memory.
template <class Model, class B> std::shared_ptr<jet::Weights<Model>> random_weights(std::uint64_t seed) {
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate_on_host(jet::precision_of<B>);
  std::uint64_t tensor = 0;
  weights->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    jet::Random const random{seed, 1000 + tensor++};
    bool const vector = key.spec.shape.rank == 1;
    std::vector<double> values(static_cast<std::size_t>(slot.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      double const x = static_cast<double>(random.normal(i));
      values[i] = key.spec.init.kind == jet::Init::Kind::ones ? 1 + 0.1 * x : vector ? 0.3 * x : 0.2 * x;
    }
    jet::detail::store_as(slot.dtype, values.data(), slot.numel(), slot.data);
  });
  return weights;
}

// Of single tokens of random weights, which amplify what layers round: measured up to 4.3e-2 with bf16.
template <class B> double model_bound() {
  return jet::precision_of<B>.act == DType::bf16 ? 8e-2 : 1e-5;
}

// One sequence of a slot.
inline Batch one(i64 slot, i64 tokens, i64 seen, Logits logits = Logits::all) {
  Batch batch;
  batch.add(static_cast<std::int32_t>(slot), tokens, seen);
  batch.logits = logits;
  return batch;
}

template <class T> std::span<T const> part(std::vector<T> const& v, i64 first, i64 count) {
  return std::span<T const>(v).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

// A checkpoint of the reference classes: logits and layers, greedy tokens, in pieces and token by token.
template <class Model, class B> void golden_checkpoint(double bound) {
  golden::GoldenFile const file(std::string(Model::directory) + "/golden.safetensors");
  auto lm = jet::load<Model, B>(golden::path_of<Model>(),
                                {.slots = 2, .max_len = 160, .chunk = 100, .max_logits = 100, .poison = true});
  i64 const vocab = Model::config.vocab;
  double worst = 0;
  auto const compare = [&](std::vector<double> const& got, std::vector<double> const& want) {
    double const error = jet::reference::relative_rms(got, want);
    CHECK(error < bound);
    worst = std::max(worst, error);
  };
  for (i64 b = 0; b < 2; ++b) {
    auto const ids_of = [&](char const* name) {
      Ids ids;
      for (double const id : file.slice(name, b).data) {
        ids.push_back(static_cast<std::int32_t>(id));
      }
      return ids;
    };
    Ids const ids = ids_of("input_ids");
    Ids const greedy = ids_of("greedy_ids");
    std::vector<double> const want = file.slice("logits", b).data;
    i64 const n = std::ssize(ids);
    int layers = 0;
    auto const whole = doubles(lm.forward(one(0, n, 0), ids, [&](i64 l, jet::Point point, View const& v) {
      std::string const name = "hidden_states." + std::to_string(l);
      if (point == jet::Point::layer_out && file.has(name)) {
        Bits there(static_cast<std::size_t>(v.numel() * jet::size_of(v.dtype)));
        lm.read(v, there.data());
        compare(jet::testing::load_as(v.dtype, there.data(), v.numel()), file.slice(name, b).data);
        ++layers;
      }
    }));
    CHECK(layers == Model::layers);
    compare(whole, want);
    auto const last = whole.end() - vocab;
    CHECK(std::max_element(last, whole.end()) - last == greedy[0]);
    if (jet::precision_of<B>.act == DType::f32) {
      std::int32_t const slot = 0;
      lm.begin_decode({&slot, 1}, {greedy.data(), 1});
      for (std::size_t i = 1; i < greedy.size(); ++i) {
        lm.decode_step(Logits::none);
        CHECK(lm.decode_tokens()[0] == greedy[i]);
      }
    }
    for (std::vector<i64> const& sizes : {std::vector<i64>{1, 2, 3, 64, 16, 15, 17}, std::vector<i64>(100, 1)}) {
      lm.reset(1);
      std::vector<double> pieces;
      i64 at = 0;
      for (i64 const size : sizes) {
        i64 const count = std::min(size, n - at);
        if (count > 0) {
          auto const logits = doubles(lm.forward(one(1, count, at), part(ids, at, count)));
          pieces.insert(pieces.end(), logits.begin(), logits.end());
          at += count;
        }
      }
      compare(pieces, std::vector<double>(want.begin(), want.begin() + std::ssize(pieces)));
    }
    lm.reset(0);
  }
  std::printf("%-14s worst relative error of logits and layers %.2e\n", std::string(Model::directory).c_str(),
              worst);
}

// Repeats, neighbours and recording change no bit.
template <class Model, class B> void bits_stay(std::size_t prompt) {
  i64 const vocab = Model::config.vocab;
  auto weights = random_weights<Model, B>(3);
  EngineOptions const options{.slots = 6, .max_len = 128, .chunk = 64, .max_logits = 64, .poison = true};
  Engine<Model, B> lm(weights, options);
  Ids const ids = random_ids(prompt, 1, vocab);
  Bits const once = bits(lm.forward(one(0, std::ssize(ids), 0), ids));
  Bits const twice = bits(lm.forward(one(3, std::ssize(ids), 0), ids));
  CHECK(once == twice);

  // Short ragged prompts together and alone: no more than 16 rows in all.
  Batch batch;
  batch.add(1, 3, 0), batch.add(4, 0, 0), batch.add(-1, 2, 0), batch.add(2, 5, 0), batch.add(5, 1, 0);
  Ids const mixed = random_ids(11, 2, vocab);
  Bits const together = bits(lm.forward(batch, mixed));
  for (std::int32_t const s : {1, 2, 5}) {
    lm.reset(s);
  }
  CHECK(row_of(together, 0, 5) == bits(lm.forward(one(1, 3, 0, Logits::last), part(mixed, 0, 3))));
  CHECK(row_of(together, 3, 5) == bits(lm.forward(one(2, 5, 0, Logits::last), part(mixed, 5, 5))));
  CHECK(row_of(together, 4, 5) == bits(lm.forward(one(5, 1, 0, Logits::last), part(mixed, 10, 1))));

  // Decode: eager and recorded, alone and beside others, an entry that stops, and the next engine.
  auto const decode = [&](Engine<Model, B>& engine, Ids const& slots, Ids const& first, int steps) {
    std::vector<Bits> rows;
    for (std::int32_t const s : slots) {
      if (s >= 0) {
        engine.reset(s);
        engine.append(s, part(ids, 0, std::min<i64>(std::ssize(ids), 10 + s)));
      }
    }
    engine.begin_decode(slots, first);
    for (int i = 0; i < steps; ++i) {
      if (i == steps / 2 && slots.size() > 2) {
        engine.stop_decode(0);
      }
      rows.push_back(bits(engine.decode_step()));
    }
    return rows;
  };
  EngineOptions eager = options;
  eager.backend.record = false;
  Engine<Model, B> unrecorded(weights, eager);
  auto const several = decode(lm, {4, 0, -1, 2, 3}, {1, 2, 0, 3, 4}, 12);
  auto const again = decode(lm, {4, 0, -1, 2, 3}, {1, 2, 0, 3, 4}, 12);
  auto const plain = decode(unrecorded, {4, 0, -1, 2, 3}, {1, 2, 0, 3, 4}, 12);
  auto const alone = decode(lm, {2}, {3}, 12);
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(row_of(several[i], 1, 5) == row_of(plain[i], 1, 5));
    CHECK(row_of(several[i], 3, 5) == row_of(plain[i], 3, 5));
    CHECK(row_of(several[i], 4, 5) == row_of(again[i], 4, 5));
    CHECK(row_of(several[i], 3, 5) == alone[i]);
  }
}

// Keys and values in pages: no bit of a prompt or a decode loop differs.
template <class Model, class B> void pages_agree() {
  auto weights = random_weights<Model, B>(3);
  EngineOptions options{.slots = 3, .max_len = 96, .chunk = 64, .poison = true};
  Engine<Model, B> plain(weights, options);
  options.page_size = 16;
  options.pages = 18;
  Engine<Model, B> paged(weights, options);
  Ids const slots{2, -1, 0};
  Ids const first{1, 2, 3};
  auto const pages = [](i64 slot) {
    Ids all;
    for (std::int32_t i = 0; i < 6; ++i) {
      all.push_back((static_cast<std::int32_t>(std::max<i64>(slot, 0)) * 6 + i) * 7 % 18);
    }
    return all;
  };
  Ids table;
  for (std::int32_t const slot : slots) {
    Ids const ids = random_ids(static_cast<std::size_t>(40 + std::max(slot, 0)), 6, Model::config.vocab);
    if (slot >= 0) {
      Batch batch = one(slot, std::ssize(ids), 0, Logits::last);
      Bits const want = bits(plain.forward(batch, ids));
      batch.page_size = 16;
      batch.pages = pages(slot);
      CHECK(bits(paged.forward(batch, ids)) == want);
    }
    Ids const of_slot = pages(slot);
    table.insert(table.end(), of_slot.begin(), of_slot.end());
  }
  plain.begin_decode(slots, first);
  paged.begin_decode(slots, first, table);
  for (int i = 0; i < 12; ++i) {
    Bits const want = bits(plain.decode_step());
    Bits const got = bits(paged.decode_step());
    CHECK(row_of(got, 0, 3) == row_of(want, 0, 3));
    CHECK(row_of(got, 2, 3) == row_of(want, 2, 3));
  }
}

// A prompt in pieces, and sampled tokens fed back, against the whole.
template <class Model, class B> void pieces_agree() {
  i64 const vocab = Model::config.vocab;
  auto weights = random_weights<Model, B>(4);
  Engine<Model, B> lm(weights, {.slots = 2, .max_len = 128, .chunk = 100, .max_logits = 100, .poison = true});
  Ids const ids = random_ids(90, 5, vocab);
  auto const whole = doubles(lm.forward(one(0, 90, 0), ids));
  for (std::vector<i64> const& sizes : {std::vector<i64>{40, 50}, {1, 7, 17, 65}, {64, 16, 10}}) {
    lm.reset(1);
    i64 at = 0;
    for (i64 const n : sizes) {
      auto const got = doubles(lm.forward(one(1, n, at), part(ids, at, n)));
      std::vector<double> const want(whole.begin() + at * vocab, whole.begin() + (at + n) * vocab);
      CHECK(jet::reference::relative_rms(got, want) < model_bound<B>());
      at += n;
    }
  }
  // decode with the tokens of the prompt, given from outside
  lm.reset(1);
  lm.append(1, part(ids, 0, 50));
  std::int32_t const slot = 1;
  lm.begin_decode({&slot, 1}, part(ids, 50, 1));
  for (i64 t = 50; t < 89; ++t) {
    CHECK(lm.decode_positions()[0] == t);
    auto const got = doubles(lm.decode_step());
    CHECK(lm.decode_tokens()[0] == std::max_element(got.begin(), got.end()) - got.begin());
    std::vector<double> const want(whole.begin() + t * vocab, whole.begin() + (t + 1) * vocab);
    CHECK(jet::reference::relative_rms(got, want) < model_bound<B>());
    lm.set_decode_tokens(part(ids, t + 1, 1));
  }
  CHECK(lm.length(1) == 89);

  // a run from a layer on, with the residual stream in host memory
  lm.reset(0), lm.reset(1);
  Bits stream;
  DType type = DType::none;
  auto const full =
      doubles(lm.forward(one(0, 20, 0), part(ids, 0, 20), [&](i64 l, jet::Point point, View const& v) {
        if (l == 1 && point == jet::Point::layer_out) {
          type = v.dtype;
          stream.resize(static_cast<std::size_t>(v.numel() * jet::size_of(v.dtype)));
          lm.read(v, stream.data());
        }
      }));
  View const x(stream.data(), type, jet::Shape{20, Model::config.d_model});
  CHECK(jet::reference::relative_rms(doubles(lm.forward_from(2, one(1, 20, 0), x)), full) < 1e-6);
}

// The plan before is what is there after; streaming equals the decode loop; errors leave the engine usable.
template <class Model, class B> void memory_and_streaming() {
  i64 const vocab = Model::config.vocab;
  EngineOptions const options{.slots = 3, .max_len = 200, .chunk = 40, .poison = true};
  auto const planned = Engine<Model, B>::plan_memory(options);
  Engine<Model, B> lm(random_weights<Model, B>(6), options);
  CHECK(planned == lm.allocated());
  CHECK(planned == lm.memory_plan());
  // engines share what is in the backend's memory already
  Engine<Model, B> other(lm.shared_weights(), options);
  CHECK(other.weights().embedding.data == lm.weights().embedding.data);

  std::vector<Ids> const prompts{random_ids(5, 1, vocab), random_ids(90, 2, vocab), random_ids(1, 3, vocab),
                                 random_ids(33, 4, vocab)};
  auto batch = jet::generate(lm, prompts, {.max_new = 12});
  while (batch.next()) {
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Ids streamed;
    for (std::int32_t const id : other.generate(prompts[i], {.max_new = 12})) {
      streamed.push_back(id);
    }
    auto const got = batch.generated(static_cast<i64>(i));
    CHECK(Ids(got.begin(), got.end()) == streamed);
  }
  Ids sampled, repeated;
  jet::GenerateOptions const sampling{.max_new = 10, .temperature = 1, .top_k = 20, .seed = 5};
  for (std::int32_t const id : lm.generate(prompts[0], sampling)) {
    sampled.push_back(id);
  }
  for (std::int32_t const id : other.generate(prompts[0], sampling)) {
    repeated.push_back(id);
  }
  CHECK(sampled.size() == 10);
  CHECK(sampled == repeated);

  lm.reset(0);
  Ids const wrong(4, static_cast<std::int32_t>(vocab));
  CHECK_THROWS_AS(lm.forward(one(0, 4, 0), wrong), jet::Error);
  CHECK_THROWS_AS(lm.forward(one(0, 4, 2), prompts[0]), jet::Error);
  CHECK_NOTHROW(lm.forward(one(0, 3, 0), part(prompts[0], 0, 3)));
}

// One sequence from backend to backend: `other` goes on where B stopped, and what comes back is what went.
template <class Model, class B, class Other> void state_travels() {
  i64 const vocab = Model::config.vocab;
  EngineOptions const options{.slots = 2, .max_len = 100, .chunk = 50, .max_logits = 50, .poison = true};
  Engine<Model, B> here(random_weights<Model, B>(7), options);
  Engine<Model, Other> there(random_weights<Model, Other>(7), options);
  Ids const ids = random_ids(60, 8, vocab);
  here.append(1, part(ids, 0, 37));
  jet::SavedState const saved = here.save(1);
  there.load(0, saved);
  CHECK(there.length(0) == 37);
  jet::SavedState const back = there.save(0);
  REQUIRE(back.rows.size() == saved.rows.size());
  for (std::size_t i = 0; i < saved.rows.size(); ++i) {
    CHECK(back.rows[i].data == saved.rows[i].data);
  }
  there.fork(0, 1);
  auto const want = doubles(here.forward(one(1, 23, 37), part(ids, 37, 23)));
  CHECK(jet::reference::relative_rms(doubles(there.forward(one(0, 23, 37), part(ids, 37, 23))), want) <
        model_bound<B>());
  Bits const forked = bits(there.forward(one(1, 23, 37), part(ids, 37, 23)));
  here.load(0, there.save(1));
  CHECK(here.length(0) == 60);
  there.load(0, there.save(1));
  CHECK(there.length(0) == 60);
  there.reset(1);
  there.load(1, saved);
  CHECK(forked == bits(there.forward(one(1, 23, 37), part(ids, 37, 23))));
  auto const step = doubles(here.forward(one(0, 1, 60), part(ids, 0, 1)));
  CHECK(jet::reference::relative_rms(doubles(there.forward(one(0, 1, 60), part(ids, 0, 1))), step) <
        model_bound<B>());
}

}  // namespace checks
