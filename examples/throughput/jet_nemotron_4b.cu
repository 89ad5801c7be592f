#include <jet/cuda.cuh>

#include "models.hpp"

Subject jet_nemotron_4b() {
  return make_subject<jet::JetNemotron4B, jet::Cuda<jet::precision::bf16>>("Jet-Nemotron-4B");
}
