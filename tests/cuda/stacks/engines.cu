#include <jet/cuda.cuh>

#include "models.hpp"

template class jet::Engine<tiny_stacks::TinyRwkv7, cuda_stacks::F32>;
template class jet::Engine<tiny_stacks::TinyRwkv7, cuda_stacks::Bf16>;
template class jet::Engine<tiny_stacks::TinyMamba2, cuda_stacks::F32>;
template class jet::Engine<tiny_stacks::TinyMamba2, cuda_stacks::Bf16>;

int cuda_stacks::devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
