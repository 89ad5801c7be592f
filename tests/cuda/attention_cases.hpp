// What the tests of attention on the device share: sequences with a history, run call by call against the float64
// reference, with an image of the caches that must agree bit for bit after every call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <jet/cuda/attention.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/testing/reference.hpp>

#include "check.hpp"

namespace attention_test {

using jet::i64;
using jet::reference::Matrix;

// Small repeatable numbers of mean 0 and variance 1.
inline float value_at(std::uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
  i ^= i >> 29;
  i *= 0x94d049bb133111ebull;
  i ^= i >> 32;
  return (static_cast<float>(i & 0xffffffu) / 8388608.0f - 1.0f) * 1.7320508f;
}

template <class T> std::size_t index(T i) {
  return static_cast<std::size_t>(i);
}

template <class T> jet::DeviceBuffer upload(std::vector<T> const& from) {
  jet::DeviceBuffer to(static_cast<i64>(from.size() * sizeof(T)));
  if (!from.empty()) {
    jet::cuda_check(cudaMemcpy(to.data(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  return to;
}
template <class T> void download(std::vector<T>& to, jet::DeviceBuffer const& from) {
  if (!to.empty()) {
    jet::cuda_check(cudaMemcpy(to.data(), from.data(), to.size() * sizeof(T), cudaMemcpyDeviceToHost), "download");
  }
}

struct Part {
  std::int32_t slot;  // -1: inactive
  i64 tokens;
};

struct Options {
  i64 slots = 10;
  i64 capacity = 512;   // of a slot of full attention, or of the ring if smaller than the window
  i64 page_size = 0;    // 0: contiguous
  bool cache = true;    // false: null slots
  bool host = true;     // give the context the batch on the host
  bool o_bf16 = false;  // the output's type
  bool batch_invariant = false;
  float query_scale = 1;
  double bound = 2e-3;         // of sequences with several tokens
  double decode_bound = 2e-5;  // of single tokens
  i64 check_rows = 0;          // compare at most this many last tokens of a sequence; 0: all
};

// A backend of a policy that jet::Cuda does not have.
template <jet::Precision P> class OtherBackend {
 public:
  using tag = jet::tag::cuda;
  static constexpr jet::Precision precision = P;
  explicit OtherBackend(jet::BackendOptions const& options) : cuda_(options) {}
  cudaStream_t stream() const { return cuda_.stream(); }
  int multiprocessors() const { return cuda_.multiprocessors(); }
  bool batch_invariant() const { return cuda_.batch_invariant(); }
  jet::DeviceMemory memory() const { return cuda_.memory(); }
  jet::DeviceBuffer allocate(i64 bytes) const { return cuda_.allocate(bytes); }
  void sync() const { cuda_.sync(); }

 private:
  jet::Cuda<jet::precision::bf16> cuda_;
};

template <jet::Precision P, bool F8> struct BackendOf { using type = jet::Cuda<P>; };
template <jet::Precision P> struct BackendOf<P, true> { using type = OtherBackend<P>; };

// The worst errors of a test program, for its last lines.
inline double worst_prefill = 0;
inline double worst_decode = 0;

template <jet::op::AttentionShape C, jet::Precision P> class Harness {
 public:
  static constexpr bool f8 = P.kv_dtype() == jet::DType::f8e4m3;
  using Backend = typename BackendOf<P, f8>::type;
  using KV = jet::cuda::kv_storage<P.kv_dtype()>;
  static constexpr i64 width = C.kv_heads * C.head;

  Harness(std::string name, Options const& options)
      : name_(std::move(name)),
        options_(options),
        backend_({.batch_invariant = options.batch_invariant}),
        capacity_(options.capacity) {
    if (C.window > 0) {
      capacity_ = std::min(capacity_, C.window);
    }
    history_k_.resize(index(options.slots));
    history_v_.resize(index(options.slots));
    max_pages_ = options.page_size > 0 ? (options.capacity + options.page_size - 1) / options.page_size : 0;
    units_ = options.page_size > 0 ? max_pages_ * options.slots : options.slots;
    rows_ = options.page_size > 0 ? options.page_size : capacity_;
    // fp8: the scales of a unit after its rows
    unit_bytes_ = rows_ * width * i64{sizeof(KV)};
    if (f8) {
      unit_bytes_ = jet::align_up(unit_bytes_ + rows_ * C.kv_heads * 2);
    }
    std::size_t const n = options.cache ? index(units_ * unit_bytes_) : 0;
    key_.assign(n, std::byte{0xff});  // NaN: what was never written never counts
    value_.assign(n, std::byte{0xff});
    device_key_ = upload(key_);
    device_value_ = upload(value_);
  }

  // Runs one call and checks it. Returns the output's bits, rows of inactive sequences included.
  std::vector<std::byte> call(std::vector<Part> const& parts, std::uint64_t seed) {
    jet::Batch batch;
    for (Part const& p : parts) {
      batch.add(p.slot, p.tokens, p.slot < 0 || !options_.cache ? 0 : history_k_[index(p.slot)].rows);
    }
    if (options_.page_size > 0) {
      batch.page_size = options_.page_size;
      for (Part const& p : parts) {
        for (i64 i = 0; i < max_pages_; ++i) {
          batch.pages.push_back(page(std::max(p.slot, 0), i));
        }
      }
    }
    i64 const tokens = batch.tokens();
    std::vector<float> q(index(tokens * C.heads * C.head));
    std::vector<float> k(index(tokens * width));
    std::vector<float> v(index(tokens * width));
    fill(parts, seed, q, k, v);

    std::vector<std::byte> o(index(tokens * C.heads * C.head * (options_.o_bf16 ? 2 : 4)), std::byte{0x5a});
    auto const dq = upload(q), dk = upload(k), dv = upload(v), dout = upload(o);
    auto const ends = upload(batch.cu_seqlens), positions = upload(batch.position);
    auto const slots = upload(batch.slot), pages = upload(batch.pages);
    jet::BatchView const host = batch.view();
    jet::BatchView view = host;
    view.cu_seqlens = reinterpret_cast<std::int64_t const*>(ends.data());
    view.position = reinterpret_cast<std::int64_t const*>(positions.data());
    view.slot = reinterpret_cast<std::int32_t const*>(slots.data());
    view.pages = batch.pages.empty() ? nullptr : reinterpret_cast<std::int32_t const*>(pages.data());
    jet::Slot key, value;
    if (options_.cache) {
      jet::Shape const shape{units_, rows_, C.kv_heads, C.head};
      key = jet::Slot(device_key_.data(), P.kv_dtype(), shape);
      value = jet::Slot(device_value_.data(), P.kv_dtype(), shape);
      key.stride[0] = value.stride[0] = unit_bytes_ / i64{sizeof(KV)};
      if (f8) {
        key.scale = device_key_.data() + rows_ * width;
        value.scale = device_value_.data() + rows_ * width;
        key.scale_dtype = value.scale_dtype = jet::DType::f16;
      }
    }
    if (other_key_) {
      key = other_key_;
      value = other_value_;
    }
    auto const run = [&](jet::ScratchStack& stack) {
      jet::Context<Backend> ctx(backend_, view, stack, options_.host ? &host : nullptr);
      jet::DType const f32 = jet::DType::f32;
      ctx.run(
          jet::op::Attention<C>{}, jet::View(dq.data(), f32, jet::Shape{tokens, C.heads * C.head}),
          jet::View(dk.data(), f32, jet::Shape{tokens, width}),
          jet::View(dv.data(), f32, jet::Shape{tokens, width}), key, value,
          jet::View(dout.data(), options_.o_bf16 ? jet::DType::bf16 : f32, jet::Shape{tokens, C.heads * C.head}));
    };
    jet::ScratchStack counting = jet::ScratchStack::counting();
    run(counting);
    jet::DeviceBuffer scratch(counting.peak());
    scratch.poison();
    jet::ScratchStack stack(scratch.data(), scratch.bytes());
    run(stack);
    backend_.sync();
    download(o, dout);
    check(parts, batch, q, k, v, o);
    return o;
  }

  Backend& backend() { return backend_; }
  // Other caches, which are not compared, for sequences that begin again.
  void use(jet::Slot const& key, jet::Slot const& value) {
    other_key_ = key;
    other_value_ = value;
    for (std::size_t s = 0; s < history_k_.size(); ++s) {
      restart(static_cast<std::int32_t>(s));
    }
  }
  // Forgets a sequence; what its slot holds stays.
  void restart(std::int32_t slot) {
    history_k_[index(slot)] = {};
    history_v_[index(slot)] = {};
  }
  // Multiplies the keys of every `step`-th position of later calls.
  void plant(i64 step, float factor) {
    plant_step_ = step;
    plant_factor_ = factor;
  }

 private:
  std::int32_t page(i64 slot, i64 i) const {  // scattered: 7919 is prime and above the number of pages
    return static_cast<std::int32_t>((slot * max_pages_ + i) * 7919 % units_);
  }
  // Rounds a row as it is stored to `row`, and puts it where the image of a cache keeps it.
  void keep(std::vector<std::byte>& image, i64 slot, i64 position, float const* from, double* row) {
    i64 const unit = options_.page_size == 0 ? slot : page(slot, position / options_.page_size);
    i64 const at = position % rows_;
    for (i64 h = 0; h < C.kv_heads; ++h) {
      jet::f16 scale{};
      if constexpr (f8) {
        float largest = 0;
        for (i64 i = 0; i < C.head; ++i) {
          largest = std::max(largest, std::abs(from[h * C.head + i]));
        }
        scale = jet::cuda::f8_scale(largest);
        if (options_.cache) {
          std::memcpy(&image[index(unit * unit_bytes_ + rows_ * width + (at * C.kv_heads + h) * 2)], &scale, 2);
        }
      }
      for (i64 i = h * C.head; i < (h + 1) * C.head; ++i) {
        KV number;
        if constexpr (f8) {
          number = jet::cuda::to_f8(from[i], scale);
          row[i] = double(float(number)) * double(float(scale));
        } else {
          number = KV(from[i]);
          row[i] = number;
        }
        if (options_.cache) {
          std::memcpy(&image[index(unit * unit_bytes_ + (at * width + i) * i64{sizeof(KV)})], &number, sizeof(KV));
        }
      }
    }
  }

  // The numbers of a token depend on the seed, the slot and the position alone. Queries are representable in bf16.
  void fill(std::vector<Part> const& parts, std::uint64_t seed, std::vector<float>& q, std::vector<float>& k,
            std::vector<float>& v) {
    std::size_t tq = 0;
    std::size_t tk = 0;
    for (Part const& p : parts) {
      i64 const seen = p.slot < 0 ? 0 : history_k_[index(p.slot)].rows;
      for (i64 t = 0; t < p.tokens; ++t) {
        std::uint64_t const base = seed * 1000003u + static_cast<std::uint64_t>(seen + t) * 100003u * 64u;
        for (i64 i = 0; i < C.heads * C.head; ++i) {
          q[tq++] = float(jet::bf16(value_at(base + static_cast<std::uint64_t>(i)) * options_.query_scale));
        }
        float const factor = plant_step_ > 0 && (seen + t) % plant_step_ == 0 ? plant_factor_ : 1.0f;
        for (i64 i = 0; i < width; ++i, ++tk) {
          k[tk] = factor * value_at(base + 50000 + static_cast<std::uint64_t>(i));
          v[tk] = value_at(base + 70000 + static_cast<std::uint64_t>(i));
        }
      }
    }
  }

  void check(std::vector<Part> const& parts, jet::Batch const& batch, std::vector<float> const& q,
             std::vector<float> const& k, std::vector<float> const& v, std::vector<std::byte> const& o) {
    auto const out = [&](i64 i) {
      return options_.o_bf16 ? double(reinterpret_cast<jet::bf16 const*>(o.data())[i])
                             : double(reinterpret_cast<float const*>(o.data())[i]);
    };
    i64 const bytes = C.heads * C.head * (options_.o_bf16 ? 2 : 4);
    for (std::size_t s = 0; s < parts.size(); ++s) {
      Part const& p = parts[s];
      i64 const begin = batch.cu_seqlens[s];
      if (p.slot < 0) {
        bool kept = true;
        for (i64 i = begin * bytes; i < (begin + p.tokens) * bytes; ++i) {
          kept = kept && o[index(i)] == std::byte{0x5a};
        }
        expect(kept, name_ + ": wrote the output of an inactive sequence");
        continue;
      }
      Matrix& all_k = history_k_[index(p.slot)];
      Matrix& all_v = history_v_[index(p.slot)];
      if (!options_.cache) {
        all_k = all_v = {};
      }
      i64 const seen = all_k.rows;
      Matrix new_q(p.tokens, C.heads * C.head), new_k(p.tokens, width), new_v(p.tokens, width),
          got(p.tokens, new_q.cols);
      for (i64 t = 0; t < p.tokens; ++t) {
        for (i64 i = 0; i < new_q.cols; ++i) {
          new_q.at(t, i) = q[index((begin + t) * new_q.cols + i)];
          got.at(t, i) = out((begin + t) * new_q.cols + i);
        }
        keep(key_, p.slot, seen + t, &k[index((begin + t) * width)], &new_k.at(t, 0));
        keep(value_, p.slot, seen + t, &v[index((begin + t) * width)], &new_v.at(t, 0));
      }
      if (p.tokens == 0) {
        continue;
      }
      all_k = jet::reference::concatenate(all_k, new_k);
      all_v = jet::reference::concatenate(all_v, new_v);
      i64 const skip = options_.check_rows > 0 ? std::max<i64>(0, p.tokens - options_.check_rows) : 0;
      new_q = jet::reference::rows_of(new_q, skip, p.tokens - skip);
      got = jet::reference::rows_of(got, skip, p.tokens - skip);
      Matrix const want =
          jet::reference::attention(new_q, all_k, all_v, C.heads, C.kv_heads, C.window, seen + skip);
      double const error = jet::reference::relative_rms(got, want);
      double const bound = p.tokens == 1 ? options_.decode_bound : options_.bound;
      double& worst = p.tokens == 1 ? worst_decode : worst_prefill;
      worst = std::max(worst, error);
      expect(error <= bound, jet::concat(name_, ": slot ", p.slot, ", ", p.tokens, " tokens at ", seen, ": error ",
                                         error, ", allowed ", bound));
    }
    std::vector<std::byte> key(key_.size()), value(value_.size());
    download(key, device_key_);
    download(value, device_value_);
    if (!other_key_) {
      expect(key == key_, name_ + ": the key cache differs");
      expect(value == value_, name_ + ": the value cache differs");
    }
  }

  std::string name_;
  Options options_;
  Backend backend_;
  i64 capacity_, max_pages_ = 0, units_ = 0, rows_ = 0;
  i64 unit_bytes_ = 0;
  std::vector<std::byte> key_, value_;  // what the caches must hold
  jet::DeviceBuffer device_key_, device_value_;
  std::vector<Matrix> history_k_, history_v_;  // of each slot, as the kernel rounds them
  jet::Slot other_key_, other_value_;
  i64 plant_step_ = 0;
  float plant_factor_ = 1;
};

template <jet::op::AttentionShape C> std::string name_of(char const* what) {
  return jet::concat(what, " ", C.heads, "/", C.kv_heads, " heads of ", C.head, ", window ", C.window);
}

// Ragged calls with empty, single-token and inactive sequences; then chunks on what they left; then decode steps.
template <jet::op::AttentionShape C, jet::Precision P> void ragged(Options options, i64 longest = 129) {
  Harness<C, P> h(name_of<C>(options.host ? "ragged" : "ragged, lengths on the device alone"), options);
  h.call({{0, 0}, {1, 1}, {-1, 5}, {2, 2}, {3, 3}, {4, 63}, {-1, 1}, {5, 64}, {6, 65}, {7, longest}}, 1);
  h.call({{7, 1}, {0, 4}, {1, 2}, {4, 1}, {-1, 1}, {2, 66}, {5, 31}, {6, 0}, {3, 1}}, 2);
  for (std::uint64_t i = 0; i < 3; ++i) {
    h.call({{3, 1}, {-1, 1}, {0, 1}, {7, 1}, {6, 1}, {5, 1}, {4, 1}, {2, 1}, {1, 1}}, 3 + i);
  }
}

// From here on, what must agree bit for bit.
inline void same(std::vector<std::byte> const& a, std::vector<std::byte> const& b, std::string const& what) {
  expect(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0, what);
}

// A sequence cut into calls, alone or among others, in pages or not, twice.
template <jet::op::AttentionShape C, jet::Precision P> void bits(Options options) {
  std::string const name = name_of<C>("bits");
  Harness<C, P> h(name, options);
  std::size_t const row = index(C.heads * C.head * (options.o_bf16 ? 2 : 4));
  auto const whole = h.call({{0, 137}}, 9);
  auto const first = h.call({{1, 64}, {2, 3}, {-1, 2}}, 9);
  auto const second = h.call({{3, 17}, {1, 73}}, 9);
  std::vector<std::byte> cut(first.begin(), first.begin() + static_cast<std::ptrdiff_t>(64 * row));
  cut.insert(cut.end(), second.begin() + static_cast<std::ptrdiff_t>(17 * row), second.end());
  same(whole, cut, name + ": a prefill in two calls differs from one call");
  auto const alone = h.call({{0, 1}}, 10);
  auto among = h.call({{2, 1}, {-1, 1}, {3, 1}, {1, 1}}, 10);
  same(alone, {among.end() - static_cast<std::ptrdiff_t>(row), among.end()},
       name + ": a decode step alone differs from one among others");
  h.restart(0);
  same(h.call({{0, 137}}, 9), whole, name + ": a second run differs");
  same(h.call({{0, 1}}, 10), alone, name + ": a second decode step differs");
  if constexpr (C.window == 0) {
    for (i64 const page_size : {i64{16}, i64{5}}) {
      Options paged = options;
      paged.page_size = page_size;
      Harness<C, P> p(name + " in pages", paged);
      same(p.call({{0, 137}}, 9), whole, name + ": pages differ");
      same(p.call({{0, 1}}, 10), alone, name + ": a decode step in pages differs");
    }
  }
}

// A decode step of many sequences of different lengths, of which one alone must agree: closely, or bit for bit.
template <jet::op::AttentionShape C, jet::Precision P> void crowd(Options options) {
  options.slots = 40;
  std::string const name = name_of<C>(options.batch_invariant ? "crowd, invariant" : "crowd");
  Harness<C, P> h(name, options);
  std::vector<Part> parts;
  for (std::int32_t s = 0; s < 40; ++s) {
    parts.push_back({s, s * 37 % 23 * (s % 5 == 0 ? 13 : 3)});
  }
  h.call(parts, 50);
  for (Part& p : parts) {
    p.tokens = 1;
  }
  parts[7].slot = -1;
  auto const together = h.call(parts, 51);
  h.call(parts, 52);
  Harness<C, P> one(name + ", one", options);
  one.call({{3, 3 * 37 % 23 * 3}}, 50);
  auto const alone = one.call({{3, 1}}, 51);
  std::size_t const row = alone.size();
  if (options.batch_invariant) {
    same(alone,
         {together.begin() + static_cast<std::ptrdiff_t>(3 * row),
          together.begin() + static_cast<std::ptrdiff_t>(4 * row)},
         name + ": a sequence alone differs");
  }
  Harness<C, P> again(name + ", again", options);
  for (Part& p : parts) {
    p.tokens = p.slot < 0 ? 0 : p.slot * 37 % 23 * (p.slot % 5 == 0 ? 13 : 3);
  }
  again.call(parts, 50);
  for (Part& p : parts) {
    p.tokens = 1;
  }
  same(again.call(parts, 51), together, name + ": a second run differs");
}

// A ring in pieces around the window, from the start and after it has wrapped.
template <jet::op::AttentionShape C, jet::Precision P> void ring(Options options) {
  i64 const w = C.window;
  Harness<C, P> h(name_of<C>("ring"), options);
  for (i64 const piece : {w - 1, w, w + 1, i64{1}, 3 * w, i64{1}, i64{1}, w - 1, i64{2}, w, w + 1}) {
    h.call({{1, piece}, {2, std::max<i64>(1, piece / 2)}}, 20 + static_cast<std::uint64_t>(piece));
  }
}

inline int finish() {
  std::printf("worst relative RMS error: several tokens %.3g, single tokens %.3g\n", worst_prefill, worst_decode);
  return report();
}

}  // namespace attention_test
