#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_gla() {
  using B = jet::Cuda<jet::precision::bf16>;
  return swapped_row<jet::JetNemotron2B, jet::Gla<jet::gla_2b>, B>("GLA");
}
