/// \file
/// The CUDA backend as a declaration, jet::Cuda<Precision>, for translation units that a host compiler builds
/// without CUDA's headers. The seam is Engine:
///
///   // app.cpp, any C++20 compiler
///   #include <jet/cuda_fwd.hpp>
///   #include <jet/model/engine.hpp>
///   extern template class jet::Engine<Model, jet::Cuda<policy>>;
///   // engine.cu, nvcc
///   #include <jet/cuda.cuh>
///   #include <jet/model/engine.hpp>
///   template class jet::Engine<Model, jet::Cuda<policy>>;
#pragma once

#include <jet/core/dtype.hpp>
#include <jet/fwd.hpp>
