// How fast one model runs on one backend, behind a type that every compiler knows: models are instantiated in
// translation units of their own, the program that chooses among them sees Subjects.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <jet/bench/roofline.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>
#include <jet/model/memory_plan.hpp>

using jet::i64;

// Sizes of a measurement. Prefill: `sequences` of `context` tokens, `group` at a time, each cut into pieces of
// `piece` tokens. Decode: one token of each of `batch` sequences that have seen `context`, `steps` times.
struct PrefillCase {
  i64 context = 0, sequences = 1, group = 1, piece = 1;
  i64 tokens() const { return context * sequences; }
};
struct DecodeCase {
  i64 context = 0, batch = 1, steps = 1;
};

// One model on one backend. Floors are seconds for given ceilings.
struct Subject {
  std::string name;
  std::string state_dtype, kv_dtype;
  i64 params = 0;
  std::function<i64(i64 context)> cache_bytes{};  // of one sequence
  std::function<double(jet::bench::Ceilings const&, DecodeCase const&)> decode_floor{};
  std::function<double(jet::bench::Ceilings const&, PrefillCase const&)> prefill_floor{};

  // What an engine for the case allocates. Without an engine of the model in this program scratch is not known (0).
  std::function<jet::MemoryPlan(DecodeCase const&)> decode_plan{};
  std::function<jet::MemoryPlan(PrefillCase const&)> prefill_plan{};
  // Seconds of a step, and of the whole prefill; `progress` is told the tokens done. Empty: not in this program.
  std::function<double(DecodeCase const&)> decode{};
  std::function<double(PrefillCase const&, std::function<void(i64)> const& progress)> prefill{};
  // Lets go of the weights.
  std::function<void()> release{};
};

namespace measure_detail {

inline std::string state_name(jet::DType type) {
  switch (type) {
    case jet::DType::f32: return "fp32";
    case jet::DType::f16: return "fp16";
    case jet::DType::bf16: return "bf16";
    default: return std::string(jet::name_of(type));
  }
}

inline jet::EngineOptions options_of(DecodeCase const& c) {
  return {.slots = c.batch, .max_len = c.context + c.steps + 8, .chunk = 1};
}
inline jet::EngineOptions options_of(PrefillCase const& c) {
  return {.slots = c.group, .max_len = c.context, .chunk = c.group * c.piece};
}

// Random weights in the backend's memory: every tensor begins as its declaration says; long ones repeat.
template <class Model, class B> std::shared_ptr<jet::Weights<Model>> random_weights() {
  B const backend;
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate(backend);
  constexpr i64 longest = 1 << 18;
  std::vector<double> numbers;
  std::vector<std::byte> bytes;
  std::uint64_t tensor = 0;
  weights->visit([&](jet::TensorKey const& key, jet::Slot& slot) {
    i64 const n = std::min(longest, slot.numel());
    numbers.resize(static_cast<std::size_t>(n));
    bytes.resize(static_cast<std::size_t>(n * jet::size_of(slot.dtype)));
    jet::init_values(key.spec.init, jet::Random{1, tensor++}, 0, n, numbers.data());
    jet::detail::store_as(slot.dtype, numbers.data(), n, bytes.data());
    jet::fill_repeating(backend, slot.data, slot.numel() * jet::size_of(slot.dtype), bytes);
    backend.sync();
  });
  return weights;
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class Model, class B>
double decode(std::shared_ptr<jet::Weights<Model>> const& weights, DecodeCase const& c) {
  jet::Engine<Model, B> lm(weights, options_of(c));
  std::vector<std::int32_t> slots(static_cast<std::size_t>(c.batch)), tokens(slots.size());
  std::iota(slots.begin(), slots.end(), 0);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (i == 0) {
      lm.fill(0, c.context);
    } else {
      lm.fork(0, slots[i]);
    }
    tokens[i] = static_cast<std::int32_t>(static_cast<i64>(i) % Model::config.vocab);
  }
  lm.begin_decode(slots, tokens);
  for (int i = 0; i < 4; ++i) {  // a graph is recorded in the second
    lm.decode_step(jet::Logits::none);
  }
  lm.backend().sync();
  auto const start = std::chrono::steady_clock::now();
  for (i64 i = 0; i < c.steps; ++i) {
    lm.decode_step(jet::Logits::none);
  }
  lm.backend().sync();
  return seconds_since(start) / static_cast<double>(c.steps);
}

template <class Model, class B>
double prefill(std::shared_ptr<jet::Weights<Model>> const& weights, PrefillCase const& c,
               std::function<void(i64)> const& progress) {
  jet::Engine<Model, B> lm(weights, options_of(c));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(c.group * c.piece));
  jet::Random const random{2, 0};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(random.uniform_below(i, static_cast<std::uint64_t>(Model::config.vocab)));
  }
  // one piece of each of `seqs` sequences that begin at `from`
  auto const call = [&](i64 seqs, i64 from) {
    i64 const n = std::min(c.piece, c.context - from);
    jet::Batch batch;
    for (i64 i = 0; i < seqs; ++i) {
      batch.add(static_cast<std::int32_t>(i), n, from);
    }
    batch.logits = from + n == c.context ? jet::Logits::last : jet::Logits::none;
    lm.forward(batch, std::span(ids).first(static_cast<std::size_t>(seqs * n)));
    lm.backend().sync();
    return seqs * n;
  };
  auto const reset = [&] {
    for (i64 i = 0; i < c.group; ++i) {
      lm.reset(i);
    }
  };
  call(std::min(c.group, c.sequences), 0);  // kernels are loaded, algorithms are looked up
  double seconds = 0;
  i64 done = 0;
  for (i64 at = 0; at < c.sequences; at += c.group) {
    reset();
    auto const start = std::chrono::steady_clock::now();
    for (i64 from = 0; from < c.context; from += c.piece) {
      done += call(std::min(c.group, c.sequences - at), from);
      if (progress) {
        progress(done);
      }
    }
    seconds += seconds_since(start);
  }
  return seconds;
}

}  // namespace measure_detail

// What is known of a model without running it.
template <class Model, jet::Precision P> Subject describe_subject(std::string name) {
  Subject s;
  s.name = std::move(name);
  jet::bench::DecodeTraffic const traffic = jet::bench::decode_traffic<Model>(P, 1, 1);
  s.state_dtype = traffic.read_and_written > 0 ? measure_detail::state_name(P.state) : "none";
  s.kv_dtype = P.kv_dtype() == jet::DType::f8e4m3 ? "fp8" : measure_detail::state_name(P.kv_dtype());
  s.params = Model::num_params();
  s.cache_bytes = [](i64 context) { return Model::template state_bytes<P>(1, context); };
  s.decode_floor = [](jet::bench::Ceilings const& ceilings, DecodeCase const& c) {
    return jet::bench::decode_traffic<Model>(P, c.batch, c.context).seconds(ceilings);
  };
  s.prefill_floor = [](jet::bench::Ceilings const& ceilings, PrefillCase const& c) {
    return jet::bench::floor_seconds(jet::bench::prefill_ops<Model>(c.sequences, c.context), ceilings);
  };
  auto const plan = [](i64 slots, i64 max_len) {
    jet::MemoryPlan m;
    m.weights = jet::Weights<Model>().bytes(P);
    auto const state = jet::StatePool<Model>(P, {slots, max_len, 0, 0}, jet::Weights<Model>().letters())
                           .bytes_by_role(Model::plan());
    m.recurrent = state.recurrent;
    m.conv = state.conv;
    m.kv = state.kv;
    m.logits = slots * Model::config.vocab * jet::size_of(P.acc);
    return m;
  };
  s.decode_plan = [plan](DecodeCase const& c) { return plan(c.batch, c.context + c.steps + 8); };
  s.prefill_plan = [plan](PrefillCase const& c) { return plan(c.group, c.context); };
  return s;
}

// The same, able to run: instantiates the model's engine on the backend.
template <class Model, class B> Subject make_subject(std::string name) {
  Subject s = describe_subject<Model, B::precision>(std::move(name));
  using Store = std::shared_ptr<jet::Weights<Model>>;
  auto const held = std::make_shared<Store>();
  auto const weights = [held] {
    if (*held == nullptr) {
      *held = measure_detail::random_weights<Model, B>();
    }
    return *held;
  };
  s.decode_plan = [](DecodeCase const& c) {
    return jet::Engine<Model, B>::plan_memory(measure_detail::options_of(c));
  };
  s.prefill_plan = [](PrefillCase const& c) {
    return jet::Engine<Model, B>::plan_memory(measure_detail::options_of(c));
  };
  s.decode = [weights](DecodeCase const& c) { return measure_detail::decode<Model, B>(weights(), c); };
  s.prefill = [weights](PrefillCase const& c, std::function<void(i64)> const& progress) {
    return measure_detail::prefill<Model, B>(weights(), c, progress);
  };
  s.release = [held] { held->reset(); };
  return s;
}

// Where subjects run.
struct Machine {
  std::string device, driver = "none";
  jet::bench::Ceilings ceilings{};  // of this run; tensor 0: not known
  i64 memory = 0;                   // bytes that are free
};
