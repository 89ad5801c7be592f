#include <jet/cuda.cuh>

#include "rows.hpp"

Row gpu_jet_block() {
  using B = jet::Cuda<jet::precision::bf16>;
  return make_row<jet::JetNemotron2B, B>("JetBlock", jet::jet_2b.heads, jet::jet_2b.head_k, jet::jet_2b.head_v);
}
