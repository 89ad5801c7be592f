// The one line that makes kernels.
#include <jet/cpu/cpu.hpp>

#include "seam.hpp"

template class jet::Engine<seam::Model, seam::Backend>;

std::shared_ptr<jet::Weights<seam::Model>> seam::make_weights() {
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate(Backend{});
  jet::initialise(*weights, 3);
  return weights;
}
