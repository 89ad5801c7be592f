#include <jet/cuda.cuh>

#include "models.hpp"

Subject qwen3_1_7b() {
  return make_subject<jet::Qwen3_1_7B, jet::Cuda<jet::precision::bf16>>("Qwen3-1.7B");
}
