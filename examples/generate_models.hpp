// The models of generate, and those that it also runs on a GPU when built with JET_CUDA (generate.cu).
#pragma once

#include <jet/cuda_fwd.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/qwen.hpp>

#include "tiny_model.hpp"

using CudaBf16 = jet::Cuda<jet::precision::bf16>;

template <class Model> inline constexpr bool on_cuda = false;
template <> inline constexpr bool on_cuda<TinyJet> = true;
template <> inline constexpr bool on_cuda<jet::SmolLM2_135M> = true;
template <> inline constexpr bool on_cuda<jet::Qwen3_0_6B> = true;
template <> inline constexpr bool on_cuda<jet::JetNemotron2B> = true;
