// The one table of tolerances: how far a result may be from its float64 reference, in relative RMS
// (reference::relative_rms), per precision and check. Inputs and parameters of the reference are those of the run,
// rounded as the run stores them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <jet/core/dtype.hpp>

namespace tests {

enum class Check {
  op,         // one op, other than a product
  block,      // the output of a whole block
  token,      // the same over a handful of tokens, where single roundings do not average out
  state,      // the state that a block leaves
  scan,       // outputs and state of a scan over up to 300 tokens
  long_scan,  // the state of a scan over 2048 tokens
  split,      // one sequence cut in two ways: outputs and state
  model,      // logits of a hybrid of a few layers
};

struct Bounds {
  double op, block, token, state, scan, long_scan, split, model;
};

// float64 differs from the reference by the order of sums alone. A bf16 rounding is at most 2^-8 = 3.9e-3 and about
// 1.7e-3 in RMS; a block has two or three in a row (values that enter a convolution or a cache, the input of the
// last product, the output). With AVX512-BF16, attention over many queries rounds these and the exponentials of the
// scores as well, as the published implementations do: four layers of random weights come to 3.5e-2, else 2.5e-2.
inline constexpr Bounds float64_bounds{1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1e-12};
inline constexpr Bounds float32_bounds{1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 2e-6, 1e-5, 1e-5};
inline constexpr Bounds bf16_bounds{4e-3, 5e-3, 1e-2, 5e-3, 1e-5, 2e-6, 5e-3, 4e-2};

inline constexpr Bounds const& bounds(jet::Precision const& p) {
  return p.acc == jet::DType::f64 ? float64_bounds : p.act == jet::DType::bf16 ? bf16_bounds : float32_bounds;
}

inline constexpr double tolerance(jet::Precision const& p, Check check) {
  Bounds const& b = bounds(p);
  switch (check) {
    case Check::op: return b.op;
    case Check::block: return b.block;
    case Check::token: return b.token;
    case Check::state: return b.state;
    case Check::scan: return b.scan;
    case Check::long_scan: return b.long_scan;
    case Check::split: return b.split;
    case Check::model: return b.model;
  }
  return 0;
}

// A product over k terms whose result is stored as `out`.
inline double product_tolerance(jet::Precision const& p, jet::i64 k, jet::DType out) {
  if (out == jet::DType::bf16) {
    return bf16_bounds.op;
  }
  double const growth = std::sqrt(static_cast<double>(std::max<jet::i64>(k, 1))) / 32;
  return p.acc == jet::DType::f64 ? std::max(1e-15, 2e-15 * growth) : std::max(2e-7, 1e-6 * growth);
}

}  // namespace tests
