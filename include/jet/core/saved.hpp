/// \file
/// What a forward keeps for its backward. Declared like state; the caller allocates, or passes nothing and nothing
/// is kept.
///
/// A block that can be trained declares
///   template <class T> struct Saved { T x, h; };
///   static constexpr Saved<SavedSpec> saved();
///   forward(ctx, w, s, x, y, Saved<Slot>* saved = nullptr);
///   backward(ctx, w, s0, x, saved, dy, dx, dw, ds_end, ds_begin);
/// In backward, rows of dw are added to (a null row is frozen: no product is formed for it), dx is overwritten
/// (null: not formed); null s0 and ds_end mean zero, a null ds_begin is not formed.
#pragma once

#include <array>
#include <concepts>

#include <jet/core/macros.hpp>
#include <jet/core/param.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// How often a saved row is kept: once per token, per chunk of 64 tokens, or per sequence.
enum class Per : std::uint8_t { token, chunk, sequence };

/// One saved tensor: (tokens | chunks | sequences, shape...). dtype none: the policy's act.
struct SavedSpec {
  Name name{};
  Shape shape{};
  Per per = Per::token;
  DType dtype = DType::none;
};

template <class M>
concept HasSaved = requires {
  { M::saved() } -> std::same_as<typename M::template Saved<SavedSpec>>;
};

JET_NAMESPACE_END
