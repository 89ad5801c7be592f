/// \file
/// The micro-kernels: kernels<float>(best_isa()) and kernels<double>(Isa::generic).
///
/// Header-only by default: every translation unit that calls kernels<T>() compiles all tables, some seconds each. A
/// program of many translation units defines JET_EXTERN_KERNELS in all of them and includes
/// <jet/cpu/simd/instantiate.hpp> in exactly one (where the macro may be defined as well): then only that one
/// compiles the kernels, and the others see declarations.
#pragma once

#include <jet/cpu/simd/isa.hpp>
#include <jet/cpu/simd/table.hpp>

#if defined(JET_EXTERN_KERNELS)
JET_NAMESPACE_BEGIN
namespace cpu {
extern template KernelTable<float> const& kernels<float>(Isa);
extern template KernelTable<double> const& kernels<double>(Isa);
}  // namespace cpu
JET_NAMESPACE_END
#else
#include <jet/cpu/simd/select.hpp>
#endif
