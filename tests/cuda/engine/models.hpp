// The models whose engines this program has on the device, one list for the files that make kernels and the one
// that uses them by name only.
#pragma once

#include <jet/cuda_fwd.hpp>
#include <jet/model/engine.hpp>

#include "golden/tiny_models.hpp"

namespace cuda_engine {

using F32 = jet::Cuda<jet::precision::f32>;
using Bf16 = jet::Cuda<jet::precision::bf16>;
// Keys and values in fp8, and the recurrent state in fp16.
using Small = jet::Cuda<jet::Precision{jet::DType::bf16, jet::DType::bf16, jet::DType::f32, jet::DType::f16,
                                       jet::DType::f8e4m3}>;

// Full and window attention, an MLP of an odd width, another norm epsilon: without a checkpoint.
inline constexpr jet::AttentionConfig attention{
    .d_model = 48, .heads = 4, .kv_heads = 2, .head = 12, .qkv_bias = true, .qk_norm = true};
struct Windows
    : jet::CausalLM<jet::LmConfig{.vocab = 97, .d_model = 48, .mlp = 80}, "ASMS",
                    jet::Bind<'A', jet::FullAttention<attention>>, jet::Bind<'S', jet::SlidingWindow<attention, 7>>,
                    jet::Bind<'M', jet::FullAttention<attention>, jet::SwiGluMlp<jet::MlpConfig{48, 33}>>> {};

// Of the device that tests run on; 0 devices without one (device.cu).
int devices();
jet::i64 free_device_memory();

}  // namespace cuda_engine
