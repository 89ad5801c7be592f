/// \file
/// Which instruction sets this build has kernels for and this machine can run.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include <jet/cpu/simd/table.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {
namespace detail {

/// Asks the processor; the answer includes whether the operating system saves the registers.
inline bool probe(Isa isa) {
  switch (isa) {
    case Isa::generic: return true;
#if defined(__x86_64__) && defined(__GNUC__)  // clang defines it too
    // Every processor with AVX2 and FMA has F16C, which clang 14 cannot be asked about.
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2");
    case Isa::avx512:
      return probe(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::avx512_bf16: return probe(Isa::avx512) && __builtin_cpu_supports("avx512bf16");
#else
    case Isa::avx2:
    case Isa::avx512:
    case Isa::avx512_bf16: return false;
#endif
  }
  return false;
}

struct IsaList {
  std::array<Isa, 4> items{};
  std::size_t count = 0;
};

/// Probed once in a process.
inline IsaList const& isa_list() {
  static IsaList const list = [] {
    IsaList found;
    for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512_bf16}) {
      if (probe(isa)) {
        found.items[found.count++] = isa;
      }
    }
    return found;
  }();
  return list;
}

}  // namespace detail

/// The instruction sets that this build and this machine have, weakest first; generic is always among them.
inline std::span<Isa const> available_isas() {
  auto const& list = detail::isa_list();
  return std::span<Isa const>(list.items.data(), list.count);
}

/// Whether kernels<float>(isa) can be used here.
inline bool has(Isa isa) {
  for (Isa const found : available_isas()) {
    if (found == isa) {
      return true;
    }
  }
  return false;
}

/// The strongest available instruction set.
inline Isa best_isa() {
  return available_isas().back();
}

}  // namespace cpu
JET_NAMESPACE_END
