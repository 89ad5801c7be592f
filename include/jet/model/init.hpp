/// \file
/// Initial values of parameters from their declarations, reproducible and independent of the order of evaluation.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <jet/core/param.hpp>
#include <jet/core/rng.hpp>
#include <jet/core/thread_pool.hpp>
#include <jet/model/state_pool.hpp>
#include <jet/model/weights.hpp>

JET_NAMESPACE_BEGIN

/// What a block's own `init(InitContext, Params<Slot>&)` may use.
struct InitContext {
  i64 layer = 0;
  i64 layers = 1;
  std::uint64_t seed = 0;
};

/// Element `index` of a tensor that starts as `init`.
inline double init_value(Init const& init, Random const& random, std::uint64_t index) {
  switch (init.kind) {
    case Init::Kind::zeros: return 0;
    case Init::Kind::ones: return 1;
    case Init::Kind::constant: return init.a;
    case Init::Kind::normal: return init.a + init.b * static_cast<double>(random.normal(index));
    case Init::Kind::uniform: return init.a + (init.b - init.a) * random.uniform_double(index);
    case Init::Kind::log_uniform:
      return std::log(std::max(1e-4, init.a + (init.b - init.a) * random.uniform_double(index)));
    case Init::Kind::dt_bias: {
      double const u = random.uniform_double(index);
      double const dt = std::max(1e-4, std::exp(std::log(init.a) + u * (std::log(init.b) - std::log(init.a))));
      return dt + std::log(-std::expm1(-dt));
    }
  }
  return 0;
}

/// Elements [first, first + n) of a tensor that starts as `init`; `first` is even.
inline void init_values(Init const& init, Random const& random, i64 first, i64 n, double* values) {
  for (i64 i = 0; i < n; ++i) {
    auto const index = static_cast<std::uint64_t>(first + i);
    if (init.kind == Init::Kind::normal && i + 1 < n) {  // normals come in pairs
      Random::Pair const pair = random.normal_pair(index / 2);
      values[i] = init.a + init.b * static_cast<double>(pair.first);
      values[++i] = init.a + init.b * static_cast<double>(pair.second);
    } else {
      values[i] = init_value(init, random, index);
    }
  }
}

namespace detail {

/// Writes n doubles as `type` at `to`.
inline void store_as(DType type, double const* from, i64 n, void* to) {
  auto const put = [&]<class T>(T* out) {
    for (i64 i = 0; i < n; ++i) {
      out[i] = static_cast<T>(from[i]);
    }
  };
  switch (type) {
    case DType::f64: put(static_cast<double*>(to)); break;
    case DType::f32: put(static_cast<float*>(to)); break;
    case DType::bf16: put(static_cast<bf16*>(to)); break;
    case DType::f16: put(static_cast<f16*>(to)); break;
    default: fail("a parameter cannot be stored as ", name_of(type));
  }
}

}  // namespace detail

/// Fills every tensor for which `wanted(TensorKey)` holds, in host memory, then calls the blocks' own `init`.
template <class Model, class F> void initialise(Weights<Model>& weights, std::uint64_t seed, F const& wanted) {
  weights.visit([&](TensorKey const& key, Slot& slot) {
    if (!wanted(key)) {
      return;
    }
    // one stream per tensor, told apart by where it sits and what it is called
    std::uint64_t stream = static_cast<std::uint64_t>(key.module) * 0x9e3779b97f4a7c15u +
                           static_cast<std::uint64_t>(key.layer + 1) * 0xbf58476d1ce4e5b9u +
                           static_cast<std::uint64_t>(static_cast<unsigned char>(key.letter));
    for (char const c : key.spec.name.view()) {
      stream = (stream ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    }
    Random const random{seed, stream};
    i64 const n = slot.numel();
    constexpr i64 piece = 1 << 12;
    cpu::parallel_for(cpu::available_threads(), (n + piece - 1) / piece, [&](i64 task, int) {
      double values[piece];
      i64 const at = task * piece;
      i64 const count = std::min(piece, n - at);
      init_values(key.spec.init, random, at, count, values);
      detail::store_as(slot.dtype, values, count, static_cast<char*>(slot.data) + at * size_of(slot.dtype));
    });
  });
  for (i64 l = 0; l < Model::layers; ++l) {
    for (char const c : weights.letters()[static_cast<std::size_t>(l)]) {
      Model::for_letter(c, [&]<class L>() {
        auto& params = weights.template layer<L>(l).mixer();
        if constexpr (requires { L::mixer::init(InitContext{}, params); }) {
          L::mixer::init(InitContext{l, Model::layers, seed}, params);
        }
      });
    }
  }
}
template <class Model> void initialise(Weights<Model>& weights, std::uint64_t seed = 0) {
  initialise(weights, seed, [](TensorKey const&) { return true; });
}

namespace detail {

/// 1024 small random numbers as `type`: of [-0.1, 0.1), for fp8 any finite ones (their scales are small).
inline std::vector<std::byte> small_numbers(DType type, std::uint64_t seed) {
  constexpr i64 n = 1024;
  std::vector<std::byte> bytes(static_cast<std::size_t>(n * size_of(type)));
  if (type == DType::f8e4m3) {
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::byte>(i * 151 % 0x70 + (i % 3 == 0 ? 0x80 : 0));
    }
    return bytes;
  }
  Random const random{seed, 0};
  double numbers[n];
  for (i64 i = 0; i < n; ++i) {
    numbers[i] = 0.2 * random.uniform_double(static_cast<std::uint64_t>(i)) - 0.1;
  }
  store_as(type, numbers, n, bytes.data());
  return bytes;
}

}  // namespace detail

/// Gives every row of a saved state small random numbers, used over and over, for benchmarks: a cache that is
/// filled, not computed.
inline void fill_random(SavedState& state, std::uint64_t seed) {
  for (auto& row : state.rows) {
    std::vector<std::byte> const numbers = detail::small_numbers(row.dtype, seed);
    for (std::size_t at = 0; at < row.data.size(); at += numbers.size()) {
      std::copy_n(numbers.begin(), std::min(numbers.size(), row.data.size() - at),
                  row.data.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
}

/// Queues filling `bytes` bytes of the backend's memory with a pattern of the host's, over and over.
template <class B> void fill_repeating(B const& backend, void* to, i64 bytes, std::span<std::byte const> pattern) {
  i64 done = std::min(bytes, static_cast<i64>(pattern.size()));
  backend.copy_from_host(to, pattern.data(), done);
  while (done < bytes) {
    i64 const n = std::min(done, bytes - done);
    backend.copy(static_cast<char*>(to) + done, to, n);
    done += n;
  }
}

JET_NAMESPACE_END
