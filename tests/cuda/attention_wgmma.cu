// Prefills on Hopper's tensor cores (cuda/attention_hopper.cuh) and, on other devices, the same cases on the
// portable kernel: every head size with a path of its own, windows, groups, and lengths around the borders of its
// tiles. Exit status: 0 right, 1 wrong, 77 no device.
#include "attention_cases.hpp"

namespace {

using namespace attention_test;
using jet::op::AttentionShape;
constexpr jet::Precision P = jet::precision::bf16;

// Ragged calls of lengths around 64 and 128, empty and single-token sequences; then others on what they left.
template <AttentionShape C> void borders(Options options) {
  Harness<C, P> h(name_of<C>("borders"), options);
  h.call({{0, 127}, {1, 128}, {5, 0}, {2, 129}, {3, 2}, {4, 1}, {-1, 3}, {6, 43}, {7, 22}}, 1);
  h.call({{0, 2}, {1, 129}, {2, 64}, {-1, 1}, {3, 21}, {4, 63}, {8, 0}, {5, 3}, {6, 1}}, 2);
  h.call({{0, 65}, {7, 107}, {1, 2}, {3, 130}}, 3);
}

// A sequence cut into calls at odd places, among others, in pages or not: the same bits.
template <AttentionShape C> void cuts(Options const& options) {
  std::string const name = name_of<C>("cuts");
  std::size_t const row = index(C.heads * C.head * (options.o_bf16 ? 2 : 4));
  auto const whole = Harness<C, P>(name, options).call({{0, 387}}, 9);
  std::vector<i64> sizes{0};
  if constexpr (C.window == 0) {
    sizes = {0, 8, 64, 128, 256, 40};
  }
  for (i64 const page_size : sizes) {
    Options paged = options;
    paged.page_size = page_size;
    Harness<C, P> h(jet::concat(name, ", pages of ", page_size), paged);
    std::vector<std::byte> joined = h.call({{1, 130}}, 9);
    auto const add = [&](std::vector<std::byte> const& o, std::size_t first, std::size_t count) {
      joined.insert(joined.end(), o.begin() + static_cast<std::ptrdiff_t>(first * row),
                    o.begin() + static_cast<std::ptrdiff_t>((first + count) * row));
    };
    add(h.call({{2, 5}, {1, 2}, {3, 70}}, 9), 5, 2);
    add(h.call({{4, 1}, {-1, 2}, {1, 255}}, 9), 3, 255);
    same(joined, whole, jet::concat(name, ", pages of ", page_size, ": the cut sequence differs"));
  }
}

// Many repeats of one ragged call: a race would show.
template <AttentionShape C> void repeats(Options const& options) {
  std::vector<std::byte> first;
  for (int i = 0; i < 5; ++i) {
    Harness<C, P> h(name_of<C>("repeats"), options);
    auto const o = h.call({{0, 300}, {1, 5}, {2, 257}, {3, 128}}, 21);
    first = first.empty() ? o : first;
    same(o, first, name_of<C>("repeats") + ": a repeat differs");
  }
}

template <AttentionShape C> void each(Options options = {}) {
  borders<C>(options);
  cuts<C>(options);
}

// A long window's ring: calls shorter and longer than it.
template <AttentionShape C> void rings() {
  Harness<C, P> h(name_of<C>("rings"), Options{.slots = 3, .capacity = 4096, .check_rows = 150});
  h.call({{0, 1000}, {1, 40}}, 1);
  h.call({{0, 700}, {1, 2}}, 2);
  h.call({{0, 3}, {2, 130}}, 3);
  h.call({{0, 1}, {1, 1}}, 4);
  h.call({{0, 1300}, {1, 1200}}, 5);
  h.call({{1, 129}, {0, 65}}, 6);
}

void long_row() {
  constexpr AttentionShape shape{2, 1, 128, 0};
  Harness<shape, P> h(name_of<shape>("64K"), Options{.slots = 2, .capacity = 65600, .check_rows = 20});
  h.plant(9973, 12);
  h.call({{1, 65500}}, 1);
  h.call({{1, 33}, {0, 3}}, 3);
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    std::printf("with wgmma: %s\n", jet::cuda::kernel::runs_wgmma() ? "yes" : "no");
    borders<AttentionShape{12, 2, 128, 0}>({});
    borders<AttentionShape{4, 2, 256, 200}>({});
    if (argc > 1 && std::string(argv[1]) == "--short") {  // for the sanitizers
      return finish();
    }
    Options const rounded{.o_bf16 = true, .bound = 2.8e-3, .decode_bound = 2.8e-3};
    cuts<AttentionShape{12, 2, 128, 0}>(rounded);
    repeats<AttentionShape{12, 2, 128, 0}>({});
    repeats<AttentionShape{2, 2, 256, 0}>({});
    each<AttentionShape{8, 1, 128, 0}>();
    each<AttentionShape{2, 2, 128, 101}>();
    each<AttentionShape{6, 2, 64, 0}>();
    each<AttentionShape{5, 1, 64, 129}>();
    each<AttentionShape{8, 2, 96, 0}>();
    each<AttentionShape{7, 1, 96, 128}>();
    each<AttentionShape{4, 2, 256, 0}>();
    each<AttentionShape{1, 1, 256, 63}>();
    each<AttentionShape{2, 1, 32, 0}>();
    each<AttentionShape{2, 1, 160, 0}>();
    borders<AttentionShape{6, 2, 128, 0}>({.page_size = 32, .query_scale = 100});
    borders<AttentionShape{6, 2, 128, 0}>({.cache = false});
    borders<AttentionShape{6, 2, 64, 70}>({.cache = false});
    borders<AttentionShape{3, 1, 128, 0}>({.page_size = 128, .host = false});
    rings<AttentionShape{2, 1, 128, 1152}>();
    rings<AttentionShape{3, 1, 96, 1001}>();
    long_row();
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return finish();
}
