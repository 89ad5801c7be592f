// The scan on the device in fp32 throughout, all kinds, against the float64 reference. Exit status: 0 right, 1
// wrong, 77 no device.
#include "run.hpp"
#include "scan_cases.hpp"

int main() {
  using namespace scan_test;
  constexpr jet::Precision P = jet::precision::f32;
  return run_on_device(
      [] {
        constexpr ScanShape main_shape{3, 96, 64};
        for (Values const v : {Values::typical, Values::weak_decay, Values::strong_decay, Values::beta_zero,
                               Values::beta_one, Values::zeros, Values::tiny}) {
          ragged<main_shape, P>({.values = v}, v == Values::typical ? 300 : 129);
        }
        ragged<main_shape, P>({.values = Values::no_decay, .bound = 2e-6, .state_bound = 2e-6});
        ragged<main_shape, P>(
            {.values = Values::equal_keys, .bound = 1e-5, .few_bound = 1e-5, .state_bound = 1e-5});
        ragged<main_shape, P>({.values = Values::huge, .bound = 2e-6, .state_bound = 2e-6});
        ragged<main_shape, P>({.host = false});
        ragged<main_shape, P>({.state = false});
        ragged<main_shape, P>({.beta = false});
        bits<main_shape, P>({});
        constexpr ScanShape additive{2, 16, 48, Decay::none, Update::additive};
        ragged<additive, P>({});
        constexpr ScanShape no_decay{2, 32, 16, Decay::none, Update::delta};
        ragged<no_decay, P>({.bound = 2e-6, .state_bound = 2e-6});
        constexpr ScanShape channel{2, 16, 32, Decay::channel, Update::delta};
        ragged<channel, P>({});
        ragged<channel, P>({.values = Values::strong_decay});
        constexpr ScanShape odd{3, 7, 5};
        ragged<odd, P>({});
        constexpr ScanShape odd_channel{1, 130, 33, Decay::channel, Update::additive, 1.0};
        ragged<odd_channel, P>({});
      },
      finish);
}
