// The library's blocks beside their float64 references: one adapter per block, so that a test is written once.
#pragma once

#include <algorithm>
#include <vector>

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/block/swiglu_mlp.hpp>

#include "test_support.hpp"

namespace tests {

using jet::testing::BlockHarness;
using jet::testing::HarnessOptions;
using jet::testing::state_distance;
using jet::testing::StateValues;

inline Vector flat(jet::reference::ScanState const& state) {
  Vector all;
  for (Matrix const& head : state) {
    all.insert(all.end(), head.data.begin(), head.data.end());
  }
  return all;
}
// What a saved convolution state holds: all but the oldest of `columns` [channels, taps], oldest first.
inline Vector newest(Matrix const& columns) {
  Vector rows;
  for (i64 i = 1; i < columns.cols; ++i) {
    for (i64 c = 0; c < columns.rows; ++c) {
      rows.push_back(columns.at(c, i));
    }
  }
  return rows;
}

// Reference<M>(harness) holds the harness's parameters; `forward(x)` continues its one sequence; `state()` is what
// harness.state(slot) should be, row for row.
template <class M> class Reference;

template <jet::AttentionConfig C, i64 Window> class AttentionReference {
 public:
  template <class H> explicit AttentionReference(H const& h) {
    params_.q = h.param_matrix("q_proj.weight");
    params_.k = h.param_matrix("k_proj.weight");
    params_.v = h.param_matrix("v_proj.weight");
    params_.o = h.param_matrix("o_proj.weight");
    if (C.qkv_bias) {
      params_.q_bias = h.param("q_proj.bias");
      params_.k_bias = h.param("k_proj.bias");
      params_.v_bias = h.param("v_proj.bias");
    }
    if (C.qk_norm) {
      params_.q_norm = h.param("q_norm.weight");
      params_.k_norm = h.param("k_norm.weight");
    }
    config_.heads = C.heads;
    config_.kv_heads = C.kv_heads;
    config_.window = Window;
    config_.norm_eps = C.norm_eps;
    auto const& s = C.rope_scaling;
    config_.inv_freq = s.factor == 0
                           ? jet::reference::rope_inv_freq(C.head, C.rope_theta)
                           : jet::reference::rope_inv_freq_llama3(C.head, C.rope_theta,
                                                                  {s.factor, s.low_freq_factor, s.high_freq_factor,
                                                                   static_cast<double>(s.original_max_position)});
    max_len_ = h.options().max_len;
  }
  Matrix forward(Matrix const& x) { return jet::reference::attention_block(params_, config_, state_, x); }
  std::vector<Vector> state() const {
    i64 const capacity = Window > 0 ? std::min(Window, max_len_) : max_len_;
    i64 const kept = std::min(capacity, state_.position);
    i64 const first = state_.position - kept;
    return {jet::reference::rows_of(state_.keys, first, kept).data,
            jet::reference::rows_of(state_.values, first, kept).data};
  }

 private:
  jet::reference::AttentionParams params_;
  jet::reference::AttentionConfig config_;
  jet::reference::AttentionState state_;
  i64 max_len_ = 0;
};

template <jet::AttentionConfig C> class Reference<jet::FullAttention<C>> : public AttentionReference<C, 0> {
 public:
  using AttentionReference<C, 0>::AttentionReference;
};
template <jet::AttentionConfig C, i64 Window>
class Reference<jet::SlidingWindow<C, Window>> : public AttentionReference<C, Window> {
 public:
  using AttentionReference<C, Window>::AttentionReference;
};

template <jet::JetBlockConfig C> class Reference<jet::JetBlock<C>> {
 public:
  template <class H> explicit Reference(H const& h) {
    params_.q_proj = h.param_matrix("q_proj.weight");
    params_.k_proj = h.param_matrix("k_proj.weight");
    params_.v_proj = h.param_matrix("v_proj.weight");
    params_.g_proj = h.param_matrix("g_proj.weight");
    params_.b_proj = h.param_matrix("b_proj.weight");
    params_.a_proj = h.param_matrix("a_proj.weight");
    params_.o_proj = h.param_matrix("o_proj.weight");
    params_.a_log = h.param("A_log");
    params_.dt_bias = h.param("dt_bias");
    params_.w1 = h.param_matrix("dynamic_conv1d.kernel_generator.w1.weight");
    params_.w2 = h.param_matrix("dynamic_conv1d.kernel_generator.w2.weight");
    params_.w2_bias = h.param("dynamic_conv1d.kernel_generator.w2.bias");
    params_.o_norm = h.param("o_norm.weight");
  }
  Matrix forward(Matrix const& x) {
    jet::reference::JetBlockConfig const config{.d_model = C.d_model,
                                                .heads = C.heads,
                                                .head_k = C.head_k,
                                                .head_v = C.head_v,
                                                .conv = C.conv,
                                                .gen_reduction = C.gen_reduction,
                                                .norm_eps = C.norm_eps};
    return jet::reference::jet_block(params_, config, state_, x);
  }
  std::vector<Vector> state() const { return {flat(state_.recurrent), newest(state_.conv)}; }

 private:
  jet::reference::JetBlockParams params_;
  jet::reference::JetBlockState state_;
};

template <jet::MlpConfig C> class Reference<jet::SwiGluMlp<C>> {
 public:
  template <class H> explicit Reference(H const& h) {
    params_ = {h.param_matrix("gate_proj.weight"), h.param_matrix("up_proj.weight"),
               h.param_matrix("down_proj.weight")};
  }
  Matrix forward(Matrix const& x) const { return jet::reference::swiglu_mlp(params_, x); }
  std::vector<Vector> state() const { return {}; }

 private:
  jet::reference::MlpParams params_;
};

}  // namespace tests
