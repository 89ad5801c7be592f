#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_rwkv7_equal() {
  using B = jet::Cuda<jet::precision::bf16>;
  return rwkv7_row<jet::JetNemotron2B, jet::rwkv7_2b_equal, 16, "FJJJJJJJJJJJJJAJJJJASSJJJJJJ", B>();
}
