// Scans with a decay per channel on the device, as GLA and KDA have, in fp32 and with fp16 factors, against the
// float64 reference. Exit status: 0 right, 1 wrong, 77 no device.
#include "run.hpp"
#include "scan_cases.hpp"

namespace {

using namespace scan_test;
template <ScanShape C> void exact(bool delta) {
  constexpr jet::Precision P = jet::precision::f32;
  for (Values const v : {Values::typical, Values::weak_decay, Values::no_decay, Values::strong_decay, Values::zeros,
                         Values::huge, Values::tiny}) {
    ragged<C, P>({.values = v}, v == Values::typical ? 300 : 129);
  }
  ragged<C, P>({.host = false});
  ragged<C, P>({.state = false});
  ragged<C, P>({.beta = false});
  if (delta) {
    ragged<C, P>({.values = Values::equal_keys, .bound = 1e-5, .few_bound = 1e-5, .state_bound = 1e-5});
  }
  bits<C, P>({});
}
template <ScanShape C> void rounded(bool delta) {
  constexpr jet::Precision P = jet::precision::bf16;
  Options options{.bound = 1e-3, .few_bound = 2e-6, .state_bound = 1e-3};
  for (Values const v : {Values::typical, Values::weak_decay, Values::no_decay, Values::strong_decay, Values::zeros,
                         Values::huge, Values::tiny}) {
    options.values = v;
    // From a state of 0.3 that is forgotten within the chunk to 1e-8, beside values of 1e-7: one scale of fp16
    // factors for all tokens of a chunk cannot hold both, and the error is 1e-9 of the state at the chunk's begin.
    options.state_bound = v == Values::tiny && delta ? 8e-2 : 1e-3;
    ragged<C, P>(options, v == Values::typical ? 300 : 129);
  }
  if (delta) {
    options.values = Values::equal_keys;
    options.bound = options.state_bound = 4e-3;
    ragged<C, P>(options);
  }
  bits<C, P>({.bound = 1e-3, .state_bound = 1e-3});
}

}  // namespace

int main() {
  return run_on_device(
      [] {
        constexpr Decay channel = Decay::channel;
        constexpr ScanShape gla{2, 48, 80, channel, Update::additive}, wide{1, 192, 48, channel, Update::additive};
        constexpr ScanShape kda{2, 32, 48, channel, Update::delta}, kda_wide{1, 128, 32, channel, Update::delta};
        exact<gla>(false);
        exact<kda>(true);
        rounded<gla>(false);
        rounded<wide>(false);
        rounded<kda>(true);
        rounded<kda_wide>(true);
      },
      finish);
}
