// core/rng.hpp on the device against the host: integers and uniforms are the same bits, normals within 2 ulp.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <jet/core/rng.hpp>
#include <jet/cuda.cuh>

#include "run.hpp"

namespace {

using jet::i64;

struct Draws {
  jet::Philox::Counter block;
  std::uint32_t bits;
  std::uint64_t bits64;
  std::uint64_t below;
  jet::Random child;
  float uniform;
  float uniform_open;
  double uniform_double;
  float normal;
  jet::Random::Pair pair;
};

JET_HD Draws draws_at(jet::Random random, std::uint64_t index) {
  return {random.block(index),        random.bits(index),
          random.bits64(index),       random.uniform_below(index, 0x123456789abu),
          random.split(index),        random.uniform(index),
          random.uniform_open(index), random.uniform_double(index),
          random.normal(index),       random.normal_pair(index)};
}

__global__ void draw(jet::Random random, std::uint64_t first, Draws* to, int count) {
  int const i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) {
    to[i] = draws_at(random, first + static_cast<std::uint64_t>(i));
  }
}

// Floats between two of the same sign; 2^31 and more for others.
std::uint32_t ulps(float a, float b) {
  auto const x = std::bit_cast<std::uint32_t>(a);
  auto const y = std::bit_cast<std::uint32_t>(b);
  return x > y ? x - y : y - x;
}

bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

template <class Backend>
void compare(Backend& backend, jet::Random random, std::uint64_t first, std::uint32_t& worst, i64& inexact) {
  int const count = 1 << 15;
  std::vector<Draws> got(count);
  i64 const bytes = i64{sizeof(Draws)} * count;
  jet::DeviceBuffer memory = backend.allocate(bytes);
  memory.poison();
  jet::cuda::launch("draw", {count / 256, 256}, backend.stream(), &draw, random, first,
                    reinterpret_cast<Draws*>(memory.data()), count);
  backend.copy_to_host(got.data(), memory.data(), bytes);
  i64 wrong_integers = 0;
  i64 wrong_uniforms = 0;
  for (int i = 0; i < count; ++i) {
    Draws const& g = got[static_cast<std::size_t>(i)];
    Draws const want = draws_at(random, first + static_cast<std::uint64_t>(i));
    bool const integers = g.block == want.block && g.bits == want.bits && g.bits64 == want.bits64 &&
                          g.below == want.below && g.child == want.child;
    bool const uniforms =
        same(g.uniform, want.uniform) && same(g.uniform_open, want.uniform_open) &&
        std::bit_cast<std::uint64_t>(g.uniform_double) == std::bit_cast<std::uint64_t>(want.uniform_double);
    wrong_integers += integers ? 0 : 1;
    wrong_uniforms += uniforms ? 0 : 1;
    for (std::uint32_t const distance : {ulps(g.normal, want.normal), ulps(g.pair.first, want.pair.first),
                                         ulps(g.pair.second, want.pair.second)}) {
      worst = worst > distance ? worst : distance;
      inexact += distance > 0 ? 1 : 0;
    }
  }
  std::string const where =
      jet::concat(" of ", count, " from seed ", random.seed, ", stream ", random.stream, ", index ", first);
  expect(wrong_integers == 0, jet::concat("integers differ: ", wrong_integers, where));
  expect(wrong_uniforms == 0, jet::concat("uniforms differ: ", wrong_uniforms, where));
}

}  // namespace

int main() {
  return run_on_device([] {
    jet::Cuda<jet::precision::f32> backend;
    std::uint32_t worst = 0;
    i64 inexact = 0;
    compare(backend, {}, 0, worst, inexact);
    compare(backend, {.seed = 42, .stream = 7}, 1000000007, worst, inexact);
    compare(backend, {.seed = ~std::uint64_t{0}, .stream = std::uint64_t{1} << 63}, (std::uint64_t{1} << 40) - 5,
            worst, inexact);
    compare(backend, jet::Random{.seed = 3}.split(1).split(2), (std::uint64_t{1} << 34) - 1000, worst, inexact);
    expect(worst <= 2, jet::concat("normals differ by up to ", worst, " ulp, allowed 2"));
    std::printf("normals: at most %u ulp from the host's, %lld of %d differ\n", worst,
                static_cast<long long>(inexact), 4 * 3 * (1 << 15));
  });
}
