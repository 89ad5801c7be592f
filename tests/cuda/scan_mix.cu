// DeltaMix on the device: both policies against the float64 reference. Exit status: 0 right, 1 wrong, 77 no device.
#include "run.hpp"
#include "scan_cases.hpp"

int main() {
  using namespace scan_test;
  return run_on_device(
      [] {
        constexpr ScanShape shape{3, 96, 256};
        constexpr jet::Precision f32 = jet::precision::f32;
        ragged<shape, f32>({.mix = true}, 65);
        ragged<shape, f32>({.mix = true, .silu = false, .host = false}, 65);
        bits<shape, f32>({.mix = true});
        // fp16 factors in chunks; outputs are rounded to bf16, which is 1.7e-3 in the mean and more in short ones
        constexpr jet::Precision half = jet::precision::bf16;
        Options options{.bound = 3e-3, .few_bound = 2.8e-3, .state_bound = 6e-4, .mix = true};
        for (Values const v : {Values::typical, Values::strong_decay, Values::beta_zero, Values::zeros}) {
          options.values = v;
          ragged<shape, half>(options, v == Values::typical ? 300 : 129);
        }
        // the norm behind the scan makes every output the same size, those to which a huge value adds next to
        // nothing, too
        options.values = Values::huge;
        options.bound = 2.5e-2;
        ragged<shape, half>(options);
        options.bound = 3e-3;
        options.values = Values::weak_decay;
        options.state_bound = 1e-3;
        ragged<shape, half>(options);
        options.values = Values::equal_keys;
        options.bound = options.state_bound = 4e-3;
        ragged<shape, half>(options);
        options = {.bound = 3e-3, .few_bound = 2.8e-3, .state_bound = 6e-4, .mix = true};
        bits<shape, half>(options);
        steps<shape, half>(options);
        constexpr jet::Precision half_state{DType::bf16, DType::bf16, DType::f32, DType::f16};
        options.state_bound = 9e-4;  // fp16 factors and fp16's rounding
        ragged<shape, half_state>(options, 65);
        constexpr jet::Precision bf16_state{DType::bf16, DType::bf16, DType::f32, DType::bf16};
        options.state_bound = 2.6e-3;
        ragged<shape, bf16_state>(options, 65);
      },
      finish);
}
