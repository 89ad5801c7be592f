// The blocks that properties are tried on.
#pragma once

#include <string>
#include <vector>

#include <jet/testing/conformance.hpp>

#include "block_support.hpp"

namespace tests {

using jet::testing::in_pieces;
using jet::testing::pieces_of;
using jet::testing::random_pieces;

// ---- the blocks that properties are tried on

inline constexpr jet::AttentionConfig attention_config{
    .d_model = 20, .heads = 6, .kv_heads = 2, .head = 8, .qkv_bias = true, .qk_norm = true};
inline constexpr jet::JetBlockConfig jet_config{
    .d_model = 20, .heads = 3, .head_k = 10, .head_v = 16, .conv = 4, .gen_reduction = 4};
inline constexpr jet::MlpConfig mlp_config{.d_model = 20, .hidden = 37};
inline constexpr i64 window = 24;
using Full = jet::FullAttention<attention_config>;
using Window = jet::SlidingWindow<attention_config, window>;
using Jet = jet::JetBlock<jet_config>;
using Mlp = jet::SwiGluMlp<mlp_config>;

template <class M, class B> class Subject : public BlockHarness<M, B> {
 public:
  explicit Subject(HarnessOptions const& options = {}) : BlockHarness<M, B>(options) { this->randomise(77); }
};

inline HarnessOptions harness_options(i64 slots, int threads = 2) {
  return {.slots = slots, .max_len = 400, .backend = {.threads = threads}};
}

inline double split_bound(jet::Precision const& p) {
  return tolerance(p, Check::split);
}

}  // namespace tests
