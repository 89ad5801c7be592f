// The tiny checkpoints end to end: logits, every layer, greedy continuation token for token; whole, in pieces and
// token by token.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <jet/io/hf_checkpoint.hpp>
#include <jet/jet.hpp>

#include "golden_file.hpp"
#include "tiny_models.hpp"

namespace {

using namespace jet;
using golden::GoldenFile;
using golden::Matrix;

template <class B> std::vector<double> doubles(View const& v) {
  using T = type_of<B::precision.acc>;
  std::vector<double> out;
  for (i64 i = 0; i < v.tokens(); ++i) {
    for (i64 j = 0; j < v.width(); ++j) {
      out.push_back(v.dtype == DType::bf16 ? static_cast<double>(static_cast<float>(v.row<bf16>(i)[j]))
                                           : static_cast<double>(v.row<T>(i)[j]));
    }
  }
  return out;
}

std::vector<std::int32_t> ids_of(GoldenFile const& file, std::string const& name, i64 b) {
  std::vector<std::int32_t> ids;
  for (double const id : file.slice(name, b).data) {
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

/// Largest relative error of logits and layers against `expected`; greedy tokens must be equal.
template <class Model, class B> double error_against(GoldenFile const& inputs, GoldenFile const& expected) {
  auto lm = load<Model, B>(golden::path_of<Model>(),
                           {.slots = 2, .max_len = 160, .chunk = 100, .max_logits = 100, .poison = true});
  double worst = 0;
  auto const check = [&](std::vector<double> const& got, Matrix const& want) {
    worst = std::max(worst, reference::relative_rms(got, want.data));
  };
  for (i64 b = 0; b < 2; ++b) {
    auto const ids = ids_of(inputs, "input_ids", b);
    i64 const n = std::ssize(ids);
    Batch batch;
    batch.add(0, n, 0);
    batch.logits = Logits::all;
    int layers = 0;
    auto const whole = doubles<B>(lm.forward(batch, ids, [&](i64 l, Point p, View const& v) {
      std::string const name = "hidden_states." + std::to_string(l);
      if (p == Point::layer_out && expected.has(name)) {
        check(doubles<B>(v), expected.slice(name, b));
        ++layers;
      }
    }));
    CHECK(layers == Model::layers);
    check(whole, expected.slice("logits", b));

    // greedy, through the decode loop
    auto const greedy = ids_of(inputs, "greedy_ids", b);
    std::int32_t const slot = 0;
    std::int32_t token = greedy[0];
    double best = -1e300;
    i64 arg = -1;
    i64 const vocab = Model::config.vocab;
    for (i64 v = 0; v < vocab; ++v) {
      double const x = whole[static_cast<std::size_t>((n - 1) * vocab + v)];
      if (x > best) {
        best = x;
        arg = v;
      }
    }
    CHECK(arg == greedy[0]);
    lm.begin_decode({&slot, 1}, {&token, 1});
    for (std::size_t i = 1; i < greedy.size(); ++i) {
      lm.decode_step();
      CHECK(lm.decode_tokens()[0] == greedy[i]);
    }

    // the same logits in uneven pieces and token by token
    for (std::vector<i64> const& sizes : {std::vector<i64>{1, 2, 3, 64, 16, 15, 17}, std::vector<i64>(100, 1)}) {
      lm.reset(1);
      std::vector<double> pieces;
      i64 at = 0;
      for (i64 const size : sizes) {
        i64 const count = std::min(size, n - at);
        if (count <= 0) {
          break;
        }
        Batch piece;
        piece.add(1, count, at);
        piece.logits = Logits::all;
        auto const part = doubles<B>(lm.forward(
            piece, std::span(ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count))));
        pieces.insert(pieces.end(), part.begin(), part.end());
        at += count;
      }
      Matrix const want = expected.slice("logits", b);
      check(pieces, reference::rows_of(want, 0, std::ssize(pieces) / vocab));
    }
    lm.reset(0);
  }
  return worst;
}

template <class Model> std::string file_of() {
  return std::string(Model::directory) + "/golden.safetensors";
}

}  // namespace

TEST_CASE_TEMPLATE("golden: tiny checkpoints of the reference classes", Model, golden::TinyJet, golden::TinyQwen2,
                   golden::TinyQwen3, golden::TinyLlama, golden::TinyLlama3) {
  GoldenFile const file(file_of<Model>());
  CHECK(error_against<Model, Cpu<precision::f32>>(file, file) < 1e-5);
  CHECK(error_against<Model, Cpu<precision::f64>>(file, file) < 2e-6);
}

TEST_CASE("golden: tiny Jet-Nemotron in float64") {
  GoldenFile const file(file_of<golden::TinyJet>());
  GoldenFile const float64("f64/tiny_jet_a.f64.safetensors");
  CHECK(error_against<golden::TinyJet, Cpu<precision::f64>>(file, float64) < 1e-12);
}

TEST_CASE("golden: rotations of tiny Llama-3") {
  GoldenFile const file(file_of<golden::TinyLlama3>());
  auto const expected = file.values("inv_freq");
  auto const config = std::tuple_element_t<0, golden::TinyLlama3::layer_types>::mixer::config;
  REQUIRE(std::ssize(expected) == config.head / 2);
  for (i64 m = 0; m < config.head / 2; ++m) {
    CHECK(rope_inv_freq(config.rope(), config.head, m) ==
          doctest::Approx(expected[static_cast<std::size_t>(m)]).epsilon(2e-7));
  }
}
