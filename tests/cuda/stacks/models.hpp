#pragma once

#include <jet/cuda_fwd.hpp>
#include <jet/model/engine.hpp>

#include "tiny_stacks.hpp"

namespace cuda_stacks {

using F32 = jet::Cuda<jet::precision::f32>;
using Bf16 = jet::Cuda<jet::precision::bf16>;

// Of the device that tests run on; 0 devices without one.
int devices();

}  // namespace cuda_stacks
