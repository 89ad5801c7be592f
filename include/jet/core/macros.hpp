/// \file
/// The only macros of the library. Everything else is a type or a function.
#pragma once

#define JET_VERSION_MAJOR 0
#define JET_VERSION_MINOR 1
#define JET_VERSION_PATCH 0

/// Every name of the library lives in an inline namespace that carries the version, so that objects built from
/// different versions may meet in one program without sharing symbols.
#define JET_NAMESPACE_BEGIN \
  namespace jet {           \
  inline namespace v0_1 {
#define JET_NAMESPACE_END \
  }                       \
  }

#if defined(__CUDACC__)
#define JET_HD __host__ __device__
#define JET_DEVICE __device__
#else
#define JET_HD
#define JET_DEVICE
#endif

/// Of doubles, on the host and on a device. Without <cmath>, which would be a sixth of what the core costs to
/// include.
#if defined(__CUDACC__)
#define JET_SQRT(x) ::sqrt(x)
#define JET_FMA(a, b, c) ::fma(a, b, c)
#else
#define JET_SQRT(x) __builtin_sqrt(x)
#define JET_FMA(a, b, c) __builtin_fma(a, b, c)
#endif

#if defined(__clang__) || defined(__CUDACC__)
#define JET_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define JET_UNROLL _Pragma("GCC unroll 16")
#else
#define JET_UNROLL
#endif

#if defined(__GNUC__)
#define JET_ALWAYS_INLINE inline __attribute__((always_inline))
#define JET_RESTRICT __restrict__
#else
#define JET_ALWAYS_INLINE inline
#define JET_RESTRICT
#endif

/// Internal invariants of kernels, checked in debug builds only. Public entry points use JET_CHECK (error.hpp).
#if defined(NDEBUG)
#define JET_ASSERT(condition) ((void)0)
#else
#include <cassert>
#define JET_ASSERT(condition) assert(condition)
#endif

/// Public entry points: throws jet::Error with the concatenated message parts when the condition is false.
/// The parts are evaluated only then. Needs <jet/core/error.hpp>.
#define JET_CHECK(condition, ...)    \
  do {                               \
    if (!(condition)) [[unlikely]] { \
      ::jet::fail(__VA_ARGS__);      \
    }                                \
  } while (false)
