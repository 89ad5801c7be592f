#include <jet/cuda/backend.cuh>

#include "models.hpp"

int cuda_engine::devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

jet::i64 cuda_engine::free_device_memory() {
  return F32().memory().free;
}
