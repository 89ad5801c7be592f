// Attention on the device in fp32 throughout. Exit status: 0 right, 1 wrong, 77 no device.
#include "attention_cases.hpp"

int main() {
  using namespace attention_test;
  using jet::op::AttentionShape;
  constexpr jet::Precision P = jet::precision::f32;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    Options const exact{.bound = 1e-6, .decode_bound = 1e-6};
    Options paged = exact;
    paged.page_size = 48;
    Options blind = exact;
    blind.host = false;
    Options alone = exact;
    alone.cache = false;
    Options huge = exact;
    huge.query_scale = 100;
    huge.bound = huge.decode_bound = 1e-4;  // scores of some hundreds: their rounding is that much of a weight
    ragged<AttentionShape{12, 2, 128, 0}, P>(exact, 300);
    ragged<AttentionShape{12, 2, 128, 0}, P>(paged);
    ragged<AttentionShape{12, 2, 128, 0}, P>(blind);
    ragged<AttentionShape{12, 2, 128, 0}, P>(alone);
    ragged<AttentionShape{12, 2, 128, 0}, P>(huge);
    ragged<AttentionShape{12, 2, 128, 64}, P>(exact);
    ragged<AttentionShape{12, 2, 128, 1}, P>(exact);
    ragged<AttentionShape{1, 1, 64, 0}, P>(exact);
    ragged<AttentionShape{3, 1, 80, 17}, P>(exact);
    ragged<AttentionShape{10, 1, 16, 0}, P>(exact);
    ragged<AttentionShape{4, 2, 256, 0}, P>(exact);
    ragged<AttentionShape{3, 3, 5, 2}, P>(exact);
    ring<AttentionShape{12, 2, 128, 64}, P>(exact);
    ring<AttentionShape{3, 1, 80, 17}, P>(exact);
    ring<AttentionShape{3, 3, 5, 2}, P>(exact);
    bits<AttentionShape{12, 2, 128, 0}, P>(exact);
    bits<AttentionShape{12, 2, 128, 64}, P>(exact);
    crowd<AttentionShape{12, 2, 128, 0}, P>(exact);
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return finish();
}
