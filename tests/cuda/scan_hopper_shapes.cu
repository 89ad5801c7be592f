// The scan in chunks with fp16 factors: other head sizes, no decay, and the additive update with keys and queries
// of any norm, against the float64 reference. Exit status: 0 right, 1 wrong, 77 no device.
#include "scan_cases.hpp"

namespace {

using namespace scan_test;
constexpr jet::Precision P = jet::precision::bf16;
constexpr Options bounds{.bound = 6e-4, .few_bound = 2e-6, .state_bound = 6e-4};
// Beside planted values of 6e4 the others of a chunk keep about as many digits as bf16 factors would leave them.
constexpr double huge_bound = 4e-3;

template <i64 K, i64 V> void delta() {
  constexpr ScanShape shape{.heads = 2, .head_k = K, .head_v = V, .unit_keys = true};
  Options o = bounds;
  for (Values const v : {Values::typical, Values::huge, Values::zeros}) {
    o.values = v;
    o.bound = o.state_bound = v == Values::zeros ? 8e-4 : v == Values::huge ? huge_bound : 6e-4;
    Harness<shape, P> h(o);
    h.call({{0, 129}, {-1, 3}, {1, 17}, {2, 64}, {3, 1}}, 1);
    h.call({{2, 70}, {0, 20}}, 2);
  }
  std::printf("%lld x %lld: largest so far: chunks %.3g, states %.3g\n", static_cast<long long>(K),
              static_cast<long long>(V), largest_chunk, largest_state);
}
template <ScanShape C> void additive() {
  Options o = bounds;
  for (bool const unit : {true, false}) {
    for (Values const v : {Values::typical, Values::weak_decay, Values::strong_decay, Values::huge, Values::tiny}) {
      o.unit = unit;
      o.values = v;
      o.bound = o.state_bound = v == Values::huge ? huge_bound : 1e-3;
      Harness<C, P> h(o);
      h.call({{0, 129}, {-1, 3}, {1, 17}, {2, 64}, {3, 1}}, 1);
      h.call({{2, 70}, {0, 20}}, 2);
    }
  }
  bits<C, P>(o);
  std::printf("additive %lld x %lld: largest so far: chunks %.3g, states %.3g\n", static_cast<long long>(C.head_k),
              static_cast<long long>(C.head_v), largest_chunk, largest_state);
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
    delta<256, 288>();
    delta<192, 384>();
    delta<128, 192>();
    delta<64, 384>();
    additive<ScanShape{2, 128, 64, Decay::head, Update::additive, 1.0}>();
    additive<ScanShape{2, 256, 80, Decay::none, Update::additive}>();
    constexpr ScanShape cut{1, 32, 48, Decay::head, Update::additive};
    Options o = bounds;
    o.bound = o.state_bound = 1e-3;
    o.values = Values::weak_decay;
    o.unit = false;
    Harness<cut, P> h(o);
    h.call({{3, 40}, {0, 16384 + 100}, {2, 0}, {4, 16321}, {5, 1}}, 7);
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return finish();
}
