#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <jet/io/hf_config.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/model/llama.hpp>
#include <jet/model/qwen.hpp>

#include "file_support.hpp"
#include "golden/tiny_models.hpp"

namespace {

using jet::DType;
using jet::i64;
using jet::Json;
using tests::contains;
using tests::message_of;

Json config_file(std::string_view directory, std::string_view name = "config.json") {
  return jet::load_json(std::filesystem::path(JET_TEST_DATA) / "golden" / directory / name);
}
template <class Model> Json config_file() {
  return config_file(Model::directory);
}

/// Sets the member at a path such as "efficient_attention_config/jet/num_heads".
Json with(Json config, std::string const& path, Json const& value) {
  config[Json::json_pointer("/" + path)] = value;
  return config;
}
Json without(Json config, std::string const& key) {
  config.erase(key);
  return config;
}

template <class Model> std::vector<std::string> differences_of(Json const& config) {
  return jet::compare<Model>(jet::read_config(config, "config.json"));
}

std::string joined(std::vector<std::string> const& lines) {
  std::string text;
  for (std::string const& line : lines) {
    text += (text.empty() ? "" : " | ") + line;
  }
  return text;
}

// ---- blocks and models that no reference class has

struct GainConfig {
  i64 d_model = 0;
  double gain = 1;
  bool centred = false;
  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("gain", self.gain);
    f("centred", self.centred);
  }
};

/// A user's block; the forward is not used here.
template <GainConfig C> struct GainBlock {
  static constexpr auto config = C;
  static constexpr std::string_view kind = "gain";
  static constexpr i64 width = C.d_model;
  template <class T> struct Params { T w; };
  static constexpr Params<jet::ParamSpec> params() { return {.w = {"w", {C.d_model}}}; }
  template <class T> struct State {};
  static constexpr State<jet::StateSpec> state() { return {}; }
  template <jet::Backend B>
  static void forward(jet::Context<B>&, Params<jet::Slot> const&, State<jet::Slot>&, jet::View, jet::View) {}
};
/// One without a config.
struct BareBlock : GainBlock<GainConfig{.d_model = 64}> {
  static constexpr std::string_view kind = "bare";
  static constexpr int config = 0;
};

inline constexpr jet::AttentionConfig narrow{
    .d_model = 64, .heads = 4, .kv_heads = 4, .head = 8, .rope_theta = 5e5};
inline constexpr jet::MlpConfig wide_mlp{.d_model = 64, .hidden = 96};

struct Hybrid
    : jet::CausalLM<jet::LmConfig{.vocab = 100, .d_model = 64, .mlp = 48, .eps = 1e-5, .tied = false}, "AGBACWJ",
                    jet::Bind<'A', jet::FullAttention<golden::jet_attention>>,
                    jet::Bind<'B', jet::FullAttention<narrow>>, jet::Bind<'C', BareBlock, jet::NoMlp>,
                    jet::Bind<'G', GainBlock<GainConfig{.d_model = 64, .gain = 0.1}>, jet::SwiGluMlp<wide_mlp>>,
                    jet::Bind<'W', jet::SlidingWindow<golden::jet_attention, 7>, jet::ModelMlp,
                              jet::RmsNorm<jet::NormConfig{.d_model = 64, .eps = 1e-3}>>,
                    jet::Bind<'J', jet::JetBlock<jet::JetBlockConfig{
                                       .d_model = 64, .heads = 2, .head_k = 24, .head_v = 32}>>> {};

template <jet::AttentionConfig C, jet::LmConfig L = jet::LmConfig{.vocab = 10, .d_model = 32, .mlp = 80}>
struct Plain : jet::CausalLM<L, "AA", jet::Bind<'A', jet::FullAttention<C>>> {};

template <class Model> std::string written_type() {
  return jet::write_config<Model>().at("model_type").template get<std::string>();
}

}  // namespace

TEST_CASE("hf_config: golden files fit their types, in the layouts of transformers 4 and 5") {
  CHECK(joined(differences_of<golden::TinyJet>(config_file<golden::TinyJet>())) == "");
  CHECK(joined(differences_of<golden::TinyLlama3>(config_file<golden::TinyLlama3>())) == "");
  for (std::string_view const name : {"config.json", "config_transformers5.json"}) {
    CHECK(joined(differences_of<golden::TinyQwen2>(config_file("tiny_qwen2", name))) == "");
    CHECK(joined(differences_of<golden::TinyQwen3>(config_file("tiny_qwen3", name))) == "");
    CHECK(joined(differences_of<golden::TinyLlama>(config_file("tiny_llama", name))) == "");
  }
}

TEST_CASE("hf_config: every difference is reported with key, both values and layers") {
  struct Row {
    std::string path;
    Json value;
    std::string line;
  };
  auto const check = [](auto differences, Json const& config, std::vector<Row> const& rows) {
    for (Row const& row : rows) {
      CAPTURE(row.path);
      CHECK(joined(differences(with(config, row.path, row.value))) == row.line);
    }
  };
  check(
      differences_of<golden::TinyJet>, config_file<golden::TinyJet>(),
      {{"vocab_size", 513, "vocab_size: expected 512, found 513"},
       {"intermediate_size", 180, "intermediate_size: expected 176, found 180"},
       {"rms_norm_eps", 1e-5, "rms_norm_eps: expected 1e-06, found 1e-05"},
       {"tie_word_embeddings", false, "tie_word_embeddings: expected true, found false"},
       {"num_key_value_heads", 4, "num_key_value_heads (kv_heads): expected 2, found 4 (layers 1-2, 4-5)"},
       {"num_attention_heads", 8,
        "num_attention_heads (heads): expected 4, found 8 (layers 1-2, 4-5) | hidden_size / num_attention_heads "
        "(head): expected 16, found 8 (layers 1-2, 4-5)"},
       {"head_dim", 32, "head_dim (head): expected 16, found 32 (layers 1-2, 4-5)"},
       {"rope_theta", 10000, "rope_theta: expected 1e+06, found 10000 (layers 1-2, 4-5)"},
       {"layer_types/3", "attn", "layer_types: expected \"jet\", found \"attn\" (layer 3)"},
       {"efficient_attention_config/swa/window_size", 17,
        "efficient_attention_config.swa.window_size (window): expected 16, found 17 (layers 2, 4)"},
       {"efficient_attention_config/jet/num_heads", 4,
        "efficient_attention_config.jet.num_heads (heads): expected 2, found 4 (layers 0, 3)"},
       {"efficient_attention_config/jet/head_dim", 96,
        "efficient_attention_config.jet.head_dim (head_k): expected 24, found 96 (layers 0, 3) | "
        "efficient_attention_config.jet.expand_v (head_v): expected 64, found 256 (layers 0, 3)"},
       {"efficient_attention_config/jet/expand_v", 2,
        "efficient_attention_config.jet.expand_v (head_v): expected 64, found 48 (layers 0, 3)"},
       {"efficient_attention_config/jet/conv_size", 3,
        "efficient_attention_config.jet.conv_size (conv): expected 4, found 3 (layers 0, 3)"},
       {"efficient_attention_config/jet/dconv_generator_reduction", 4,
        "efficient_attention_config.jet.dconv_generator_reduction (gen_reduction): expected 8, found 4 (layers 0, "
        "3)"},
       {"efficient_attention_config/jet/norm_eps", "1e-6",
        "efficient_attention_config.jet.norm_eps: expected 1e-05, found 1e-06 (layers 0, 3)"}});
  check(differences_of<golden::TinyLlama3>, config_file<golden::TinyLlama3>(),
        {{"hidden_size", 32,
          "hidden_size: expected 64, found 32 | hidden_size / num_attention_heads (head): expected "
          "16, found 8 (layers 0-1)"},
         {"num_hidden_layers", 3, "num_hidden_layers: expected 2, found 3"},
         {"num_hidden_layers", 1, "num_hidden_layers: expected 2, found 1"},
         {"rope_scaling/factor", 32, "rope_scaling.factor (rope_factor): expected 8, found 32 (layers 0-1)"},
         {"rope_scaling/low_freq_factor", 2,
          "rope_scaling.low_freq_factor (rope_low_freq_factor): expected 1, found 2 (layers 0-1)"},
         {"rope_scaling/high_freq_factor", 2,
          "rope_scaling.high_freq_factor (rope_high_freq_factor): expected 4, found 2 (layers 0-1)"},
         {"rope_scaling/original_max_position_embeddings", 8192,
          "rope_scaling.original_max_position_embeddings (rope_original_max_position): expected 64, found 8192 "
          "(layers "
          "0-1)"},
         {"model_type", "qwen2", "model_type qwen2 (qkv_bias): expected false, found true (layers 0-1)"},
         {"model_type", "qwen3", "model_type qwen3 (qk_norm): expected false, found true (layers 0-1)"}});
  // a type with a scaling against a file without one: the numbers of the scaling are not a difference of their own
  CHECK(contains(
      joined(differences_of<golden::TinyLlama3>(without(config_file<golden::TinyLlama3>(), "rope_scaling"))),
      "rope_scaling.factor (rope_factor): expected 8, found 0 (layers 0-1)"));
  CHECK(joined(differences_of<golden::TinyLlama>(with(config_file<golden::TinyLlama>(), "rope_scaling",
                                                      config_file<golden::TinyLlama3>().at("rope_scaling")))) !=
        "");
  // the plan counts, not only the type
  CHECK(joined(jet::compare<golden::TinyJet>(jet::read_config(config_file<golden::TinyJet>(), ""), "JASJJA")) ==
        "layer_types: expected \"jet\", found \"swa\" (layer 4)");
}

TEST_CASE("hf_config: all differences come in one error that names the file") {
  Json config = config_file<golden::TinyJet>();
  config["vocab_size"] = 1;
  config["num_key_value_heads"] = 1;
  config["layer_types"] = "6*['attn']";
  std::string const message = message_of([&] { jet::check_config<golden::TinyJet>(config, "a/config.json"); });
  for (std::string_view const part : {"a/config.json: ", "\n  vocab_size: expected 512, found 1",
                                      "\n  num_key_value_heads (kv_heads): expected 2, found 1",
                                      "\n  layer_types: expected \"jet\", found \"attn\" (layers 0, 3)",
                                      "\n  layer_types: expected \"swa\", found \"attn\" (layers 2, 4)"}) {
    CAPTURE(message);
    CHECK(contains(message, part));
  }
  CHECK(message_of([&] { jet::check_config<golden::TinyJet>(config_file<golden::TinyJet>(), ""); }) == "");
}

TEST_CASE("hf_config: what has no effect is ignored") {
  Json const llama = config_file<golden::TinyLlama>();
  for (auto const& [key, value] : std::vector<std::pair<std::string, Json>>{{"max_position_embeddings", 1},
                                                                            {"bos_token_id", 7},
                                                                            {"pretraining_tp", 4},
                                                                            {"sliding_window", 12},
                                                                            {"torch_dtype", "bfloat16"},
                                                                            {"use_cache", false},
                                                                            {"rope_scaling", nullptr},
                                                                            {"anything", {1, 2}}}) {
    std::string const shown = key;
    CAPTURE(shown);
    CHECK(joined(differences_of<golden::TinyLlama>(with(llama, key, value))) == "");
  }
  // absent members have the defaults of the reference classes
  CHECK(joined(differences_of<golden::TinyLlama>(without(
            without(without(without(llama, "head_dim"), "rope_theta"), "rms_norm_eps"), "tie_word_embeddings"))) ==
        "");
  CHECK(joined(differences_of<golden::TinyLlama>(without(llama, "num_key_value_heads"))) ==
        "num_key_value_heads (kv_heads): expected 2, found 4 (layers 0-1)");
  // 1e-05 that has been a float
  CHECK(joined(differences_of<golden::TinyLlama3>(
            with(config_file<golden::TinyLlama3>(), "rms_norm_eps", 9.999999747378752e-06))) == "");
  Json jet = config_file<golden::TinyJet>();
  for (std::string const key : {"tie_word_embeddings", "rms_norm_eps", "rope_theta", "hidden_act"}) {
    jet.erase(key);
  }
  CHECK(joined(differences_of<golden::TinyJet>(jet)) == "");
}

TEST_CASE("hf_config: forms of layer_types, expand_v and norm_eps") {
  Json const jet = config_file<golden::TinyJet>();
  CHECK(joined(differences_of<golden::TinyJet>(
            with(jet, "layer_types", "['jet', 'attn', 'swa'] + ['jet'] + ['swa', 'attn'] * 1"))) == "");
  CHECK(
      joined(differences_of<golden::TinyJet>(without(jet, "layer_types"))) ==
      "layer_types: expected \"jet\", found \"attn\" (layers 0, 3) | layer_types: expected \"swa\", found \"attn\" "
      "(layers 2, 4)");
  for (Json const& eps : {Json("1e-5"), Json("0.00001"), Json(1e-5)}) {
    CHECK(joined(differences_of<golden::TinyJet>(with(jet, "efficient_attention_config/jet/norm_eps", eps))) == "");
  }
  for (double const expand : {2.6666666667, 2.66666666666666666, 2.66667, 2.66665}) {
    CHECK(joined(differences_of<golden::TinyJet>(with(jet, "efficient_attention_config/jet/expand_v", expand))) ==
          "");
  }
  for (double const expand : {2.6667, 2.6, 0.0, -1.0, 1e300}) {
    CAPTURE(expand);
    CHECK(contains(
        message_of([&] { jet::read_config(with(jet, "efficient_attention_config/jet/expand_v", expand), "f"); }),
        "f: efficient_attention_config: jet: expand_v"));
  }
  // defaults of the section
  Json defaults = jet;
  defaults["efficient_attention_config"]["jet"] = Json::object();
  auto const block = jet::read_config(defaults, "f").layers[0].mixer;
  CHECK(std::get<i64>(block.find("heads")->value) == 6);
  CHECK(std::get<i64>(block.find("head_k")->value) == 256);
  CHECK(std::get<i64>(block.find("head_v")->value) == 512);
  CHECK(std::get<i64>(block.find("conv")->value) == 4);
  CHECK(std::get<i64>(block.find("gen_reduction")->value) == 8);
  CHECK(std::get<double>(block.find("norm_eps")->value) == 1e-5);
}

TEST_CASE("hf_config: unsupported and malformed settings are refused by name") {
  Json const llama = config_file<golden::TinyLlama>();
  Json const llama3 = config_file<golden::TinyLlama3>();
  Json const qwen2 = config_file<golden::TinyQwen2>();
  Json const qwen3 = config_file<golden::TinyQwen3>();
  Json const jet = config_file<golden::TinyJet>();
  Json const hybrid = jet::write_config<Hybrid>();
  Json const yarn = {{"type", "yarn"}, {"factor", 4.0}};
  struct Row {
    Json config;
    std::string part;
  };
  std::vector<Row> const rows{
      {with(llama, "attention_bias", true), "attention_bias: true is not supported for model_type llama"},
      {with(llama, "mlp_bias", true), "mlp_bias: true is not supported"},
      {with(qwen3, "attention_bias", true), "attention_bias: true is not supported for model_type qwen3"},
      {with(qwen2, "use_sliding_window", true), "use_sliding_window: true is not supported"},
      {with(qwen3, "use_sliding_window", true), "use_sliding_window: true is not supported"},
      {with(qwen2, "layer_types", {"full_attention", "sliding_attention"}), "layer_types: \"sliding_attention\""},
      {with(qwen2, "layer_types", {"full_attention"}), "layer_types: 1 layers, num_hidden_layers says 2"},
      {with(llama, "rope_scaling", yarn), "rope_scaling: rope_type: \"yarn\" is not supported"},
      {with(llama, "rope_parameters", yarn), "rope_parameters: rope_type: \"yarn\" is not supported"},
      {with(qwen2, "rope_scaling", {{"rope_type", "linear"}, {"factor", 2}}), "\"linear\" is not supported"},
      {with(llama, "rope_scaling", {{"rope_type", "default"}, {"type", "llama3"}}), "contradict"},
      {with(llama, "rope_scaling", {{"rope_type", "default"}, {"factor", 2}}), "unknown keys \"factor\""},
      {with(llama, "rope_scaling", 3), "rope_scaling: expected an object, found 3"},
      {with(llama3, "rope_scaling/low_freq_factor", 4), "low_freq_factor < high_freq_factor"},
      {with(llama3, "rope_scaling/factor", 0), "factor: expected more than 0"},
      {with(llama3, "rope_scaling/factor", nullptr), "factor: required, but absent or null"},
      {with(llama3, "rope_scaling/attention_factor", 2), "unknown keys \"attention_factor\""},
      {with(llama3, "rope_parameters", {{"rope_type", "default"}}), "rope_parameters contradict"},
      {with(llama3, "rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}),
       "rope_parameters: full_attention: rotary settings per kind of layer"},
      {with(llama, "rope_theta", 0), "rope_theta: expected more than 0, found 0"},
      {with(llama, "partial_rotary_factor", 0.5), "partial_rotary_factor: expected 1, found 0.5"},
      {with(llama, "rope_interleaved", true), "rope_interleaved: true is not supported"},
      {with(qwen2, "is_causal", false), "is_causal: false is not supported"},
      {with(llama, "quantization_config", {{"bits", 4}}), "quantization_config: "},
      {with(llama, "hidden_act", "gelu"), "hidden_act: expected \"silu\", found \"gelu\""},
      {with(llama, "model_type", "mistral"), "model_type: expected jet_nemotron"},
      {without(llama, "model_type"), "model_type: required"},
      {without(qwen2, "hidden_size"), "hidden_size: required"},
      {with(llama, "hidden_size", "32"), "hidden_size: expected an integer"},
      {with(llama, "hidden_size", 0), "hidden_size: expected 1 to"},
      {with(llama, "vocab_size", i64{1} << 40), "vocab_size: expected 1 to"},
      {with(llama, "num_hidden_layers", 1000000), "num_hidden_layers: expected 1 to 4096, found 1000000"},
      {with(llama, "num_key_value_heads", 3), "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
      {with(qwen2, "hidden_size", 33), "hidden_size 33 is not a multiple of num_attention_heads 4"},
      {with(llama, "rms_norm_eps", -1), "rms_norm_eps: expected at least 0"},
      {with(jet, "layer_types/0", "gdn"), "layer_types: expected \"attn\", \"swa\" or \"jet\", found \"gdn\""},
      {with(jet, "num_hidden_layers", 7), "layer_types: 6 layers, num_hidden_layers says 7"},
      {with(jet, "layer_types", "__import__('os')"), "layer_types: "},
      {without(jet, "efficient_attention_config"), "efficient_attention_config: jet: required"},
      {with(jet, "efficient_attention_config/jet/use_gate", true), "jet: unknown keys \"use_gate\""},
      {with(jet, "efficient_attention_config/swa/sinks", 4), "swa: unknown keys \"sinks\""},
      {with(jet, "efficient_attention_config/swa", nullptr), "swa: required by layer_types"},
      {with(jet, "efficient_attention_config/swa/window_size", 0), "window_size: expected 1 to"},
      {with(jet, "efficient_attention_config/jet/norm_eps", "small"), "norm_eps: expected a number or a string"},
      {with(jet, "efficient_attention_config/jet/dconv_generator_reduction", 7), "7 does not divide"},
      {with(hybrid, "layer_types/1", "attn_9"), "blocks: \"attn_9\": required by a layer"},
      {with(hybrid, "blocks/gain/d_model", 32), "\"gain\": d_model: expected hidden_size 64, found 32"},
      {with(hybrid, "blocks/gain/gain", {1}),
       "\"gain\": gain: expected a number, a string, true or false, found an"},
      {with(hybrid, "blocks/gain/kind", nullptr), "\"gain\": kind: required"},
      {without(hybrid, "blocks"), "blocks: required"},
      {without(hybrid, "layer_types"), "layer_types: required"},
      {with(hybrid, "mlp_types", {"own"}), "mlp_types: 1 layers, num_hidden_layers says 7"},
      {with(hybrid, "norm_types/0", "none"), "norms: \"none\": required by a layer"},
      {Json(3), "expected an object, found 3"},
  };
  for (Row const& row : rows) {
    std::string const message = message_of([&] { jet::read_config(row.config, "f.json"); });
    CAPTURE(row.part);
    CAPTURE(message);
    CHECK(contains(message, row.part));
    CHECK(contains(message, "f.json"));
  }
}

TEST_CASE("hf_config: written configs equal the golden ones") {
  auto const check = [](Json const& expected, Json const& plain, Json const& extended,
                        std::vector<std::string> const& only_ours) {
    for (auto const& [key, value] : expected.items()) {
      std::string const shown = key;
      CAPTURE(shown);
      REQUIRE(extended.contains(key));
      if (key == "efficient_attention_config") {
        Json ours = extended.at(key);
        ours["jet"]["norm_eps"] = "1e-5";  // ours is a number
        CHECK(Json::diff(ours, value).empty());
      } else {
        CHECK(extended.at(key) == value);
      }
    }
    for (auto const& [key, value] : extended.items()) {
      std::string const shown = key;
      CAPTURE(shown);
      bool const known = std::find(only_ours.begin(), only_ours.end(), key) != only_ours.end();
      CHECK((expected.contains(key) || known));
    }
    // without a config to take metadata from: exactly what the class needs
    for (auto const& [key, value] : plain.items()) {
      CHECK(extended.at(key) == value);
    }
    CHECK_FALSE(plain.contains("bos_token_id"));
    std::string previous;
    for (auto const& [key, value] : extended.items()) {
      CHECK(previous < key);
      previous = key;
    }
  };
  auto const written = [&]<class Model>(std::vector<std::string> const& only_ours) {
    Json const expected = config_file<Model>();
    check(expected, jet::write_config<Model>(Model::plan(), DType::f32),
          jet::write_config<Model>(Model::plan(), DType::f32, expected), only_ours);
  };
  written.operator()<golden::TinyJet>({});
  written.operator()<golden::TinyQwen2>({});
  written.operator()<golden::TinyQwen3>({});
  written.operator()<golden::TinyLlama>({});
  written.operator()<golden::TinyLlama3>({"head_dim"});
  CHECK(jet::write_config<golden::TinyJet>().at("torch_dtype") == "bfloat16");
  CHECK(jet::write_config<golden::TinyJet>().at("efficient_attention_config").at("jet").at("expand_v").dump() ==
        "2.6666666667");
  // a converted model takes nothing structural from the config that it came from
  Json const converted = jet::write_config<golden::TinyJet>(golden::TinyJet::plan(), DType::bf16,
                                                            Json{{"model_type", "qwen2"},
                                                                 {"layer_types", {"full_attention"}},
                                                                 {"quantization_config", {{"bits", 4}}},
                                                                 {"head_dim", 3},
                                                                 {"eos_token_id", {1, 2}}});
  CHECK(converted.at("eos_token_id") == Json{1, 2});
  CHECK(joined(differences_of<golden::TinyJet>(converted)) == "");
  CHECK(contains(message_of([] { jet::write_config<golden::TinyJet>("JASJSA", DType::bf16, Json(3)); }),
                 "expected an object, found 3"));
  CHECK(contains(message_of([] { jet::write_config<golden::TinyJet>("JASJSX"); }), "'X' is not bound"));
  CHECK(contains(message_of([] { jet::write_config<golden::TinyJet>("JASJSA", DType::u8); }), "u8"));
}

TEST_CASE("hf_config: presets are written as their reference classes and read back") {
  auto const check = []<class Model>(std::string_view type) {
    Json const config = jet::write_config<Model>();
    CHECK(config.at("model_type") == type);
    CHECK(joined(jet::compare<Model>(jet::read_config(config, "f"))) == "");
  };
  check.operator()<jet::JetNemotron2B>("jet_nemotron");
  check.operator()<jet::JetNemotron4B>("jet_nemotron");
  check.operator()<jet::Qwen2_5_1_5B>("qwen2");
  check.operator()<jet::Qwen3_1_7B>("qwen3");
  check.operator()<jet::Llama3_2_1B>("llama");
  check.operator()<jet::SmolLM2_135M>("llama");
  CHECK(jet::write_config<jet::JetNemotron2B>().at("efficient_attention_config").at("jet").at("expand_v").dump() ==
        "2.6666666667");
  CHECK(jet::write_config<jet::JetNemotron4B>().at("efficient_attention_config").at("jet").at("expand_v").dump() ==
        "2.0");
}

TEST_CASE("hf_config: the class is chosen by what it can express") {
  using A = jet::AttentionConfig;
  CHECK(written_type<Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qkv_bias = true}>>() == "qwen2");
  CHECK(written_type<Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qk_norm = true}>>() == "qwen3");
  CHECK(written_type<Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8}>>() == "llama");
  // both, another epsilon of the query norm, no MLP
  CHECK(written_type<
            Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qkv_bias = true, .qk_norm = true}>>() ==
        "jet_hybrid");
  CHECK(written_type<Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8, .qk_norm = true},
                           jet::LmConfig{.vocab = 10, .d_model = 32, .mlp = 80, .eps = 1e-5}>>() == "jet_hybrid");
  CHECK(written_type<Plain<A{.d_model = 32, .heads = 4, .kv_heads = 2, .head = 8},
                           jet::LmConfig{.vocab = 10, .d_model = 32}>>() == "jet_hybrid");
  // one plan of a type may be of another class than its own
  CHECK(jet::write_config<golden::TinyJet>("AAAAAA").at("model_type") == "qwen2");
  CHECK(jet::write_config<golden::TinyJet>("AAAAAS").at("model_type") == "jet_nemotron");
  CHECK(joined(jet::compare<golden::TinyJet>(jet::read_config(jet::write_config<golden::TinyJet>("JJJJJJ"), "f"),
                                             "JJJJJJ")) == "");
  // names of tensors that the classes do not know
  CHECK(jet::config_of(jet::describe<golden::TinyQwen2>(), DType::f32, {}, false).at("model_type") == "jet_hybrid");
}

TEST_CASE("hf_config: a factor is found for every head size that the reference's arithmetic allows") {
  // the rules of the reference: truncated products, each within 1e-5 of an integer
  CHECK(jet::detail::reference_head_v(12, 96, 2.6666666667) == 256);
  CHECK_FALSE(jet::detail::reference_head_v(12, 96, 2.6666666666));  // truncates to 255
  CHECK_FALSE(jet::detail::reference_head_v(2, 3, 2.5));             // 7 and 15
  i64 found = 0;
  for (i64 heads = 1; heads <= 16; heads += 5) {
    for (i64 head_k = 8; head_k <= 256; head_k += 8) {
      for (i64 head_v = 8; head_v <= 512; ++head_v) {
        auto const factor = jet::detail::reference_expand_v(heads, head_k, head_v);
        found += factor && jet::detail::reference_head_v(heads, head_k, *factor) == head_v ? 1 : 0;
      }
    }
  }
  CHECK(found == 4 * 32 * 505);
}

TEST_CASE("hf_config: a stack of our own is written and read back, and differences are found in it") {
  Json const config = jet::parse_json(jet::write_config<Hybrid>(Hybrid::plan(), DType::bf16).dump(), "hybrid");
  CHECK(config.at("model_type") == "jet_hybrid");
  CHECK(config.at("layer_types") == Json{"attn", "gain", "attn_2", "attn", "bare", "swa", "jet"});
  CHECK(config.at("mlp_types") == Json{"own", "swiglu", "own", "own", "none", "own", "own"});
  CHECK(config.at("norm_types") == Json{"own", "own", "own", "own", "own", "rms_norm", "own"});
  CHECK(config.at("blocks").at("gain") ==
        Json{{"kind", "gain"}, {"d_model", 64}, {"gain", 0.1}, {"centred", false}});
  CHECK(config.at("blocks").at("bare") == Json{{"kind", "bare"}});
  CHECK(config.at("blocks").at("swa").at("window") == 7);
  CHECK(config.at("blocks").at("attn_2").at("rope_theta") == 5e5);
  CHECK(config.at("mlps").at("swiglu").at("hidden") == 96);
  CHECK(joined(differences_of<Hybrid>(config)) == "");

  for (auto const& [path, value, line] : std::vector<std::tuple<std::string, Json, std::string>>{
           {"blocks/gain/gain", 0.2, "blocks.gain.gain: expected 0.1, found 0.2 (layer 1)"},
           {"blocks/gain/centred", true, "blocks.gain.centred: expected false, found true (layer 1)"},
           {"blocks/gain/centred", 0, "blocks.gain.centred: expected false, found 0 (layer 1)"},
           {"blocks/gain/more", 1, "blocks.gain.more: expected nothing, found 1 (layer 1)"},
           {"blocks/bare/more", "x", "blocks.bare.more: expected nothing, found \"x\" (layer 4)"},
           {"blocks/attn_2/heads", 2, "blocks.attn_2.heads: expected 4, found 2 (layer 2)"},
           {"blocks/attn/heads", 2, "blocks.attn.heads: expected 4, found 2 (layers 0, 3)"},
           {"mlps/swiglu/hidden", 97, "mlps.swiglu.hidden: expected 96, found 97 (layer 1)"},
           {"mlp_types/4", "own", "mlp_types: expected \"none\", found \"own\" (layer 4)"},
           {"mlp_types/0", "none", "mlp_types: expected \"own\", found \"none\" (layer 0)"},
           {"norms/rms_norm/eps", 1.0, "norms.rms_norm.eps: expected 0.001, found 1 (layer 5)"},
           {"norm_types/5", "own", "norm_types: expected \"rms_norm\", found \"own\" (layer 5)"},
           {"layer_types/6", "bare", "layer_types: expected \"jet\", found \"bare\" (layer 6)"},
           {"intermediate_size", 0, "intermediate_size: expected 48, found 0"}}) {
    std::string const shown = path;
    CAPTURE(shown);
    CHECK(joined(differences_of<Hybrid>(with(config, path, value))) == line);
  }
  Json less = config;
  less["blocks"]["gain"].erase("centred");
  CHECK(joined(differences_of<Hybrid>(less)) == "gain.centred: expected false, found nothing (layer 1)");
}

TEST_CASE("hf_config: values that JSON cannot hold are refused") {
  jet::ModelDescription model = jet::describe<Hybrid>();
  model.layers[1].mixer.fields[1].value = std::numeric_limits<double>::quiet_NaN();
  CHECK(contains(message_of([&] { jet::config_of(model, DType::f32); }), "gain: gain: nan cannot be written"));
  model = jet::describe<Hybrid>();
  model.layers[1].mixer.fields[1].name = "kind";
  CHECK(contains(message_of([&] { jet::config_of(model, DType::f32); }), "cannot be called \"kind\""));
}
