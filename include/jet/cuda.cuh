/// \file
/// Everything of the CUDA backend: include it from a .cu file.
#pragma once

#if !defined(__CUDACC__)
#error \
    "jet: <jet/cuda.cuh> needs nvcc: include it from a .cu file; a host translation unit includes <jet/cuda_fwd.hpp>"
#else

#include <jet/cuda/arch.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>

#endif
