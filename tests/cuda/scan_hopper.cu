// The scan in chunks with fp16 factors, unit keys and the delta update, where outputs are fp32, against the float64
// reference. Exit status: 0 right, 1 wrong, 77 no device.
#include "scan_cases.hpp"

namespace {

using namespace scan_test;
constexpr jet::Precision P = jet::precision::bf16;

constexpr ScanShape unit(i64 heads, i64 head_k, i64 head_v, Decay decay = Decay::head) {
  return {.heads = heads, .head_k = head_k, .head_v = head_v, .decay = decay, .unit_keys = true};
}
Options bounds(Values values) {
  Options o{.values = values, .bound = 6e-4, .few_bound = 2e-6, .state_bound = 6e-4};
  if (values == Values::weak_decay || values == Values::no_decay) {
    o.bound = o.state_bound = 1e-3;
  }
  if (values == Values::equal_keys) {
    o.bound = o.state_bound = 4e-3;
    o.few_bound = 1e-5;
  }
  if (values == Values::zeros) {
    o.bound = o.state_bound = 8e-4;
  }
  return o;
}

// Sequences that are cut into pieces, among others, and what follows on their states.
template <ScanShape C> void cut(Values values) {
  Harness<C, P> h(bounds(values));
  h.call({{3, 40}, {0, 16384 + 100}, {2, 0}, {4, 16321}, {5, 1}}, 7);
  h.call({{0, 70}, {4, 20}}, 8);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  jet::cuda::kernel::scan_hopper = jet::cuda::kernel::ScanHopper::always;
  (void)std::setvbuf(stdout, nullptr, _IOLBF, 0);
  try {
    std::printf("wgmma: %s\n", jet::cuda::kernel::runs_wgmma() ? "yes" : "no");
    constexpr ScanShape main_shape = unit(2, 96, 144);
    for (Values const v : {Values::typical, Values::weak_decay, Values::no_decay, Values::strong_decay,
                           Values::beta_zero, Values::beta_one, Values::equal_keys, Values::zeros, Values::huge}) {
      std::printf("%s\n", name_of(v));
      ragged<main_shape, P>(bounds(v), v == Values::typical ? 300 : 129);
      std::printf("  largest so far: chunks %.3g, few %.3g, states %.3g\n", largest_chunk, largest_few,
                  largest_state);
    }
    // without a state: beside one of ordinary size fp16 factors do not see such values
    Options o = bounds(Values::tiny);
    o.state = false;
    ragged<main_shape, P>(o);
    o = bounds(Values::typical);
    o.host = false;
    ragged<main_shape, P>(o);
    o.host = true;
    o.state = false;
    ragged<main_shape, P>(o);
    o.state = true;
    o.beta = false;
    ragged<main_shape, P>(o);
    bits<main_shape, P>(bounds(Values::typical));
    ragged<unit(1, 96, 256), P>(bounds(Values::typical), 129);
    std::printf("cut\n");
    cut<unit(1, 32, 48)>(Values::typical);
    cut<unit(1, 96, 48)>(Values::weak_decay);
    cut<unit(2, 64, 16, Decay::none)>(Values::no_decay);
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return finish();
}
