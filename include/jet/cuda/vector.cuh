/// \file
/// Numbers of any storage type as floats, one at a time and eight at a time. The type is a run-time value, the same
/// for all threads of a kernel: one kernel serves all policies.
#pragma once

#include <cstdint>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>
#include <jet/cuda/arch.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// Element i. Types: f32, bf16, f16.
__device__ inline float load_one(void const* from, DType type, i64 i) {
  switch (type) {
    case DType::bf16: return static_cast<bf16 const*>(from)[i];
    case DType::f16: return static_cast<f16 const*>(from)[i];
    default: return static_cast<float const*>(from)[i];
  }
}
__device__ inline void store_one(void* to, DType type, i64 i, float value) {
  switch (type) {
    case DType::bf16: static_cast<bf16*>(to)[i] = bf16(value); break;
    case DType::f16: static_cast<f16*>(to)[i] = f16(value); break;
    default: static_cast<float*>(to)[i] = value;
  }
}
/// The value as it would be read back after a store.
__device__ inline float rounded_to(DType type, float value) {
  switch (type) {
    case DType::bf16: return bf16(value);
    case DType::f16: return f16(value);
    default: return value;
  }
}

/// Two bf16 in a word, the first in the low half.
__device__ inline float low_bf16(std::uint32_t word) {
  return __uint_as_float(word << 16);
}
__device__ inline float high_bf16(std::uint32_t word) {
  return __uint_as_float(word & 0xffff0000u);
}
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

struct Float8 {
  float v[8];
};

/// Elements [i, i + 8) of f32 or bf16, at an address that is a multiple of 16.
__device__ inline Float8 load_eight(void const* from, DType type, i64 i) {
  Float8 r;
  if (type == DType::bf16) {
    uint4 const w = *reinterpret_cast<uint4 const*>(static_cast<bf16 const*>(from) + i);
    r.v[0] = low_bf16(w.x), r.v[1] = high_bf16(w.x), r.v[2] = low_bf16(w.y), r.v[3] = high_bf16(w.y);
    r.v[4] = low_bf16(w.z), r.v[5] = high_bf16(w.z), r.v[6] = low_bf16(w.w), r.v[7] = high_bf16(w.w);
  } else {
    auto const* p = reinterpret_cast<float4 const*>(static_cast<float const*>(from) + i);
    float4 const a = p[0];
    float4 const b = p[1];
    r.v[0] = a.x, r.v[1] = a.y, r.v[2] = a.z, r.v[3] = a.w, r.v[4] = b.x, r.v[5] = b.y, r.v[6] = b.z, r.v[7] = b.w;
  }
  return r;
}
__device__ inline void store_eight(void* to, DType type, i64 i, Float8 const& r) {
  if (type == DType::bf16) {
    uint4 w;
    w.x = pack_bf16(r.v[0], r.v[1]), w.y = pack_bf16(r.v[2], r.v[3]);
    w.z = pack_bf16(r.v[4], r.v[5]), w.w = pack_bf16(r.v[6], r.v[7]);
    *reinterpret_cast<uint4*>(static_cast<bf16*>(to) + i) = w;
  } else {
    auto* p = reinterpret_cast<float4*>(static_cast<float*>(to) + i);
    p[0] = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
    p[1] = make_float4(r.v[4], r.v[5], r.v[6], r.v[7]);
  }
}

/// Whether eight elements at a time may be read and written: rows of f32 or bf16 that are dense, a multiple of
/// eight wide, and start at multiples of 16 bytes.
inline bool by_eight(View const& view) {
  auto const at = reinterpret_cast<std::uintptr_t>(view.data);
  bool const type = view.dtype == DType::f32 || view.dtype == DType::bf16;
  bool const dense = view.rank == 0 || view.stride[view.rank - 1] == 1;
  bool const rows = view.rank < 2 || view.stride[0] * size_of(view.dtype) % 16 == 0;
  return type && dense && rows && view.width() % 8 == 0 && at % 16 == 0;
}

/// x / (1 + e^-x)
__device__ inline float silu(float x) {
  return x / (1.0f + expf(-x));
}
/// The same to about 1e-6 of its size, for what is rounded to 16 bits afterwards.
__device__ inline float fast_silu(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

JET_CUDA_NAMESPACE_END
