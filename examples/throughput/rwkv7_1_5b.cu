#include <jet/cuda.cuh>

#include "models.hpp"

Subject rwkv7_1_5b() {
  return make_subject<jet::Rwkv7_1_5B, jet::Cuda<jet::precision::bf16>>("RWKV7-1.5B");
}
