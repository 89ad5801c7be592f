#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_retnet() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::RetNet<jet::retnet_2b>, B>("RetNet");
}
