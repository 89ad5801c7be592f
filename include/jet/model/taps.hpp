/// \file
/// Observers of a forward: verification, feature losses and search scores live here. With no observer nothing is
/// called and nothing is computed for it.
#pragma once

#include <string_view>

#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN

/// Where a layer can be observed: the normalised input of the mixer, the outputs of mixer and MLP before they are
/// added, and the residual stream after the layer. In a backward the same points come in reverse order with the
/// gradient.
enum class Point : std::uint8_t { mixer_in, mixer_out, mlp_out, layer_out };

constexpr std::string_view name_of(Point p) {
  switch (p) {
    case Point::mixer_in: return "mixer_in";
    case Point::mixer_out: return "mixer_out";
    case Point::mlp_out: return "mlp_out";
    case Point::layer_out: return "layer_out";
  }
  return "?";
}

/// No observer. Any callable with (i64 layer, Point, View) is one; the view is in the backend's memory and may be
/// written.
struct NoTap {
  void operator()(i64, Point, View const&) const {}
};

JET_NAMESPACE_END
