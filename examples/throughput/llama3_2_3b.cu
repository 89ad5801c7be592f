#include <jet/cuda.cuh>

#include "models.hpp"

Subject llama3_2_3b() {
  return make_subject<jet::Llama3_2_3B, jet::Cuda<jet::precision::bf16>>("Llama-3.2-3B");
}
