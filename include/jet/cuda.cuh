/// \file
/// Blocks, models, the engine and the CUDA backend with its kernels: include it from a .cu file. Never needs Eigen.
#pragma once

#if !defined(__CUDACC__)
#error \
    "jet: <jet/cuda.cuh> needs nvcc: include it from a .cu file; a host translation unit includes <jet/cuda_fwd.hpp>"
#else

#include <jet/block/deltanet.hpp>
#include <jet/block/full_attention.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rms_norm.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/block/swiglu_mlp.hpp>
#include <jet/concepts.hpp>
#include <jet/cuda/activate.cuh>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/attention.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/batch.cuh>
#include <jet/cuda/blas_lt.cuh>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/copy_async.cuh>
#include <jet/cuda/embedding.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/general_delta.cuh>
#include <jet/cuda/graph.cuh>
#include <jet/cuda/launch.cuh>
#include <jet/cuda/layer_norm.cuh>
#include <jet/cuda/linear.cuh>
#include <jet/cuda/mamba2.cuh>
#include <jet/cuda/mma.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/reduce.cuh>
#include <jet/cuda/retention.cuh>
#include <jet/cuda/rope.cuh>
#include <jet/cuda/rwkv7.cuh>
#include <jet/cuda/sample.cuh>
#include <jet/cuda/short_conv.cuh>
#include <jet/cuda/squared_relu.cuh>
#include <jet/cuda/swiglu.cuh>
#include <jet/cuda/vector.cuh>
#include <jet/model/causal_lm.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/qwen.hpp>
#include <jet/model/rwkv7.hpp>

#endif
