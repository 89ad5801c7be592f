#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_mamba2_equal() {
  using B = jet::Cuda<jet::precision::bf16>;
  return mamba2_row<jet::JetNemotron2B, jet::mamba2_2b_equal, B>();
}
