#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_retnet_equal() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::RetNet<jet::retnet_2b_equal>, B>("RetNet");
}
