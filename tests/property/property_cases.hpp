// Properties that every block has, each written once over block and backend.
#pragma once

#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "block_support.hpp"

namespace tests {

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

// Runs x in slot 0 from nothing, cut into the given pieces.
template <class H> Matrix in_pieces(H& block, Matrix const& x, std::vector<i64> const& pieces) {
  block.reset(0);
  Matrix y(0, x.cols);
  i64 at = 0;
  for (i64 const n : pieces) {
    y = jet::reference::concatenate(y, block.forward(0, jet::reference::rows_of(x, at, n)));
    at += n;
  }
  REQUIRE(at == x.rows);
  return y;
}

// Pieces of n, the last one shorter.
inline std::vector<i64> pieces_of(i64 n, i64 total) {
  std::vector<i64> pieces(static_cast<std::size_t>(total / n), n);
  if (total % n != 0) {
    pieces.push_back(total % n);
  }
  return pieces;
}
// Random pieces, empty ones among them.
inline std::vector<i64> random_pieces(std::uint64_t seed, i64 total) {
  jet::Random const random{seed, 3};
  std::vector<i64> pieces;
  i64 at = 0;
  for (std::uint64_t i = 0; at < total; ++i) {
    auto const limit = static_cast<std::uint64_t>(std::array{4, 20, 90}[random.uniform_below(2 * i, 3)]);
    i64 const n = std::min(total - at, static_cast<i64>(random.uniform_below(2 * i + 1, limit)));
    pieces.push_back(n);
    at += n;
  }
  return pieces;
}

}  // namespace tests
