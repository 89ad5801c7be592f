// Attention on the device with keys and values in fp8 and their scales. Exit status: 0 right, 1 wrong, 77 no
// device.
#include "attention_cases.hpp"

int main() {
  using namespace attention_test;
  using jet::DType;
  using jet::op::AttentionShape;
  constexpr jet::Precision P{DType::bf16, DType::bf16, DType::f32, DType::f32, DType::f8e4m3};
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    ragged<AttentionShape{12, 2, 128, 0}, P>({});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.page_size = 48});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.cache = false});
    ragged<AttentionShape{12, 2, 128, 64}, P>({});
    ragged<AttentionShape{3, 1, 64, 0}, P>({});
    ragged<AttentionShape{4, 2, 256, 65}, P>({});
    ragged<AttentionShape{6, 3, 80, 0}, P>({});
    ragged<AttentionShape{3, 3, 8, 5}, P>({});
    ring<AttentionShape{12, 2, 128, 64}, P>({});
    bits<AttentionShape{12, 2, 128, 0}, P>({});
    crowd<AttentionShape{12, 2, 128, 0}, P>({});
  } catch (jet::Error const& error) {
    expect(false, error.what());
  }
  return finish();
}
