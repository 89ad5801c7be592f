// An MLP's first two products with the activation (SwiGluLinears) of many rows on the device against float64 sums.
// Exit status: 0 right, 1 wrong, 77 no device.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <jet/core/rng.hpp>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/linear.cuh>
#include <jet/cuda/swiglu.cuh>
#include <jet/testing/block_harness.hpp>

#include "check.hpp"

namespace {

using jet::bf16;
using jet::DType;
using jet::i64;
using Backend = jet::Cuda<jet::precision::bf16>;

std::vector<bf16> normal(i64 n, std::uint64_t seed, double scale) {
  std::vector<bf16> v(static_cast<std::size_t>(n));
  jet::Random const random{seed, 3};
  for (std::size_t i = 0; i < v.size(); ++i) {
    v[i] = bf16(static_cast<float>(scale * static_cast<double>(random.normal(i))));
  }
  return v;
}

// Rows, columns of x and outputs; `pad`: of every row in memory.
void check(i64 rows, i64 k, i64 n, i64 pad) {
  Backend backend;
  std::string const what = jet::concat(rows, " rows of ", k, " to ", n, ", rows longer by ", pad);
  auto const x = normal(rows * (k + pad), 1, 1), gate = normal(n * (k + pad), 2, 1 / std::sqrt(double(k))),
             up = normal(n * (k + pad), 3, 1 / std::sqrt(double(k)));
  i64 const room = rows * (n + pad) + 64;
  std::vector<bf16> y(static_cast<std::size_t>(room));
  jet::DeviceBuffer const xd(i64(x.size()) * 2), gd(i64(gate.size()) * 2), ud(i64(up.size()) * 2), yd(room * 2);
  backend.copy(xd.data(), x.data(), xd.bytes());
  backend.copy(gd.data(), gate.data(), gd.bytes());
  backend.copy(ud.data(), up.data(), ud.bytes());
  auto const view = [&](jet::DeviceBuffer const& b, i64 r, i64 c) {
    jet::View v(b.data(), DType::bf16, jet::Shape{r, c});
    v.stride[0] = c + pad;
    return v;
  };
  auto const slot = [&](jet::DeviceBuffer const& b) {
    jet::Slot s(b.data(), DType::bf16, jet::Shape{n, k});
    s.stride[0] = k + pad;
    return s;
  };
  jet::Batch batch;
  batch.add(0, rows, 0);
  auto const run = [&](i64 count) {
    jet::cuda_check(cudaMemsetAsync(yd.data(), 0xff, static_cast<std::size_t>(yd.bytes()), backend.stream()),
                    "cudaMemsetAsync");
    jet::Batch part;
    part.add(0, count, 0);
    jet::testing::run_planned(backend, part, [&](auto& ctx) {
      ctx.run(jet::op::SwiGluLinears{}, view(xd, count, k), slot(gd), slot(ud), view(yd, count, n));
    });
    std::vector<bf16> out(y.size());
    backend.copy_to_host(out.data(), yd.data(), yd.bytes());
    return out;
  };
  y = run(rows);
  double error = 0, all = 0;
  i64 const sampled = std::min<i64>(rows * n, 40000);
  for (i64 s = 0; s < sampled; ++s) {
    i64 const at = rows * n <= sampled ? s : (s * 7919 + s / 97) % (rows * n);
    i64 const r = at / n, c = at % n;
    double g = 0, u = 0;
    for (i64 i = 0; i < k; ++i) {
      double const xi = static_cast<double>(float(x[static_cast<std::size_t>(r * (k + pad) + i)]));
      g += xi * static_cast<double>(float(gate[static_cast<std::size_t>(c * (k + pad) + i)]));
      u += xi * static_cast<double>(float(up[static_cast<std::size_t>(c * (k + pad) + i)]));
    }
    double const want = g / (1 + std::exp(-g)) * u;
    double const got = static_cast<double>(float(y[static_cast<std::size_t>(r * (n + pad) + c)]));
    error += (got - want) * (got - want);
    all += want * want;
  }
  double const relative = std::sqrt(error / all);
  std::printf("%s: %.2e\n", what.c_str(), relative);
  expect(relative <= 3.2e-3, jet::concat(what, ": relative error ", relative));
  bool kept = true;
  for (i64 i = 0; i < room; ++i) {
    bool const inside = i < rows * (n + pad) && i % (n + pad) < n;
    kept = kept && (inside || y[static_cast<std::size_t>(i)].bits == 0xffff);
  }
  expect(kept, what + ": wrote beside its result");
  auto const same = [&](std::vector<bf16> const& other, i64 count) {
    return std::memcmp(other.data(), y.data(), static_cast<std::size_t>(count * (n + pad)) * 2) == 0;
  };
  expect(same(run(rows), rows), what + ": a second run differs");
  if (rows > 600 && k % 8 == 0 && n % 8 == 0 && pad % 8 == 0) {  // not through cuBLASLt
    expect(same(run(600), 600), what + ": a part of the rows differs");
  }
}

}  // namespace

int main(int argc, char**) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    check(513, 64, 8, 0);
    check(600, 200, 136, 8);
    if (argc == 1) {  // with an argument: small sizes alone, for slow tools
      check(1000, 1528, 1000, 0);
      check(5000, 256, 1100, 0);
      check(2048, 1536, 8960, 0);
      check(700, 100, 60, 0);  // not of 16-byte pieces
      check(700, 128, 64, 1);
    }
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return report();
}
