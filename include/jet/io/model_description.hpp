/// \file
/// A model described at run time: by a type (describe), or by a file (read_config in <jet/io/hf_config.hpp>).
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <jet/block/rms_norm.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/json.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

/// One value of a config at run time.
using ConfigValue = std::variant<bool, i64, double, std::string>;

/// One field of a block's config.
///   name  as the block's config calls it ("heads")
///   key   where a file says it ("num_attention_heads"); empty in the description of a type
struct ConfigField {
  std::string name;
  ConfigValue value;
  std::string key{};
};

/// A block: its kind ("attn", "swa", "jet", a user's) and its config's fields in the order of their declaration; a
/// window of a sliding-window block comes last. A block without `fields` has none.
struct BlockDescription {
  std::string kind;
  std::vector<ConfigField> fields{};

  /// The field, or nullptr.
  ConfigField const* find(std::string_view name) const {
    auto const at =
        std::find_if(fields.begin(), fields.end(), [&](ConfigField const& field) { return field.name == name; });
    return at != fields.end() ? &*at : nullptr;
  }
};

/// One layer. An empty `mlp` or `norm` is the model's own.
struct LayerDescription {
  BlockDescription mixer{};
  std::optional<BlockDescription> mlp{};
  std::optional<BlockDescription> norm{};
};

/// A model at run time, from a type or from a file.
///   mlp  hidden size of the model's own MLP; 0: none
///   eps  of the model's own norms
///   eps_key, types_key  where a file says the epsilon and the kinds of its layers
struct ModelDescription {
  i64 vocab = 0;
  i64 d_model = 0;
  i64 mlp = 0;
  double eps = 1e-6;
  bool tied = true;
  std::vector<LayerDescription> layers{};
  bool layer_norm = false;
  bool embedding_norm = false;
  std::string eps_key = "rms_norm_eps";
  std::string types_key = "layer_types";
};

// ---- descriptions of types

namespace detail {

template <class T> ConfigValue config_value(T const& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value;
  } else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    return static_cast<i64>(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(value);
  } else {
    static_assert(std::is_convertible_v<T const&, std::string_view>,
                  "jet: the fields of a block's config are numbers, booleans, enumerations and names");
    return std::string(std::string_view(value));
  }
}

struct IgnoreField {
  template <class T> constexpr void operator()(std::string_view, T&&) const {}
};

template <class C>
concept HasFields = requires(C const& config) {
  C::fields(config, IgnoreField{});
};

template <class C> std::vector<ConfigField> config_fields(C const& config) {
  std::vector<ConfigField> fields;
  C::fields(config, [&](std::string_view name, auto const& value) {
    fields.push_back({std::string(name), config_value(value)});
  });
  return fields;
}

template <class M> inline constexpr bool is_rms_norm = false;
template <NormConfig C> inline constexpr bool is_rms_norm<RmsNorm<C>> = true;

template <class M> BlockDescription describe_block() {
  BlockDescription block;
  if constexpr (is_rms_norm<M>) {
    block.kind = "rms_norm";
    block.fields = {{"d_model", M::config.d_model}, {"eps", M::config.eps}};
    return block;
  }
  if constexpr (requires {
                  { M::kind } -> std::convertible_to<std::string_view>;
                }) {
    block.kind = std::string_view(M::kind);
  } else {
    block.kind = "norm";  // only a norm may have no kind
  }
  if constexpr (requires { M::config; }) {
    if constexpr (HasFields<std::remove_cvref_t<decltype(M::config)>>) {
      block.fields = config_fields(M::config);
    }
  }
  if constexpr (requires { static_cast<i64>(M::window); }) {
    if (static_cast<i64>(M::window) > 0 && block.find("window") == nullptr) {
      block.fields.push_back({"window", static_cast<i64>(M::window)});
    }
  }
  return block;
}

}  // namespace detail

/// What the type says about a model that runs `plan`. Throws jet::Error for a plan that does not fit.
template <class Model> ModelDescription describe(std::string_view plan = Model::plan()) {
  Model::check_plan(plan);
  ModelDescription model{Model::config.vocab,      Model::config.d_model,       Model::config.mlp,
                         Model::config.eps,        Model::config.tied,          {},
                         Model::config.layer_norm, Model::config.embedding_norm};
  for (char const letter : plan) {
    Model::for_letter(letter, [&]<class L>() {
      LayerDescription layer{detail::describe_block<typename L::mixer>(), {}, {}};
      if constexpr (!std::is_same_v<typename L::mlp, typename Model::mlp>) {
        layer.mlp = detail::describe_block<typename L::mlp>();
      }
      if constexpr (!std::is_same_v<typename L::norm, typename Model::norm>) {
        layer.norm = detail::describe_block<typename L::norm>();
      }
      model.layers.push_back(std::move(layer));
    });
  }
  return model;
}

// ---- what readers of files share

namespace detail {

/// A value as messages show it.
inline std::string value_text(ConfigValue const& value) {
  if (auto const* const text = std::get_if<std::string>(&value)) {
    return in_quotes(*text);
  }
  if (auto const* const number = std::get_if<double>(&value)) {
    std::array<char, 32> buffer{};
    auto const end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), *number).ptr;
    return std::string(buffer.data(), end);
  }
  return std::visit(
      [](auto const& other) {
        if constexpr (std::is_same_v<std::remove_cvref_t<decltype(other)>, std::string>) {
          return other;
        } else {
          return concat(other);
        }
      },
      value);
}

/// `head_k` times `expand_v` as the reference JetBlock computes sizes from a real factor: truncated, with both
/// products within 1e-5 of an integer. Returns the head size of values when every check of the reference passes.
inline std::optional<i64> reference_head_v(i64 heads, i64 head_k, double expand_v) {
  i64 key_dim = 0;
  if (heads < 1 || head_k < 1 || __builtin_mul_overflow(heads, head_k, &key_dim)) {
    return std::nullopt;
  }
  double const head_exact = static_cast<double>(head_k) * expand_v;
  double const value_exact = static_cast<double>(key_dim) * expand_v;
  if (!(head_exact >= 1 && value_exact < 0x1p53)) {
    return std::nullopt;
  }
  auto const head_v = static_cast<i64>(head_exact);
  auto const value_dim = static_cast<i64>(value_exact);
  auto const is_close = [](double a, double b) { return std::abs(a - b) <= 1e-5 * std::max(a, b); };
  bool const fits = heads * head_v == value_dim && is_close(head_exact, static_cast<double>(head_v)) &&
                    is_close(value_exact, static_cast<double>(value_dim));
  return fits ? std::optional(head_v) : std::nullopt;
}

/// A factor from which the reference computes `head_v` exactly, with at most ten decimals where that works
/// (2.6666666667 for 256 / 96), or nothing.
inline std::optional<double> reference_expand_v(i64 heads, i64 head_k, i64 head_v) {
  double const ratio = static_cast<double>(head_v) / static_cast<double>(head_k);
  // rounded up: the reference truncates the product
  for (double const factor : {std::ceil(ratio * 1e10) / 1e10, ratio, std::nextafter(ratio, 2 * ratio)}) {
    if (reference_head_v(heads, head_k, factor) == head_v) {
      return factor;
    }
  }
  return std::nullopt;
}

/// Keeps products of two sizes within 64 bits.
inline constexpr i64 largest_size = i64{1} << 31;

inline i64 checked_size(i64 value, std::string_view key, std::string_view where) {
  JET_CHECK(value >= 1 && value <= largest_size, where, ": ", key, ": expected 1 to ", largest_size, ", found ",
            value);
  return value;
}
inline i64 positive(Json const& object, std::string_view key, std::string_view where) {
  return checked_size(get_int(object, key, where), key, where);
}
inline i64 positive(Json const& object, std::string_view key, std::string_view where, i64 fallback) {
  return checked_size(get_int(object, key, where, fallback), key, where);
}

}  // namespace detail

JET_NAMESPACE_END
