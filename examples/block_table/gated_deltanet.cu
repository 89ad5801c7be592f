#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_gated_deltanet() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::GatedDeltaNet<jet::gated_deltanet_2b>, B>("Gated DeltaNet");
}
