/// \file
/// Run-time choices of a backend.
#pragma once

#include <string>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Each backend reads what concerns it.
///   threads  CPU: 0 uses all that the process may; results do not depend on it
///   isa      CPU: "generic", "avx2", "avx512" or "avx512_bf16"; empty: the strongest that the machine has
///   device   CUDA: ordinal of the device
///   stream   CUDA: the caller's cudaStream_t; null: a stream of the engine's own
///   batch_invariant  CUDA: a row's result never depends on how many rows a call has; products of more than 16 rows
///            run slower. (Up to 16 rows it never does; on the CPU it never does.)
///   record   CUDA: decode steps are recorded as a graph and replayed, for 1, 2, 4, 8, ... sequences
struct BackendOptions {
  int threads = 0;
  std::string isa{};
  int device = 0;
  void* stream = nullptr;
  bool batch_invariant = false;
  bool record = true;
};

JET_NAMESPACE_END
