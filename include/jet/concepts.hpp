/// \file
/// The contract in one page: what a backend, a mixer, an op and a model are.
#pragma once

#include <concepts>
#include <string_view>

#include <jet/core/context.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/param.hpp>
#include <jet/core/saved.hpp>
#include <jet/core/state.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN

/// A place where ops run: a tag that selects kernels and a precision policy.
template <class B>
concept Backend = requires {
  typename B::tag;
  { B::precision } -> std::convertible_to<Precision>;
};

namespace detail {
struct AnyBackend {
  struct tag {};
  static constexpr Precision precision{};
};
}  // namespace detail

/// A block: token mixer or MLP. Declares its parameters and state once; `forward` maps x (tokens, width) to y
/// (tokens, width) for any number of tokens, continuing from the state's content and leaving it after the last
/// token.
///   kind    short name, as in layer_types
///   width   d_model
/// Optional: config (a structural value with `fields`, for saving), shared() (values that cross layers), Saved and
/// backward (training), init(ctx, params) (after the default initialisation).
template <class M>
concept Mixer = HasParams<M> && HasState<M> &&
    requires(Context<detail::AnyBackend>& ctx, typename M::template Params<Slot> const& w,
             typename M::template State<Slot>& s, View x, View y) {
  { M::kind } -> std::convertible_to<std::string_view>;
  { M::width } -> std::convertible_to<i64>;
  M::forward(ctx, w, s, x, y);
};

/// A normalisation in front of a mixer or an MLP, alone and with the residual addition before it.
template <class N>
concept NormLayer = HasParams<N> &&
    requires(Context<detail::AnyBackend>& ctx, typename N::template Params<Slot> const& w, View x) {
  { N::width } -> std::convertible_to<i64>;
  N::forward(ctx, w, x, x);
  N::add_forward(ctx, w, x, x, x);
};

/// A block that can be trained: it says what its forward keeps, and has a backward (core/saved.hpp).
template <class M>
concept Trainable = Mixer<M> && HasSaved<M> &&
    requires(Context<detail::AnyBackend>& ctx, typename M::template Params<Slot> const& w,
             typename M::template State<Slot>& s, typename M::template Saved<Slot>& saved, View x) {
  M::forward(ctx, w, s, x, x, &saved);
  M::backward(ctx, w, s, x, saved, x, x, w, s, s);
};

/// A block that declares values that cross layers.
template <class M>
concept HasShared = requires {
  { M::shared() } -> std::same_as<typename M::template Shared<SharedSpec>>;
};

JET_NAMESPACE_END
