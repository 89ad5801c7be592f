/// \file
/// The one declaration of a block's parameters, and what derives from it: count, names, binding, initialisation.
///
/// A block declares
///   template <class T> struct Params { T q, k, v; };                 // any number of fields, all of type T
///   static constexpr Params<ParamSpec> params();                     // one row per field
/// Rows that a config switches off are `jet::absent`: they count 0, bind to a null Slot and stand in no file.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include <jet/core/macros.hpp>
#include <jet/core/shape.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN

/// How a parameter starts. Element-wise kinds use a and b:
///   zeros, ones; constant(a); normal(mean a, standard deviation b); uniform(a, b);
///   log_uniform(a, b): log of U(a, b), clamped below at log(1e-4) (A_log);
///   dt_bias(a, b): inverse softplus of exp(U(log a, log b)) clamped below at 1e-4.
struct Init {
  enum class Kind : std::uint8_t { zeros, ones, constant, normal, uniform, log_uniform, dt_bias };
  Kind kind = Kind::normal;
  double a = 0.0;
  double b = 0.02;

  static constexpr Init zeros() { return {Kind::zeros, 0, 0}; }
  static constexpr Init ones() { return {Kind::ones, 0, 0}; }
  static constexpr Init constant(double value) { return {Kind::constant, value, 0}; }
  static constexpr Init normal(double mean = 0.0, double deviation = 0.02) {
    return {Kind::normal, mean, deviation};
  }
  static constexpr Init uniform(double low, double high) { return {Kind::uniform, low, high}; }
  static constexpr Init log_uniform(double low, double high) { return {Kind::log_uniform, low, high}; }
  static constexpr Init dt_bias(double low = 1e-3, double high = 1e-1) { return {Kind::dt_bias, low, high}; }
  friend constexpr bool operator==(Init const&, Init const&) = default;
};

/// One parameter tensor.
///   decay     takes part in weight decay
///   keep_f32  stays at the accumulation type whatever Precision::weights says (A_log, dt_bias)
///   part      lets a converter inherit the tensor without knowing the block
///   split     axis of which a tensor-parallel rank takes a slice; -1: replicated
struct ParamSpec {
  Name name{};
  Shape shape{};
  Init init{};
  bool decay = true;
  bool keep_f32 = false;
  Role role = Role::mixer;
  Part part = Part::none;
  int split = -1;

  constexpr bool present() const { return shape.rank > 0; }
};

/// Stands in the place of a row that the config switches off; converts to a row of either table. It differs from a
/// row that was forgotten (all fields empty), which is an error.
struct Absent {
  constexpr operator ParamSpec() const {
    ParamSpec row;
    row.shape.rank = -1;
    return row;
  }
};
inline constexpr Absent absent{};

/// `condition ? row : absent`, spelled so that it reads in a table.
constexpr ParamSpec present_if(bool condition, ParamSpec const& row) {
  return condition ? row : static_cast<ParamSpec>(absent);
}

template <class M>
concept HasParams = requires {
  { M::params() } -> std::same_as<typename M::template Params<ParamSpec>>;
};

namespace detail {

/// Fields of a homogeneous aggregate H<T>; 0 for an empty struct.
template <template <class> class H>
inline constexpr std::size_t arity = std::is_empty_v<H<ParamSpec>> ? 0 : sizeof(H<ParamSpec>) / sizeof(ParamSpec);

template <class T, template <class> class H> constexpr auto to_array(H<T> const& rows) {
  if constexpr (std::is_empty_v<H<T>>) {
    return std::array<T, 0>{};
  } else {
    return std::bit_cast<std::array<T, sizeof(H<T>) / sizeof(T)>>(rows);
  }
}

/// Rows of parameters or state: each absent, or with a unique name and a shape.
template <class Row, std::size_t N> constexpr bool well_formed(std::array<Row, N> const& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].shape.rank == -1 && rows[i].name.empty()) {
      continue;  // absent
    }
    if (rows[i].name.empty() || rows[i].shape.rank < 1 || rows[i].shape.rank > 4 || rows[i].shape.numel() <= 0) {
      return false;
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (rows[j].name == rows[i].name) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace detail

/// Number of fields of M::Params, absent rows included.
template <class M> inline constexpr std::size_t param_arity = detail::arity<M::template Params>;

/// The rows of M::params() as an array, checked once.
template <class M> constexpr auto param_specs() {
  constexpr auto rows = detail::to_array<ParamSpec>(M::params());
  static_assert(
      detail::well_formed(rows),
      "jet: params() must give every row that is not jet::absent a unique name and a shape of rank 1 to 4 with "
      "positive extents (is a row missing?)");
  return rows;
}

/// Number of parameters of one instance of M.
template <class M> constexpr i64 num_params() {
  i64 n = 0;
  for (auto const& row : param_specs<M>()) {
    n += row.shape.numel();
  }
  return n;
}

/// An array of slots as M's named fields: code reads `w.q`.
template <class M> typename M::template Params<Slot> as_params(std::array<Slot, param_arity<M>> const& slots) {
  if constexpr (param_arity<M> == 0) {
    return {};
  } else {
    static_assert(std::is_trivially_copyable_v<Slot>);
    return std::bit_cast<typename M::template Params<Slot>>(slots);
  }
}

/// M's named fields as an array of slots, in the order of the declaration.
template <class M> std::array<Slot, param_arity<M>> as_slots(typename M::template Params<Slot> const& params) {
  return detail::to_array<Slot>(params);
}

JET_NAMESPACE_END
