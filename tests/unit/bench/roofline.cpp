// Floors of the published models, against the tables of an independent computation (ceilings of an H100).
#include <doctest/doctest.h>

#include <jet/bench/roofline.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/qwen.hpp>
#include <jet/model/rwkv7.hpp>

namespace {

using namespace jet;
using bench::h100_ceilings;

constexpr Precision fp32_state{.act = DType::bf16};
constexpr Precision bf16_state{.act = DType::bf16, .state = DType::bf16};
constexpr Precision small{.act = DType::bf16, .state = DType::bf16, .kv = DType::f8e4m3};

template <class Model> double prefill_ms(i64 seqs, i64 tokens) {
  return 1e3 * bench::floor_seconds(bench::prefill_ops<Model>(seqs, tokens), h100_ceilings);
}
template <class Model> double step_ms(i64 seqs, i64 context, Precision const& p) {
  return 1e3 * bench::floor_seconds(bench::decode_ops<Model>(seqs, context, p), h100_ceilings);
}
template <class Model> double tokens_per_s(i64 seqs, Precision const& p) {
  return static_cast<double>(seqs) / bench::decode_traffic<Model>(p, seqs, 65536).seconds(h100_ceilings);
}
// Three digits are printed there.
doctest::Approx near(double value) {
  return doctest::Approx(value).epsilon(0.0006);
}

TEST_CASE("floors of a prefill") {
  CHECK(prefill_ms<JetNemotron2B>(1, 65536) == near(338.6));
  CHECK(prefill_ms<JetNemotron2B>(16, 4096) == near(307.5));
  CHECK(prefill_ms<JetNemotron2B>(1, 4096) == doctest::Approx(19.4).epsilon(0.003));
  CHECK(prefill_ms<JetNemotron2B>(1, 262144) == near(1750.8));
  CHECK(prefill_ms<JetNemotron4B>(1, 65536) == near(707.1));
  CHECK(prefill_ms<JetNemotron4B>(16, 4096) == near(642.8));
  CHECK(prefill_ms<Qwen3_1_7B>(1, 65536) == near(859.3));
  CHECK(prefill_ms<Qwen3_1_7B>(16, 4096) == near(280.6));
  CHECK(prefill_ms<Qwen3_1_7B>(1, 262144) == near(10843.9));
}

TEST_CASE("floors of a decode step by operator") {
  CHECK(step_ms<JetNemotron2B>(1, 65536, fp32_state) == near(1.374));
  CHECK(step_ms<JetNemotron2B>(128, 65536, fp32_state) == near(9.578));
  CHECK(step_ms<JetNemotron2B>(128, 65536, bf16_state) == near(8.370));
  CHECK(step_ms<JetNemotron2B>(64, 262144, fp32_state) == doctest::Approx(14.035).epsilon(0.003));
  CHECK(step_ms<JetNemotron4B>(32, 65536, fp32_state) == near(6.116));
  CHECK(step_ms<Qwen3_1_7B>(1, 65536, fp32_state) == near(3.652));
}

// The independent computation leaves norms, biases and the scales of fp8 out.
TEST_CASE("floors of a decode step by memory, reads at the ceiling of reads") {
  CHECK(tokens_per_s<JetNemotron2B>(1, fp32_state) == doctest::Approx(749).epsilon(0.002));
  CHECK(tokens_per_s<JetNemotron2B>(128, fp32_state) == near(13657));
  CHECK(tokens_per_s<JetNemotron2B>(256, bf16_state) == near(17002));
  CHECK(tokens_per_s<JetNemotron2B>(256, small) == doctest::Approx(27241).epsilon(0.01));
  CHECK(tokens_per_s<JetNemotron4B>(64, fp32_state) == near(6820));
  CHECK(tokens_per_s<Qwen3_1_7B>(8, fp32_state) == doctest::Approx(389).epsilon(0.002));
}

TEST_CASE("every block has floors, and its products are its matrices") {
  auto const products = []<class Model>(std::type_identity<Model>) {
    double flops = 0;
    for (auto const& op : bench::decode_ops<Model>(1, 1, fp32_state)) {
      flops += op.calls * op.tensor;
    }
    i64 matrices = Model::config.vocab * Model::config.d_model;
    for (char const letter : Model::plan()) {
      Model::for_letter(letter, [&]<class L>() {
        auto const add = [&]<class M>(std::type_identity<M>) {
          for (auto const& row : param_specs<M>()) {
            matrices += row.present() && row.shape.rank == 2 && !row.keep_f32 ? row.shape.numel() : 0;
          }
        };
        add(std::type_identity<typename L::mixer>{});
        add(std::type_identity<typename L::mlp>{});
      });
    }
    return flops / (2 * static_cast<double>(matrices));
  };
  CHECK(products(std::type_identity<Rwkv7_1_5B>{}) == doctest::Approx(1).epsilon(1e-9));
  CHECK(products(std::type_identity<Mamba2_2_7B>{}) == doctest::Approx(1).epsilon(1e-9));
  using Gdn = JetNemotron2B::rebind<
      Bind<'J', GatedDeltaNet<GatedDeltaNetConfig{.d_model = 1536, .heads = 12, .head_k = 96, .head_v = 256}>>>;
  using Delta = JetNemotron2B::rebind<
      Bind<'J', DeltaNet<DeltaNetConfig{.d_model = 1536, .heads = 12, .head_k = 128, .head_v = 128}>>>;
  using GatedLinear =
      JetNemotron2B::rebind<Bind<'J', Gla<GlaConfig{.d_model = 1536, .heads = 4, .head_k = 192, .head_v = 384}>>>;
  using Retention = JetNemotron2B::rebind<
      Bind<'J', RetNet<RetNetConfig{.d_model = 1536, .heads = 12, .head_k = 128, .head_v = 256}>>>;
  // scores of attention with one key are products too
  CHECK(products(std::type_identity<Gdn>{}) == doctest::Approx(1).epsilon(1e-4));
  CHECK(products(std::type_identity<Delta>{}) == doctest::Approx(1).epsilon(1e-4));
  CHECK(products(std::type_identity<GatedLinear>{}) == doctest::Approx(1).epsilon(1e-4));
  CHECK(products(std::type_identity<Retention>{}) == doctest::Approx(1).epsilon(1e-4));
}

}  // namespace
