// The CPU of a run: what its memory gives to a copy and to a sum. Products have no ceiling here.
#pragma once

#include <chrono>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <jet/cpu/backend.hpp>

#include "measure.hpp"

inline Machine cpu_machine() {
  jet::Cpu<jet::precision::bf16_weights> const backend;
  Machine machine;
  machine.device = "CPU (" + std::string(jet::cpu::name_of(backend.isa())) + ", " +
                   std::to_string(backend.threads()) + " threads)";
  machine.memory = i64{1} << 30;
  constexpr std::size_t n = std::size_t{32} << 20;
  std::vector<char> from(n, 1), to(n, 2);
  i64 const piece = static_cast<i64>(n) / 64;
  std::vector<i64> sums(64);
  auto const best = [&](double bytes, auto const& part) {
    double rate = 0;
    for (int pass = 0; pass < 3; ++pass) {
      auto const start = std::chrono::steady_clock::now();
      backend.parallel(64, [&](i64 i, int) { part(i); });
      rate = std::max(rate, bytes / measure_detail::seconds_since(start));
    }
    return rate;
  };
  machine.ceilings.copy = best(2.0 * n, [&](i64 i) {
    std::memcpy(to.data() + i * piece, from.data() + i * piece, static_cast<std::size_t>(piece));
  });
  machine.ceilings.read = best(1.0 * n, [&](i64 i) {
    auto const* const words = reinterpret_cast<std::uint64_t const*>(to.data() + i * piece);
    std::uint64_t sum = 0;
    for (i64 j = 0; j < piece / 8; ++j) {
      sum += words[j];
    }
    sums[static_cast<std::size_t>(i)] = static_cast<i64>(sum);
  });
  machine.ceilings.tensor = 0;
  return machine;
}
