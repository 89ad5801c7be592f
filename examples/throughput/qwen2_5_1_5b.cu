#include <jet/cuda.cuh>

#include "models.hpp"

Subject qwen2_5_1_5b() {
  return make_subject<jet::Qwen2_5_1_5B, jet::Cuda<jet::precision::bf16>>("Qwen2.5-1.5B");
}
