// Models whose layers are not mixer and SwiGLU under RMSNorm: RWKV-7 (channel mixing, layer norms, a norm of the
// embedding) and Mamba2 (no MLP), whole and small, against float64.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <jet/io/hf_checkpoint.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/rwkv7.hpp>

#include "candidate_support.hpp"
#include "file_support.hpp"
#include "tiny_stacks.hpp"

static_assert(jet::Mamba2_2_7B::num_params() == 2'702'599'680);
static_assert(jet::Rwkv7_1_5B::num_params() == 1'527'404'544);
static_assert(jet::SmolLM2_1_7B::num_params() == 1'711'376'384);
static_assert(jet::Llama3_2_3B::num_params() == 3'212'749'824);

namespace {

using namespace tests;
using namespace tiny_stacks;
using jet::Module;
using jet::TensorKey;

// The tensors of one module of one layer, as a block's Reference asks for them.
template <class Model> class Part {
 public:
  Part(jet::Weights<Model>& weights, Module module, i64 layer) {
    weights.visit([&](TensorKey const& key, Slot& slot) {
      if (key.module == module && key.layer == layer) {
        auto const& shape = key.spec.shape;
        Matrix m(shape[0], shape.numel() / shape[0]);
        m.data = jet::testing::load_as(slot.dtype, slot.data, slot.numel());
        values_[std::string(key.spec.name.view())] = std::move(m);
      }
    });
  }
  Vector param(std::string const& name) const { return values_.at(name).data; }
  Matrix param_matrix(std::string const& name) const { return values_.at(name); }

 private:
  std::map<std::string, Matrix> values_;
};

Matrix layer_norm(Matrix const& x, Vector const& weight, Vector const& bias, double eps) {
  Matrix y = x;
  for (i64 t = 0; t < x.rows; ++t) {
    double mean = 0, variance = 0;
    for (i64 i = 0; i < x.cols; ++i) {
      mean += x.at(t, i) / static_cast<double>(x.cols);
    }
    for (i64 i = 0; i < x.cols; ++i) {
      variance += std::pow(x.at(t, i) - mean, 2) / static_cast<double>(x.cols);
    }
    for (i64 i = 0; i < x.cols; ++i) {
      auto const c = static_cast<std::size_t>(i);
      y.at(t, i) = (x.at(t, i) - mean) / std::sqrt(variance + eps) * weight[c] + bias[c];
    }
  }
  return y;
}
template <class Model> Matrix layer_norm(Part<Model> const& norm, Matrix const& x) {
  return layer_norm(x, norm.param("weight"), norm.param("bias"), Model::config.eps);
}

// y = relu((u_t + (u_{t-1} - u_t) x_k) Wk^T)^2 Wv^T from the beginning of a sequence.
template <class Parameters> Matrix channel_mixing(Parameters const& p, Matrix const& u) {
  Vector const mix = p.param("x_k");
  Matrix shifted = u;
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 i = 0; i < u.cols; ++i) {
      double const before = t > 0 ? u.at(t - 1, i) : 0;
      shifted.at(t, i) += (before - u.at(t, i)) * mix[static_cast<std::size_t>(i)];
    }
  }
  Matrix hidden = jet::reference::linear(shifted, p.param_matrix("key.weight"));
  for (double& value : hidden.data) {
    value = value > 0 ? value * value : 0;
  }
  return jet::reference::linear(hidden, p.param_matrix("value.weight"));
}

std::vector<std::int32_t> ids_of(i64 n) {
  jet::Random const random{5, 5};
  std::vector<std::int32_t> ids;
  for (i64 i = 0; i < n; ++i) {
    ids.push_back(static_cast<std::int32_t>(random.uniform_below(static_cast<std::uint64_t>(i), 37)));
  }
  return ids;
}
std::vector<i64> as_i64(std::vector<std::int32_t> const& ids) {
  return {ids.begin(), ids.end()};
}

template <class Model> std::shared_ptr<jet::Weights<Model>> weights_of(jet::Precision const& precision) {
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate_on_host(precision);
  std::uint64_t tensor = 0;
  weights->visit([&](TensorKey const& key, Slot& slot) {
    Matrix values = normal(1, slot.numel(), 100 + tensor++);
    bool const is_one = key.spec.init.kind == jet::Init::Kind::ones;
    for (double& value : values.data) {
      value = is_one ? 1 + 0.2 * value : 0.3 * value;
    }
    jet::detail::store_as(slot.dtype, values.data.data(), slot.numel(), slot.data);
  });
  return weights;
}

Matrix reference_logits(jet::Weights<TinyRwkv7>& w, std::vector<std::int32_t> const& ids) {
  auto const part = [&](Module module, i64 layer) { return Part<TinyRwkv7>(w, module, layer); };
  Matrix x = jet::reference::embedding(as_i64(ids), part(Module::embedding, -1).param_matrix("weight"));
  x = layer_norm(part(Module::embedding_norm, -1), x);
  Matrix v_first;
  for (i64 l = 0; l < TinyRwkv7::layers; ++l) {
    Matrix const h = layer_norm(part(Module::mixer_norm, l), x);
    auto const run = [&](auto reference) {
      reference.v_first = v_first;
      x = jet::reference::add(x, reference.forward(h));
      v_first = reference.v_first;
    };
    if (l == 0) {
      run(Reference<jet::Rwkv7<time_mix>>(part(Module::mixer, l)));
    } else {
      run(Reference<jet::Rwkv7<jet::with_value_residual(time_mix, 2)>>(part(Module::mixer, l)));
    }
    x = jet::reference::add(x, channel_mixing(part(Module::mlp, l), layer_norm(part(Module::mlp_norm, l), x)));
  }
  return jet::reference::linear(layer_norm(part(Module::final_norm, -1), x),
                                part(Module::head, -1).param_matrix("weight"));
}

Matrix reference_logits(jet::Weights<TinyMamba2>& w, std::vector<std::int32_t> const& ids) {
  auto const part = [&](Module module, i64 layer) { return Part<TinyMamba2>(w, module, layer); };
  Matrix const table = part(Module::embedding, -1).param_matrix("weight");
  Matrix x = jet::reference::embedding(as_i64(ids), table);
  auto const norm = [&](Module module, i64 layer) {
    return jet::reference::rms_norm(x, part(module, layer).param("weight"), TinyMamba2::config.eps);
  };
  for (i64 l = 0; l < TinyMamba2::layers; ++l) {
    x = jet::reference::add(
        x, Reference<jet::Mamba2<ssd>>(part(Module::mixer, l)).forward(norm(Module::mixer_norm, l)));
  }
  return jet::reference::tied_head(norm(Module::final_norm, -1), table);
}

// Logits of all tokens equal the reference's, prefilled whole, in pieces, and token by token in a decode loop.
template <class Model, class B> void model_equals_reference() {
  constexpr i64 n = 75;
  auto const weights = weights_of<Model>(B::precision);
  std::vector<std::int32_t> const ids = ids_of(n);
  Matrix const expected = reference_logits(*weights, ids);
  double const limit = B::precision.acc == DType::f64 ? 1e-11 : 2e-4;
  jet::Engine<Model, B> lm(weights, {.slots = 3, .max_len = 128, .chunk = 128, .max_logits = 128});
  auto const run = [&](std::int32_t slot, i64 from, i64 to) {
    Batch batch = one(to - from, slot, from);
    batch.logits = jet::Logits::all;
    View const logits = lm.forward(
        batch, std::span(ids).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from)));
    Matrix found(to - from, Model::config.vocab);
    found.data = jet::testing::load_as(logits.dtype, logits.data, logits.numel());
    Matrix part(to - from, Model::config.vocab);
    std::copy_n(expected.data.begin() + from * part.cols, part.data.size(), part.data.begin());
    CAPTURE(from);
    CAPTURE(to);
    CHECK(relative_rms(found, part) <= limit);
  };
  run(0, 0, n);
  for (auto const& [from, to] : std::vector<std::pair<i64, i64>>{{0, 5}, {5, 6}, {6, 8}, {8, 73}, {73, 75}}) {
    run(1, from, to);
  }
  run(2, 0, 70);
  std::int32_t const slot = 2;
  lm.begin_decode({&slot, 1}, {&ids[70], 1});
  for (std::size_t t = 70; t < n; ++t) {
    lm.set_decode_tokens({&ids[t], 1});
    View const logits = lm.decode_step();
    Matrix found(1, Model::config.vocab), row(1, Model::config.vocab);
    found.data = jet::testing::load_as(logits.dtype, logits.data, logits.numel());
    std::copy_n(expected.data.begin() + static_cast<i64>(t) * row.cols, row.data.size(), row.data.begin());
    CHECK(relative_rms(found, row) <= limit);
  }
}

TEST_CASE_TEMPLATE("a small RWKV-7 equals the reference", B, F64, F32) {
  model_equals_reference<TinyRwkv7, B>();
}
TEST_CASE_TEMPLATE("a small Mamba2 without an MLP equals the reference", B, F64, F32) {
  model_equals_reference<TinyMamba2, B>();
}

TEST_CASE("names and tensors of RWKV-7 and Mamba2 checkpoints") {
  auto const names = []<class Model>(std::type_identity<Model>) {
    std::vector<std::string> all;
    jet::Weights<Model>().visit([&](TensorKey const& key, Slot&) {
      all.push_back(Model::names::key(key.module, key.layer, key.spec.name));
    });
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
    return all;
  };
  auto const rwkv = names(std::type_identity<jet::Rwkv7_1_5B>{});
  CHECK(rwkv.size() == 6 + 24 * (23 + 3 + 4) + 23 * 3);
  for (std::string const name :
       {"model.embeddings.weight", "model.layers.0.pre_norm.bias", "model.layers.0.attn.x_r",
        "model.layers.1.attn.v_lora.lora.2.bias", "model.layers.23.ffn.x_k", "model.layers.23.ffn.value.weight",
        "model.layers.5.attn_norm.bias", "model.layers.5.ffn_norm.weight", "model.norm.bias", "lm_head.weight"}) {
    CAPTURE(name);
    CHECK(std::binary_search(rwkv.begin(), rwkv.end(), name));
  }
  CHECK_FALSE(std::binary_search(rwkv.begin(), rwkv.end(), "model.layers.0.attn.v_lora.lora.2.bias"));
  CHECK_FALSE(std::binary_search(rwkv.begin(), rwkv.end(), "model.layers.1.pre_norm.bias"));
  auto const mamba = names(std::type_identity<jet::Mamba2_2_7B>{});
  CHECK(mamba.size() == 2 + 64 * 9);
  for (std::string const name : {"backbone.embeddings.weight", "backbone.layers.63.mixer.in_proj.weight",
                                 "backbone.layers.0.norm.weight", "backbone.norm_f.weight"}) {
    CAPTURE(name);
    CHECK(std::binary_search(mamba.begin(), mamba.end(), name));
  }
}

TEST_CASE("layer norms and the norm of the embedding are kept by a saved model") {
  auto const weights = weights_of<TinyRwkv7>(F32::precision);
  ScratchDirectory directory;
  jet::save(*weights, directory.path);
  jet::Json const config = jet::load_json(directory.path / "config.json");
  CHECK(config.at("layer_norm") == true);
  CHECK(config.at("embedding_norm") == true);
  CHECK(jet::compare<TinyRwkv7>(jet::read_config(config, "config.json")).empty());
  jet::Json other = config;
  other["layer_norm"] = false;
  auto const lines = jet::compare<TinyRwkv7>(jet::read_config(other, "config.json"));
  REQUIRE(lines.size() == 1);
  CHECK(contains(lines.front(), "layer_norm"));
  auto loaded = jet::load<TinyRwkv7, F32>(directory.path, {.max_len = 16});
  jet::Engine<TinyRwkv7, F32> lm(weights, {.max_len = 16});
  auto const ids = ids_of(9);
  View const expected = lm.append(0, ids), found = loaded.append(0, ids);
  CHECK(std::equal(expected.row<float>(0), expected.row<float>(0) + 37, found.row<float>(0)));
}

}  // namespace
