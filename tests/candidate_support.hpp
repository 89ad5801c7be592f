// The linear-attention candidates beside their float64 references.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>

#include "block_support.hpp"

namespace tests {

// The rows of a layer with one state and, with taps, three convolutions.
template <class S> std::vector<Vector> state_rows(S const& state, i64 taps) {
  std::vector<Vector> rows{flat(state.recurrent)};
  if (taps > 0) {
    for (Matrix const* const conv : {&state.q_conv, &state.k_conv, &state.v_conv}) {
      rows.push_back(newest(*conv));
    }
  }
  return rows;
}
inline double activation(jet::Activation function, double x) {
  switch (function) {
    case jet::Activation::silu: return jet::reference::silu(x);
    case jet::Activation::relu: return x > 0 ? x : 0;
    case jet::Activation::elu_plus_one: return x > 0 ? x + 1 : std::exp(x);
    default: return x;
  }
}
// The projections, convolutions and output norm of a layer.
template <class P, class H> P projections(H const& h, bool gate, i64 taps, std::string const& norm) {
  P params;
  params.q_proj = h.param_matrix("q_proj.weight");
  params.k_proj = h.param_matrix("k_proj.weight");
  params.v_proj = h.param_matrix("v_proj.weight");
  params.o_proj = h.param_matrix("o_proj.weight");
  params.o_norm = h.param(norm);
  if (gate) {
    params.g_proj = h.param_matrix("g_proj.weight");
  }
  if (taps > 0) {
    params.q_conv = h.param_matrix("q_conv1d.weight");
    params.k_conv = h.param_matrix("k_conv1d.weight");
    params.v_conv = h.param_matrix("v_conv1d.weight");
  }
  return params;
}

template <jet::GatedDeltaNetConfig C> class Reference<jet::GatedDeltaNet<C>> {
 public:
  template <class H>
  explicit Reference(H const& h)
      : params_(projections<jet::reference::GatedDeltaNetParams>(h, C.gate, C.conv, "o_norm.weight")) {
    params_.b_proj = h.param_matrix("b_proj.weight");
    params_.a_proj = h.param_matrix("a_proj.weight");
    params_.a_log = h.param("A_log");
    params_.dt_bias = h.param("dt_bias");
  }
  Matrix forward(Matrix const& x) {
    return jet::reference::gated_deltanet(params_,
                                          {.d_model = C.d_model,
                                           .heads = C.heads,
                                           .value_heads = C.value_heads,
                                           .head_k = C.head_k,
                                           .head_v = C.head_v,
                                           .norm_eps = C.norm_eps,
                                           .allow_neg_eigval = C.neg_eigval},
                                          state_, x);
  }
  std::vector<Vector> state() const { return state_rows(state_, C.conv); }

 private:
  jet::reference::GatedDeltaNetParams params_;
  jet::reference::GatedDeltaNetState state_;
};

template <jet::DeltaNetConfig C> class Reference<jet::DeltaNet<C>> {
 public:
  template <class H>
  explicit Reference(H const& h)
      : params_(projections<jet::reference::LinearAttentionParams>(h, C.gate, C.conv, "o_norm.weight")) {
    params_.b_proj = h.param_matrix("b_proj.weight");
  }
  Matrix forward(Matrix const& x) {
    jet::reference::LinearAttentionConfig config{.heads = C.heads, .head_k = C.head_k, .head_v = C.head_v};
    config.norm_eps = C.norm_eps;
    config.allow_neg_eigval = C.neg_eigval;
    config.feature_map = [](double v) { return activation(C.activation, v); };
    return jet::reference::deltanet(params_, config, state_, x);
  }
  std::vector<Vector> state() const { return state_rows(state_, C.conv); }

 private:
  jet::reference::LinearAttentionParams params_;
  jet::reference::LinearAttentionState state_;
};

template <jet::GlaConfig C> class Reference<jet::Gla<C>> {
 public:
  template <class H>
  explicit Reference(H const& h)
      : params_(projections<jet::reference::LinearAttentionParams>(
            h, C.gate, C.conv, C.gate ? "g_norm_swish_gate.weight" : "g_norm.weight")) {
    params_.gk_0 = h.param_matrix("gk_proj.0.weight");
    params_.gk_1 = h.param_matrix("gk_proj.1.weight");
    params_.gk_bias = h.param("gk_proj.1.bias");
  }
  Matrix forward(Matrix const& x) {
    jet::reference::LinearAttentionConfig config{
        .heads = C.heads, .kv_heads = C.kv_heads, .head_k = C.head_k, .head_v = C.head_v};
    config.norm_eps = C.norm_eps;
    config.normalizer = C.normalizer;
    config.clamp_min = C.clamps ? C.clamp_min : -1e300;
    config.feature_map = [](double v) { return activation(C.feature_map, v); };
    return jet::reference::gla(params_, config, state_, x);
  }
  std::vector<Vector> state() const { return state_rows(state_, C.conv); }

 private:
  jet::reference::LinearAttentionParams params_;
  jet::reference::LinearAttentionState state_;
};

template <jet::RetNetConfig C> class Reference<jet::RetNet<C>> {
 public:
  template <class H>
  explicit Reference(H const& h)
      : params_(projections<jet::reference::LinearAttentionParams>(
            h, C.gate, C.conv, C.gate ? "g_norm_swish_gate.weight" : "g_norm.weight")) {}
  Matrix forward(Matrix const& x) {
    jet::reference::LinearAttentionConfig config{
        .heads = C.heads, .kv_heads = C.kv_heads, .head_k = C.head_k, .head_v = C.head_v};
    config.norm_eps = C.norm_eps;
    config.rope_theta = C.rope_theta;
    config.feature_map = [](double v) { return activation(C.feature_map, v); };
    return jet::reference::retnet(params_, config, state_, x);
  }
  std::vector<Vector> state() const { return state_rows(state_, C.conv); }

 private:
  jet::reference::LinearAttentionParams params_;
  jet::reference::LinearAttentionState state_;
};

template <jet::Mamba2Config C> class Reference<jet::Mamba2<C>> {
 public:
  template <class H> explicit Reference(H const& h) {
    params_.in_proj = h.param_matrix("in_proj.weight");
    params_.conv = h.param_matrix("conv1d.weight");
    params_.a_log = h.param("A_log");
    params_.dt_bias = h.param("dt_bias");
    params_.skip = h.param("D");
    params_.norm = h.param("norm.weight");
    params_.out_proj = h.param_matrix("out_proj.weight");
    if (C.bias) {
      params_.in_bias = h.param("in_proj.bias");
      params_.out_bias = h.param("out_proj.bias");
    }
    if (C.conv_bias) {
      params_.conv_bias = h.param("conv1d.bias");
    }
  }
  Matrix forward(Matrix const& x) {
    jet::reference::Mamba2Config config{
        .d_model = C.d_model, .heads = C.heads, .head = C.head, .state = C.state, .groups = C.groups};
    config.norm_eps = C.norm_eps;
    config.dt_min = C.dt_min;
    config.dt_max = C.dt_max > 0 ? C.dt_max : 1e300;
    return jet::reference::mamba2(params_, config, state_, x);
  }
  std::vector<Vector> state() const { return {flat(state_.recurrent), newest(state_.conv)}; }

 private:
  jet::reference::Mamba2Params params_;
  jet::reference::Mamba2State state_;
};

// Of a stack's first layer, `forward` leaves its values in v_first; of a later one, it reads them there.
template <jet::Rwkv7Config C> class Reference<jet::Rwkv7<C>> {
 public:
  template <class H> explicit Reference(H const& h) {
    auto& p = params_;
    p.x_r = h.param("x_r");
    p.x_w = h.param("x_w");
    p.x_k = h.param("x_k");
    p.x_v = h.param("x_v");
    p.x_a = h.param("x_a");
    p.x_g = h.param("x_g");
    p.k_k = h.param("k_k");
    p.k_a = h.param("k_a");
    p.r_k = h.param("r_k");
    p.r_proj = h.param_matrix("r_proj.weight");
    p.k_proj = h.param_matrix("k_proj.weight");
    p.v_proj = h.param_matrix("v_proj.weight");
    p.o_proj = h.param_matrix("o_proj.weight");
    p.w_1 = h.param_matrix("w_lora.lora.0.weight");
    p.w_2 = h.param_matrix("w_lora.lora.2.weight");
    p.w_bias = h.param("w_lora.lora.2.bias");
    p.a_1 = h.param_matrix("a_lora.lora.0.weight");
    p.a_2 = h.param_matrix("a_lora.lora.2.weight");
    p.a_bias = h.param("a_lora.lora.2.bias");
    if (C.value_rank > 0) {
      p.v_1 = h.param_matrix("v_lora.lora.0.weight");
      p.v_2 = h.param_matrix("v_lora.lora.2.weight");
      p.v_bias = h.param("v_lora.lora.2.bias");
    }
    p.g_1 = h.param_matrix("g_lora.lora.0.weight");
    p.g_2 = h.param_matrix("g_lora.lora.2.weight");
    p.norm = h.param("g_norm.weight");
    p.norm_bias = h.param("g_norm.bias");
  }
  Matrix forward(Matrix const& x) {
    return jet::reference::rwkv7(params_,
                                 {.d_model = C.d_model, .heads = C.heads, .head = C.head, .norm_eps = C.norm_eps},
                                 state_, x, v_first);
  }
  std::vector<Vector> state() const { return {flat(state_.recurrent), state_.last}; }

  Matrix v_first;

 private:
  jet::reference::Rwkv7Params params_;
  jet::reference::Rwkv7State state_;
};

}  // namespace tests
