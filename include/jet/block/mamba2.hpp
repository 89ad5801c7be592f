/// \file
/// Mamba2: a state space model with a scalar decay per head (SSD).
#pragma once

#include <array>
#include <limits>
#include <string_view>

#include <jet/block/linear_attention.hpp>
#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/state.hpp>
#include <jet/op/gated_scan.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/mamba2.hpp>
#include <jet/op/norm.hpp>
#include <jet/op/short_conv.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of a Mamba2 layer. In the configs of flash-linear-attention: heads num_heads, head head_dim (heads * head
/// is the inner width), state state_size, groups n_groups, conv conv_kernel, conv_bias use_conv_bias, bias use_bias
/// (of in_proj and out_proj), dt_min and dt_max time_step_limit (dt_max 0: none). The norm runs over inner / groups
/// channels.
struct Mamba2Config {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head = 64;
  i64 state = 128;
  i64 groups = 1;
  i64 conv = 4;
  bool conv_bias = true;
  bool bias = false;
  double dt_min = 0;
  double dt_max = 0;
  double norm_eps = 1e-5;

  constexpr i64 inner() const { return heads * head; }
  constexpr i64 group_dim() const { return groups * state; }
  constexpr i64 conv_dim() const { return inner() + 2 * group_dim(); }
  constexpr i64 in_dim() const { return inner() + conv_dim() + heads; }
  constexpr bool valid() const {
    return d_model > 0 && heads > 0 && head > 0 && state > 0 && groups > 0 && heads % groups == 0 && conv > 0 &&
           dt_min >= 0 && (dt_max == 0 || dt_max >= dt_min) && norm_eps >= 0;
  }
  friend constexpr bool operator==(Mamba2Config const&, Mamba2Config const&) = default;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("heads", self.heads);
    f("head", self.head);
    f("state", self.state);
    f("groups", self.groups);
    f("conv", self.conv);
    f("conv_bias", self.conv_bias);
    f("bias", self.bias);
    f("dt_min", self.dt_min);
    f("dt_max", self.dt_max);
    f("norm_eps", self.norm_eps);
  }
};

/// Mamba2 (arXiv 2405.21060). With u the block's input:
///   z | xBC | dt = u Win^T             widths inner | inner + 2 groups state | heads
///   x | B | C    = silu(conv(xBC) + bias)
///   delta = softplus(dt + dt_bias), within dt_min and dt_max ;  g = -exp(A_log) delta
///   S <- e^g S ;  S <- S + B (delta x)^T ;  o = S^T C + D x
///   y = (w * rms(o * silu(z))) Wout^T  the norm over inner / groups channels
/// Head h reads group h * groups / heads, also where the reference's prefill of several groups does not agree with
/// its own decode step. u, y (tokens, d_model). State: S [heads, state, head] (the reference keeps its transpose);
/// the last `conv` rows of xBC. Cost per token: 2 FLOP per weight, plus about 5 state head per head. Numerics:
/// gates, norm and scan at acc; xBC is rounded to act before the convolution, because the state keeps it so.
template <Mamba2Config C> struct Mamba2 {
  static_assert(C.valid(),
                "jet: Mamba2Config needs all sizes > 0, heads a multiple of groups, and dt_max 0 or at least "
                "dt_min");
  static constexpr auto config = C;
  static constexpr std::string_view kind = "mamba2";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T in, in_bias, conv, conv_bias, A_log, dt_bias, D, norm, out, out_bias; };
  static constexpr Params<ParamSpec> params() {
    constexpr auto mixer = Role::mixer;
    constexpr auto zeros = Init::zeros();
    return {
        .in = {"in_proj.weight", {C.in_dim(), C.d_model}, {}, true, false, mixer, Part::none, -1},
        .in_bias = present_if(C.bias, {"in_proj.bias", {C.in_dim()}, zeros, false, false, mixer, Part::none, -1}),
        .conv = {"conv1d.weight", {C.conv_dim(), 1, C.conv}, {}, true, false, mixer, Part::conv, -1},
        .conv_bias =
            present_if(C.conv_bias, {"conv1d.bias", {C.conv_dim()}, zeros, false, false, mixer, Part::conv, -1}),
        .A_log = {"A_log", {C.heads}, Init::log_uniform(1, 16), false, true, mixer, Part::decay, 0},
        .dt_bias = {"dt_bias", {C.heads}, Init::dt_bias(), false, true, mixer, Part::decay, 0},
        .D = {"D", {C.heads}, Init::ones(), false, true, mixer, Part::none, 0},
        .norm = {"norm.weight", {C.inner()}, Init::ones(), false},
        .out = {"out_proj.weight", {C.d_model, C.inner()}, {}, true, false, mixer, Part::output, 1},
        .out_bias =
            present_if(C.bias, {"out_proj.bias", {C.d_model}, zeros, false, false, mixer, Part::output, -1}),
    };
  }

  template <class T> struct State { T recurrent, conv; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.heads, C.state, C.head}, false, 0, Role::recurrent},
            .conv = detail::conv_state("conv", C.conv_dim(), C.conv)};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    constexpr i64 repeat = C.heads / C.groups;
    View const z = ctx.accumulator(t, C.inner());
    View const raw = ctx.scratch(t, C.conv_dim());
    View const mixed = ctx.accumulator(t, C.conv_dim());
    View const dt = ctx.accumulator(t, C.heads);
    View const g = ctx.accumulator(t, C.heads);
    View const delta = ctx.accumulator(t, C.heads);
    View const o = ctx.accumulator(t, C.inner());
    View const normed = ctx.scratch(t, C.inner());
    constexpr i64 dt_row = C.inner() + C.conv_dim();
    ctx.run(op::Linears{}, x,
            std::array{
                op::Projection{rows(w.in, 0, C.inner()), rows(w.in_bias, 0, C.inner()), z},
                op::Projection{rows(w.in, C.inner(), C.conv_dim()), rows(w.in_bias, C.inner(), C.conv_dim()), raw},
                op::Projection{rows(w.in, dt_row, C.heads), rows(w.in_bias, dt_row, C.heads), dt}});
    ctx.run(op::ShortConv{C.conv}, w.conv, w.conv_bias, raw, s.conv, mixed);
    ctx.run(op::SsdGates{C.dt_min, C.dt_max > 0 ? C.dt_max : std::numeric_limits<double>::infinity()}, dt, w.A_log,
            w.dt_bias, g, delta);
    View const values = mixed.columns(0, C.inner());
    View const keys = detail::repeated(ctx, C.groups, C.state, repeat, mixed.columns(C.inner(), C.group_dim()));
    View const queries =
        detail::repeated(ctx, C.groups, C.state, repeat, mixed.columns(C.inner() + C.group_dim(), C.group_dim()));
    constexpr op::ScanShape shape{C.heads, C.state, C.head, op::Decay::head, op::Update::additive, 1.0};
    ctx.run(op::GatedScan<shape>{}, queries, keys, values, g, delta, s.recurrent, o);
    ctx.run(op::HeadSkip{C.heads, C.head}, w.D, values, o);
    ctx.run(op::GatedRmsNorm{C.groups, C.inner() / C.groups, C.norm_eps, true}, w.norm, o, z, normed);
    ctx.run(op::Linear{}, w.out, w.out_bias, normed, y);
  }

 private:
  /// Rows of a parameter; null for a null one.
  static Slot rows(Slot const& slot, i64 first, i64 count) {
    Slot part = slot;
    if (slot) {
      static_cast<View&>(part) = slot.rows(first, count);
    }
    return part;
  }
};

JET_NAMESPACE_END
