// The engines of generate on a GPU. The program itself is generate.cpp, which knows the backend by name only.
#include <jet/cuda.cuh>

#include "generate_models.hpp"

template class jet::Engine<TinyJet, CudaBf16>;
template class jet::Engine<jet::SmolLM2_135M, CudaBf16>;
template class jet::Engine<jet::Qwen3_0_6B, CudaBf16>;
template class jet::Engine<jet::JetNemotron2B, CudaBf16>;
