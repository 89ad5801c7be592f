// One JetBlock against the official implementation: outputs, state after the prefill, five single steps, state
// after them.
#include <doctest/doctest.h>

#include <string>

#include <jet/block/jet_block.hpp>
#include <jet/cpu/cpu.hpp>
#include <jet/testing/block_harness.hpp>

#include "golden_file.hpp"

namespace {

using namespace jet;
using golden::GoldenFile;
using golden::Matrix;
using Block = JetBlock<JetBlockConfig{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64}>;

/// The newest W-1 columns of a golden convolution state [channels, W] as [W-1, channels].
Matrix newest(Matrix const& columns) {
  Matrix rows(columns.cols - 1, columns.rows);
  for (i64 c = 0; c < columns.rows; ++c) {
    for (i64 w = 1; w < columns.cols; ++w) {
      rows.at(w - 1, c) = columns.at(c, w);
    }
  }
  return rows;
}

/// Largest relative error of outputs and states against `expected`.
template <class B> double error_against(GoldenFile const& file, GoldenFile const& expected) {
  testing::BlockHarness<Block, B> block({.slots = 2, .max_len = 256});
  for (ParamSpec const& row : param_specs<Block>()) {
    block.set_param(row.name.view(), file.values("weights." + std::string(row.name.view())));
  }
  double worst = 0;
  auto const check = [&](Matrix const& got, Matrix const& want) {
    worst = std::max(worst, reference::relative_rms(got.data, want.data));
  };
  auto const check_state = [&](i64 b, std::string const& when) {
    for (auto const& row : block.state(b)) {
      if (row.name == "mixer.recurrent") {
        check(Matrix(1, std::ssize(row.values), row.values), [&] {
          Matrix const m = expected.slice(when + "_recurrent_state", b);
          return Matrix(1, std::ssize(m.data), m.data);
        }());
      } else {
        check(Matrix(3, 128, row.values), newest(expected.slice(when + "_conv_state", b)));
      }
    }
  };
  for (i64 b = 0; b < 2; ++b) {
    check(block.forward(b, file.slice("input", b)), expected.slice("output", b));
    check_state(b, "final");
    Matrix const steps = file.slice("decode_input", b);
    Matrix out(0, 64);
    for (i64 t = 0; t < steps.rows; ++t) {
      Matrix const y = block.forward(b, reference::rows_of(steps, t, 1));
      out.data.insert(out.data.end(), y.data.begin(), y.data.end());
      ++out.rows;
    }
    check(out, expected.slice("decode_output", b));
    check_state(b, "after_decode");
  }
  return worst;
}

}  // namespace

TEST_CASE("golden: JetBlock") {
  GoldenFile const file("jet_block_a.safetensors");
  GoldenFile const float64("f64/jet_block_a.f64.safetensors");
  CHECK(error_against<Cpu<precision::f64>>(file, float64) < 1e-12);
  CHECK(error_against<Cpu<precision::f64>>(file, file) < 2e-6);
  CHECK(error_against<Cpu<precision::f32>>(file, file) < 1e-5);
  CHECK(error_against<Cpu<precision::f32>>(file, float64) < 1e-5);
  // bf16 weights and activations: better than the official bf16 kernels, which are 1.0e-2 away (weights rounded
  // too)
  CHECK(error_against<Cpu<precision::bf16>>(file, float64) < 0.9e-2);
}
