#include <jet/cuda.cuh>

#include "models.hpp"

template class jet::Engine<golden::TinyJet, cuda_engine::F32>;
template class jet::Engine<golden::TinyJet, cuda_engine::Bf16>;
template class jet::Engine<golden::TinyJet, cuda_engine::Small>;
