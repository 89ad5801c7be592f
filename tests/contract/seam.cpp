// The seam: this file knows the backend by name only (no kernel, no Eigen, as an application of the CUDA backend
// built by g++), and uses an engine that another translation unit instantiates.
#include <doctest/doctest.h>

#include <type_traits>
#include <vector>

#include "seam.hpp"

extern template class jet::Engine<seam::Model, seam::Backend>;

namespace {
template <class T>
concept Complete = requires {
  sizeof(T);
};
}  // namespace
static_assert(!Complete<seam::Backend>, "this test is worth nothing if the backend's kernels are visible here");

TEST_CASE("an engine instantiated elsewhere runs here") {
  jet::Engine<seam::Model, seam::Backend> lm(seam::make_weights(), {.slots = 2, .max_len = 40, .chunk = 8});
  std::vector<std::int32_t> const prompt{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::vector<std::int32_t> streamed;
  for (std::int32_t const id : lm.generate(prompt, {.max_new = 6})) {
    streamed.push_back(id);
  }
  CHECK(streamed.size() == 6);
  CHECK(lm.memory_plan() == lm.allocated());
  // token by token gives the same continuation
  lm.reset(1);
  jet::View logits = lm.append(1, prompt);
  for (std::int32_t const id : streamed) {
    float const* row = logits.row<float>(0);
    CHECK(std::max_element(row, row + 50) - row == id);
    logits = lm.append(1, std::vector<std::int32_t>{id});
  }
}
