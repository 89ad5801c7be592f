/// \file
/// config.json of flash-linear-attention: what it says about a model, or about one layer.
///
/// Model types: gla, retnet, mamba2, delta_net, gated_deltanet, rwkv7. Names of tensors: FlaNames, Mamba2Names and
/// Rwkv7Names. The meaning of the keys is that of flash-linear-attention 0.5; options that change the result and
/// are not supported are refused, all in one error, each with its value.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/block/rwkv7_channel_mix.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/json.hpp>
#include <jet/io/layer_types.hpp>
#include <jet/io/model_description.hpp>

JET_NAMESPACE_BEGIN
namespace detail {

/// Reads the config of a model or, with `is_layer`, the arguments of one layer's constructor: a closed set with
/// defaults of its own.
class FlaConfigReader {
 public:
  FlaConfigReader(Json const& json, std::string_view where, std::string_view model_type, bool is_layer = false)
      : json_(json),
        where_(where),
        type_(model_type),
        kind_(kind_of(model_type).value_or("")),
        is_layer_(is_layer),
        d_model_(positive(json, "hidden_size", where_)) {}

  /// What jet calls the layers of a model type; nothing for other types.
  static std::optional<std::string_view> kind_of(std::string_view model_type) {
    auto const at =
        std::find_if(types.begin(), types.end(), [&](auto const& type) { return type[0] == model_type; });
    return at != types.end() ? std::optional((*at)[1]) : std::nullopt;
  }
  /// The type of models whose layers are of this kind; nothing for other kinds.
  static std::optional<std::string_view> type_of(std::string_view kind) {
    auto const at = std::find_if(types.begin(), types.end(), [&](auto const& type) { return type[1] == kind; });
    return at != types.end() ? std::optional((*at)[0]) : std::nullopt;
  }
  static std::string known_types() {
    std::string text;
    for (auto const& type : types) {
      text += concat(text.empty() ? "" : ", ", type[0]);
    }
    return text;
  }

  ModelDescription read_model() {
    i64 const layers = get_int(json_, "num_hidden_layers", where_);
    JET_CHECK(layers >= 1 && layers <= layer_types_limit, where_, ": num_hidden_layers: expected 1 to ",
              layer_types_limit, ", found ", layers);
    bool const is_mamba = kind_ == "mamba2";
    bool const is_rwkv = kind_ == "rwkv7";
    ModelDescription model;
    model.vocab = positive(json_, "vocab_size", where_);
    model.d_model = d_model_;
    model.eps = eps();
    model.eps_key = eps_key();
    model.types_key = "model_type";
    model.tied = flag("tie_word_embeddings", false);
    absent("attn");
    absent("quantization_config");
    activation("hidden_act", is_mamba ? std::vector<std::string_view>{"silu", "swish"}
                                      : std::vector<std::string_view>{is_rwkv ? "sqrelu" : "swish"});
    std::optional<BlockDescription> mlp;
    if (is_rwkv) {
      model.layer_norm = true;
      model.embedding_norm = flag("norm_first", true);
      only("norm_bias", true);
      mlp = described("rwkv7_channel_mix", ChannelMixConfig{d_model_, hidden(false, 32)},
                      {{"hidden", "intermediate_size or hidden_ratio"}});
    } else if (!is_mamba) {
      model.mlp = hidden(true, 256);
    }
    BlockDescription const first = read_block(0);
    BlockDescription const later = is_rwkv && layers > 1 ? read_block(1) : first;
    finish();
    model.layers.assign(static_cast<std::size_t>(layers), LayerDescription{later, mlp, {}});
    model.layers.front().mixer = first;
    return model;
  }

  /// The block of layer `layer`, which matters to RWKV-7 alone.
  BlockDescription read_layer(i64 layer) {
    BlockDescription block = read_block(layer);
    finish();
    return block;
  }

 private:
  /// model_type, kind of block. rwkv7_fla is what rwkv7 was called before.
  static constexpr std::array<std::array<std::string_view, 2>, 7> types{{{"gla", "gla"},
                                                                         {"retnet", "retnet"},
                                                                         {"mamba2", "mamba2"},
                                                                         {"delta_net", "deltanet"},
                                                                         {"gated_deltanet", "gated_deltanet"},
                                                                         {"rwkv7", "rwkv7"},
                                                                         {"rwkv7_fla", "rwkv7"}}};

  // ---- single options; all note the key

  Json const* find(std::string_view key) {
    known_.push_back(key);
    return find_member(json_, key, where_);
  }
  /// Also with null.
  bool has(std::string_view key) const {
    auto const& members = json_.get_ref<Json::object_t const&>();
    return std::any_of(members.begin(), members.end(), [&](auto const& member) { return member.first == key; });
  }
  bool flag(std::string_view key, bool fallback) {
    Json const* const value = find(key);
    return value != nullptr ? bool_from(*value, key_path(where_, key)) : fallback;
  }
  i64 size(std::string_view key, i64 fallback) {
    Json const* const value = find(key);
    return value != nullptr ? checked_size(int_from(*value, key_path(where_, key)), key, where_) : fallback;
  }
  double number(std::string_view key, double fallback) {
    Json const* const value = find(key);
    return value != nullptr ? number_from(*value, key_path(where_, key)) : fallback;
  }
  void without_effect(std::vector<std::string_view> const& keys) {
    known_.insert(known_.end(), keys.begin(), keys.end());
  }

  void refuse(std::string_view key, Json const& value, std::string_view why = {}) {
    bool const is_short = !value.is_structured() || value.size() <= 16;
    refused_ += concat("\n  ", key, ": ", is_short ? printable(value.dump(), 200) : shown(value), why);
  }
  /// Refuses the other value.
  void only(std::string_view key, bool value) {
    if (flag(key, value) != value) {
      refuse(key, !value);
    }
  }
  void absent(std::string_view key) {
    if (Json const* const value = find(key)) {
      refuse(key, *value);
    }
  }
  /// Refuses texts other than these; the first one is the default.
  void activation(std::string_view key, std::vector<std::string_view> const& texts) {
    Json const* const value = find(key);
    if (value != nullptr &&
        std::find(texts.begin(), texts.end(), string_from(*value, key_path(where_, key))) == texts.end()) {
      refuse(key, *value);
    }
  }

  /// Throws for options that were refused and, in the arguments of a layer, for those that are not known.
  void finish() {
    if (is_layer_) {
      for (auto const& [key, value] : json_.get_ref<Json::object_t const&>()) {
        if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
          refuse(printable(key), value, " (unknown)");
        }
      }
    }
    JET_CHECK(refused_.empty(), where_, ": not supported for model_type ", type_, ":", refused_);
  }

  // ---- what several types share

  std::string_view eps_key() const {
    bool const other_name = kind_ == "mamba2" && find_member(json_, "norm_eps", where_) == nullptr &&
                            find_member(json_, "layer_norm_epsilon", where_) != nullptr;
    return other_name ? "layer_norm_epsilon" : "norm_eps";
  }
  double eps() {
    bool const is_small = !is_layer_ && kind_ != "mamba2" && kind_ != "rwkv7";
    double const eps = number(eps_key(), is_small ? 1e-6 : 1e-5);
    JET_CHECK(eps >= 0, where_, ": ", eps_key(), ": expected at least 0, found ", value_text(eps));
    return eps;
  }

  /// Width of the MLP: intermediate_size, else hidden_ratio times the width (of a gated one, 2/3 of that), as a
  /// multiple of `step`.
  i64 hidden(bool is_gated, i64 step) {
    double const ratio = number("hidden_ratio", kind_ == "retnet" && !has("hidden_ratio") ? 2 : 4);
    double const product = static_cast<double>(d_model_) * ratio;
    double const exact = is_gated ? product * 2 / 3 : product;
    JET_CHECK(exact >= 1 && exact <= static_cast<double>(largest_size), where_,
              ": hidden_ratio: ", value_text(ratio), " times hidden_size ", d_model_, " is not a size");
    return size("intermediate_size", (static_cast<i64>(exact) + step - 1) / step * step);
  }

  /// Taps of the short convolutions, 0 without.
  i64 conv(bool fallback) {
    bool const has_conv = flag("use_short_conv", fallback);
    i64 const taps = size("conv_size", 4);
    if (has_conv) {
      only("conv_bias", false);
      only("share_conv_kernel", false);
    } else {
      without_effect({"conv_bias", "share_conv_kernel"});
    }
    return has_conv ? taps : 0;
  }

  /// Size of a head of hidden_size * factor over the heads. Truncated, as the reference does (RetNet's wants an
  /// integer).
  i64 head_of(std::string_view key, double fallback, i64 heads) {
    double const factor = number(key, fallback);
    double const exact = static_cast<double>(d_model_) * factor;
    bool const in_range = exact >= 1 && exact <= static_cast<double>(largest_size);
    bool const is_close = std::abs(exact - std::round(exact)) <= 1e-9 * std::abs(exact);
    i64 const width = !in_range ? 0 : static_cast<i64>(kind_ == "retnet" ? std::round(exact) : exact);
    JET_CHECK(width > 0 && width % heads == 0 && (kind_ != "retnet" || is_close), where_, ": ", key,
              ": hidden_size ", d_model_, " times ", value_text(factor), " is not a multiple of num_heads ", heads);
    return width / heads;
  }

  /// Heads of keys and values, 0 for as many as heads.
  i64 shared_heads(std::string_view key, i64 heads, bool more) {
    i64 const shared = size(key, heads);
    JET_CHECK((more ? shared % heads : heads % shared) == 0, where_, ": ", key, ": ", shared, " and num_heads ",
              heads, more ? ": expected a multiple of num_heads" : ": expected a divisor of num_heads");
    return shared == heads ? 0 : shared;
  }

  template <class Config>
  BlockDescription described(std::string_view kind, Config const& config,
                             std::map<std::string_view, std::string_view> const& keys) const {
    BlockDescription block{std::string(kind), config_fields(config)};
    for (ConfigField& field : block.fields) {
      auto const at = keys.find(field.name);
      field.key = at != keys.end() ? at->second : field.name == "d_model" ? "hidden_size" : field.name;
    }
    return block;
  }

  // ---- the layers

  BlockDescription read_block(i64 layer) {
    without_effect({"model_type", "hidden_size", "mode", "attn_mode", "layer_idx", "num_hidden_layers", "fuse_norm",
                    "max_position_embeddings"});
    if (kind_ == "mamba2") {
      return read_mamba2();
    }
    only("elementwise_affine", true);
    return kind_ == "gla" || kind_ == "retnet" ? read_gated()
           : kind_ == "deltanet"               ? read_delta()
           : kind_ == "gated_deltanet"         ? read_gated_delta()
                                               : read_rwkv7(layer);
  }

  /// GLA and RetNet.
  BlockDescription read_gated() {
    bool const is_gla = kind_ == "gla";
    i64 const heads = size("num_heads", is_gla ? 4 : 8);
    i64 const kv_heads = shared_heads("num_kv_heads", heads, false);
    i64 const head_k = head_of("expand_k", is_gla ? 0.5 : 1.0, heads);
    i64 const head_v = head_of("expand_v", is_gla ? 1.0 : 2.0, heads);
    i64 const taps = conv(false);
    bool const gate = flag("use_output_gate", true);
    if (gate) {
      // Without the fused norm, or with silu by its other name, the tensor has another name.
      if (!flag("fuse_norm", true)) {
        refuse("fuse_norm", false, " with use_output_gate (the norm's tensor is called g_norm.weight)");
      }
      activation("gate_fn", {"swish"});
    } else {
      without_effect({"gate_fn"});
    }
    Activation feature_map = Activation::none;
    if (Json const* const value = find("feature_map")) {
      std::string const& name = string_from(*value, key_path(where_, "feature_map"));
      if (name == "silu" || name == "swish") {
        feature_map = Activation::silu;
      } else if (name == "relu") {
        feature_map = Activation::relu;
      } else {
        refuse("feature_map", *value);
      }
    }
    std::map<std::string_view, std::string_view> keys{{"heads", "num_heads"},
                                                      {"kv_heads", "num_kv_heads"},
                                                      {"head_k", "expand_k"},
                                                      {"head_v", "expand_v"},
                                                      {"conv", "conv_size"},
                                                      {"gate", "use_output_gate"},
                                                      {"rope_theta", "retnet"},
                                                      {"low_rank", "gate_low_rank_dim"},
                                                      {"normalizer", "gate_logit_normalizer"},
                                                      {"clamps", "clamp_min"}};
    if (!is_gla) {
      return described("retnet",
                       RetNetConfig{.d_model = d_model_,
                                    .heads = heads,
                                    .kv_heads = kv_heads,
                                    .head_k = head_k,
                                    .head_v = head_v,
                                    .conv = taps,
                                    .gate = gate,
                                    .feature_map = feature_map,
                                    .norm_eps = eps()},
                       keys);
    }
    only("use_gk", true);
    only("use_gv", false);
    GlaConfig config{.d_model = d_model_,
                     .heads = heads,
                     .kv_heads = kv_heads,
                     .head_k = head_k,
                     .head_v = head_v,
                     .conv = taps,
                     .gate = gate,
                     .feature_map = feature_map,
                     .norm_eps = eps()};
    config.low_rank = size("gate_low_rank_dim", 16);
    config.normalizer = number("gate_logit_normalizer", 16);
    JET_CHECK(config.normalizer > 0, where_, ": gate_logit_normalizer: expected more than 0, found ",
              value_text(config.normalizer));
    // The class of the model does not hand these two to its layers.
    for (std::string_view const key : {"gate_low_rank_dim", "gate_logit_normalizer"}) {
      Json const* const value = is_layer_ ? nullptr : find(key);
      if (value != nullptr && number_from(*value, key_path(where_, key)) != 16) {
        refuse(key, *value, " in the config of a model (its layers have 16)");
      }
    }
    if (Json const* const value = find("clamp_min")) {
      config.clamps = true;
      config.clamp_min = number_from(*value, key_path(where_, "clamp_min"));
      if (config.clamp_min > 0) {
        refuse("clamp_min", *value);
      }
    }
    return described("gla", config, keys);
  }

  BlockDescription read_delta() {
    i64 const heads = size("num_heads", is_layer_ ? 4 : 16);
    DeltaNetConfig config{.d_model = d_model_, .heads = heads};
    config.head_k = head_of("expand_k", 1, heads);
    config.head_v = head_of("expand_v", 1, heads);
    config.conv = conv(true);
    config.gate = flag("use_gate", false);
    config.neg_eigval = flag("allow_neg_eigval", false);
    config.norm_eps = eps();
    only("use_beta", true);
    only("use_output_norm", true);
    activation("qk_norm", {"l2"});
    if (Json const* const value = find("qk_activation")) {
      constexpr std::array<std::pair<std::string_view, Activation>, 4> names{{{"silu", Activation::silu},
                                                                              {"relu", Activation::relu},
                                                                              {"elu", Activation::elu_plus_one},
                                                                              {"identity", Activation::none}}};
      std::string const& name = string_from(*value, key_path(where_, "qk_activation"));
      auto const at =
          std::find_if(names.begin(), names.end(), [&](auto const& known) { return known.first == name; });
      if (at != names.end()) {
        config.activation = at->second;
      } else {
        refuse("qk_activation", *value);
      }
    }
    return described("deltanet", config,
                     {{"heads", "num_heads"},
                      {"head_k", "expand_k"},
                      {"head_v", "expand_v"},
                      {"conv", "conv_size"},
                      {"gate", "use_gate"},
                      {"neg_eigval", "allow_neg_eigval"},
                      {"activation", "qk_activation"}});
  }

  BlockDescription read_gated_delta() {
    GatedDeltaNetConfig config{.d_model = d_model_, .heads = size("num_heads", 6)};
    config.value_heads = shared_heads("num_v_heads", config.heads, true);
    config.head_k = size("head_dim", 256);
    double const expand = number("expand_v", 2);
    std::optional<i64> const head_v = reference_head_v(config.states(), config.head_k, expand);
    JET_CHECK(head_v && *head_v <= largest_size, where_, ": expand_v: ", value_text(expand), " times head_dim ",
              config.head_k, " is not a head size");
    config.head_v = *head_v;
    config.conv = conv(true);
    config.gate = flag("use_gate", true);
    config.neg_eigval = flag("allow_neg_eigval", false);
    config.norm_eps = eps();
    only("use_mamba_gate", true);
    activation("gate_fn", {"swish"});
    return described("gated_deltanet", config,
                     {{"heads", "num_heads"},
                      {"value_heads", "num_v_heads"},
                      {"head_k", "head_dim"},
                      {"head_v", "expand_v"},
                      {"conv", "conv_size"},
                      {"gate", "use_gate"},
                      {"neg_eigval", "allow_neg_eigval"}});
  }

  /// One bound of a time step; JSON has no infinity: the text that load_config makes of it, or what
  /// transformers 5 writes.
  double bound(Json const& value, std::string_view where) const {
    Json const* const boxed = value.is_object() ? find_member(value, "__float__", where) : &value;
    if (boxed != nullptr && boxed->is_string() && boxed->get_ref<std::string const&>() == "Infinity") {
      return std::numeric_limits<double>::infinity();
    }
    return number_from(value, where);
  }

  BlockDescription read_mamba2() {
    Mamba2Config config{.d_model = d_model_};
    config.head = size("head_dim", 64);
    config.state = size("state_size", 128);
    config.groups = size("n_groups", 1);
    config.conv = size("conv_kernel", 4);
    config.conv_bias = flag("use_conv_bias", true);
    config.bias = flag("use_bias", false);
    config.norm_eps = eps();
    double const expand = number("expand", 2);
    double const inner = std::trunc(static_cast<double>(d_model_) * expand);
    JET_CHECK(
        inner >= 1 && inner <= static_cast<double>(largest_size) && static_cast<i64>(inner) % config.head == 0,
        where_, ": expand: ", value_text(expand), " times hidden_size ", d_model_,
        " is not a multiple of head_dim ", config.head);
    i64 const heads = static_cast<i64>(inner) / config.head;
    config.heads = size("num_heads", heads);
    JET_CHECK(config.heads == heads, where_, ": num_heads: expected expand * hidden_size / head_dim = ", heads,
              ", found ", config.heads);
    JET_CHECK(config.heads % config.groups == 0, where_, ": n_groups: ", config.groups,
              " does not divide the number of heads ", config.heads);
    for (std::string_view const key : {"dt_limit", "time_step_limit"}) {
      if (Json const* const value = find(key)) {
        std::string const path = key_path(where_, key);
        JET_CHECK(value->is_array() && value->size() == 2, path, ": expected two numbers, found ", shown(*value));
        config.dt_min = bound((*value)[0], path);
        config.dt_max = bound((*value)[1], path);
        JET_CHECK(config.dt_min >= 0 && std::isfinite(config.dt_min) && config.dt_max > 0 &&
                      config.dt_max >= config.dt_min,
                  path, ": expected 0 <= first <= second, found ", printable(value->dump(), 200));
        config.dt_max = std::isfinite(config.dt_max) ? config.dt_max : 0;
      }
    }
    only("D_has_hdim", false);
    only("rms_norm", true);
    only("rmsnorm", true);
    // transformers' class has this option too and does not look at it
    if (find_member(json_, "time_step_limit", where_) == nullptr) {
      only("norm_before_gate", false);
    } else {
      without_effect({"norm_before_gate"});
    }
    if (is_layer_) {
      activation("hidden_act", {"silu", "swish"});
    }
    without_effect({"chunk_size", "time_step_rank", "time_step_min", "time_step_max", "dt_min", "dt_max",
                    "conv_init", "A_init_range", "dt_init_floor", "initializer_range", "backend"});
    return described("mamba2", config,
                     {{"heads", "expand"},
                      {"head", "head_dim"},
                      {"state", "state_size"},
                      {"groups", "n_groups"},
                      {"conv", "conv_kernel"},
                      {"conv_bias", "use_conv_bias"},
                      {"bias", "use_bias"},
                      {"dt_min", "dt_limit"},
                      {"dt_max", "dt_limit"},
                      {"norm_eps", eps_key()}});
  }

  /// A rank of RWKV-7: where none is given, the layer takes multiples of 32 near factor * sqrt(hidden_size).
  i64 rank(std::string_view key, i64 of_models, double factor) {
    double const own = 32 * std::nearbyint(factor * std::sqrt(static_cast<double>(d_model_)) / 32);
    return size(key, has(key) || is_layer_ ? std::max(i64{32}, static_cast<i64>(own)) : of_models);
  }

  BlockDescription read_rwkv7(i64 layer) {
    Rwkv7Config config{.d_model = d_model_};
    Json const* const head = find("head_dim");
    i64 const heads = size("num_heads", 0);
    if (head == nullptr && heads > 0) {
      JET_CHECK(d_model_ % heads == 0, where_, ": num_heads: ", heads, " does not divide hidden_size ", d_model_);
      config.head = d_model_ / heads;
    } else {
      config.head = size("head_dim", 64);
      JET_CHECK(d_model_ % config.head == 0, where_, ": head_dim: ", config.head, " does not divide hidden_size ",
                d_model_);
    }
    config.heads = d_model_ / config.head;
    if (Json const* const value = find("value_dim")) {
      auto const is_width = [&](Json const& one) { return one.is_null() || one == d_model_; };
      bool const fits = value->is_array() ? std::all_of(value->begin(), value->end(), is_width) : is_width(*value);
      if (!fits) {
        refuse("value_dim", *value);
      }
    }
    double const larger = static_cast<double>(config.head) / 64;
    config.decay_rank = rank("decay_low_rank_dim", 64, 2.5 * larger);
    config.rate_rank = rank("a_low_rank_dim", 64, 2.5 * larger);
    config.gate_rank = rank("gate_low_rank_dim", 128, 5);
    i64 const value_rank = rank("v_low_rank_dim", 16, 1.7 * larger);
    config.value_rank = layer > 0 ? value_rank : 0;
    config.norm_eps = eps();
    return described("rwkv7", config,
                     {{"heads", "head_dim"},
                      {"head", "head_dim"},
                      {"decay_rank", "decay_low_rank_dim"},
                      {"rate_rank", "a_low_rank_dim"},
                      {"value_rank", "v_low_rank_dim"},
                      {"gate_rank", "gate_low_rank_dim"}});
  }

  Json const& json_;
  std::string where_;
  std::string type_;
  std::string kind_;
  bool is_layer_;
  i64 d_model_;
  std::vector<std::string_view> known_;
  std::string refused_;
};

}  // namespace detail

/// What the arguments of a layer's constructor in flash-linear-attention say ("expand_k", "num_heads", ...), or
/// the config.json of a model, which names its `model_type`, about its layers. `kind` is what jet calls the block
/// ("gla", "retnet", "mamba2", "deltanet", "gated_deltanet", "rwkv7"), `layer` its place in the model: RWKV-7's
/// layer 0 differs. `where` names the document in errors. Throws jet::Error that names every option that is not
/// supported.
inline BlockDescription read_fla_layer(Json const& config, std::string_view kind, std::string_view where,
                                       i64 layer = 0) {
  using Reader = detail::FlaConfigReader;
  std::optional<std::string> const named = find_string(config, "model_type", where);
  std::string const type = named ? *named : std::string(Reader::type_of(kind).value_or(""));
  JET_CHECK(Reader::kind_of(type) == kind, where, ": flash-linear-attention has no layer ", detail::in_quotes(kind),
            " of model_type ", detail::in_quotes(type));
  return Reader(config, where, type, !named).read_layer(layer);
}

JET_NAMESPACE_END
