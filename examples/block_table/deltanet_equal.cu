#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_deltanet_equal() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::DeltaNet<jet::deltanet_2b_equal>, B>("DeltaNet");
}
