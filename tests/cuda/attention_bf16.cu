// Attention on the device with keys and values in bf16. Exit status: 0 right, 1 wrong, 77 no device.
#include "attention_cases.hpp"

namespace {

using namespace attention_test;
using jet::op::AttentionShape;
constexpr jet::Precision P = jet::precision::bf16;

// Two slots whose distance needs more than 32 bits in elements.
void far_slots() {
  constexpr AttentionShape shape{2, 1, 64, 0};
  using Backend = jet::Cuda<P>;
  Backend backend;
  i64 const capacity = 256;
  i64 const stride = (i64{1} << 32) + 64;
  if (backend.memory().free < 20 * (i64{1} << 30)) {
    std::printf("not run: slots 8 GiB apart need 20 GiB of free device memory\n");
    return;
  }
  jet::DeviceBuffer memory = backend.allocate((stride + 2 * capacity * 64) * 2);
  jet::Slot key(memory.data(), jet::DType::bf16, jet::Shape{2, capacity, 1, 64});
  jet::Slot value(memory.data() + capacity * 64 * 2, jet::DType::bf16, jet::Shape{2, capacity, 1, 64});
  key.stride[0] = value.stride[0] = stride;
  Harness<shape, P> near("near slots", Options{.slots = 2, .capacity = capacity});
  std::vector<std::byte> const a = near.call({{1, 70}}, 5);
  std::vector<std::byte> const b = near.call({{1, 1}}, 6);
  near.use(key, value);
  same(near.call({{1, 70}}, 5), a, "slots 8 GiB apart: a prefill differs");
  same(near.call({{1, 1}}, 6), b, "slots 8 GiB apart: a decode step differs");
}

// A row of 64K keys with planted large ones, filled by one long call of few heads.
void long_row() {
  constexpr AttentionShape shape{1, 1, 64, 0};
  Options const options{.slots = 3, .capacity = 65600, .check_rows = 40};
  Harness<shape, P> h(name_of<shape>("64K"), options);
  h.plant(9973, 12);
  h.call({{1, 65500}}, 1);
  h.call({{1, 1}, {0, 1}}, 2);
  h.call({{1, 33}, {0, 3}}, 3);
  h.call({{1, 1}, {0, 1}}, 4);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    ragged<AttentionShape{12, 2, 128, 0}, P>({});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.o_bf16 = true, .bound = 2.8e-3, .decode_bound = 2.8e-3}, 300);
    ragged<AttentionShape{12, 2, 128, 0}, P>({.host = false});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.cache = false});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.page_size = 48});
    ragged<AttentionShape{12, 2, 128, 0}, P>({.query_scale = 100});
    ragged<AttentionShape{12, 2, 128, 64}, P>({});
    ragged<AttentionShape{12, 2, 128, 64}, P>({.page_size = 0, .cache = false});
    ragged<AttentionShape{12, 2, 128, 1}, P>({});
    ragged<AttentionShape{1, 1, 64, 0}, P>({});
    ragged<AttentionShape{3, 1, 80, 0}, P>({});
    ragged<AttentionShape{3, 1, 96, 2}, P>({});
    ragged<AttentionShape{4, 2, 256, 0}, P>({});
    ragged<AttentionShape{4, 2, 256, 65}, P>({});
    ragged<AttentionShape{2, 1, 16, 129}, P>({});
    ragged<AttentionShape{20, 1, 16, 0}, P>({});
    ragged<AttentionShape{20, 2, 24, 130}, P>({});
    ragged<AttentionShape{3, 3, 6, 0}, P>({});
    ring<AttentionShape{12, 2, 128, 64}, P>({});
    ring<AttentionShape{2, 1, 16, 129}, P>({});
    ring<AttentionShape{20, 2, 24, 130}, P>({});
    ring<AttentionShape{3, 1, 96, 2}, P>({});
    bits<AttentionShape{12, 2, 128, 0}, P>({});
    bits<AttentionShape{12, 2, 128, 64}, P>({.o_bf16 = true, .bound = 2.8e-3, .decode_bound = 2.8e-3});
    bits<AttentionShape{20, 2, 24, 0}, P>({});
    crowd<AttentionShape{12, 2, 128, 0}, P>({});
    crowd<AttentionShape{12, 2, 128, 0}, P>({.batch_invariant = true});
    crowd<AttentionShape{12, 2, 128, 64}, P>({});
    crowd<AttentionShape{4, 2, 256, 0}, P>({});
    crowd<AttentionShape{20, 2, 24, 0}, P>({});
    far_slots();
    long_row();
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return finish();
}
