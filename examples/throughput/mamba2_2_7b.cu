#include <jet/cuda.cuh>

#include "models.hpp"

Subject mamba2_2_7b() {
  return make_subject<jet::Mamba2_2_7B, jet::Cuda<jet::precision::bf16>>("Mamba2-2.7B");
}
