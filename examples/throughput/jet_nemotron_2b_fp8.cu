#include <jet/cuda.cuh>

#include "models.hpp"

Subject jet_nemotron_2b_fp8() {
  return make_subject<jet::JetNemotron2B, jet::Cuda<small_caches>>("Jet-Nemotron-2B-fp8");
}
