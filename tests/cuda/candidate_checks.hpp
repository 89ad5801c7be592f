// A candidate block on the device: against the official implementation, against the float64 reference, and held to
// what every block promises. The program's main: exit status 77 without a device.
#pragma once

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <jet/cuda/activate.cuh>
#include <jet/cuda/backend.cuh>
#include <jet/cuda/gated_scan.cuh>
#include <jet/cuda/linear.cuh>
#include <jet/cuda/mamba2.cuh>
#include <jet/cuda/norm.cuh>
#include <jet/cuda/retention.cuh>
#include <jet/cuda/rope.cuh>
#include <jet/cuda/rwkv7.cuh>
#include <jet/cuda/scan_norm.cuh>
#include <jet/cuda/short_conv.cuh>
#include <jet/testing/conformance.hpp>

#include "candidate_support.hpp"
#include "golden/candidate_error.hpp"
#include "unit/block/block_cases.hpp"

namespace candidates {

using F32 = jet::Cuda<jet::precision::f32>;
using Bf16 = jet::Cuda<jet::precision::bf16>;
using jet::i64;

inline std::vector<i64> const few{0, 1, 2, 5, 63, 65, 130};

// Chunks have fp16 factors where activations are bf16: measured up to 1.01 times the table.
template <class M, class B> void against_reference(std::vector<i64> const& sizes = tests::odd_sizes()) {
  tests::against_reference<M, B>(sizes, {}, B::precision.act == jet::DType::bf16 ? 1.2 : 1.0);
}

inline void note(char const* what, std::string const& name, double f32, double bf16) {
  std::printf("%-10s %-16s relative error f32 %.2e, bf16 %.2e\n", what, name.c_str(), f32, bf16);
}

// Outputs, final states and five decode steps of the layer that the file holds.
template <class M> void golden_layer(std::string const& name, bool values_first) {
  golden::GoldenFile const file(name + "_a.safetensors");
  golden::GoldenFile const float64("f64/" + name + "_a.f64.safetensors");
  double const f32 = golden::candidate_error<M, F32>(file, float64, values_first);
  double const bf16 = golden::candidate_error<M, Bf16>(file, float64, values_first);
  note("golden", name, f32, bf16);
  CHECK(f32 < 1e-5);
  CHECK(golden::candidate_error<M, F32>(file, file, values_first) < 1e-5);
  CHECK(bf16 < 0.9e-2);  // better than the official bf16 kernels
}

template <class M, class B> void conforms() {
  jet::testing::ConformanceOptions options;
  options.tolerance = tests::tolerance(B::precision, tests::Check::split);
  options.backend.batch_invariant = true;  // products of few and of many rows are not the same bits otherwise
  auto const report = jet::testing::conformance<M, B>(options);
  CHECK(report.findings.size() == 12);
  for (auto const& finding : report.findings) {
    CAPTURE(finding.property);
    CHECK(finding.run == (finding.property != "allocation"));
    CHECK(finding.failure == "");
  }
}

}  // namespace candidates

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: not run\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
