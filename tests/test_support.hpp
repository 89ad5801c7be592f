// What tests share: random data, precisions and instruction sets, comparisons.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/batch.hpp>
#include <jet/core/rng.hpp>
#include <jet/cpu/cpu.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/compare.hpp>
#include <jet/testing/reference.hpp>

#include "tolerances.hpp"

namespace tests {

using jet::Batch;
using jet::DType;
using jet::i64;
using jet::Shape;
using jet::Slot;
using jet::View;
using jet::reference::Matrix;
using jet::reference::relative_rms;
using jet::reference::Vector;
using jet::testing::Activation;
using jet::testing::all_finite;
using jet::testing::filled;
using jet::testing::normal;
using jet::testing::run_planned;
using jet::testing::same_bits;

using F64 = jet::Cpu<jet::precision::f64>;
using F32 = jet::Cpu<jet::precision::f32>;
using Bf16Weights = jet::Cpu<jet::precision::bf16_weights>;
using Bf16 = jet::Cpu<jet::precision::bf16>;

inline std::vector<i64> const& odd_sizes() {
  static std::vector<i64> const sizes{0, 1, 2, 3, 5, 63, 64, 65, 127, 129, 300};
  return sizes;
}

inline Matrix uniform(i64 rows, i64 cols, std::uint64_t seed, double low, double high) {
  Matrix m(rows, cols);
  jet::Random const random{seed, 8};
  for (std::size_t i = 0; i < m.data.size(); ++i) {
    m.data[i] = low + (high - low) * random.uniform_double(i);
  }
  return m;
}
// The values as `type` stores them.
inline Matrix rounded(Matrix m, DType type) {
  std::vector<std::byte> bytes(m.data.size() * static_cast<std::size_t>(jet::size_of(type)));
  i64 const n = std::ssize(m.data);
  jet::detail::store_as(type, m.data.data(), n, bytes.data());
  m.data = jet::testing::load_as(type, bytes.data(), n);
  return m;
}

// Instruction sets to run a policy with: double has the generic kernels only.
template <class B> std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (jet::cpu::Isa const isa : jet::cpu::available_isas()) {
    names.emplace_back(jet::cpu::name_of(isa));
    if (B::precision.acc == DType::f64) {
      break;
    }
  }
  return names;
}
// Calls f(backend) for every instruction set of this machine.
template <class B, class F> void for_isas(F const& f) {
  for (std::string const& isa : isas<B>()) {
    CAPTURE(isa);
    B backend(jet::BackendOptions{.threads = 2, .isa = isa});
    f(backend);
  }
}

// One sequence of `tokens` tokens that has seen `position` before.
inline Batch one(i64 tokens, i64 slot = 0, i64 position = 0) {
  Batch batch;
  batch.add(static_cast<std::int32_t>(slot), tokens, position);
  return batch;
}

}  // namespace tests

namespace doctest {
template <> struct StringMaker<jet::DType> {
  static String convert(jet::DType type) { return String(std::string(jet::name_of(type)).c_str()); }
};
}  // namespace doctest

TYPE_TO_STRING_AS("f64", tests::F64);
TYPE_TO_STRING_AS("f32", tests::F32);
TYPE_TO_STRING_AS("bf16_weights", tests::Bf16Weights);
TYPE_TO_STRING_AS("bf16", tests::Bf16);
