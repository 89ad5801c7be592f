// The ops of a model around its mixers on the device against the CPU's kernels, and what they promise about bits.
// Exit status: 0 right, 1 wrong, 77 no device.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <jet/cuda/backend.cuh>
#include <jet/cuda/embedding.cuh>
#include <jet/cuda/linear.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/rope.cuh>
#include <jet/cuda/sample.cuh>
#include <jet/cuda/swiglu.cuh>

#include <jet/testing/compare.hpp>
#include <jet/testing/op_cases.hpp>

#include "ops_cpu.hpp"
#include "run.hpp"

namespace {

using jet::DType;
using jet::i64;
using jet::Precision;
using jet::Slot;
using jet::reference::Matrix;
using jet::testing::Activation;
using jet::testing::decode_batch;
using jet::testing::normal;
using jet::testing::OpResult;

template <Precision P> void against_the_cpu() {
  std::vector<OpResult> const found = jet::testing::op_results<jet::Cuda<P>>();
  std::vector<OpResult> const want = results_on_cpu(P);
  expect(found.size() == want.size(), "as many results as on the CPU");
  std::map<std::string, double> worst;  // of an op, as a share of its bound
  for (std::size_t i = 0; i < want.size() && i < found.size(); ++i) {
    OpResult const& got = found[i];
    bool const same = got.name == want[i].name && got.values.size() == want[i].values.size();
    double const error = same ? jet::reference::relative_rms(got.values, want[i].values) : HUGE_VAL;
    double const bound = want[i].bound();
    expect(error <= bound, jet::concat(got.name, " (", jet::name_of(P.act), " policy): relative error ",
                                       error * 1e6, "e-6, allowed ", bound * 1e6, "e-6"));
    std::string const op = got.op() + ", stored " + std::string(jet::name_of(want[i].stored));
    double& entry = worst[op];
    entry = bound > 0 ? std::max(entry, error / bound) : entry;
  }
  for (auto const& [op, share] : worst) {
    std::printf("%s policy, %-28s worst error %5.3f of its bound\n", std::string(jet::name_of(P.act)).c_str(),
                op.c_str(), share);
  }
}

// Row i of a product of `rows` rows, for every i, against the same row alone.
template <Precision P> void rows_do_not_depend_on_rows(bool batch_invariant, i64 rows, i64 n, i64 k, DType in) {
  jet::Cuda<P> backend(jet::BackendOptions{.batch_invariant = batch_invariant});
  Activation<jet::Cuda<P>> const w(backend, normal(n, k, 60, 0.3), P.weights), b(backend, normal(1, n, 61), P.acc);
  Matrix const x = normal(rows, k, 62);
  auto const product = [&](Matrix const& input) {
    Activation<jet::Cuda<P>> const from(backend, input, in);
    Activation<jet::Cuda<P>> const y(backend, input.rows, n, P.acc);
    jet::testing::run_planned(backend, decode_batch(input.rows), [&](auto& ctx) {
      ctx.run(jet::op::Linear{}, w.slot({n, k}), b.slot({n}), from.view(), y.view());
    });
    return y.values();
  };
  Matrix const all = product(x);
  Matrix const again = product(x);
  bool repeated = std::memcmp(all.data.data(), again.data.data(), all.data.size() * sizeof(double)) == 0;
  bool same = true;
  for (i64 const count : {i64{1}, i64{3}, rows / 2, rows - 1}) {
    for (i64 first = 0; first + count <= rows; first += count) {
      Matrix const part = product(jet::reference::rows_of(x, first, count));
      same = same &&
             std::memcmp(part.data.data(), all.data.data() + first * n, part.data.size() * sizeof(double)) == 0;
    }
  }
  std::string const name = jet::concat("product of ", rows, " rows, ", n, " x ", k, ", weights ",
                                       jet::name_of(P.weights), ", x ", jet::name_of(in));
  expect(repeated, name + ": two runs differ");
  expect(same, name + ": a row depends on the rows beside it");
}

}  // namespace

int main() {
  return run_on_device([] {
    against_the_cpu<jet::precision::f32>();
    against_the_cpu<jet::precision::bf16>();
    for (auto const& [n, k] : {std::pair<i64, i64>{100, 96}, {40, 1000}, {7, 33}, {4300, 2048}, {136, 4096}}) {
      rows_do_not_depend_on_rows<jet::precision::f32>(false, 16, n, k, DType::f32);
      rows_do_not_depend_on_rows<jet::precision::bf16>(false, 16, n, k, DType::f32);
      rows_do_not_depend_on_rows<jet::precision::bf16>(false, 16, n, k, DType::bf16);
      rows_do_not_depend_on_rows<jet::precision::bf16>(true, 70, n, k, DType::bf16);
    }
  });
}
