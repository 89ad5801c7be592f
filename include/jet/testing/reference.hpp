/// \file
/// The executable definitions: every op and block as plain loops over doubles, one token at a time.
///
/// These are what the library is tested against, so they share no code with it (not its views, dtypes, kernels or
/// chunked forms) and are written to be read, not to be fast. A function handles one sequence. Whatever a sequence
/// carries from call to call is an explicit argument `state`, read and updated in place; a default-constructed
/// state is the empty one (zeros, no tokens), and a copy of a state is a snapshot. Cutting a sequence into calls at
/// any token gives the same outputs and states as one call.
///
/// Layouts: activations are `[tokens, channels]`; the heads of a token lie side by side, channel `h * d + e` for
/// element `e` of head `h`. Weights of linear layers are `[out, in]`. All quantities are float64; nothing is
/// rounded in between. Shapes that do not fit together throw std::invalid_argument.
#pragma once

#include <algorithm>
#include <any>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN
namespace reference {

using i64 = std::int64_t;
using Vector = std::vector<double>;

/// Throws std::invalid_argument unless the condition holds.
inline void require(bool condition, char const* what) {
  if (!condition) {
    throw std::invalid_argument(std::string("jet: reference: ") + what);
  }
}

/// Element `i` of a vector, with the signed index that the formulas use.
inline double& at(Vector& v, i64 i) {
  JET_ASSERT(i >= 0 && i < std::ssize(v));
  return v[static_cast<std::size_t>(i)];
}
inline double at(Vector const& v, i64 i) {
  JET_ASSERT(i >= 0 && i < std::ssize(v));
  return v[static_cast<std::size_t>(i)];
}

/// A row-major matrix of doubles.
struct Matrix {
  i64 rows = 0;
  i64 cols = 0;
  Vector data;

  Matrix() = default;
  /// All zeros.
  Matrix(i64 rows_, i64 cols_) : rows(rows_), cols(cols_) {
    require(rows >= 0 && cols >= 0, "a matrix has negative extents");
    data.assign(static_cast<std::size_t>(rows * cols), 0.0);
  }
  /// Takes `rows * cols` values, row after row.
  Matrix(i64 rows_, i64 cols_, Vector values) : rows(rows_), cols(cols_), data(std::move(values)) {
    require(rows >= 0 && cols >= 0 && rows * cols == std::ssize(data), "a matrix got the wrong number of values");
  }

  double& at(i64 i, i64 j) {
    JET_ASSERT(i >= 0 && i < rows && j >= 0 && j < cols);
    return data[static_cast<std::size_t>(i * cols + j)];
  }
  double at(i64 i, i64 j) const {
    JET_ASSERT(i >= 0 && i < rows && j >= 0 && j < cols);
    return data[static_cast<std::size_t>(i * cols + j)];
  }
  bool empty() const { return data.empty(); }
};

/// Rows `[first, first + count)`.
inline Matrix rows_of(Matrix const& x, i64 first, i64 count) {
  require(first >= 0 && count >= 0 && first + count <= x.rows, "a range of rows lies outside its matrix");
  Matrix y(count, x.cols);
  for (i64 i = 0; i < count; ++i) {
    for (i64 j = 0; j < x.cols; ++j) {
      y.at(i, j) = x.at(first + i, j);
    }
  }
  return y;
}

/// Rows of `y` below the rows of `x`; an empty `x` leaves `y`.
inline Matrix concatenate(Matrix const& x, Matrix const& y) {
  require(x.empty() || x.cols == y.cols, "concatenated matrices differ in width");
  Vector data = x.data;
  data.insert(data.end(), y.data.begin(), y.data.end());
  return Matrix((x.empty() ? 0 : x.rows) + y.rows, y.cols, std::move(data));
}

/// `x + y`, elementwise.
inline Matrix add(Matrix const& x, Matrix const& y) {
  require(x.rows == y.rows && x.cols == y.cols, "added matrices differ in shape");
  Matrix z(x.rows, x.cols);
  for (i64 i = 0; i < x.rows; ++i) {
    for (i64 j = 0; j < x.cols; ++j) {
      z.at(i, j) = x.at(i, j) + y.at(i, j);
    }
  }
  return z;
}

/// `f` of every element.
template <class F> Matrix map(Matrix const& x, F f) {
  Matrix y(x.rows, x.cols);
  for (i64 i = 0; i < x.rows; ++i) {
    for (i64 j = 0; j < x.cols; ++j) {
      y.at(i, j) = f(x.at(i, j));
    }
  }
  return y;
}

// ---------------------------------------------------------------------------------------------------------------------
// Error measures

/// `||a - b||_F / ||b||_F`, the error of `a` against the reference `b`. 0/0 is 0; a NaN (or an infinite difference)
/// anywhere is infinity, so that no bound is ever met by accident.
inline double relative_rms(Vector const& a, Vector const& b) {
  require(a.size() == b.size(), "compared vectors differ in length");
  double difference = 0;
  double norm = 0;
  for (i64 i = 0; i < std::ssize(a); ++i) {
    double const d = at(a, i) - at(b, i);
    difference += d * d;
    norm += at(b, i) * at(b, i);
  }
  if (difference == 0) {
    return 0;
  }
  double const error = std::sqrt(difference) / std::sqrt(norm);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}
inline double relative_rms(Matrix const& a, Matrix const& b) {
  require(a.rows == b.rows && a.cols == b.cols, "compared matrices differ in shape");
  return relative_rms(a.data, b.data);
}

/// `max |a - b|`; a NaN anywhere is infinity.
inline double max_abs(Vector const& a, Vector const& b) {
  require(a.size() == b.size(), "compared vectors differ in length");
  double largest = 0;
  for (i64 i = 0; i < std::ssize(a); ++i) {
    double const d = std::abs(at(a, i) - at(b, i));
    largest = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(largest, d);
  }
  return largest;
}
inline double max_abs(Matrix const& a, Matrix const& b) {
  require(a.rows == b.rows && a.cols == b.cols, "compared matrices differ in shape");
  return max_abs(a.data, b.data);
}

// ---------------------------------------------------------------------------------------------------------------------
// Elementary functions

/// `1 / (1 + e^-z)`
inline double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

/// `z sigmoid(z)`, also called swish.
inline double silu(double z) {
  return z * sigmoid(z);
}

/// `log(1 + e^z)`, in the form that neither overflows nor cancels.
inline double softplus(double z) {
  return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)));
}

/// `log sigmoid(z)`
inline double log_sigmoid(double z) {
  return -softplus(-z);
}

inline Matrix sigmoid(Matrix const& x) {
  return map(x, [](double z) { return sigmoid(z); });
}
inline Matrix silu(Matrix const& x) {
  return map(x, [](double z) { return silu(z); });
}
inline Matrix softplus(Matrix const& x) {
  return map(x, [](double z) { return softplus(z); });
}
inline Matrix log_sigmoid(Matrix const& x) {
  return map(x, [](double z) { return log_sigmoid(z); });
}

// ---------------------------------------------------------------------------------------------------------------------
// Linear layers and embeddings

/// `y = x W^T + b`: x `[T, in]`, weight `[out, in]`, bias `[out]` or empty; y `[T, out]`.
inline Matrix linear(Matrix const& x, Matrix const& weight, Vector const& bias = {}) {
  require(x.cols == weight.cols, "linear: the input's width is not the weight's");
  require(bias.empty() || std::ssize(bias) == weight.rows, "linear: the bias has not one entry per output");
  Matrix y(x.rows, weight.rows);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 o = 0; o < weight.rows; ++o) {
      double sum = bias.empty() ? 0.0 : at(bias, o);
      for (i64 i = 0; i < x.cols; ++i) {
        sum += x.at(t, i) * weight.at(o, i);
      }
      y.at(t, o) = sum;
    }
  }
  return y;
}

/// Row `ids[t]` of the table for every token: table `[vocab, D]`; result `[T, D]`. No scale factor.
inline Matrix embedding(std::vector<i64> const& ids, Matrix const& table) {
  Matrix y(std::ssize(ids), table.cols);
  for (i64 t = 0; t < y.rows; ++t) {
    i64 const id = ids[static_cast<std::size_t>(t)];
    require(id >= 0 && id < table.rows, "embedding: a token id lies outside the vocabulary");
    for (i64 j = 0; j < table.cols; ++j) {
      y.at(t, j) = table.at(id, j);
    }
  }
  return y;
}

/// `logits = x E^T`: x `[T, D]` after the final norm, table `[vocab, D]` the embedding itself (arXiv 1608.05859).
inline Matrix tied_head(Matrix const& x, Matrix const& table) {
  return linear(x, table);
}

// ---------------------------------------------------------------------------------------------------------------------
// Norms. A row is cut into `groups` equal parts (heads, say), and each part is normalised by itself. A weight has
// either one entry per column or one per column of a group, shared by all groups.

/// `y = w * x / sqrt(mean(x^2) + eps)` over each group (arXiv 1910.07467): x `[T, n]`, weight `[n]` or `[n /
/// groups]`.
inline Matrix rms_norm(Matrix const& x, Vector const& weight, double eps, i64 groups = 1) {
  require(groups > 0 && x.cols % groups == 0, "rms_norm: the width is no multiple of the groups");
  i64 const n = x.cols / groups;
  require(std::ssize(weight) == x.cols || std::ssize(weight) == n, "rms_norm: the weight's length fits neither");
  Matrix y(x.rows, x.cols);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 g = 0; g < groups; ++g) {
      double sum = 0;
      for (i64 e = 0; e < n; ++e) {
        sum += x.at(t, g * n + e) * x.at(t, g * n + e);
      }
      double const r = 1 / std::sqrt(sum / static_cast<double>(n) + eps);
      for (i64 e = 0; e < n; ++e) {
        i64 const j = g * n + e;
        y.at(t, j) = at(weight, j % std::ssize(weight)) * (r * x.at(t, j));
      }
    }
  }
  return y;
}

/// `y = x / sqrt(sum(x^2) + eps)` over each group: x `[T, n]`.
inline Matrix l2_norm(Matrix const& x, double eps, i64 groups = 1) {
  require(groups > 0 && x.cols % groups == 0, "l2_norm: the width is no multiple of the groups");
  i64 const n = x.cols / groups;
  Matrix y(x.rows, x.cols);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 g = 0; g < groups; ++g) {
      double sum = 0;
      for (i64 e = 0; e < n; ++e) {
        sum += x.at(t, g * n + e) * x.at(t, g * n + e);
      }
      for (i64 e = 0; e < n; ++e) {
        y.at(t, g * n + e) = x.at(t, g * n + e) / std::sqrt(sum + eps);
      }
    }
  }
  return y;
}

enum class GateOrder {
  norm_first,  ///< `rms_norm(x) * silu(z)`: RetNet, GLA, Gated DeltaNet, JetBlock; groups are heads
  gate_first,  ///< `rms_norm(x * silu(z))`: Mamba2
};

/// RMSNorm with a silu gate in either order: x and the gate z `[T, n]`; weight and groups as in rms_norm.
inline Matrix gated_rms_norm(GateOrder order, Matrix const& x, Matrix const& z, Vector const& weight, double eps,
                             i64 groups = 1) {
  require(x.rows == z.rows && x.cols == z.cols, "gated_rms_norm: input and gate differ in shape");
  auto gated = [&z](Matrix y) {
    for (i64 t = 0; t < y.rows; ++t) {
      for (i64 j = 0; j < y.cols; ++j) {
        y.at(t, j) *= silu(z.at(t, j));
      }
    }
    return y;
  };
  return order == GateOrder::norm_first ? gated(rms_norm(x, weight, eps, groups))
                                        : rms_norm(gated(x), weight, eps, groups);
}

// ---------------------------------------------------------------------------------------------------------------------
// SwiGLU MLP

/// gate, up `[I, D]`; down `[D, I]`.
struct MlpParams {
  Matrix gate, up, down;
};

/// `y = (silu(x W_gate^T) * (x W_up^T)) W_down^T` (arXiv 2002.05202): x, y `[T, D]`.
inline Matrix swiglu_mlp(MlpParams const& params, Matrix const& x) {
  Matrix hidden = silu(linear(x, params.gate));
  Matrix const up = linear(x, params.up);
  require(hidden.cols == up.cols, "swiglu_mlp: gate and up differ in width");
  for (i64 t = 0; t < hidden.rows; ++t) {
    for (i64 i = 0; i < hidden.cols; ++i) {
      hidden.at(t, i) *= up.at(t, i);
    }
  }
  return linear(hidden, params.down);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rotary positions

/// `theta^(-2m/d)` for m = 0 ... d/2 - 1 (arXiv 2104.09864).
inline Vector rope_inv_freq(i64 head_dim, double theta) {
  require(head_dim > 0 && head_dim % 2 == 0, "rope: the head dimension is not even");
  Vector inv_freq;
  for (i64 m = 0; m < head_dim / 2; ++m) {
    inv_freq.push_back(std::pow(theta, -2.0 * static_cast<double>(m) / static_cast<double>(head_dim)));
  }
  return inv_freq;
}

/// `rope_scaling` of a Llama 3 configuration, rope_type "llama3".
struct Llama3Scaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_position = 8192;
};

/// Long wavelengths are slowed down by `factor`, short ones are kept, those between are interpolated.
inline Vector rope_inv_freq_llama3(i64 head_dim, double theta, Llama3Scaling const& scaling) {
  double const pi = std::acos(-1.0);
  Vector inv_freq = rope_inv_freq(head_dim, theta);
  for (double& f : inv_freq) {
    double const wavelength = 2 * pi / f;
    double const turns = scaling.original_max_position / wavelength;  // within the original context
    if (turns < scaling.low_freq_factor) {
      f = f / scaling.factor;
    } else if (turns <= scaling.high_freq_factor) {
      double const s = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      f = (1 - s) * f / scaling.factor + s * f;
    }
  }
  return inv_freq;
}

/// Rotates element `m` of each head with element `m + d/2` (rotate-half) by the angle `position * inv_freq[m]`.
/// x `[T, heads * d]`, inv_freq `[d / 2]`; row `t` stands at position `start + t`.
inline Matrix rope(Matrix const& x, i64 heads, Vector const& inv_freq, i64 start) {
  i64 const half = std::ssize(inv_freq);
  i64 const d = 2 * half;
  require(x.cols == heads * d, "rope: the width is not heads times twice the number of frequencies");
  Matrix y(x.rows, x.cols);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 h = 0; h < heads; ++h) {
      for (i64 m = 0; m < half; ++m) {
        double const angle = static_cast<double>(start + t) * at(inv_freq, m);
        double const c = std::cos(angle);
        double const s = std::sin(angle);
        double const x1 = x.at(t, h * d + m);
        double const x2 = x.at(t, h * d + m + half);
        y.at(t, h * d + m) = x1 * c - x2 * s;
        y.at(t, h * d + m + half) = x2 * c + x1 * s;
      }
    }
  }
  return y;
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention

/// Softmax attention of T queries at positions `start ... start + T - 1` over the keys at positions `0 ... L - 1`
/// (arXiv 1706.03762; grouped heads 2305.13245):
///
///     o_i = sum_j p_ij v_j,   p_ij = softmax_j(d^(-1/2) q_i . k_j),   j in [max(0, i - window + 1), i]
///
/// q `[T, heads * d]`, k and v `[L, kv_heads * d]`, L >= start + T; window 0 means all keys up to `i`; query head
/// `h` reads KV head `h * kv_heads / heads`. Result `[T, heads * d]`.
inline Matrix attention(Matrix const& q, Matrix const& k, Matrix const& v, i64 heads, i64 kv_heads, i64 window,
                        i64 start) {
  require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "attention: heads are no multiple of the KV heads");
  require(q.cols % heads == 0, "attention: the queries' width is no multiple of the heads");
  i64 const d = q.cols / heads;
  require(k.cols == kv_heads * d && v.cols == kv_heads * d, "attention: keys or values have the wrong width");
  require(k.rows == v.rows && start >= 0 && window >= 0,
          "attention: keys and values differ, or a negative argument");
  require(k.rows >= start + q.rows, "attention: fewer keys than the last query's position needs");
  double const scale = 1 / std::sqrt(static_cast<double>(d));
  Matrix o(q.rows, q.cols);
  for (i64 t = 0; t < q.rows; ++t) {
    i64 const i = start + t;
    i64 const first = window == 0 ? 0 : std::max<i64>(0, i - window + 1);
    for (i64 h = 0; h < heads; ++h) {
      i64 const kv = h * kv_heads / heads;
      Vector p;  // over the visible keys
      for (i64 j = first; j <= i; ++j) {
        double dot = 0;
        for (i64 e = 0; e < d; ++e) {
          dot += q.at(t, h * d + e) * k.at(j, kv * d + e);
        }
        p.push_back(scale * dot);
      }
      double const largest = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& score : p) {
        score = std::exp(score - largest);
        sum += score;
      }
      for (i64 j = first; j <= i; ++j) {
        for (i64 e = 0; e < d; ++e) {
          o.at(t, h * d + e) += at(p, j - first) / sum * v.at(j, kv * d + e);
        }
      }
    }
  }
  return o;
}

struct AttentionConfig {
  i64 heads = 0;
  i64 kv_heads = 0;
  i64 window = 0;          ///< visible keys, the query's own included; 0 means all
  Vector inv_freq;         ///< `[d / 2]`; empty means no rotation
  double norm_eps = 1e-6;  ///< of q_norm and k_norm
};

/// q `[heads * d, D]`; k, v `[kv_heads * d, D]`; o `[D, heads * d]`. Biases as long as their outputs, or empty.
/// q_norm, k_norm `[d]` (Qwen3), or empty.
struct AttentionParams {
  Matrix q, k, v, o;
  Vector q_bias, k_bias, v_bias, o_bias;
  Vector q_norm, k_norm;
};

/// Keys (normalised and rotated) and values of all tokens so far, `[position, kv_heads * d]`. A windowed layer
/// keeps them all as well: what it may see is the window's business, not the state's.
struct AttentionState {
  Matrix keys, values;
  i64 position = 0;
};

/// The whole attention mixer of Qwen2, Qwen3, Llama and Jet-Nemotron: project, normalise per head, rotate, attend,
/// project. x `[T, D]`; result `[T, D]`.
inline Matrix attention_block(AttentionParams const& params, AttentionConfig const& config, AttentionState& state,
                              Matrix const& x) {
  Matrix q = linear(x, params.q, params.q_bias);
  Matrix k = linear(x, params.k, params.k_bias);
  Matrix const v = linear(x, params.v, params.v_bias);
  if (!params.q_norm.empty()) {
    q = rms_norm(q, params.q_norm, config.norm_eps, config.heads);
  }
  if (!params.k_norm.empty()) {
    k = rms_norm(k, params.k_norm, config.norm_eps, config.kv_heads);
  }
  if (!config.inv_freq.empty()) {
    q = rope(q, config.heads, config.inv_freq, state.position);
    k = rope(k, config.kv_heads, config.inv_freq, state.position);
  }
  state.keys = concatenate(state.keys, k);
  state.values = concatenate(state.values, v);
  Matrix const o =
      attention(q, state.keys, state.values, config.heads, config.kv_heads, config.window, state.position);
  state.position += x.rows;
  return linear(o, params.o, params.o_bias);
}

// ---------------------------------------------------------------------------------------------------------------------
// Short convolutions. Their state is the last `taps` raw inputs of each channel, `[D, taps]`, the newest in the
// last column; a default-constructed Matrix stands for zeros.

/// One token enters: every channel's history moves one column to the left, and the token takes the last column.
inline void push_token(Matrix& history, Matrix const& x, i64 t) {
  for (i64 c = 0; c < history.rows; ++c) {
    for (i64 i = 0; i + 1 < history.cols; ++i) {
      history.at(c, i) = history.at(c, i + 1);
    }
    history.at(c, history.cols - 1) = x.at(t, c);
  }
}

/// `z_t[c] = b[c] + sum_i w[c, i] x_{t - taps + 1 + i}[c]`: depthwise and causal, the last tap meets the current
/// token. x `[T, D]`, weight `[D, taps]`, bias `[D]` or empty; result `[T, D]`: z, or silu(z) if `with_silu`.
inline Matrix short_conv(Matrix const& x, Matrix const& weight, Vector const& bias, bool with_silu, Matrix& state) {
  i64 const taps = weight.cols;
  require(weight.rows == x.cols && taps > 0, "short_conv: the weight has not one row per channel");
  require(bias.empty() || std::ssize(bias) == x.cols, "short_conv: the bias has not one entry per channel");
  if (state.empty()) {
    state = Matrix(x.cols, taps);
  }
  require(state.rows == x.cols && state.cols == taps, "short_conv: the state has the wrong shape");
  Matrix y(x.rows, x.cols);
  for (i64 t = 0; t < x.rows; ++t) {
    push_token(state, x, t);
    for (i64 c = 0; c < x.cols; ++c) {
      double z = bias.empty() ? 0.0 : at(bias, c);
      for (i64 i = 0; i < taps; ++i) {
        z += weight.at(c, i) * state.at(c, i);
      }
      y.at(t, c) = with_silu ? silu(z) : z;
    }
  }
  return y;
}

/// A short convolution whose kernel is generated for every token (Jet-Nemotron, arXiv 2508.15884):
///
///     kappa_t = silu(u_t W_1^T) W_2^T + b_2,   y_t[c] = silu(sum_i kappa_t[c * taps + i] x_{t - taps + 1 + i}[c])
///
/// u `[T, D]` the block's input, x `[T, Dc]` the raw values, w1 `[R, D]`, w2 `[Dc * taps, R]`, b2 `[Dc * taps]`;
/// result
/// `[T, Dc]`. The kernel belongs to the output token, also where it meets older inputs.
inline Matrix dynamic_conv(Matrix const& u, Matrix const& x, Matrix const& w1, Matrix const& w2, Vector const& b2,
                           Matrix& state) {
  require(u.rows == x.rows, "dynamic_conv: the two inputs differ in length");
  require(x.cols > 0 && w2.rows > 0 && w2.rows % x.cols == 0,
          "dynamic_conv: w2's rows are no multiple of channels");
  i64 const taps = w2.rows / x.cols;
  if (state.empty()) {
    state = Matrix(x.cols, taps);
  }
  require(state.rows == x.cols && state.cols == taps, "dynamic_conv: the state has the wrong shape");
  Matrix const kappa = linear(silu(linear(u, w1)), w2, b2);  // [T, Dc * taps]
  Matrix y(x.rows, x.cols);
  for (i64 t = 0; t < x.rows; ++t) {
    push_token(state, x, t);
    for (i64 c = 0; c < x.cols; ++c) {
      double z = 0;
      for (i64 i = 0; i < taps; ++i) {
        z += kappa.at(t, c * taps + i) * state.at(c, i);
      }
      y.at(t, c) = silu(z);
    }
  }
  return y;
}

// ---------------------------------------------------------------------------------------------------------------------
// The recurrence of the linear-attention family

enum class Decay {
  none,         ///< DeltaNet
  per_head,     ///< RetNet, Mamba2, Gated DeltaNet, JetBlock: log decays `[T, heads]`
  per_channel,  ///< GLA, KDA: log decays `[T, heads * d_k]`, one per row of the state
};

enum class Update {
  additive,  ///< writes `beta v`
  delta,     ///< writes what the decayed state does not yet answer: `beta (v - S^T k)`
};

struct ScanConfig {
  i64 heads = 0;  ///< heads of values, decays, betas, states and outputs
  i64 key_heads =
      0;  ///< heads of queries and keys; head `h` uses key head `h * key_heads / heads`; 0 means `heads`
  Decay decay = Decay::none;
  Update update = Update::additive;
  double scale = 1;  ///< of the queries, usually d_k^(-1/2)
};

/// One `[d_k, d_v]` matrix per head; empty means zeros.
using ScanState = std::vector<Matrix>;

/// For every token and head, in this order (decay, predict from the decayed state, write, read):
///
///     S <- diag(e^g) S
///     u = beta v               (additive)   or   u = beta (v - S^T k)   (delta)
///     S <- S + k u^T
///     o = scale S^T q
///
/// q, k `[T, key_heads * d_k]`, v `[T, heads * d_v]`, log_decay as Decay says (an empty Matrix for none), beta
/// `[T, heads]` or an empty Matrix for ones; result `[T, heads * d_v]`. (RetNet 2307.08621, Mamba2 2405.21060, GLA
/// 2312.06635, DeltaNet 2406.06484, Gated DeltaNet 2412.06464.)
inline Matrix scan(ScanConfig const& config, Matrix const& q, Matrix const& k, Matrix const& v,
                   Matrix const& log_decay, Matrix const& beta, ScanState& state) {
  i64 const tokens = q.rows;
  i64 const heads = config.heads;
  i64 const key_heads = config.key_heads == 0 ? heads : config.key_heads;
  require(heads > 0 && key_heads > 0 && heads % key_heads == 0, "scan: heads are no multiple of the key heads");
  require(q.cols % key_heads == 0 && k.cols == q.cols && v.cols % heads == 0, "scan: widths do not fit the heads");
  require(k.rows == tokens && v.rows == tokens, "scan: queries, keys and values differ in length");
  i64 const dk = q.cols / key_heads;
  i64 const dv = v.cols / heads;
  i64 const decays = config.decay == Decay::none ? 0 : config.decay == Decay::per_head ? heads : heads * dk;
  require(decays == 0 ? log_decay.empty() : log_decay.rows == tokens && log_decay.cols == decays,
          "scan: the log decays have the wrong shape");
  require(beta.empty() || (beta.rows == tokens && beta.cols == heads), "scan: beta has the wrong shape");
  if (state.empty()) {
    state.assign(static_cast<std::size_t>(heads), Matrix(dk, dv));
  }
  require(std::ssize(state) == heads, "scan: the state has the wrong number of heads");

  Matrix o(tokens, heads * dv);
  for (i64 t = 0; t < tokens; ++t) {
    for (i64 h = 0; h < heads; ++h) {
      Matrix& S = state[static_cast<std::size_t>(h)];
      require(S.rows == dk && S.cols == dv, "scan: a head's state has the wrong shape");
      i64 const kh = h * key_heads / heads;
      auto const q_t = [&](i64 i) { return q.at(t, kh * dk + i); };
      auto const k_t = [&](i64 i) { return k.at(t, kh * dk + i); };
      auto const v_t = [&](i64 j) { return v.at(t, h * dv + j); };
      double const beta_t = beta.empty() ? 1.0 : beta.at(t, h);

      // decay
      if (config.decay != Decay::none) {
        for (i64 i = 0; i < dk; ++i) {
          double const g = config.decay == Decay::per_head ? log_decay.at(t, h) : log_decay.at(t, h * dk + i);
          for (i64 j = 0; j < dv; ++j) {
            S.at(i, j) *= std::exp(g);
          }
        }
      }
      // predict
      Vector u(static_cast<std::size_t>(dv));
      for (i64 j = 0; j < dv; ++j) {
        double prediction = 0;
        if (config.update == Update::delta) {
          for (i64 i = 0; i < dk; ++i) {
            prediction += S.at(i, j) * k_t(i);
          }
        }
        at(u, j) = beta_t * (v_t(j) - prediction);
      }
      // write
      for (i64 i = 0; i < dk; ++i) {
        for (i64 j = 0; j < dv; ++j) {
          S.at(i, j) += k_t(i) * at(u, j);
        }
      }
      // read
      for (i64 j = 0; j < dv; ++j) {
        double sum = 0;
        for (i64 i = 0; i < dk; ++i) {
          sum += S.at(i, j) * q_t(i);
        }
        o.at(t, h * dv + j) = config.scale * sum;
      }
    }
  }
  return o;
}

/// `g = -e^a_log softplus(a + dt_bias)`, the log decay of Mamba2, Gated DeltaNet and JetBlock: a `[T, H]`, others
/// `[H]`.
inline Matrix softplus_decay(Matrix const& a, Vector const& a_log, Vector const& dt_bias) {
  require(std::ssize(a_log) == a.cols && std::ssize(dt_bias) == a.cols, "softplus_decay: wrong number of heads");
  Matrix g(a.rows, a.cols);
  for (i64 t = 0; t < a.rows; ++t) {
    for (i64 h = 0; h < a.cols; ++h) {
      g.at(t, h) = -std::exp(at(a_log, h)) * softplus(a.at(t, h) + at(dt_bias, h));
    }
  }
  return g;
}

// ---------------------------------------------------------------------------------------------------------------------
// JetBlock (arXiv 2508.15884)

struct JetBlockConfig {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head_k = 0;
  i64 head_v = 0;
  i64 conv = 4;           ///< taps of the dynamic convolution
  i64 gen_reduction = 8;  ///< the kernel generator's hidden width is heads * head_v / gen_reduction
  double norm_eps = 1e-5;
};

/// With D = d_model, K = heads * head_k, V = heads * head_v, R = V / gen_reduction.
struct JetBlockParams {
  Matrix q_proj, k_proj;  // [K, D]
  Matrix v_proj, g_proj;  // [V, D]
  Matrix b_proj, a_proj;  // [heads, D]
  Matrix o_proj;          // [D, V]
  Vector a_log, dt_bias;  // [heads]
  Matrix w1;              // [R, D]
  Matrix w2;              // [V * conv, R]
  Vector w2_bias;         // [V * conv]
  Vector o_norm;          // [head_v]
};

struct JetBlockState {
  ScanState recurrent;  ///< per head `[head_k, head_v]`
  Matrix conv;          ///< `[V, conv]`, the last raw value projections
};

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix jet_block(JetBlockParams const& params, JetBlockConfig const& config, JetBlockState& state,
                        Matrix const& u) {
  i64 const heads = config.heads;
  i64 const values = heads * config.head_v;
  require(u.cols == config.d_model && params.q_proj.rows == heads * config.head_k && params.v_proj.rows == values,
          "jet_block: parameters or input do not fit the configuration");
  require(config.gen_reduction > 0 && params.w1.rows == values / config.gen_reduction &&
              params.w2.rows == values * config.conv,
          "jet_block: the kernel generator does not fit the configuration");

  Matrix const q = l2_norm(silu(linear(u, params.q_proj)), 1e-6, heads);
  Matrix const k = l2_norm(silu(linear(u, params.k_proj)), 1e-6, heads);
  Matrix const v = dynamic_conv(u, linear(u, params.v_proj), params.w1, params.w2, params.w2_bias, state.conv);
  Matrix const beta = sigmoid(linear(u, params.b_proj));
  Matrix const g = softplus_decay(linear(u, params.a_proj), params.a_log, params.dt_bias);

  ScanConfig const core{.heads = heads,
                        .decay = Decay::per_head,
                        .update = Update::delta,
                        .scale = 1 / std::sqrt(static_cast<double>(config.head_k))};
  Matrix const o = scan(core, q, k, v, g, beta, state.recurrent);

  Matrix const z = linear(u, params.g_proj);
  return linear(gated_rms_norm(GateOrder::norm_first, o, z, params.o_norm, config.norm_eps, heads), params.o_proj);
}

// ---------------------------------------------------------------------------------------------------------------------
// What the linear-attention layers share

/// silu(conv(x)); silu(x) for empty kernels.
inline Matrix convolved_silu(Matrix const& x, Matrix const& kernels, Matrix& state) {
  return kernels.empty() ? silu(x) : short_conv(x, kernels, {}, true, state);
}

/// Per head `w * rms(o) * silu(u g_proj^T)`; an empty g_proj leaves out the gate.
inline Matrix head_norm(Matrix const& o, Matrix const& u, Matrix const& g_proj, Vector const& weight, double eps,
                        i64 heads) {
  return g_proj.empty() ? rms_norm(o, weight, eps, heads)
                        : gated_rms_norm(GateOrder::norm_first, o, linear(u, g_proj), weight, eps, heads);
}

// ---------------------------------------------------------------------------------------------------------------------
// Gated DeltaNet (arXiv 2412.06464)

struct GatedDeltaNetConfig {
  i64 d_model = 0;
  i64 heads = 0;        ///< of queries and keys
  i64 value_heads = 0;  ///< of everything else; 0 means `heads`
  i64 head_k = 0;
  i64 head_v = 0;
  double norm_eps = 1e-5;
  bool allow_neg_eigval = false;  ///< beta in (0, 2) instead of (0, 1), arXiv 2411.12537
};

/// With D = d_model, K = heads * head_k, V = value_heads * head_v. Without a gate g_proj is empty, without short
/// convolutions their kernels are.
struct GatedDeltaNetParams {
  Matrix q_proj, k_proj;          // [K, D]
  Matrix v_proj, g_proj;          // [V, D]
  Matrix b_proj, a_proj;          // [value_heads, D]
  Matrix o_proj;                  // [D, V]
  Vector a_log, dt_bias;          // [value_heads]
  Matrix q_conv, k_conv, v_conv;  // [K, taps], [K, taps], [V, taps]
  Vector o_norm;                  // [head_v]
};

struct GatedDeltaNetState {
  ScanState recurrent;            ///< per value head `[head_k, head_v]`
  Matrix q_conv, k_conv, v_conv;  ///< the last raw projections, `[channels, taps]`
};

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix gated_deltanet(GatedDeltaNetParams const& params, GatedDeltaNetConfig const& config,
                             GatedDeltaNetState& state, Matrix const& u) {
  i64 const heads = config.heads;
  i64 const value_heads = config.value_heads == 0 ? heads : config.value_heads;
  require(u.cols == config.d_model && params.q_proj.rows == heads * config.head_k &&
              params.v_proj.rows == value_heads * config.head_v,
          "gated_deltanet: parameters or input do not fit the configuration");

  Matrix const q = l2_norm(convolved_silu(linear(u, params.q_proj), params.q_conv, state.q_conv), 1e-6, heads);
  Matrix const k = l2_norm(convolved_silu(linear(u, params.k_proj), params.k_conv, state.k_conv), 1e-6, heads);
  Matrix const v = convolved_silu(linear(u, params.v_proj), params.v_conv, state.v_conv);
  double const largest_beta = config.allow_neg_eigval ? 2 : 1;
  Matrix const beta = map(linear(u, params.b_proj), [&](double b) { return largest_beta * sigmoid(b); });
  Matrix const g = softplus_decay(linear(u, params.a_proj), params.a_log, params.dt_bias);

  ScanConfig const core{.heads = value_heads,
                        .key_heads = heads,
                        .decay = Decay::per_head,
                        .update = Update::delta,
                        .scale = 1 / std::sqrt(static_cast<double>(config.head_k))};
  Matrix const o = scan(core, q, k, v, g, beta, state.recurrent);

  return linear(head_norm(o, u, params.g_proj, params.o_norm, config.norm_eps, value_heads), params.o_proj);
}

// ---------------------------------------------------------------------------------------------------------------------
// DeltaNet (arXiv 2406.06484), GLA (2312.06635) and RetNet (2307.08621) as flash-linear-attention has them

/// Sizes and options of all three; a layer reads those that it has.
struct LinearAttentionConfig {
  i64 d_model = 0;
  i64 heads = 0;     ///< of queries, states and outputs
  i64 kv_heads = 0;  ///< of keys, values and decays; 0 means `heads`
  i64 head_k = 0;
  i64 head_v = 0;
  double norm_eps = 1e-5;
  double rope_theta = 1e4;        ///< RetNet
  double normalizer = 16;         ///< GLA
  double clamp_min = -1e300;      ///< GLA
  bool allow_neg_eigval = false;  ///< DeltaNet: beta in (0, 2)
  /// Of queries and keys after the convolution; DeltaNet's takes the place of the convolution's silu.
  std::function<double(double)> feature_map{};
};

/// Empty: the layer has none.
struct LinearAttentionParams {
  Matrix q_proj, k_proj, v_proj, g_proj, o_proj;  // [heads * d, D] of each; o_proj [D, heads * head_v]
  Matrix q_conv, k_conv, v_conv;                  // [channels, taps]
  Matrix b_proj;                                  // DeltaNet: [heads, D]
  Matrix gk_0, gk_1;                              // GLA: [rank, D], [kv_heads * head_k, rank]
  Vector gk_bias;                                 // GLA: [kv_heads * head_k]
  Vector o_norm;                                  // [head_v]
};

struct LinearAttentionState {
  ScanState recurrent;            ///< per head `[head_k, head_v]`
  Matrix q_conv, k_conv, v_conv;  ///< the last raw projections, `[channels, taps]`
  i64 position = 0;               ///< RetNet: tokens seen
};

/// Head `h` of the result is head `h * from / to` of x.
inline Matrix spread_heads(Matrix const& x, i64 from, i64 to) {
  require(from > 0 && to % from == 0 && x.cols % from == 0, "spread_heads: the heads do not divide");
  i64 const d = x.cols / from;
  Matrix y(x.rows, to * d);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 h = 0; h < to; ++h) {
      for (i64 i = 0; i < d; ++i) {
        y.at(t, h * d + i) = x.at(t, h * from / to * d + i);
      }
    }
  }
  return y;
}

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix deltanet(LinearAttentionParams const& params, LinearAttentionConfig const& config,
                       LinearAttentionState& state, Matrix const& u) {
  i64 const heads = config.heads;
  auto const key = [&](Matrix const& projection, Matrix const& kernels, Matrix& conv) {
    Matrix const raw = linear(u, projection);
    Matrix const x = kernels.empty() ? raw : short_conv(raw, kernels, {}, false, conv);
    return l2_norm(map(x, config.feature_map), 1e-6, heads);
  };
  Matrix const q = key(params.q_proj, params.q_conv, state.q_conv);
  Matrix const k = key(params.k_proj, params.k_conv, state.k_conv);
  Matrix const v = convolved_silu(linear(u, params.v_proj), params.v_conv, state.v_conv);
  double const largest_beta = config.allow_neg_eigval ? 2 : 1;
  Matrix const beta = map(linear(u, params.b_proj), [&](double b) { return largest_beta * sigmoid(b); });
  ScanConfig const core{
      .heads = heads, .update = Update::delta, .scale = 1 / std::sqrt(static_cast<double>(config.head_k))};
  Matrix const o = scan(core, q, k, v, {}, beta, state.recurrent);
  return linear(head_norm(o, u, params.g_proj, params.o_norm, config.norm_eps, heads), params.o_proj);
}

/// Queries, keys and values of GLA and RetNet.
inline std::array<Matrix, 3> mapped_projections(LinearAttentionParams const& params,
                                                LinearAttentionConfig const& config, LinearAttentionState& state,
                                                Matrix const& u) {
  auto const path = [&](Matrix const& projection, Matrix const& kernels, Matrix& conv, bool maps) {
    Matrix x = linear(u, projection);
    if (!kernels.empty()) {
      x = short_conv(x, kernels, {}, true, conv);
    }
    return maps && config.feature_map ? map(x, config.feature_map) : x;
  };
  return {path(params.q_proj, params.q_conv, state.q_conv, true),
          path(params.k_proj, params.k_conv, state.k_conv, true),
          path(params.v_proj, params.v_conv, state.v_conv, false)};
}

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix gla(LinearAttentionParams const& params, LinearAttentionConfig const& config,
                  LinearAttentionState& state, Matrix const& u) {
  i64 const heads = config.heads;
  i64 const kv_heads = config.kv_heads == 0 ? heads : config.kv_heads;
  auto const [q, k, v] = mapped_projections(params, config, state, u);
  Matrix const g = map(linear(linear(u, params.gk_0), params.gk_1, params.gk_bias), [&](double logit) {
    return std::max(config.clamp_min, log_sigmoid(logit) / config.normalizer);
  });
  ScanConfig const core{
      .heads = heads, .decay = Decay::per_channel, .scale = 1 / std::sqrt(static_cast<double>(config.head_k))};
  Matrix const o = scan(core, q, spread_heads(k, kv_heads, heads), spread_heads(v, kv_heads, heads),
                        spread_heads(g, kv_heads, heads), {}, state.recurrent);
  return linear(head_norm(o, u, params.g_proj, params.o_norm, config.norm_eps, heads), params.o_proj);
}

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix retnet(LinearAttentionParams const& params, LinearAttentionConfig const& config,
                     LinearAttentionState& state, Matrix const& u) {
  i64 const heads = config.heads;
  i64 const kv_heads = config.kv_heads == 0 ? heads : config.kv_heads;
  auto const [q, k, v] = mapped_projections(params, config, state, u);
  Vector const inv_freq = rope_inv_freq(config.head_k, config.rope_theta);
  Matrix g(u.rows, heads);
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 h = 0; h < heads; ++h) {
      g.at(t, h) = std::log(1 - std::pow(2.0, static_cast<double>(-5 - h)));
    }
  }
  ScanConfig const core{
      .heads = heads, .decay = Decay::per_head, .scale = 1 / std::sqrt(static_cast<double>(config.head_k))};
  Matrix const o = scan(core, rope(q, heads, inv_freq, state.position),
                        spread_heads(rope(k, kv_heads, inv_freq, state.position), kv_heads, heads),
                        spread_heads(v, kv_heads, heads), g, {}, state.recurrent);
  state.position += u.rows;
  return linear(head_norm(o, u, params.g_proj, params.o_norm, config.norm_eps, heads), params.o_proj);
}

// ---------------------------------------------------------------------------------------------------------------------
// Mamba2 (arXiv 2405.21060)

struct Mamba2Config {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head = 0;    ///< of the values
  i64 state = 0;   ///< rows of a head's state
  i64 groups = 1;  ///< of B and C
  double dt_min = 0;
  double dt_max = 1e300;
  double norm_eps = 1e-5;
};

/// With I = heads * head, G = groups * state. Biases may be empty.
struct Mamba2Params {
  Matrix in_proj;               // [2 I + 2 G + heads, D]: z, x, B, C, dt
  Vector in_bias;               // [2 I + 2 G + heads]
  Matrix conv;                  // [I + 2 G, taps]: x, B, C
  Vector conv_bias;             // [I + 2 G]
  Vector a_log, dt_bias, skip;  // [heads]
  Vector norm;                  // [I]
  Matrix out_proj;              // [D, I]
  Vector out_bias;              // [D]
};

struct Mamba2State {
  ScanState recurrent;  ///< per head `[state, head]`
  Matrix conv;          ///< `[I + 2 G, taps]`
};

/// Columns `first ... first + count - 1`.
inline Matrix columns_of(Matrix const& x, i64 first, i64 count) {
  require(first >= 0 && count >= 0 && first + count <= x.cols, "columns_of: beyond the matrix");
  Matrix y(x.rows, count);
  for (i64 t = 0; t < x.rows; ++t) {
    for (i64 c = 0; c < count; ++c) {
      y.at(t, c) = x.at(t, first + c);
    }
  }
  return y;
}

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`.
inline Matrix mamba2(Mamba2Params const& params, Mamba2Config const& config, Mamba2State& state, Matrix const& u) {
  i64 const heads = config.heads;
  i64 const inner = heads * config.head;
  i64 const group = config.groups * config.state;
  Matrix const projected = linear(u, params.in_proj, params.in_bias);
  require(projected.cols == 2 * inner + 2 * group + heads, "mamba2: in_proj does not fit the configuration");
  Matrix const z = columns_of(projected, 0, inner);
  Matrix const dt = columns_of(projected, 2 * inner + 2 * group, heads);
  Matrix const xbc =
      short_conv(columns_of(projected, inner, inner + 2 * group), params.conv, params.conv_bias, true, state.conv);

  Matrix delta(u.rows, heads), g(u.rows, heads);
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 h = 0; h < heads; ++h) {
      delta.at(t, h) = std::clamp(softplus(dt.at(t, h) + at(params.dt_bias, h)), config.dt_min, config.dt_max);
      g.at(t, h) = -std::exp(at(params.a_log, h)) * delta.at(t, h);
    }
  }
  Matrix const x = columns_of(xbc, 0, inner);
  ScanConfig const core{.heads = heads, .key_heads = config.groups, .decay = Decay::per_head, .scale = 1};
  Matrix o = scan(core, columns_of(xbc, inner + group, group), columns_of(xbc, inner, group), x, g, delta,
                  state.recurrent);
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 c = 0; c < inner; ++c) {
      o.at(t, c) += at(params.skip, c / config.head) * x.at(t, c);
    }
  }
  return linear(gated_rms_norm(GateOrder::gate_first, o, z, params.norm, config.norm_eps, config.groups),
                params.out_proj, params.out_bias);
}

// ---------------------------------------------------------------------------------------------------------------------
// RWKV-7 time mixing (arXiv 2503.14456)

struct Rwkv7Config {
  i64 d_model = 0;
  i64 heads = 0;
  i64 head = 0;
  double norm_eps = 1e-5;  ///< the group norm's is `head` times this
};

/// With D = d_model, N = heads * head; `_1` `[rank, D]`, `_2` `[N, rank]`. v_1, v_2 and v_bias are empty in the
/// first layer of a stack.
struct Rwkv7Params {
  Vector x_r, x_w, x_k, x_v, x_a, x_g;  // [D]
  Vector k_k, k_a, r_k;                 // [N]
  Matrix r_proj, k_proj, v_proj;        // [N, D]
  Matrix o_proj;                        // [D, N]
  Matrix w_1, w_2, a_1, a_2, v_1, v_2, g_1, g_2;
  Vector w_bias, a_bias, v_bias;  // [N]
  Vector norm, norm_bias;         // [N]
};

struct Rwkv7State {
  ScanState recurrent;  ///< per head `[head, head]`, row = key channel
  Vector last;          ///< `[D]`, the last input; empty before the first
};

/// u `[T, D]`, the normalised input of the layer; result `[T, D]`. v_first `[T, N]` are the values of the stack's
/// first layer: written where `params` has no v_1, read where it has.
inline Matrix rwkv7(Rwkv7Params const& params, Rwkv7Config const& config, Rwkv7State& state, Matrix const& u,
                    Matrix& v_first) {
  i64 const d = config.head;
  i64 const n = config.heads * d;
  require(u.cols == config.d_model && params.r_proj.rows == n && params.o_proj.cols == n,
          "rwkv7: parameters or input do not fit the configuration");
  if (state.last.empty()) {
    state.last.assign(static_cast<std::size_t>(u.cols), 0.0);
  }
  if (state.recurrent.empty()) {
    state.recurrent.assign(static_cast<std::size_t>(config.heads), Matrix(d, d));
  }
  Matrix previous(u.rows, u.cols);
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 c = 0; c < u.cols; ++c) {
      previous.at(t, c) = at(state.last, c);
      at(state.last, c) = u.at(t, c);
    }
  }
  auto const shifted = [&](Vector const& mix) {
    Matrix y(u.rows, u.cols);
    for (i64 t = 0; t < u.rows; ++t) {
      for (i64 c = 0; c < u.cols; ++c) {
        y.at(t, c) = (1 - at(mix, c)) * u.at(t, c) + at(mix, c) * previous.at(t, c);
      }
    }
    return y;
  };
  Matrix const r = linear(shifted(params.x_r), params.r_proj);
  Matrix const k0 = linear(shifted(params.x_k), params.k_proj);
  Matrix const x_v = shifted(params.x_v);
  Matrix v = linear(x_v, params.v_proj);
  Matrix const low = map(linear(shifted(params.x_w), params.w_1), [](double x) { return std::tanh(x); });
  Matrix const w =
      map(linear(low, params.w_2, params.w_bias), [](double x) { return -std::exp(-0.5) * sigmoid(x); });
  Matrix const a = sigmoid(linear(linear(shifted(params.x_a), params.a_1), params.a_2, params.a_bias));
  Matrix const g = linear(sigmoid(linear(shifted(params.x_g), params.g_1)), params.g_2);
  if (params.v_1.empty()) {
    v_first = v;
  } else {
    Matrix const nu = sigmoid(linear(linear(x_v, params.v_1), params.v_2, params.v_bias));
    require(v_first.rows == v.rows && v_first.cols == v.cols, "rwkv7: the first layer's values do not fit");
    for (i64 t = 0; t < v.rows; ++t) {
      for (i64 c = 0; c < n; ++c) {
        v.at(t, c) = (1 - nu.at(t, c)) * v.at(t, c) + nu.at(t, c) * v_first.at(t, c);
      }
    }
  }

  Matrix mixed(u.rows, n);
  for (i64 t = 0; t < u.rows; ++t) {
    for (i64 h = 0; h < config.heads; ++h) {
      Matrix& S = state.recurrent[static_cast<std::size_t>(h)];
      auto const c = [&](i64 i) { return h * d + i; };
      Vector kappa, k;
      double squares = 0;
      for (i64 i = 0; i < d; ++i) {
        kappa.push_back(k0.at(t, c(i)) * at(params.k_k, c(i)));
        squares += kappa.back() * kappa.back();
        k.push_back(k0.at(t, c(i)) * (1 + (a.at(t, c(i)) - 1) * at(params.k_a, c(i))));
      }
      for (double& value : kappa) {
        value /= std::max(std::sqrt(squares), 1e-12);
      }
      // what the state answers to kappa, before it decays
      Vector answer(static_cast<std::size_t>(d));
      for (i64 j = 0; j < d; ++j) {
        for (i64 i = 0; i < d; ++i) {
          at(answer, j) += S.at(i, j) * at(kappa, i);
        }
      }
      double own = 0;  // of the current token
      for (i64 i = 0; i < d; ++i) {
        own += r.at(t, c(i)) * at(k, i) * at(params.r_k, c(i));
        for (i64 j = 0; j < d; ++j) {
          S.at(i, j) = std::exp(w.at(t, c(i))) * S.at(i, j) - at(kappa, i) * a.at(t, c(i)) * at(answer, j) +
                       at(k, i) * v.at(t, c(j));
        }
      }
      Vector o(static_cast<std::size_t>(d));
      double mean = 0;
      for (i64 j = 0; j < d; ++j) {
        for (i64 i = 0; i < d; ++i) {
          at(o, j) += S.at(i, j) * r.at(t, c(i));
        }
        mean += at(o, j) / static_cast<double>(d);
      }
      double variance = 0;
      for (double const value : o) {
        variance += (value - mean) * (value - mean) / static_cast<double>(d);
      }
      double const deviation = std::sqrt(variance + static_cast<double>(d) * config.norm_eps);
      for (i64 j = 0; j < d; ++j) {
        double const normed = (at(o, j) - mean) / deviation * at(params.norm, c(j)) + at(params.norm_bias, c(j));
        mixed.at(t, c(j)) = (normed + own * v.at(t, c(j))) * g.at(t, c(j));
      }
    }
  }
  return linear(mixed, params.o_proj);
}

// ---------------------------------------------------------------------------------------------------------------------
// The decoder

/// A token mixer: `[T, D]` to `[T, D]`, with whatever it carries between calls in `state` (empty before the first).
using Mixer = std::function<Matrix(Matrix const& x, std::any& state)>;

/// Makes a Mixer of one of the block functions above: `mixer(jet_block, params, config)`.
template <class Params, class Config, class State>
Mixer mixer(Matrix (*block)(Params const&, Config const&, State&, Matrix const&),
            std::type_identity_t<Params> params, std::type_identity_t<Config> config) {
  return [block, params = std::move(params), config = std::move(config)](Matrix const& x, std::any& state) {
    if (!state.has_value()) {
      state = State{};
    }
    return block(params, config, std::any_cast<State&>(state), x);
  };
}

struct DecoderLayer {
  Vector input_norm;  ///< `[D]`, before the mixer
  Mixer mixer;
  Vector post_norm;  ///< `[D]`, before the MLP
  MlpParams mlp;
};

struct CausalLmParams {
  Matrix embedding;  ///< `[vocab, D]`
  std::vector<DecoderLayer> layers;
  Vector final_norm;  ///< `[D]`
  Matrix head;        ///< `[vocab, D]`; empty means tied to the embedding
  double norm_eps = 1e-6;
};

struct CausalLmState {
  std::vector<std::any> layers;
};

struct CausalLmOutput {
  Matrix logits;               ///< `[T, vocab]`
  std::vector<Matrix> hidden;  ///< output of every layer, before the final norm: `[T, D]` each
};

/// `x = E[ids]`; per layer `x += mixer(norm(x))`, `x += mlp(norm(x))`; `logits = norm(x) head^T`.
inline CausalLmOutput causal_lm(CausalLmParams const& params, CausalLmState& state, std::vector<i64> const& ids) {
  if (state.layers.empty()) {
    state.layers.resize(params.layers.size());
  }
  require(state.layers.size() == params.layers.size(), "causal_lm: the state is another model's");
  CausalLmOutput output;
  Matrix x = embedding(ids, params.embedding);
  for (std::size_t i = 0; i < params.layers.size(); ++i) {
    DecoderLayer const& layer = params.layers[i];
    x = add(x, layer.mixer(rms_norm(x, layer.input_norm, params.norm_eps), state.layers[i]));
    x = add(x, swiglu_mlp(layer.mlp, rms_norm(x, layer.post_norm, params.norm_eps)));
    output.hidden.push_back(x);
  }
  Matrix const normalised = rms_norm(x, params.final_norm, params.norm_eps);
  output.logits = params.head.empty() ? tied_head(normalised, params.embedding) : linear(normalised, params.head);
  return output;
}

}  // namespace reference
JET_NAMESPACE_END
