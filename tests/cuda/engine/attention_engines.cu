#include <jet/cuda.cuh>

#include "models.hpp"

template class jet::Engine<golden::TinyQwen3, cuda_engine::F32>;
template class jet::Engine<golden::TinyLlama3, cuda_engine::F32>;
template class jet::Engine<cuda_engine::Windows, cuda_engine::F32>;
template class jet::Engine<cuda_engine::Windows, cuda_engine::Bf16>;
