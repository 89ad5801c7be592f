/// \file
/// config.json in the layout of Hugging Face: what a file says about a model, what a type says, and how they
/// differ.
///
/// Model types that are read and written: jet_nemotron, qwen2, qwen3, llama, and for every other stack jet_hybrid
/// (config_of describes its layout). Those of flash-linear-attention (<jet/io/fla_config.hpp>) are read. The
/// meaning of the keys is that of the reference classes in transformers, in the published Jet-Nemotron code and in
/// flash-linear-attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <jet/block/attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/rms_norm.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/fla_config.hpp>
#include <jet/io/json.hpp>
#include <jet/io/layer_types.hpp>
#include <jet/io/mapped_file.hpp>
#include <jet/io/model_description.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/hf_names.hpp>

JET_NAMESPACE_BEGIN

// ---- descriptions of files

namespace detail {

/// Reads a config.json into a description. Everything that would change the result and is not supported is refused
/// by its name.
class ConfigReader {
 public:
  ConfigReader(Json const& json, std::string_view where)
      : json_(json), where_(where), type_(get_string(json, "model_type", where)) {}

  ModelDescription read() {
    bool const is_jet = type_ == "jet_nemotron";
    bool const is_hybrid = type_ == "jet_hybrid";
    bool const is_qwen = type_ == "qwen2" || type_ == "qwen3";
    bool const is_llama = type_ == "llama";
    if (FlaConfigReader::kind_of(type_)) {
      return FlaConfigReader(json_, where_, type_).read_model();
    }
    JET_CHECK(is_jet || is_hybrid || is_qwen || is_llama, where_,
              ": model_type: expected jet_nemotron, qwen2, qwen3, llama, jet_hybrid or one of "
              "flash-linear-attention (",
              FlaConfigReader::known_types(), "), found ", in_quotes(type_));
    std::string const activation = get_string(json_, "hidden_act", where_, "silu");
    JET_CHECK(activation == "silu", where_, ": hidden_act: expected \"silu\", found ", in_quotes(activation));
    JET_CHECK(find_member(json_, "quantization_config", where_) == nullptr, where_,
              ": quantization_config: quantised checkpoints are not supported");
    require("rope_interleaved", false);
    require("is_causal", true);
    double const partial = get_number(json_, "partial_rotary_factor", where_, 1.0);
    JET_CHECK(partial == 1, where_, ": partial_rotary_factor: expected 1, found ", value_text(partial));

    model_.vocab = is_jet ? positive(json_, "vocab_size", where_, 151936) : positive(json_, "vocab_size", where_);
    model_.d_model = is_jet ? positive(json_, "hidden_size", where_, 1536) : positive(json_, "hidden_size", where_);
    model_.mlp = is_hybrid && get_int(json_, "intermediate_size", where_) == 0
                     ? 0
                     : (is_jet ? positive(json_, "intermediate_size", where_, 8960)
                               : positive(json_, "intermediate_size", where_));
    model_.eps = get_number(json_, "rms_norm_eps", where_, 1e-6);
    JET_CHECK(model_.eps >= 0, where_, ": rms_norm_eps: expected at least 0, found ", value_text(model_.eps));
    model_.tied = get_bool(json_, "tie_word_embeddings", where_, is_jet);

    if (is_hybrid) {
      model_.layer_norm = get_bool(json_, "layer_norm", where_, false);
      model_.embedding_norm = get_bool(json_, "embedding_norm", where_, false);
      read_hybrid();
    } else if (is_jet) {
      read_jet_nemotron();
    } else {
      if (is_qwen) {
        require("use_sliding_window", false);
        check_full_attention();
      }
      if (type_ != "qwen2") {
        require("attention_bias", false);
      }
      if (is_llama) {
        require("mlp_bias", false);
      }
      read_plain();
    }
    return std::move(model_);
  }

 private:
  /// Most keys of a section that describes a block, and most bytes of a text in it. A written section is named
  /// after the kind, perhaps with a number.
  static constexpr std::size_t block_limit = 64;
  static constexpr std::size_t block_text_limit = layer_name_limit - 16;

  void require(std::string_view key, bool value) const {
    JET_CHECK(get_bool(json_, key, where_, value) == value, where_, ": ", key, ": ", !value,
              " is not supported for model_type ", type_);
  }

  static void check_keys(Json const& object, std::string_view where, std::vector<std::string_view> const& known) {
    std::string unknown;
    for (auto const& [key, value] : object.get_ref<Json::object_t const&>()) {
      if (std::find(known.begin(), known.end(), key) == known.end()) {
        unknown += concat(unknown.empty() ? "" : ", ", in_quotes(key));
      }
    }
    if (!unknown.empty()) {
      std::string names;
      for (std::string_view const key : known) {
        names += concat(names.empty() ? "" : ", ", key);
      }
      fail(where, ": unknown keys ", unknown, "; known are ", names);
    }
  }

  i64 layer_count() const {
    i64 const layers = get_int(json_, "num_hidden_layers", where_);
    JET_CHECK(layers >= 1 && layers <= layer_types_limit, where_, ": num_hidden_layers: expected 1 to ",
              layer_types_limit, ", found ", layers);
    return layers;
  }
  void check_count(std::size_t found, std::string_view key) const {
    i64 const layers = layer_count();
    JET_CHECK(static_cast<i64>(found) == layers, where_, ": ", key, ": ", found, " layers, num_hidden_layers says ",
              layers);
  }

  // ---- rotary positions

  struct Rope {
    RopeConfig config{};
    std::string theta_key = "rope_theta";
    std::string section = "rope_scaling";
  };

  RopeScaling read_scaling(Json const& rope, std::string const& where) const {
    std::optional<std::string> const named = find_string(rope, "rope_type", where);
    std::optional<std::string> const legacy = find_string(rope, "type", where);
    JET_CHECK(!named || !legacy || *named == *legacy, where, ": rope_type ", in_quotes(named.value_or("")),
              " and type ", in_quotes(legacy.value_or("")), " contradict each other");
    std::string const type = named ? *named : legacy.value_or("default");
    bool const is_llama3 = type == "llama3";
    JET_CHECK(type == "default" || is_llama3, where, ": rope_type: ", in_quotes(type),
              " is not supported; supported are \"default\" and \"llama3\"");
    for (auto const& [key, value] : rope.get_ref<Json::object_t const&>()) {
      JET_CHECK(!value.is_object(), where, ": ", printable(key),
                ": rotary settings per kind of layer are not supported");
    }
    std::vector<std::string_view> known{"rope_type", "type", "rope_theta", "partial_rotary_factor"};
    if (is_llama3) {
      known.insert(known.end(),
                   {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"});
    }
    check_keys(rope, where, known);
    double const partial = get_number(rope, "partial_rotary_factor", where, 1.0);
    JET_CHECK(partial == 1, where, ": partial_rotary_factor: expected 1, found ", value_text(partial));
    if (!is_llama3) {
      return {};
    }
    RopeScaling const scaling{get_number(rope, "factor", where), get_number(rope, "low_freq_factor", where),
                              get_number(rope, "high_freq_factor", where),
                              positive(rope, "original_max_position_embeddings", where)};
    JET_CHECK(scaling.factor > 0, where, ": factor: expected more than 0, found ", value_text(scaling.factor));
    JET_CHECK(0 < scaling.low_freq_factor && scaling.low_freq_factor < scaling.high_freq_factor, where,
              ": expected 0 < low_freq_factor < high_freq_factor, found ", value_text(scaling.low_freq_factor),
              " and ", value_text(scaling.high_freq_factor));
    return scaling;
  }

  Rope read_rope(double default_theta) const {
    Rope rope;
    rope.config.theta = get_number(json_, "rope_theta", where_, default_theta);
    Json const* const scaling = find_object(json_, "rope_scaling", where_);
    Json const* const parameters = find_object(json_, "rope_parameters", where_);
    if (scaling != nullptr) {
      rope.config.scaling = read_scaling(*scaling, where_ + ": rope_scaling");
      rope.config.theta = get_number(*scaling, "rope_theta", where_ + ": rope_scaling", rope.config.theta);
    }
    if (parameters != nullptr) {
      std::string const where = where_ + ": rope_parameters";
      RopeConfig const other{get_number(*parameters, "rope_theta", where, rope.config.theta),
                             read_scaling(*parameters, where)};
      bool const theta_twice = find_member(json_, "rope_theta", where_) != nullptr;
      JET_CHECK((!theta_twice || other.theta == rope.config.theta) &&
                    (scaling == nullptr || other.scaling == rope.config.scaling),
                where_, ": rope_parameters contradict rope_theta or rope_scaling");
      rope = {other, "rope_parameters.rope_theta", "rope_parameters"};
    }
    JET_CHECK(rope.config.theta > 0, where_, ": ", rope.theta_key, ": expected more than 0, found ",
              value_text(rope.config.theta));
    return rope;
  }

  // ---- blocks of the reference classes

  BlockDescription read_attention(bool qkv_bias, bool qk_norm, double default_theta) const {
    AttentionConfig config{.d_model = model_.d_model, .qkv_bias = qkv_bias, .qk_norm = qk_norm};
    config.heads = positive(json_, "num_attention_heads", where_);
    config.kv_heads = positive(json_, "num_key_value_heads", where_, config.heads);
    JET_CHECK(config.heads % config.kv_heads == 0, where_, ": num_attention_heads ", config.heads,
              " is not a multiple of num_key_value_heads ", config.kv_heads);
    bool const has_head = find_member(json_, "head_dim", where_) != nullptr;
    if (has_head) {
      config.head = positive(json_, "head_dim", where_);
    } else {
      JET_CHECK(model_.d_model % config.heads == 0, where_, ": hidden_size ", model_.d_model,
                " is not a multiple of num_attention_heads ", config.heads, " and head_dim is not given");
      config.head = model_.d_model / config.heads;
    }
    config.norm_eps = model_.eps;
    Rope const rope = read_rope(default_theta);
    config.rope_theta = rope.config.theta;
    config.rope_scaling = rope.config.scaling;

    std::string const implied = concat("model_type ", type_);
    std::map<std::string_view, std::string> const keys{
        {"d_model", "hidden_size"},
        {"heads", "num_attention_heads"},
        {"kv_heads", "num_key_value_heads"},
        {"head", has_head ? "head_dim" : "hidden_size / num_attention_heads"},
        {"qkv_bias", implied},
        {"qk_norm", implied},
        {"norm_eps", "rms_norm_eps"},
        {"rope_theta", rope.theta_key},
        {"rope_factor", rope.section + ".factor"},
        {"rope_low_freq_factor", rope.section + ".low_freq_factor"},
        {"rope_high_freq_factor", rope.section + ".high_freq_factor"},
        {"rope_original_max_position", rope.section + ".original_max_position_embeddings"}};
    BlockDescription block{"attn", config_fields(config)};
    for (ConfigField& field : block.fields) {
      field.key = keys.at(field.name);
    }
    return block;
  }

  void check_full_attention() const {
    Json const* const types = find_member(json_, "layer_types", where_);
    if (types == nullptr) {
      return;
    }
    std::vector<std::string> const names = parse_layer_types(*types, where_ + ": layer_types");
    check_count(names.size(), "layer_types");
    for (std::string const& name : names) {
      JET_CHECK(name == "full_attention", where_, ": layer_types: ", in_quotes(name),
                " is not supported for model_type ", type_, ", only \"full_attention\"");
    }
  }

  void read_plain() {
    BlockDescription const block = read_attention(type_ == "qwen2", type_ == "qwen3", 1e4);
    model_.layers.assign(static_cast<std::size_t>(layer_count()), LayerDescription{block, {}, {}});
  }

  BlockDescription read_jet(Json const& sections) const {
    std::string const where = where_ + ": efficient_attention_config: jet";
    Json const* const jet = find_object(sections, "jet", where_ + ": efficient_attention_config");
    JET_CHECK(jet != nullptr, where, ": required by layer_types, but absent or null");
    check_keys(*jet, where,
               {"mode", "expand_v", "num_heads", "head_dim", "norm_eps", "conv_size", "dconv_generator_reduction",
                "dconv_implementation"});
    JetBlockConfig config{.d_model = model_.d_model};
    config.heads = positive(*jet, "num_heads", where, 6);
    config.head_k = positive(*jet, "head_dim", where, 256);
    config.conv = positive(*jet, "conv_size", where, 4);
    config.gen_reduction = positive(*jet, "dconv_generator_reduction", where, 8);
    config.norm_eps = get_number_or_numeric_string(*jet, "norm_eps", where, 1e-5);
    double const expand = get_number(*jet, "expand_v", where, 2.0);
    double const exact = static_cast<double>(config.head_k) * expand;
    JET_CHECK(exact >= 0.5 && exact <= static_cast<double>(largest_size), where, ": expand_v: ", value_text(expand),
              " times head_dim ", config.head_k, " is not a head size");
    config.head_v = std::llround(exact);
    JET_CHECK(std::abs(static_cast<double>(config.head_v) - exact) <= 1e-5 * static_cast<double>(config.head_v),
              where, ": expand_v: ", value_text(expand), " times head_dim ", config.head_k, " is ",
              value_text(exact), ", expected an integer within 1e-5");
    JET_CHECK(config.value_dim() % config.gen_reduction == 0, where, ": dconv_generator_reduction ",
              config.gen_reduction, " does not divide num_heads * head_dim * expand_v = ", config.value_dim());
    std::map<std::string_view, std::string_view> const keys{
        {"d_model", "hidden_size"}, {"heads", "num_heads"}, {"head_k", "head_dim"},
        {"head_v", "expand_v"},     {"conv", "conv_size"},  {"gen_reduction", "dconv_generator_reduction"},
        {"norm_eps", "norm_eps"}};
    BlockDescription block{"jet", config_fields(config)};
    for (ConfigField& field : block.fields) {
      field.key = concat("efficient_attention_config.jet.", keys.at(field.name));
    }
    return block;
  }

  void read_jet_nemotron() {
    std::vector<std::string> names;
    if (Json const* const types = find_member(json_, "layer_types", where_)) {
      names = parse_layer_types(*types, where_ + ": layer_types");
      check_count(names.size(), "layer_types");
    } else {
      names.assign(static_cast<std::size_t>(layer_count()), "attn");
    }
    Json const none = Json::object();
    Json const* const given = find_object(json_, "efficient_attention_config", where_);
    Json const& sections = given != nullptr ? *given : none;
    std::map<std::string, BlockDescription> blocks;
    for (std::string const& name : names) {
      if (blocks.find(name) == blocks.end()) {
        if (name == "jet") {
          blocks[name] = read_jet(sections);
        } else if (name == "attn" || name == "swa") {
          blocks[name] = read_attention(true, false, 1e6);
          if (name == "swa") {
            read_window(sections, blocks[name]);
          }
        } else {
          fail(where_, ": layer_types: expected \"attn\", \"swa\" or \"jet\", found ", in_quotes(name));
        }
      }
      model_.layers.push_back({blocks[name], {}, {}});
    }
  }

  void read_window(Json const& sections, BlockDescription& block) const {
    std::string const where = where_ + ": efficient_attention_config: swa";
    Json const* const swa = find_object(sections, "swa", where_ + ": efficient_attention_config");
    JET_CHECK(swa != nullptr, where, ": required by layer_types, but absent or null");
    check_keys(*swa, where, {"window_size"});
    block.kind = "swa";
    block.fields.push_back(
        {"window", positive(*swa, "window_size", where), "efficient_attention_config.swa.window_size"});
  }

  // ---- jet_hybrid

  static ConfigValue read_value(Json const& value, std::string const& where) {
    if (value.is_boolean()) {
      return value.get<bool>();
    }
    if (value.is_number_float()) {
      return value.get<double>();
    }
    if (value.is_number()) {
      return int_from(value, where);
    }
    JET_CHECK(value.is_string(), where, ": expected a number, a string, true or false, found ", shown(value));
    return short_text(value.get_ref<std::string const&>(), where);
  }

  static std::string const& short_text(std::string const& text, std::string const& where) {
    JET_CHECK(text.size() <= block_text_limit, where, ": expected a text of at most ", block_text_limit,
              " bytes, found ", text.size());
    return text;
  }

  BlockDescription read_section(std::string const& sections, std::string const& name) const {
    std::string const where = concat(where_, ": ", sections);
    Json const* const section = find_object(get_object(json_, sections, where_), name, where);
    std::string const path = concat(where, ": ", in_quotes(name));
    JET_CHECK(section != nullptr, path, ": required by a layer, but absent or null");
    // Every layer gets a copy of its section.
    JET_CHECK(section->size() <= block_limit, path, ": expected at most ", block_limit, " keys, found ",
              section->size());
    BlockDescription block{short_text(get_string(*section, "kind", path), path + ": kind")};
    JET_CHECK(block.kind != "none", path, ": kind: \"none\" says that there is no block, and has no section");
    for (auto const& [key, value] : section->get_ref<Json::object_t const&>()) {
      if (key == "kind") {
        continue;
      }
      std::string const key_where = concat(path, ": ", printable(key));
      block.fields.push_back(
          {short_text(key, key_where), read_value(value, key_where), concat(sections, ".", name, ".", key)});
      auto const* const width = std::get_if<i64>(&block.fields.back().value);
      JET_CHECK(key != "d_model" || (width != nullptr && *width == model_.d_model), path,
                ": d_model: expected hidden_size ", model_.d_model, ", found ", shown(value));
    }
    return block;
  }

  /// The names of one part of every layer; empty when the key is absent.
  std::vector<std::string> part_names(std::string const& key) const {
    Json const* const types = find_member(json_, key, where_);
    if (types == nullptr) {
      return {};
    }
    std::vector<std::string> names = parse_layer_types(*types, concat(where_, ": ", key));
    check_count(names.size(), key);
    return names;
  }

  void read_hybrid() {
    std::map<std::string, BlockDescription> blocks, mlps, norms;
    auto const section = [&](auto& known, std::string const& sections, std::string const& name) {
      auto const at = known.find(name);
      return at != known.end() ? at->second : known.emplace(name, read_section(sections, name)).first->second;
    };
    get_member(json_, "layer_types", where_);
    std::vector<std::string> const mixer_names = part_names("layer_types");
    std::vector<std::string> const mlp_names = part_names("mlp_types");
    std::vector<std::string> const norm_names = part_names("norm_types");
    for (std::size_t l = 0; l < mixer_names.size(); ++l) {
      LayerDescription layer{section(blocks, "blocks", mixer_names[l]), {}, {}};
      if (!mlp_names.empty() && mlp_names[l] != "own") {
        layer.mlp = mlp_names[l] == "none" ? BlockDescription{"none"} : section(mlps, "mlps", mlp_names[l]);
      }
      if (!norm_names.empty() && norm_names[l] != "own") {
        layer.norm = section(norms, "norms", norm_names[l]);
      }
      model_.layers.push_back(std::move(layer));
    }
  }

  Json const& json_;
  std::string where_;
  std::string type_;
  ModelDescription model_;
};

}  // namespace detail

/// What a config.json says about a model. `where` names the file in errors. Keys without an effect on the result
/// are ignored; unsupported settings throw jet::Error with the key and the value.
inline ModelDescription read_config(Json const& config, std::string_view where) {
  return detail::ConfigReader(config, where).read();
}

/// Reads a config.json. Python writes numbers that JSON lacks, NaN, Infinity and -Infinity: they become strings of
/// that name. Errors as load_json.
inline Json load_config(std::filesystem::path const& path) {
  MappedFile const file(path);
  std::string_view const text = file.text();
  if (text.find("NaN") == text.npos && text.find("Infinity") == text.npos) {
    return load_json(path);
  }
  JET_CHECK(file.size() <= json_max_bytes, path.string(), ": expected at most ", json_max_bytes,
            " bytes of JSON, found ", file.size());
  std::string quoted;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = 1;
    if (in_string) {
      length = text[at] == '\\' && at + 1 < text.size() ? 2 : 1;
      in_string = text[at] != '"';
    } else {
      in_string = text[at] == '"';
      for (std::string_view const word : {"NaN", "Infinity", "-Infinity"}) {
        length = text.substr(at).starts_with(word) ? word.size() : length;
      }
    }
    std::string_view const piece = text.substr(at, length);
    quoted += length > 2 ? concat('"', piece, '"') : std::string(piece);
    at += length;
  }
  return parse_json(quoted, path.string());
}

// ---- differences

namespace detail {

/// Without the fields that have no effect: the width, which is the model's; the epsilon of a norm and the numbers
/// of a scaling that attention does not use; the bound of gates that are not clamped; heads of keys or values that
/// are as many as heads.
inline BlockDescription effective(BlockDescription block) {
  auto const drop = [&](std::string_view name) {
    auto const at = std::find_if(block.fields.begin(), block.fields.end(),
                                 [&](ConfigField const& field) { return field.name == name; });
    if (at != block.fields.end()) {
      block.fields.erase(at);
    }
  };
  drop("d_model");
  if (block.kind == "attn" || block.kind == "swa") {
    ConfigField const* const qk_norm = block.find("qk_norm");
    if (qk_norm != nullptr && qk_norm->value == ConfigValue(false)) {
      drop("norm_eps");
    }
    ConfigField const* const factor = block.find("rope_factor");
    if (factor != nullptr && factor->value == ConfigValue(0.0)) {
      drop("rope_low_freq_factor");
      drop("rope_high_freq_factor");
      drop("rope_original_max_position");
    }
  }
  ConfigField const* const clamps = block.kind == "gla" ? block.find("clamps") : nullptr;
  if (clamps != nullptr && clamps->value == ConfigValue(false)) {
    drop("clamp_min");
  }
  bool const is_gated = block.kind == "gated_deltanet";
  if (is_gated || block.kind == "gla" || block.kind == "retnet") {
    ConfigField const* const heads = block.find("heads");
    for (ConfigField& field : block.fields) {
      if (field.name == (is_gated ? "value_heads" : "kv_heads") && heads != nullptr &&
          field.value == heads->value) {
        field.value = i64{0};
      }
    }
  }
  return block;
}

/// Whether two values mean the same. Reals may differ by the rounding of a float: files made from other formats
/// hold 9.999999747378752e-06 for 1e-05.
inline bool same_value(ConfigValue const& a, ConfigValue const& b) {
  auto const number = [](ConfigValue const& value) -> std::optional<double> {
    if (auto const* const integer = std::get_if<i64>(&value)) {
      return static_cast<double>(*integer);
    }
    auto const* const real = std::get_if<double>(&value);
    return real != nullptr ? std::optional(*real) : std::nullopt;
  };
  if (a.index() == b.index() && !std::holds_alternative<double>(a)) {
    return a == b;
  }
  std::optional<double> const x = number(a);
  std::optional<double> const y = number(b);
  return x && y && std::abs(*x - *y) <= 0x1p-23 * std::max(std::abs(*x), std::abs(*y));
}

inline bool same_block(BlockDescription const& a, BlockDescription const& b) {
  BlockDescription const x = effective(a);
  BlockDescription const y = effective(b);
  return x.kind == y.kind && std::equal(x.fields.begin(), x.fields.end(), y.fields.begin(), y.fields.end(),
                                        [](ConfigField const& f, ConfigField const& g) {
                                          return f.name == g.name && f.value == g.value;
                                        });
}

/// Collects differences; equal ones of several layers become one line.
class Differences {
 public:
  void add(std::string_view key, std::string_view expected, std::string_view found, i64 layer = -1) {
    std::string text = concat(key, ": expected ", expected, ", found ", found);
    auto at =
        std::find_if(entries_.begin(), entries_.end(), [&](Entry const& entry) { return entry.text == text; });
    if (at == entries_.end()) {
      at = entries_.insert(at, Entry{std::move(text), {}});
    }
    if (layer >= 0) {
      at->layers.push_back(layer);
    }
  }
  void add_unless_same(std::string_view key, ConfigValue const& expected, ConfigValue const& found) {
    if (!same_value(expected, found)) {
      add(key, value_text(expected), value_text(found));
    }
  }

  void add_block(std::string_view types, std::optional<BlockDescription> const& expected,
                 std::optional<BlockDescription> const& found, i64 layer) {
    auto const kind = [](auto const& block) { return block ? in_quotes(block->kind) : std::string("\"own\""); };
    if (kind(expected) != kind(found) || expected.has_value() != found.has_value()) {
      add(types, kind(expected), kind(found), layer);
      return;
    }
    if (!expected) {
      return;
    }
    BlockDescription const type = effective(*expected);
    BlockDescription const file = effective(*found);
    for (ConfigField const& field : type.fields) {
      ConfigField const* const used = file.find(field.name);
      ConfigField const* const other = used != nullptr ? used : found->find(field.name);  // without effect there
      std::string const value = value_text(field.value);
      if (other == nullptr) {
        add(concat(type.kind, ".", field.name), value, "nothing", layer);
      } else if (!same_value(field.value, other->value)) {
        add(name_of_field(*other), value, value_text(other->value), layer);
      }
    }
    for (ConfigField const& field : file.fields) {
      if (expected->find(field.name) == nullptr) {
        add(name_of_field(field), "nothing", value_text(field.value), layer);
      }
    }
  }

  std::vector<std::string> lines() const {
    std::vector<std::string> lines;
    for (Entry const& entry : entries_) {
      lines.push_back(entry.text + layers_text(entry.layers));
    }
    return lines;
  }

 private:
  struct Entry {
    std::string text;
    std::vector<i64> layers;
  };

  /// The file's key, and the type's name for it where that is another word.
  static std::string name_of_field(ConfigField const& field) {
    bool const same = field.key == field.name || field.key.ends_with("." + field.name);
    return same ? printable(field.key, 400) : concat(printable(field.key, 400), " (", printable(field.name), ")");
  }

  /// " (layers 0-13, 15)"
  static std::string layers_text(std::vector<i64> const& layers) {
    std::string text;
    for (std::size_t first = 0; first < layers.size();) {
      std::size_t last = first;
      while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) {
        ++last;
      }
      text += concat(text.empty() ? "" : ", ", layers[first]);
      if (last > first) {
        text += concat("-", layers[last]);
      }
      first = last + 1;
    }
    return text.empty() ? text : concat(layers.size() > 1 ? " (layers " : " (layer ", text, ")");
  }

  std::vector<Entry> entries_;
};

}  // namespace detail

/// All differences between what is expected (a type) and what was found (a file), a line each: the file's key,
/// both values, and for blocks the layers. Empty when the file fits.
inline std::vector<std::string> differences(ModelDescription const& expected, ModelDescription const& found) {
  detail::Differences all;
  all.add_unless_same("vocab_size", expected.vocab, found.vocab);
  all.add_unless_same("hidden_size", expected.d_model, found.d_model);
  all.add_unless_same("intermediate_size", expected.mlp, found.mlp);
  all.add_unless_same("num_hidden_layers", static_cast<i64>(expected.layers.size()),
                      static_cast<i64>(found.layers.size()));
  all.add_unless_same(found.eps_key, expected.eps, found.eps);
  all.add_unless_same("tie_word_embeddings", expected.tied, found.tied);
  all.add_unless_same("layer_norm", expected.layer_norm, found.layer_norm);
  all.add_unless_same("embedding_norm", expected.embedding_norm, found.embedding_norm);
  for (std::size_t l = 0; l < std::min(expected.layers.size(), found.layers.size()); ++l) {
    LayerDescription const& type = expected.layers[l];
    LayerDescription const& file = found.layers[l];
    all.add_block(found.types_key, type.mixer, file.mixer, static_cast<i64>(l));
    all.add_block("mlp_types", type.mlp, file.mlp, static_cast<i64>(l));
    all.add_block("norm_types", type.norm, file.norm, static_cast<i64>(l));
  }
  return all.lines();
}

/// The differences between a type that runs `plan` and a file.
template <class Model>
std::vector<std::string> compare(ModelDescription const& found, std::string_view plan = Model::plan()) {
  return differences(describe<Model>(plan), found);
}

namespace detail {

inline void check_differences(std::vector<std::string> const& lines, std::string_view where,
                              std::string_view what) {
  if (!lines.empty()) {
    std::string text =
        concat(where, ": does not fit the ", what, " type (expected by the type, found in the file):");
    for (std::string const& line : lines) {
      text += "\n  " + line;
    }
    fail(text);
  }
}

}  // namespace detail

/// Throws jet::Error that names the file and lists all differences, unless the file fits the type.
template <class Model>
void check_config(Json const& config, std::string_view where, std::string_view plan = Model::plan()) {
  detail::check_differences(compare<Model>(read_config(config, where), plan), where, "model");
}

/// Throws jet::Error that lists all differences, unless a layer of flash-linear-attention (read_fla_layer) is the
/// block.
template <class Block> void check_layer(Json const& config, std::string_view where, i64 layer = 0) {
  detail::Differences all;
  all.add_block("model_type", detail::describe_block<Block>(), read_fla_layer(config, Block::kind, where, layer),
                -1);
  detail::check_differences(all.lines(), where, "block");
}

// ---- writing

namespace detail {

/// The config value of type C that a description was made from, or nothing when it is of another config. `more`
/// names a field that is not part of C.
template <class C> std::optional<C> config_from(BlockDescription const& block, std::string_view more = {}) {
  C config{};
  std::size_t used = more.empty() ? 0 : 1;
  bool fits = more.empty() || block.find(more) != nullptr;
  C::fields(config, [&](std::string_view name, auto& value) {
    using T = std::remove_cvref_t<decltype(value)>;
    using Stored = std::conditional_t<std::is_same_v<T, bool>, bool,
                                      std::conditional_t<std::is_floating_point_v<T>, double, i64>>;
    ConfigField const* const field = block.find(name);
    Stored const* const stored = field != nullptr ? std::get_if<Stored>(&field->value) : nullptr;
    if (stored != nullptr) {
      value = static_cast<T>(*stored);
      ++used;
    } else {
      fits = false;
    }
  });
  return fits && used == block.fields.size() ? std::optional(config) : std::nullopt;
}

/// What torch calls a dtype.
inline std::string torch_name_of(DType type) {
  switch (type) {
    case DType::f64: return "float64";
    case DType::f32: return "float32";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
    default: fail("a checkpoint cannot be written as ", name_of(type));
  }
}

/// Writes a description as the reference class that can express it, else as jet_hybrid.
class ConfigWriter {
 public:
  ConfigWriter(ModelDescription const& model, DType torch_dtype) : model_(model) {
    json_ = {{"vocab_size", model.vocab},
             {"hidden_size", model.d_model},
             {"intermediate_size", model.mlp},
             {"num_hidden_layers", model.layers.size()},
             {"rms_norm_eps", finite(model.eps, "rms_norm_eps")},
             {"tie_word_embeddings", model.tied},
             {"hidden_act", "silu"},
             {"torch_dtype", torch_name_of(torch_dtype)}};
  }

  Json write(bool reference_names, Json const& extra) {
    if (!(reference_names && (write_plain() || write_jet_nemotron()))) {
      write_hybrid();
    }
    JET_CHECK(extra.is_null() || extra.is_object(), "extra config: expected an object, found ", shown(extra));
    if (extra.is_object()) {
      for (auto const& [key, value] : extra.get_ref<Json::object_t const&>()) {
        if (!is_structural(key) && !json_.contains(key)) {
          json_[key] = value;
        }
      }
    }
    auto& members = json_.get_ref<Json::object_t&>();
    std::map<std::string, Json> sorted;
    for (auto& [key, value] : members) {
      sorted.emplace(key, std::move(value));
    }
    Json result = Json::object();
    for (auto& [key, value] : sorted) {
      result[key] = std::move(value);
    }
    return result;
  }

 private:
  /// Keys that say what the model is: never taken from another config.
  static bool is_structural(std::string_view key) {
    constexpr std::string_view keys[] = {"architectures",
                                         "auto_map",
                                         "model_type",
                                         "torch_dtype",
                                         "dtype",
                                         "vocab_size",
                                         "hidden_size",
                                         "hidden_act",
                                         "intermediate_size",
                                         "num_hidden_layers",
                                         "head_dim",
                                         "num_attention_heads",
                                         "rms_norm_eps",
                                         "rope_theta",
                                         "num_key_value_heads",
                                         "rope_scaling",
                                         "rope_parameters",
                                         "tie_word_embeddings",
                                         "layer_types",
                                         "attention_bias",
                                         "efficient_attention_config",
                                         "mlp_bias",
                                         "is_causal",
                                         "use_sliding_window",
                                         "rope_interleaved",
                                         "blocks",
                                         "partial_rotary_factor",
                                         "mlp_types",
                                         "mlps",
                                         "quantization_config",
                                         "norm_types",
                                         "norms",
                                         "layer_norm",
                                         "embedding_norm"};
    return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
  }

  static double finite(double value, std::string_view name) {
    JET_CHECK(std::isfinite(value), name, ": ", value_text(value), " cannot be written to a config");
    return value;
  }

  /// Reference classes have one MLP and one norm for all layers.
  bool has_own_parts() const {
    return model_.mlp > 0 && !model_.layer_norm && !model_.embedding_norm &&
           std::all_of(model_.layers.begin(), model_.layers.end(),
                       [](LayerDescription const& layer) { return !layer.mlp && !layer.norm; });
  }

  /// Heads that share d_model among them.
  bool has_usual_heads(AttentionConfig const& config) const {
    return config.heads > 0 && model_.d_model % config.heads == 0 && config.head == model_.d_model / config.heads;
  }

  void write_class(std::string_view type, std::string_view architecture) {
    json_["model_type"] = type;
    json_["architectures"] = {architecture};
  }
  void write_attention(AttentionConfig const& config) {
    json_["num_attention_heads"] = config.heads;
    json_["num_key_value_heads"] = config.kv_heads;
    json_["rope_theta"] = finite(config.rope_theta, "rope_theta");
    RopeScaling const& scaling = config.rope_scaling;
    json_["rope_scaling"] = nullptr;
    if (scaling.factor != 0) {
      json_["rope_scaling"] = {{"rope_type", "llama3"},
                               {"factor", finite(scaling.factor, "rope_factor")},
                               {"low_freq_factor", finite(scaling.low_freq_factor, "rope_low_freq_factor")},
                               {"high_freq_factor", finite(scaling.high_freq_factor, "rope_high_freq_factor")},
                               {"original_max_position_embeddings", scaling.original_max_position}};
    }
  }

  /// qwen2, qwen3 or llama.
  bool write_plain() {
    BlockDescription const& block = model_.layers.front().mixer;
    bool const uniform = std::all_of(model_.layers.begin(), model_.layers.end(),
                                     [&](LayerDescription const& layer) { return same_block(layer.mixer, block); });
    std::optional<AttentionConfig> const config = config_from<AttentionConfig>(block);
    if (block.kind != "attn" || !uniform || !config || !has_own_parts() || (config->qkv_bias && config->qk_norm) ||
        (config->qk_norm && config->norm_eps != model_.eps)) {
      return false;
    }
    write_attention(*config);
    if (config->qkv_bias) {
      write_class("qwen2", "Qwen2ForCausalLM");
      if (!has_usual_heads(*config)) {
        json_["head_dim"] = config->head;
      }
    } else {
      config->qk_norm ? write_class("qwen3", "Qwen3ForCausalLM") : write_class("llama", "LlamaForCausalLM");
      json_["head_dim"] = config->head;
      json_["attention_bias"] = false;
    }
    if (config->qk_norm || config->qkv_bias) {
      json_["use_sliding_window"] = false;
    } else {
      json_["mlp_bias"] = false;
    }
    return true;
  }

  bool write_jet_nemotron() {
    std::map<std::string, BlockDescription const*> first;
    for (LayerDescription const& layer : model_.layers) {
      auto const [at, is_new] = first.emplace(layer.mixer.kind, &layer.mixer);
      if (!is_new && !same_block(*at->second, layer.mixer)) {
        return false;
      }
    }
    std::optional<AttentionConfig> attention;
    std::optional<JetBlockConfig> jet;
    std::optional<double> expand_v;
    Json sections = Json::object();
    for (auto const& [kind, block] : first) {  // attn, jet, swa
      if (kind == "jet") {
        jet = config_from<JetBlockConfig>(*block);
        expand_v = jet ? reference_expand_v(jet->heads, jet->head_k, jet->head_v) : std::nullopt;
        if (!expand_v) {
          return false;
        }
        sections["jet"] = {{"mode", "chunk"},
                           {"expand_v", *expand_v},
                           {"num_heads", jet->heads},
                           {"head_dim", jet->head_k},
                           {"norm_eps", finite(jet->norm_eps, "norm_eps")},
                           {"conv_size", jet->conv},
                           {"dconv_generator_reduction", jet->gen_reduction},
                           {"dconv_implementation", "triton"}};
        continue;
      }
      bool const is_window = kind == "swa";
      std::optional<AttentionConfig> const config =
          config_from<AttentionConfig>(*block, is_window ? std::string_view("window") : std::string_view());
      ConfigField const* const field = is_window ? block->find("window") : nullptr;
      i64 const* const window = field != nullptr ? std::get_if<i64>(&field->value) : nullptr;
      if ((kind != "attn" && !is_window) || (is_window && window == nullptr) || !config || !config->qkv_bias ||
          config->qk_norm || !has_usual_heads(*config)) {
        return false;
      }
      if (attention && !same_block({"attn", config_fields(*attention)}, {"attn", config_fields(*config)})) {
        return false;
      }
      attention = config;
      if (is_window) {
        sections["swa"] = {{"window_size", *window}};
      }
    }
    if (!has_own_parts()) {
      return false;
    }
    write_class("jet_nemotron", "JetNemotronForCausalLM");
    json_["auto_map"] = {{"AutoConfig", "configuration_jet_nemotron.JetNemotronConfig"},
                         {"AutoModelForCausalLM", "modeling_jet_nemotron.JetNemotronForCausalLM"}};
    // the class wants attention sizes also where no layer has attention
    write_attention(attention.value_or(AttentionConfig{.heads = 1, .kv_heads = 1, .rope_theta = 1e6}));
    json_["efficient_attention_config"] = std::move(sections);
    json_["layer_types"] = Json::array();
    for (LayerDescription const& layer : model_.layers) {
      json_["layer_types"].push_back(layer.mixer.kind);
    }
    return true;
  }

  /// Names the distinct blocks of one part of the layers: the kind, and for further blocks of one kind the kind
  /// with a number. Writes `<types>` (a name per layer) and `<sections>` (per name the kind and every field).
  class Sections {
   public:
    std::string name(BlockDescription const& block, std::initializer_list<std::string_view> reserved) {
      for (auto const& [known, name] : blocks_) {
        if (same_block(*known, block)) {
          return name;
        }
      }
      auto const taken = [&](std::string const& name) {
        return std::find(reserved.begin(), reserved.end(), name) != reserved.end() || json_.contains(name);
      };
      std::string name = block.kind;
      for (int number = 2; taken(name); ++number) {
        name = concat(block.kind, "_", number);
      }
      Json section = {{"kind", block.kind}};
      for (ConfigField const& field : block.fields) {
        JET_CHECK(!section.contains(field.name), "block ", block.kind, ": a config field cannot be called ",
                  in_quotes(field.name));
        std::visit(
            [&](auto const& value) {
              if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, double>) {
                section[field.name] = finite(value, concat(block.kind, ": ", field.name));
              } else {
                section[field.name] = value;
              }
            },
            field.value);
      }
      json_[name] = std::move(section);
      blocks_.emplace_back(&block, name);
      return name;
    }
    Json const& json() const { return json_; }

   private:
    Json json_ = Json::object();
    std::vector<std::pair<BlockDescription const*, std::string>> blocks_;
  };

  void write_hybrid() {
    write_class("jet_hybrid", "JetHybridForCausalLM");
    Sections blocks, mlps, norms;
    Json layer_types = Json::array(), mlp_types = Json::array(), norm_types = Json::array();
    bool has_mlps = false, has_norms = false;
    for (LayerDescription const& layer : model_.layers) {
      layer_types.push_back(blocks.name(layer.mixer, {}));
      mlp_types.push_back(!layer.mlp                  ? "own"
                          : layer.mlp->kind == "none" ? "none"
                                                      : mlps.name(*layer.mlp, {"own", "none"}));
      norm_types.push_back(!layer.norm ? "own" : norms.name(*layer.norm, {"own"}));
      has_mlps = has_mlps || layer.mlp;
      has_norms = has_norms || layer.norm;
    }
    json_["layer_types"] = std::move(layer_types);
    json_["blocks"] = blocks.json();
    if (has_mlps) {
      json_["mlp_types"] = std::move(mlp_types);
      json_["mlps"] = mlps.json();
    }
    if (model_.layer_norm) {
      json_["layer_norm"] = true;
    }
    if (model_.embedding_norm) {
      json_["embedding_norm"] = true;
    }
    if (has_norms) {
      json_["norm_types"] = std::move(norm_types);
      json_["norms"] = norms.json();
    }
  }

  ModelDescription const& model_;
  Json json_;
};

}  // namespace detail

/// A config.json for a model. It is of the reference class that can express the stack:
///   all attention of one config       qwen2 (bias), qwen3 (query/key norm), llama (neither)
///   attn, swa and jet, one config of  jet_nemotron, if attention has biases and heads of d_model / heads, and a
///   each kind                         factor expand_v gives the sizes of the JetBlock in the reference's
///   arithmetic
/// with the model's own MLP and norm in all layers; `reference_names` says that tensors are named as those classes
/// name them. Every other stack is a jet_hybrid: `layer_types` names a section of `blocks` for every layer, which
/// holds the block's `kind` and all fields of its config (further configs of one kind are called attn_2, ...).
/// `mlp_types` with `mlps`, and `norm_types` with `norms`, are there if a layer has an MLP or a norm that is not
/// the model's own; "own" is the model's own and "none" no MLP.
///
/// Keys of `extra` that do not say what the model is (ids of special tokens, max_position_embeddings, versions) are
/// taken over: pass the config that the weights were loaded with. Keys are sorted. Throws jet::Error.
inline Json config_of(ModelDescription const& model, DType torch_dtype, Json const& extra = {},
                      bool reference_names = true) {
  JET_CHECK(!model.layers.empty(), "a config needs at least one layer");
  return detail::ConfigWriter(model, torch_dtype).write(reference_names, extra);
}

/// The config.json of a type that runs `plan`.
template <class Model>
Json write_config(std::string_view plan = Model::plan(), DType torch_dtype = DType::bf16, Json const& extra = {}) {
  return config_of(describe<Model>(plan), torch_dtype, extra, std::is_same_v<typename Model::names, HfNames>);
}

JET_NAMESPACE_END
