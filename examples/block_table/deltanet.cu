#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_deltanet() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::DeltaNet<jet::deltanet_2b>, B>("DeltaNet");
}
