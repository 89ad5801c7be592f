/// \file
/// Include this in one translation unit of a program whose translation units define JET_EXTERN_KERNELS: it makes
/// the definitions of kernels<float> and kernels<double> (see simd.hpp).
#pragma once

#include <jet/cpu/simd/select.hpp>
#include <jet/cpu/simd/simd.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {
template KernelTable<float> const& kernels<float>(Isa);
template KernelTable<double> const& kernels<double>(Isa);
}  // namespace cpu
JET_NAMESPACE_END
