// The engines of score on a GPU. The program itself is score.cpp, which knows the backend by name only.
#include <jet/cuda.cuh>

#include <jet/model/llama.hpp>

template class jet::Engine<jet::SmolLM2_135M, jet::Cuda<jet::precision::f32>>;
template class jet::Engine<jet::SmolLM2_135M, jet::Cuda<jet::precision::bf16>>;
