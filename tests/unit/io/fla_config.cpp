// config.json and layer arguments of flash-linear-attention: read, compared with types, refused by name.
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <jet/cpu/cpu.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/io/safetensors.hpp>
#include <jet/model/init.hpp>
#include <jet/model/mamba2.hpp>
#include <jet/model/rwkv7.hpp>

#include "file_support.hpp"

namespace {

using jet::Activation;
using jet::Bind;
using jet::i64;
using jet::Json;
using tests::contains;
using tests::message_of;

Json golden_arguments(std::string const& name) {
  jet::SafetensorsFile const file(std::string(JET_TEST_DATA) + "/golden/" + name + "_a.safetensors");
  return jet::parse_json(file.metadata().at("args"), name);
}
Json parsed(std::string_view text) {
  return jet::parse_json(text, "text");
}

template <class Block> std::string misfit(Json const& config, i64 layer = 0) {
  return message_of([&] { jet::check_layer<Block>(config, "layer", layer); });
}

using GoldenGla = jet::Gla<jet::GlaConfig{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32}>;
using GoldenRetNet = jet::RetNet<jet::RetNetConfig{.d_model = 64, .heads = 4, .head_k = 16, .head_v = 32}>;
using GoldenMamba2 = jet::Mamba2<jet::Mamba2Config{.d_model = 64, .heads = 4, .head = 32, .state = 16}>;
using GoldenDelta = jet::DeltaNet<jet::DeltaNetConfig{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 32}>;
template <i64 value_heads>
using GoldenGated = jet::GatedDeltaNet<jet::GatedDeltaNetConfig{
    .d_model = 64, .heads = 2, .value_heads = value_heads, .head_k = 16, .head_v = 32}>;
inline constexpr jet::Rwkv7Config golden_rwkv7{
    .d_model = 64, .heads = 2, .head = 32, .decay_rank = 16, .rate_rank = 16, .gate_rank = 16};

TEST_CASE("layers of flash-linear-attention: the arguments of the golden files") {
  CHECK(misfit<GoldenGla>(golden_arguments("gla")) == "");
  CHECK(misfit<GoldenRetNet>(golden_arguments("retnet")) == "");
  CHECK(misfit<GoldenMamba2>(golden_arguments("mamba2")) == "");
  CHECK(misfit<GoldenDelta>(golden_arguments("deltanet")) == "");
  CHECK(misfit<GoldenGated<0>>(golden_arguments("gated_deltanet")) == "");
  CHECK(misfit<GoldenGated<2>>(golden_arguments("gated_deltanet")) == "");  // as many as heads, said or not
  Json const rwkv7 = golden_arguments("rwkv7");
  CHECK(misfit<jet::Rwkv7<golden_rwkv7>>(rwkv7) == "");
  CHECK(misfit<jet::Rwkv7<jet::with_value_residual(golden_rwkv7, 16)>>(rwkv7, 1) == "");

  // what differs is named by the file's word, with both values
  Json gla = golden_arguments("gla");
  gla["expand_v"] = 2;
  gla["use_short_conv"] = true;
  gla["clamp_min"] = -1.5;
  std::string const message = misfit<GoldenGla>(gla);
  CHECK(contains(message, "expand_v (head_v): expected 32, found 64"));
  CHECK(contains(message, "conv_size (conv): expected 0, found 4"));
  CHECK(contains(message, "clamp_min (clamps): expected false, found true"));
  CHECK(contains(misfit<jet::Rwkv7<golden_rwkv7>>(rwkv7, 1), "v_low_rank_dim (value_rank): expected 0, found 16"));
}

TEST_CASE("layers of flash-linear-attention: options that are fields of the blocks") {
  using OtherGla = jet::Gla<jet::GlaConfig{.d_model = 64,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .head_k = 16,
                                           .head_v = 8,
                                           .low_rank = 8,
                                           .conv = 3,
                                           .gate = false,
                                           .feature_map = Activation::relu,
                                           .normalizer = 8,
                                           .clamps = true,
                                           .clamp_min = -2,
                                           .norm_eps = 1e-4}>;
  CHECK(misfit<OtherGla>(parsed(R"({"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "expand_k": 1,
    "expand_v": 0.5, "gate_low_rank_dim": 8, "use_short_conv": true, "conv_size": 3, "use_output_gate": false,
    "feature_map": "relu", "gate_logit_normalizer": 8, "clamp_min": -2, "norm_eps": 1e-4})")) == "");
  using OtherDelta = jet::DeltaNet<jet::DeltaNetConfig{.d_model = 64,
                                                       .heads = 4,
                                                       .head_k = 8,
                                                       .head_v = 32,
                                                       .conv = 0,
                                                       .gate = true,
                                                       .neg_eigval = true,
                                                       .activation = Activation::elu_plus_one}>;
  CHECK(misfit<OtherDelta>(parsed(R"({"hidden_size": 64, "expand_k": 0.5, "expand_v": 2, "use_short_conv": false,
    "use_gate": true, "allow_neg_eigval": true, "qk_activation": "elu", "qk_norm": "l2"})")) == "");
  using OtherGated = jet::GatedDeltaNet<jet::GatedDeltaNetConfig{
      .d_model = 64, .heads = 2, .value_heads = 4, .head_k = 24, .head_v = 64, .gate = false, .neg_eigval = true}>;
  CHECK(misfit<OtherGated>(parsed(R"({"hidden_size": 64, "num_heads": 2, "num_v_heads": 4, "head_dim": 24,
    "expand_v": 2.6666666667, "use_gate": false, "allow_neg_eigval": true})")) == "");
  using OtherMamba2 = jet::Mamba2<jet::Mamba2Config{.d_model = 64,
                                                    .heads = 4,
                                                    .head = 16,
                                                    .state = 8,
                                                    .groups = 2,
                                                    .conv = 3,
                                                    .conv_bias = false,
                                                    .bias = true,
                                                    .dt_min = 0.001,
                                                    .dt_max = 0.5}>;
  CHECK(misfit<OtherMamba2>(parsed(R"({"hidden_size": 64, "expand": 1, "head_dim": 16, "num_heads": 4,
    "state_size": 8, "n_groups": 2, "conv_kernel": 3, "use_conv_bias": false, "use_bias": true,
    "dt_limit": [0.001, 0.5], "chunk_size": 256})")) == "");
  // ranks that the layer derives: 32 round(2.5 * 32 / 32), 32 round(5 * 32 / 32)
  using Derived = jet::Rwkv7<jet::Rwkv7Config{
      .d_model = 1024, .heads = 16, .head = 64, .decay_rank = 64, .rate_rank = 64, .gate_rank = 160}>;
  CHECK(misfit<Derived>(parsed(R"({"hidden_size": 1024, "head_dim": null, "num_heads": 16})")) == "");
}

std::string refusal(std::string const& kind, Json const& more) {
  Json config{{"hidden_size", 64}, {"num_heads", 4}};
  config.update(more);
  return message_of([&] { jet::read_fla_layer(config, kind, "f.json"); });
}

TEST_CASE("layers of flash-linear-attention: what is not supported is refused by name") {
  for (auto const& [kind, text] : std::vector<std::tuple<std::string, std::string>>{
           {"gla", R"({"conv_bias": true, "use_short_conv": true})"},
           {"gla", R"({"gate_fn": "silu"})"},
           {"gla", R"({"feature_map": "elu"})"},
           {"gla", R"({"fuse_norm": false})"},
           {"gla", R"({"elementwise_affine": false})"},
           {"gla", R"({"use_gv": true})"},
           {"gla", R"({"clamp_min": 1.5})"},
           {"retnet", R"({"gate_fn": "gelu"})"},
           {"retnet", R"({"decay": 0.5})"},
           {"deltanet", R"({"qk_norm": "sum"})"},
           {"deltanet", R"({"use_beta": false})"},
           {"deltanet", R"({"qk_activation": "tanh"})"},
           {"gated_deltanet", R"({"use_mamba_gate": false})"},
           {"gated_deltanet", R"({"share_conv_kernel": true})"},
           {"mamba2", R"({"D_has_hdim": true, "head_dim": 32})"},
           {"mamba2", R"({"rmsnorm": false, "head_dim": 32})"},
           {"mamba2", R"({"norm_before_gate": true, "head_dim": 32})"},
           {"rwkv7", R"({"value_dim": 128})"}}) {
    Json const more = parsed(text);
    CHECK(contains(refusal(kind, more), jet::concat("\n  ", more.begin().key(), ": ", more.begin()->dump())));
  }
  // all of them in one message
  std::string const all = refusal("deltanet", parsed(R"({"qk_norm": "sum", "use_beta": false, "dropout": 0.1})"));
  for (std::string_view const part :
       {"delta_net", "qk_norm: \"sum\"", "use_beta: false", "dropout: 0.1 (unknown)"}) {
    CHECK(contains(all, part));
  }
  // sizes that do not fit
  for (auto const& [kind, more, part] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"gla", R"({"num_heads": 5})", "expand_k: hidden_size 64 times 0.5 is not a multiple of num_heads 5"},
           {"gla", R"({"num_kv_heads": 3})", "num_kv_heads: 3 and num_heads 4"},
           {"gla", R"({"expand_v": 1e300})", "expand_v: hidden_size 64 times 1e+300"},
           {"gla", R"({"gate_logit_normalizer": 0})", "gate_logit_normalizer: expected more than 0"},
           {"gated_deltanet", R"({"head_dim": 10, "expand_v": 1.25})", "expand_v: 1.25 times head_dim 10"},
           {"mamba2", R"({"head_dim": 48})", "expand: 2 times hidden_size 64 is not a multiple of head_dim 48"},
           {"mamba2", R"({"head_dim": 16})", "num_heads: expected expand * hidden_size / head_dim = 8, found 4"},
           {"mamba2", R"({"head_dim": 32, "dt_limit": [0.5, 0.1]})", "dt_limit: expected 0 <= first <= second"},
           {"mamba2", R"({"head_dim": 32, "dt_limit": "all"})", "dt_limit: expected two numbers"},
           {"rwkv7", R"({"head_dim": 48})", "head_dim: 48 does not divide hidden_size 64"},
           {"lightnet", "{}", "has no layer \"lightnet\""},
           {"gla", R"({"model_type": "retnet"})", "has no layer \"gla\" of model_type \"retnet\""}}) {
    CHECK(contains(refusal(kind, parsed(more)), part));
  }
}

// ---- models

template <jet::GlaConfig C>
struct GlaModel : jet::CausalLM<jet::LmConfig{.vocab = 32000, .d_model = 2048, .mlp = 5632, .tied = false}, "GGGG",
                                Bind<'G', jet::Gla<C>>> {
  using names = jet::FlaNames;
};
inline constexpr jet::GlaConfig gla_2048{
    .d_model = 2048, .heads = 4, .head_k = 256, .head_v = 512, .norm_eps = 1e-6};
inline constexpr jet::GlaConfig more_heads{
    .d_model = 2048, .heads = 8, .head_k = 128, .head_v = 256, .norm_eps = 1e-6};

Json gla_config() {
  return parsed(R"({"model_type": "gla", "hidden_size": 2048, "expand_k": 0.5, "expand_v": 1, "hidden_ratio": 4,
    "intermediate_size": null, "num_hidden_layers": 4, "num_heads": 4, "num_kv_heads": null, "feature_map": null,
    "attn_mode": "chunk", "use_short_conv": false, "conv_size": 4, "use_output_gate": true, "clamp_min": null,
    "hidden_act": "swish", "elementwise_affine": true, "norm_eps": 1e-6, "use_gk": true, "use_gv": false,
    "attn": null, "use_cache": true, "tie_word_embeddings": false, "fuse_norm": true, "vocab_size": 32000,
    "torch_dtype": "bfloat16"})");
}

TEST_CASE("models of flash-linear-attention: config.json against a type") {
  jet::check_config<GlaModel<gla_2048>>(gla_config(), "config.json");
  std::string const message =
      message_of([&] { jet::check_config<GlaModel<more_heads>>(gla_config(), "a/config.json"); });
  CHECK(contains(message, "a/config.json"));
  CHECK(contains(message, "num_heads (heads): expected 8, found 4 (layers 0-3)"));

  Json config = gla_config();
  config["norm_eps"] = 1e-5;
  config["tie_word_embeddings"] = true;
  std::string const text = message_of([&] { jet::check_config<GlaModel<gla_2048>>(config, "f"); });
  CHECK(contains(text, "\n  norm_eps: expected 1e-06, found 1e-05"));
  CHECK(contains(text, "tie_word_embeddings: expected false, found true"));

  config = gla_config();
  config["attn"] = parsed(R"({"layers": [1], "num_heads": 4})");
  config["hidden_act"] = "gelu";
  config["gate_low_rank_dim"] = 32;
  std::string const refused = message_of([&] { jet::read_config(config, "f"); });
  CHECK(contains(refused, R"(attn: {"layers":[1],"num_heads":4})"));
  CHECK(contains(refused, R"(hidden_act: "gelu")"));
  CHECK(contains(refused, "gate_low_rank_dim: 32"));

  Json rwkv7 = parsed(R"({"model_type": "rwkv7", "hidden_size": 2048, "num_hidden_layers": 24, "head_dim": 64,
    "num_heads": 32, "decay_low_rank_dim": 96, "gate_low_rank_dim": 256, "a_low_rank_dim": 96,
    "v_low_rank_dim": 64, "intermediate_size": null, "hidden_act": "sqrelu", "norm_first": true, "norm_bias": true,
    "norm_eps": 1e-5, "vocab_size": 65536})");
  rwkv7["value_dim"] = std::vector<i64>(24, 2048);
  jet::check_config<jet::Rwkv7_1_5B>(rwkv7, "rwkv7");
  // written, these are stacks of the library's own
  for (Json const& read : {gla_config(), rwkv7}) {
    jet::ModelDescription const model = jet::read_config(read, "f");
    Json const written = jet::config_of(model, jet::DType::f32, read);
    CHECK(written.at("model_type") == "jet_hybrid");
    CHECK(jet::differences(model, jet::read_config(written, "written")).empty());
  }
  rwkv7["norm_first"] = false;
  CHECK(contains(message_of([&] { jet::check_config<jet::Rwkv7_1_5B>(rwkv7, "rwkv7"); }), "embedding_norm"));
}

TEST_CASE("models of flash-linear-attention: numbers that JSON lacks") {
  tests::ScratchDirectory const directory;
  auto const path = directory.path / "config.json";
  std::string const text = R"({"model_type": "mamba2", "hidden_size": 2560, "num_hidden_layers": 64, "head_dim": 64,
    "vocab_size": 50288, "norm_eps": 1e-5, "tie_word_embeddings": true, "note": "\"Infinity, NaN", "dt_limit": )";
  for (std::string const limit : {"[0.0, Infinity]", R"([0.0, {"__float__": "Infinity"}])"}) {
    tests::write_file(path, text + limit + "}");
    Json const config = jet::load_config(path);
    CHECK(config.at("note") == "\"Infinity, NaN");
    jet::check_config<jet::Mamba2_2_7B>(config, path.string());
  }
  for (std::string const limit : {"[NaN, Infinity]", "[-Infinity, 1]", "[0, Infinityx]", "[0, \"Infin"}) {
    CAPTURE(limit);
    tests::write_file(path, text + limit + "}");
    CHECK(message_of([&] { jet::read_config(jet::load_config(path), "f"); }) != "");
  }
}

struct TinyGated
    : jet::CausalLM<jet::LmConfig{.vocab = 31, .d_model = 64, .mlp = 256, .eps = 1e-6, .tied = false}, "GG",
                    Bind<'G', jet::GatedDeltaNet<jet::GatedDeltaNetConfig{
                                  .d_model = 64, .heads = 2, .head_k = 16, .head_v = 32, .norm_eps = 1e-6}>>> {
  using names = jet::FlaNames;
};

TEST_CASE("models of flash-linear-attention: a checkpoint loads") {
  jet::Weights<TinyGated> weights;
  weights.allocate_on_host(jet::precision::f32);
  jet::initialise(weights, 1);
  tests::ScratchDirectory const directory;
  jet::save(weights, directory.path);
  jet::CheckpointFiles const files(directory.path);
  for (std::string const name : {"model.embeddings.weight", "model.layers.1.attn_norm.weight",
                                 "model.layers.0.attn.A_log", "model.layers.0.mlp_norm.weight",
                                 "model.layers.0.mlp.gate_proj.weight", "model.norm.weight", "lm_head.weight"}) {
    CAPTURE(name);
    CHECK(files.find(name) != nullptr);
  }
  Json config = parsed(R"({"model_type": "gated_deltanet", "hidden_size": 64, "num_hidden_layers": 2,
    "num_heads": 2, "head_dim": 16, "hidden_ratio": 1, "norm_eps": 1e-6, "vocab_size": 31})");
  tests::write_file(directory.path / "config.json", config.dump());
  auto const loaded = jet::load_weights<TinyGated>(directory.path, jet::precision::f32);
  auto const sum_of = [](jet::Weights<TinyGated>& some) {
    double sum = 0;
    some.visit([&](jet::TensorKey const&, jet::Slot& slot) {
      for (i64 i = 0; i < slot.numel(); ++i) {
        sum += static_cast<float const*>(slot.data)[i] * static_cast<double>(i % 7);
      }
    });
    return sum;
  };
  CHECK(sum_of(*loaded) == sum_of(weights));
  config["head_dim"] = 32;
  tests::write_file(directory.path / "config.json", config.dump());
  CHECK(contains(message_of([&] { jet::load_weights<TinyGated>(directory.path, jet::precision::f32); }),
                 "head_dim (head_k): expected 16, found 32"));
}

}  // namespace
