#include <jet/cuda.cuh>

#include "models.hpp"

Subject smollm2_1_7b() {
  return make_subject<jet::SmolLM2_1_7B, jet::Cuda<jet::precision::bf16>>("SmolLM2-1.7B");
}
