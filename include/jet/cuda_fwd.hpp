/// \file
/// The CUDA backend as a declaration, for translation units that a host compiler builds without CUDA's headers:
///
///   // app.cpp, any C++20 compiler
///   #include <jet/cuda_fwd.hpp>
///   extern template class jet::Engine<Model, jet::Cuda<policy>>;
///   // engine.cu, nvcc
///   #include <jet/cuda.cuh>
///   template class jet::Engine<Model, jet::Cuda<policy>>;
#pragma once

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/fwd.hpp>

JET_NAMESPACE_BEGIN

/// See cuda/backend.cuh.
template <Precision P> class Cuda;

JET_NAMESPACE_END
