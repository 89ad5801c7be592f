// Products of few and of 17 to 64 rows on the device, against sums in float64 on the host; what is fused against
// the same ops one by one, bit for bit. Exit status: 0 right, 1 wrong, 77 no device.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <jet/cuda/linear.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/swiglu.cuh>

#include "check.hpp"

namespace {

using jet::bf16;
using jet::DType;
using jet::i64;
using Backend = jet::Cuda<jet::precision::bf16>;

float value_at(std::uint32_t i, std::uint32_t seed) {
  std::uint32_t h = (i + seed * 7919u) * 2654435761u + 12345u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<float>(h % 20001u) / 10000.0f - 1.0f;
}

// Numbers on the host and on the device.
template <class T> struct Array {
  std::vector<T> host;
  jet::DeviceBuffer memory;
  Array(Backend& backend, i64 n, std::uint32_t seed, float scale = 1.0f, float shift = 0.0f)
      : host(static_cast<std::size_t>(n)), memory(backend.allocate(bytes())) {
    for (std::size_t i = 0; i < host.size(); ++i) {
      host[i] = T(shift + scale * value_at(static_cast<std::uint32_t>(i), seed));
    }
    backend.copy_from_host(memory.data(), host.data(), bytes());
  }
  i64 bytes() const { return static_cast<i64>(host.size() * sizeof(T)); }
  std::vector<T> back(Backend& backend) const {
    std::vector<T> got(host.size());
    backend.copy_to_host(got.data(), memory.data(), bytes());
    return got;
  }
  jet::View view(i64 rows, i64 width) const { return {memory.data(), jet::dtype_of<T>, jet::Shape{rows, width}}; }
  jet::Slot slot(jet::Shape shape) const { return {memory.data(), jet::dtype_of<T>, shape}; }
};
template <class T> bool same(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

struct Case {
  std::vector<i64> n;
  i64 k;
  bool gated = false;
  bool bias = false;
  bool accumulate = false;
  int split = 0;
};

// One launch of products_rows for `rows` rows: y of all parts side by side, f32.
std::vector<float> products(Backend& backend, Case const& c, i64 rows, Array<bf16> const& x, Array<bf16> const& w,
                            Array<float> const& bias, Array<float> const& y) {
  namespace kernel = jet::cuda::kernel;
  kernel::Products a{};
  a.x = x.memory.data();
  a.x_stride = c.k;
  a.rows = rows;
  a.k = c.k;
  a.accumulate = c.accumulate;
  auto const* weight = reinterpret_cast<bf16 const*>(w.memory.data());
  i64 all = 0;
  for (i64 const n : c.n) {
    all += n;
  }
  i64 at = 0;
  for (i64 const n : c.n) {
    a.part[a.count++] = {weight + at * c.k,
                         c.gated ? weight + (all + at) * c.k : nullptr,
                         c.bias ? reinterpret_cast<float const*>(bias.memory.data()) + at : nullptr,
                         reinterpret_cast<float*>(y.memory.data()) + at,
                         c.k,
                         c.k,
                         all,
                         n,
                         0,
                         DType::f32};
    at += n;
  }
  bool const queued = kernel::detail::rows_products(backend.stream(), backend.multiprocessors(), true, a, c.split);
  return queued ? y.back(backend) : std::vector<float>{};
}

void compare(Backend& backend, Case const& c, i64 rows) {
  i64 all = 0;
  for (i64 const n : c.n) {
    all += n;
  }
  std::string const name =
      jet::concat(all, " x ", c.k, " in ", c.n.size(), " parts, ", rows, " rows, split ", c.split,
                  c.gated ? ", gated" : "", c.bias ? ", bias" : "", c.accumulate ? ", accumulate" : "");
  Array<bf16> const x(backend, rows * c.k, 1);
  Array<bf16> const w(backend, all * c.k * (c.gated ? 2 : 1), 2, 0.1f);
  Array<float> const bias(backend, all, 3);
  Array<float> const before(backend, rows * all, 4);
  auto const run = [&](i64 of) {
    Array<float> const y(backend, of * all, 4);
    return products(backend, c, of, x, w, bias, y);
  };
  std::vector<float> const got = run(rows);
  expect(!got.empty(), name + ": not queued");
  if (got.empty()) {
    return;
  }
  double worst = 0;
  auto const dot = [&](i64 row, i64 n) {
    double sum = 0;
    for (i64 i = 0; i < c.k; ++i) {
      sum += double(float(x.host[static_cast<std::size_t>(row * c.k + i)])) *
             double(float(w.host[static_cast<std::size_t>(n * c.k + i)]));
    }
    return sum;
  };
  for (i64 row = 0; row < rows; row += row < 4 || row > rows - 4 ? 1 : 5) {
    for (i64 n = 0; n < all; ++n) {
      std::size_t const at = static_cast<std::size_t>(row * all + n);
      double want = dot(row, n);
      if (c.gated) {
        want = want / (1.0 + std::exp(-want)) * dot(row, all + n);
      }
      want += c.bias ? double(bias.host[static_cast<std::size_t>(n)]) : 0.0;
      want += c.accumulate ? double(before.host[at]) : 0.0;
      double const error = std::abs(double(got[at]) - want) / (1.0 + std::abs(want));
      worst = error <= worst ? worst : error;  // also NaN
    }
  }
  expect(worst < 1e-4, jet::concat(name, ": error ", worst));
  expect(same(got, run(rows)), name + ": not the same again");
  std::vector<float> const fewer = run(rows - 5);
  expect(std::memcmp(fewer.data(), got.data(), fewer.size() * sizeof(float)) == 0,
         name + ": rows depend on how many there are");
}

// norm, gate and up, down, residual and norm, two projections: fused, and with the stream asked for after every op.
void fused(i64 rows, i64 width, i64 hidden) {
  Backend backend;
  Array<float> const norm(backend, width, 5, 0.5f, 1.0f);
  Array<bf16> const gate(backend, hidden * width, 6, 0.05f);
  Array<bf16> const up(backend, hidden * width, 7, 0.05f);
  Array<bf16> const down(backend, width * hidden, 8, 0.05f);
  jet::DeviceBuffer const memory = backend.allocate(i64{80} << 20);
  std::vector<bf16> x_first, h_first;
  std::vector<float> q_first;
  for (bool const step : {true, false}) {
    Array<bf16> const x(backend, rows * width, 9);
    Array<bf16> const h(backend, rows * width, 10);
    Array<bf16> const y(backend, rows * width, 11);
    Array<bf16> const m(backend, rows * hidden, 12);
    Array<float> const q(backend, rows * hidden, 13);
    Array<float> const k(backend, rows * 24, 14);
    jet::ScratchStack scratch(reinterpret_cast<std::byte*>(memory.data()), memory.bytes());
    jet::Context<Backend> ctx(backend, {}, scratch);
    auto const pause = [&] {
      if (step) {
        (void)backend.stream();
      }
    };
    ctx.run(jet::op::RmsNorm{1e-6}, norm.slot({width}), x.view(rows, width), h.view(rows, width));
    pause();
    ctx.run(jet::op::SwiGluLinears{}, h.view(rows, width), gate.slot({hidden, width}), up.slot({hidden, width}),
            m.view(rows, hidden));
    pause();
    ctx.run(jet::op::Linear{}, down.slot({width, hidden}), jet::Slot{}, m.view(rows, hidden), y.view(rows, width));
    pause();
    ctx.run(jet::op::AddRmsNorm{1e-6}, norm.slot({width}), y.view(rows, width), x.view(rows, width),
            h.view(rows, width));
    pause();
    ctx.run(jet::op::Linears{}, h.view(rows, width),
            std::array{jet::op::Projection{gate.slot({hidden, width}), {}, q.view(rows, hidden)},
                       jet::op::Projection{up.slot({24, width}), {}, k.view(rows, 24)}});
    if (step) {
      x_first = x.back(backend);
      h_first = h.back(backend);
      q_first = q.back(backend);
    } else {
      std::string const name = jet::concat(rows, " rows of ", width, ", hidden ", hidden, ": ");
      expect(same(x_first, x.back(backend)), name + "x is not the same when fused");
      expect(same(h_first, h.back(backend)), name + "the norm is not the same when fused");
      expect(same(q_first, q.back(backend)), name + "the product is not the same when fused");
      double sum = 0;
      for (float const v : q_first) {
        sum += std::abs(double(v));
      }
      expect(sum > 1e-3 * static_cast<double>(q_first.size()), name + "the product is empty");
    }
  }
}

}  // namespace

int main() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    return no_device();
  }
  {
    Backend backend;
    if (jet::cuda::kernel::has_sm_90 && jet::cuda::kernel::runs_wgmma()) {
      for (i64 const rows : {17, 33, 64}) {
        compare(backend, {{1152, 1152, 300, 12, 12, 7}, 192}, rows);
        compare(backend, {{512}, 3072, false, true, true}, rows);
        compare(backend, {{800}, 128, true}, rows);
        for (int const split : {1, 2, 4, 8}) {
          compare(backend, {{100, 33}, 576, false, true, false, split}, rows);
          compare(backend, {{77}, 576, true, false, true, split}, rows);
        }
      }
      compare(backend, {{5000}, 64}, 40);
      compare(backend, {{9000}, 64}, 64);
      compare(backend, {{11008}, 64, true}, 50);
    } else {
      std::printf("without wgmma\n");
    }
  }
  for (i64 const rows : {1, 3, 4, 7, 8, 9, 16, 17, 60, 128}) {
    fused(rows, 256, 136);
    fused(rows, 1536, 512);
    fused(rows, 264, 96);
  }
  return report();
}
