#include <jet/cuda.cuh>

#include "models.hpp"

Subject jet_nemotron_2b() {
  return make_subject<jet::JetNemotron2B, jet::Cuda<jet::precision::bf16>>("Jet-Nemotron-2B");
}
