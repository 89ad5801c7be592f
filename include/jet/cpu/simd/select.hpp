/// \file
/// The definition of kernels<T>(Isa): every table, chosen at run time. Include simd.hpp instead.
#pragma once

#include <type_traits>

#include <jet/core/error.hpp>
#include <jet/cpu/simd/generic.hpp>
#include <jet/cpu/simd/isa.hpp>
#include <jet/cpu/simd/table.hpp>
#include <jet/cpu/simd/x86.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

template <class T> KernelTable<T> const& kernels([[maybe_unused]] Isa isa) {
  static constexpr KernelTable<T> generic_table = generic::table<T>();
  if constexpr (std::is_same_v<T, float>) {
    JET_CHECK(has(isa), "the instruction set ", name_of(isa), " is not available here; the best one is ",
              name_of(best_isa()));
#if defined(__x86_64__) && defined(__GNUC__)
    static constexpr KernelTable<float> avx2_table = avx2::table(Isa::avx2);
    static constexpr KernelTable<float> avx512_table = avx512::table(Isa::avx512);
    static constexpr KernelTable<float> avx512_bf16_table = avx512_bf16::table();
    switch (isa) {
      case Isa::generic: break;
      case Isa::avx2: return avx2_table;
      case Isa::avx512: return avx512_table;
      case Isa::avx512_bf16: return avx512_bf16_table;
    }
#endif
  }
  return generic_table;
}

}  // namespace cpu
JET_NAMESPACE_END
