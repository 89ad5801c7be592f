/// \file
/// Products of whole tiles on Hopper's tensor cores, warpgroup by warpgroup (wgmma.mma_async, sm_90a). On other
/// devices has_wgmma is false, and none of these is called.
///
/// Four warps (a warpgroup: threads 128 i ... 128 i + 127) form D (64 x N, float) += A (64 x 16) B (16 x N), with
/// 16-bit factors. Thread 32 w + 4 g + t holds of D, for j = 0 ... N / 8 - 1: elements 4 j and 4 j + 1 are row
/// 16 w + g, columns 8 j + 2 t and the next; 4 j + 2 and 4 j + 3 the same of row 16 w + g + 8. A may come from
/// registers: those of mma.cuh's 16 x 16 fragment, warp w holding rows 16 w ... 16 w + 15; so a D rounded to 16
/// bits is an A: its elements 8 i ... 8 i + 7 are the fragment of columns 16 i ... 16 i + 15.
///
/// Tiles in shared memory are described by 64-bit words (below). The order of calls: write tiles,
/// async_proxy_fence, a barrier; wgmma_fence; wgmma ...; wgmma_commit; wgmma_wait<0>; read D. Registers of A and D
/// are not to be touched between wgmma_fence and wgmma_wait.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/copy_async.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// In device code: whether it is compiled for a device that has them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool has_wgmma = true;
#else
inline constexpr bool has_wgmma = false;
#endif

/// How a tile of 16-bit elements lies in shared memory: rows of that many bytes, whose 16-byte pieces are permuted
///
/// The tile starts at a multiple of 8 rows (1,024 bytes for the widest).
enum class Swizzle : int { none = 0, bytes128 = 1, bytes64 = 2, bytes32 = 3 };

/// Describes a tile with rows of K (each row of A, each column of B, has its numbers along K side by side).
/// swizzle s: a row of the tile is one row of s bytes; 8 rows are one block; `block` is the distance in bytes from
/// one block of 8 rows to the next (8 s when packed). The next 16 along K: + 32 bytes, `wgmma_advance(d, 32)`, up
/// to s bytes; beyond them another tile begins.
template <Swizzle S> __device__ std::uint64_t wgmma_rows(std::uint32_t address, int block) {
  static_assert(S != Swizzle::none);
  return std::uint64_t{(address & 0x3ffff) >> 4} | (std::uint64_t{1} << 16) |
         (static_cast<std::uint64_t>((block & 0x3ffff) >> 4) << 32) | (static_cast<std::uint64_t>(S) << 62);
}
/// Describes a tile with rows along M or N, one row per number of K (a transposed operand): a row holds s bytes (64
/// columns of M or N for 128 bytes), 8 rows (8 numbers of K) are one block. `block`: distance from one block of 8
/// rows to the next (8 s when packed); `panel`: distance from the first s bytes of M or N to the next s bytes (not
/// used when the tile has one). The next 16 along K: two blocks on, wgmma_advance(d, 2 * block).
template <Swizzle S> __device__ std::uint64_t wgmma_columns(std::uint32_t address, int block, int panel) {
  static_assert(S != Swizzle::none);
  return std::uint64_t{(address & 0x3ffff) >> 4} | (static_cast<std::uint64_t>((panel & 0x3ffff) >> 4) << 16) |
         (static_cast<std::uint64_t>((block & 0x3ffff) >> 4) << 32) | (static_cast<std::uint64_t>(S) << 62);
}
/// The same tile, so many bytes (a multiple of 16) further on.
__device__ inline std::uint64_t wgmma_advance(std::uint64_t tile, int bytes) {
  return tile + static_cast<std::uint64_t>(bytes >> 4);
}
/// Where 16-byte piece `piece` of row `row` lies, in bytes from the start of a tile of rows of `Bytes` bytes.
template <int Bytes> __host__ __device__ constexpr int swizzled(int row, int piece) {
  static_assert(Bytes == 32 || Bytes == 64 || Bytes == 128);
  // The pattern is a function of address bits 7, 8, 9: rows shorter than 128 bytes share a step of it.
  return row * Bytes + ((piece ^ (row / (128 / Bytes) % (Bytes / 16))) * 16);
}

/// Orders this thread's writes to shared memory before what the tensor cores and the copy engine read of it.
__device__ inline void async_proxy_fence() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
/// Orders a warpgroup's use of the registers of A and D before the products that follow.
__device__ inline void wgmma_fence() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
/// Keeps the compiler from moving uses of these registers across this line.
template <int N> __device__ void wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    asm volatile("" : "+f"(d[i])::"memory");
  }
}
__device__ inline void wgmma_commit() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/// Waits until at most `Pending` of this warpgroup's newest groups are under way.
template <int Pending> __device__ void wgmma_wait() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#endif
}

/// A warpgroup gives registers back, or takes what others gave: N registers per thread, a multiple of 8 in 24 ...
/// 240.
template <int N> __device__ void fewer_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> __device__ void more_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
/// Barrier `id` (1 ... 15) of `threads` threads of the block: all that call either arrive, those of named_sync
/// wait.
__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// The products. T: __half or __nv_bfloat16; N: columns of B. TransposedA, TransposedB: the tile is described by
/// wgmma_columns, else by wgmma_rows. add: false starts D at zero.
template <class T, int N> struct Wgmma;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// One macro body for every width: inline PTX has numbered operands only, so the text depends on N.
// clang-format off
#define JET_WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define JET_WGMMA_D8(i) JET_WGMMA_D4(i), JET_WGMMA_D4(i + 4)
#define JET_WGMMA_D16(i) JET_WGMMA_D8(i), JET_WGMMA_D8(i + 8)
#define JET_WGMMA_D32(i) JET_WGMMA_D16(i), JET_WGMMA_D16(i + 16)
#define JET_WGMMA_D64(i) JET_WGMMA_D32(i), JET_WGMMA_D32(i + 32)
#define JET_WGMMA_S8(a, b, c, d, e, f, g, h) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define JET_WGMMA_T0 JET_WGMMA_S8(0, 1, 2, 3, 4, 5, 6, 7)
#define JET_WGMMA_T1 JET_WGMMA_S8(8, 9, 10, 11, 12, 13, 14, 15)
#define JET_WGMMA_T2 JET_WGMMA_S8(16, 17, 18, 19, 20, 21, 22, 23)
#define JET_WGMMA_T3 JET_WGMMA_S8(24, 25, 26, 27, 28, 29, 30, 31)
#define JET_WGMMA_T4 JET_WGMMA_S8(32, 33, 34, 35, 36, 37, 38, 39)
#define JET_WGMMA_T5 JET_WGMMA_S8(40, 41, 42, 43, 44, 45, 46, 47)
#define JET_WGMMA_T6 JET_WGMMA_S8(48, 49, 50, 51, 52, 53, 54, 55)
#define JET_WGMMA_T7 JET_WGMMA_S8(56, 57, 58, 59, 60, 61, 62, 63)
#define JET_WGMMA_T8 JET_WGMMA_S8(64, 65, 66, 67, 68, 69, 70, 71)
#define JET_WGMMA_T9 JET_WGMMA_S8(72, 73, 74, 75, 76, 77, 78, 79)
#define JET_WGMMA_T10 JET_WGMMA_S8(80, 81, 82, 83, 84, 85, 86, 87)
#define JET_WGMMA_T11 JET_WGMMA_S8(88, 89, 90, 91, 92, 93, 94, 95)
#define JET_WGMMA_T12 JET_WGMMA_S8(96, 97, 98, 99, 100, 101, 102, 103)
#define JET_WGMMA_T13 JET_WGMMA_S8(104, 105, 106, 107, 108, 109, 110, 111)
#define JET_WGMMA_T14 JET_WGMMA_S8(112, 113, 114, 115, 116, 117, 118, 119)
#define JET_WGMMA_T15 JET_WGMMA_S8(120, 121, 122, 123, 124, 125, 126, 127)
#define JET_WGMMA(T, type, N, text, registers, i0, i1, i2, i3, i4, i5, i6)                                             \
  template <> struct Wgmma<T, N> {                                                                                     \
    template <bool TransposedA, bool TransposedB>                                                                      \
    static __device__ void shared(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int add) {                     \
      asm volatile(                                                                                                    \
          "{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\n"                                                            \
          "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" text "}, %" #i0 ", %" #i1              \
          ", p, 1, 1, %" #i3 ", %" #i4 ";\n}"                                                                          \
          : registers                                                                                                  \
          : "l"(a), "l"(b), "r"(add), "n"(int{TransposedA}), "n"(int{TransposedB}));                                   \
    }                                                                                                                  \
    template <bool TransposedB>                                                                                        \
    static __device__ void registers_by_shared(float (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b,       \
                                               int add) {                                                              \
      asm volatile(                                                                                                    \
          "{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n"                                                            \
          "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" text "}, {%" #i0 ", %" #i1 ", %" #i2   \
          ", %" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}"                                                               \
          : registers                                                                                                  \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(int{TransposedB}));                      \
    }                                                                                                                  \
  };
#define JET_WGMMA_BOTH(N, text, registers, ...)               \
  JET_WGMMA(__half, "f16", N, text, JET_WGMMA_LIST registers, __VA_ARGS__)   \
  JET_WGMMA(__nv_bfloat16, "bf16", N, text, JET_WGMMA_LIST registers, __VA_ARGS__)
#define JET_WGMMA_LIST(...) __VA_ARGS__
JET_WGMMA_BOTH(16, JET_WGMMA_T0, (JET_WGMMA_D8(0)), 8, 9, 10, 11, 12, 13, 14)
JET_WGMMA_BOTH(32, JET_WGMMA_T0 ", " JET_WGMMA_T1, (JET_WGMMA_D16(0)), 16, 17, 18, 19, 20, 21, 22)
JET_WGMMA_BOTH(48, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2, (JET_WGMMA_D16(0), JET_WGMMA_D8(16)), 24, 25, 26, 27, 28, 29, 30)
JET_WGMMA_BOTH(64, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3, (JET_WGMMA_D32(0)), 32, 33, 34, 35, 36, 37, 38)
JET_WGMMA_BOTH(80, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4, (JET_WGMMA_D32(0), JET_WGMMA_D8(32)), 40, 41, 42, 43, 44, 45, 46)
JET_WGMMA_BOTH(96, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5, (JET_WGMMA_D32(0), JET_WGMMA_D16(32)), 48, 49, 50, 51, 52, 53, 54)
JET_WGMMA_BOTH(112, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6, (JET_WGMMA_D32(0), JET_WGMMA_D16(32), JET_WGMMA_D8(48)), 56, 57, 58, 59, 60, 61, 62)
JET_WGMMA_BOTH(128, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7, (JET_WGMMA_D64(0)), 64, 65, 66, 67, 68, 69, 70)
JET_WGMMA_BOTH(144, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8, (JET_WGMMA_D64(0), JET_WGMMA_D8(64)), 72, 73, 74, 75, 76, 77, 78)
JET_WGMMA_BOTH(160, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9, (JET_WGMMA_D64(0), JET_WGMMA_D16(64)), 80, 81, 82, 83, 84, 85, 86)
JET_WGMMA_BOTH(192, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9 ", " JET_WGMMA_T10 ", " JET_WGMMA_T11, (JET_WGMMA_D64(0), JET_WGMMA_D32(64)), 96, 97, 98, 99, 100, 101, 102)
JET_WGMMA_BOTH(208, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9 ", " JET_WGMMA_T10 ", " JET_WGMMA_T11 ", " JET_WGMMA_T12, (JET_WGMMA_D64(0), JET_WGMMA_D32(64), JET_WGMMA_D8(96)), 104, 105, 106, 107, 108, 109, 110)
JET_WGMMA_BOTH(224, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9 ", " JET_WGMMA_T10 ", " JET_WGMMA_T11 ", " JET_WGMMA_T12 ", " JET_WGMMA_T13, (JET_WGMMA_D64(0), JET_WGMMA_D32(64), JET_WGMMA_D16(96)), 112, 113, 114, 115, 116, 117, 118)
JET_WGMMA_BOTH(240, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9 ", " JET_WGMMA_T10 ", " JET_WGMMA_T11 ", " JET_WGMMA_T12 ", " JET_WGMMA_T13 ", " JET_WGMMA_T14, (JET_WGMMA_D64(0), JET_WGMMA_D32(64), JET_WGMMA_D16(96), JET_WGMMA_D8(112)), 120, 121, 122, 123, 124, 125, 126)
JET_WGMMA_BOTH(256, JET_WGMMA_T0 ", " JET_WGMMA_T1 ", " JET_WGMMA_T2 ", " JET_WGMMA_T3 ", " JET_WGMMA_T4 ", " JET_WGMMA_T5 ", " JET_WGMMA_T6 ", " JET_WGMMA_T7 ", " JET_WGMMA_T8 ", " JET_WGMMA_T9 ", " JET_WGMMA_T10 ", " JET_WGMMA_T11 ", " JET_WGMMA_T12 ", " JET_WGMMA_T13 ", " JET_WGMMA_T14 ", " JET_WGMMA_T15, (JET_WGMMA_D64(0), JET_WGMMA_D64(64)), 128, 129, 130, 131, 132, 133, 134)
// clang-format on
#undef JET_WGMMA_BOTH
#undef JET_WGMMA_LIST
#undef JET_WGMMA_D4
#undef JET_WGMMA_D8
#undef JET_WGMMA_D16
#undef JET_WGMMA_D32
#undef JET_WGMMA_D64
#undef JET_WGMMA_S8
#undef JET_WGMMA_T0
#undef JET_WGMMA_T1
#undef JET_WGMMA_T2
#undef JET_WGMMA_T3
#undef JET_WGMMA_T4
#undef JET_WGMMA_T5
#undef JET_WGMMA_T6
#undef JET_WGMMA_T7
#undef JET_WGMMA_T8
#undef JET_WGMMA_T9
#undef JET_WGMMA_T10
#undef JET_WGMMA_T11
#undef JET_WGMMA_T12
#undef JET_WGMMA_T13
#undef JET_WGMMA_T14
#undef JET_WGMMA_T15
#undef JET_WGMMA
#endif

/// D (64 x N) += A B, both tiles in shared memory.
template <class T, int N, bool TransposedA = false, bool TransposedB = false>
__device__ void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add = true) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Wgmma<T, N>::template shared<TransposedA, TransposedB>(d, a, b, add);
#endif
}
/// The same with A in registers.
template <class T, int N, bool TransposedB = false>
__device__ void wgmma(float (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b, bool add = true) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Wgmma<T, N>::template registers_by_shared<TransposedB>(d, a, b, add);
#endif
}

JET_CUDA_NAMESPACE_END
