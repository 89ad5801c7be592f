/// \file
/// Floors of a model's calls on a device: what no implementation of the same numerics can beat, from the ceilings
/// of memory and matrix units. FLOPs: a multiply-add is two. Bytes: what must cross to device memory with
/// everything fused that a good implementation fuses; in decode, activations stay in cache. An operator's floor is
/// the longest of its three times; a call's floor is the sum over its operators (one after the other).
///
///   bench::RooflineOps const ops = bench::prefill_ops<JetNemotron2B>(16, 4096);
///   double const seconds = bench::floor_seconds(ops, bench::h100_ceilings);
///
/// A block of your own has floors when it specialises bench::BlockCost.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include <jet/block/attention.hpp>
#include <jet/block/deltanet.hpp>
#include <jet/block/full_attention.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/block/rwkv7_channel_mix.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/block/swiglu_mlp.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/state.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN
namespace bench {

/// Bytes per second of a copy (read and written both counted) and of reading alone; FLOP/s of bf16 products on the
/// matrix units, and of fp32 outside them.
struct Ceilings {
  double copy = 0;
  double read = 0;
  double tensor = 0;
  double simt = 60e12;
};
/// As measured: products of 8192^3 in a short burst.
inline constexpr Ceilings h100_ceilings{3.0e12, 3.089e12, 798e12};
inline constexpr Ceilings h200_ceilings{4.25e12, 4.65e12, 795e12};

/// One kind of operator of a call.
struct RooflineOp {
  std::string name;
  double calls = 1;
  double tensor = 0;  // FLOP of one call on the matrix units
  double simt = 0;    // FLOP of one call outside them
  double bytes = 0;   // of one call

  double seconds(Ceilings const& c) const {
    return calls * std::max({tensor / c.tensor, simt / c.simt, bytes / c.copy});
  }
};
using RooflineOps = std::vector<RooflineOp>;

inline double floor_seconds(RooflineOps const& ops, Ceilings const& ceilings) {
  double sum = 0;
  for (RooflineOp const& op : ops) {
    sum += op.seconds(ceilings);
  }
  return sum;
}

/// The call whose operators are listed: `seqs` new sequences of `tokens` tokens, or a decode step of `seqs`
/// sequences that have seen `context`. Weights and activations are of 2 bytes.
struct Work {
  bool decode = false;
  double seqs = 1;
  double tokens = 1;
  double context = 0;
  Precision precision{};

  double rows() const { return seqs * tokens; }
  double state_size() const { return static_cast<double>(size_of(precision.state)); }
  double kv_size() const { return static_cast<double>(size_of(precision.kv_dtype())); }
};

namespace detail {

inline constexpr double two_bytes = 2;
inline constexpr double chunk = 64;  // tokens of a chunk of the scans

/// (rows, in) times (in, out). In a prefill, `out_written` columns are written (-1: all) and `more` bytes beside.
inline RooflineOp product(Work const& w, std::string name, i64 out, i64 in, i64 out_written = -1, double more = 0,
                          double rows = -1) {
  double const m = rows < 0 ? w.rows() : rows;
  double const n = static_cast<double>(out), k = static_cast<double>(in);
  double const written = out_written < 0 ? n : static_cast<double>(out_written);
  double const activations = w.decode || rows >= 0 ? 0 : m * (k + written) * two_bytes + more;
  return {std::move(name), 1, 2 * m * n * k, 0, n * k * two_bytes + activations};
}
/// One that adds to the residual stream, which it reads too.
inline RooflineOp residual_product(Work const& w, std::string name, i64 out, i64 in) {
  return product(w, std::move(name), out, in, -1, w.rows() * static_cast<double>(out) * two_bytes);
}

/// A scan: a state of head_k x head_v numbers per head, in chunks or as a step.
struct Scan {
  double heads, head_k, head_v;
  double chunk_flops;  // per token and head
  double step_flops;   // per element of the state
  double moved;        // numbers read and written per token beside the state, gates of the output included
};
/// S K, S Q and update; P V and T V; Q K and K K; the inverse of the chunk's triangle.
constexpr double delta_flops(double k, double v) {
  return 6 * k * v + 4 * chunk * v + 4 * chunk * k + 2 * chunk * chunk / 3;
}
/// S Q and update; P V; Q K.
constexpr double additive_flops(double k, double v) {
  return 4 * k * v + 2 * chunk * (k + v);
}
/// The generalised delta rule: four C x C matrices; four products with values; four with the state.
constexpr double general_delta_flops(double k, double v) {
  return 8 * chunk * (k + v) + 8 * k * v;
}

inline RooflineOp scan(Work const& w, std::string name, Scan const& s) {
  double const state = s.heads * s.head_k * s.head_v;
  if (w.decode) {
    return {std::move(name), 1, 0, s.step_flops * w.rows() * state, 2 * w.rows() * state * w.state_size()};
  }
  // logits of the gates are fp32, two numbers per head
  return {std::move(name), 1, w.rows() * s.heads * s.chunk_flops, 0,
          w.rows() * (s.moved * two_bytes + 2 * s.heads * 4)};
}

/// A static convolution of `taps` taps with its silu, fused with what is before or after it in a prefill.
inline void convolution(Work const& w, RooflineOps& ops, i64 channels, i64 taps) {
  if (taps > 0 && channels > 0) {
    double const n = w.rows() * static_cast<double>(channels);
    double const t = static_cast<double>(taps);
    ops.push_back({"short convolution", 1, 0, 2 * n * t, w.decode ? n * t * two_bytes : 2 * n * two_bytes});
  }
}

}  // namespace detail

/// The operators of a block: `static void add(Work const&, RooflineOps&)`.
template <class M> struct BlockCost;

template <> struct BlockCost<NoMlp> {
  static void add(Work const&, RooflineOps&) {}
};

template <MlpConfig C> struct BlockCost<SwiGluMlp<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    ops.push_back(detail::product(w, "MLP gate-up + SwiGLU", 2 * C.hidden, C.d_model, C.hidden));
    ops.push_back(detail::residual_product(w, "MLP down + residual", C.d_model, C.hidden));
  }
};

template <ChannelMixConfig C> struct BlockCost<Rwkv7ChannelMix<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    ops.push_back(detail::product(w, "channel mix key + squared ReLU", C.hidden, C.d_model));
    ops.push_back(detail::residual_product(w, "channel mix value + residual", C.d_model, C.hidden));
  }
};

template <class M> struct AttentionCost {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr auto c = M::config;
    constexpr i64 all = c.query_dim() + 2 * c.kv_dim();
    double const query = static_cast<double>(c.query_dim());
    double const kv = static_cast<double>(c.kv_dim());
    double const window = static_cast<double>(M::window);
    RooflineOp in = detail::product(w, "attention qkv + rope + append", all, c.d_model);
    if (w.decode) {
      double const row = 2 * kv * w.kv_size();
      in.bytes += w.seqs * row;
      double const seen = M::window > 0 ? std::min(w.context, window) : w.context;
      ops.push_back(in);
      ops.push_back({name(), 1, 4 * w.seqs * seen * query, 0, w.seqs * seen * row});
    } else {
      double const t = w.tokens, reach = std::min(t, window);
      double const pairs = M::window > 0 ? reach * (reach + 1) / 2 + (t - reach) * reach : t * t / 2;
      ops.push_back(in);
      ops.push_back(
          {name(), 1, 4 * w.seqs * pairs * query, 0, w.rows() * (2 * query + 2 * kv) * detail::two_bytes});
    }
    ops.push_back(detail::residual_product(w, "attention o_proj + residual", c.d_model, c.query_dim()));
  }
  static std::string name() { return M::window > 0 ? "sliding window attention" : "full attention"; }
};
template <AttentionConfig C> struct BlockCost<FullAttention<C>> : AttentionCost<FullAttention<C>> {};
template <AttentionConfig C, i64 Window>
struct BlockCost<SlidingWindow<C, Window>> : AttentionCost<SlidingWindow<C, Window>> {};

template <JetBlockConfig C> struct BlockCost<JetBlock<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr i64 in = 2 * C.key_dim() + 2 * C.value_dim() + C.gen_dim() + 2 * C.heads;
    constexpr double taps = C.conv, k = C.head_k, v = C.head_v, heads = C.heads;
    constexpr double keys = C.key_dim(), values = C.value_dim();
    ops.push_back(detail::product(w, "jet in_proj (q,k,v,g,w1,a,b)", in, C.d_model));
    RooflineOp generator =
        detail::product(w, "generator w2 + dynamic convolution + silu", C.conv * C.value_dim(), C.gen_dim());
    if (w.decode) {
      double const n = w.rows() * values * taps;
      ops.push_back(generator);
      ops.push_back({"convolution cache", 1, 0, 2 * n, n * detail::two_bytes});
    } else {
      generator.simt = w.rows() * values * (2 * taps + 6);
      generator.bytes = (static_cast<double>(C.gen_dim()) * taps * values +
                         w.rows() * (static_cast<double>(C.gen_dim()) + 2 * values)) *
                        detail::two_bytes;
      ops.push_back(generator);
    }
    ops.push_back(detail::scan(w, "gated delta rule + gated norm",
                               {heads, k, v, detail::delta_flops(k, v), 7, 2 * keys + 3 * values}));
    ops.push_back(detail::residual_product(w, "jet o_proj + residual", C.d_model, C.value_dim()));
  }
};

template <GatedDeltaNetConfig C> struct BlockCost<GatedDeltaNet<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr i64 gate = C.gate ? C.value_dim() : 0;
    constexpr double k = C.head_k, v = C.head_v;
    ops.push_back(detail::product(w, "gated deltanet in_proj (q,k,v,g,a,b)",
                                  2 * C.key_dim() + C.value_dim() + gate + 2 * C.states(), C.d_model));
    detail::convolution(w, ops, 2 * C.key_dim() + C.value_dim(), C.conv);
    ops.push_back(detail::scan(w, "gated delta rule + gated norm",
                               {static_cast<double>(C.states()), k, v, detail::delta_flops(k, v), 7,
                                static_cast<double>(2 * C.key_dim() + 2 * C.value_dim() + gate)}));
    ops.push_back(detail::residual_product(w, "gated deltanet o_proj + residual", C.d_model, C.value_dim()));
  }
};

template <DeltaNetConfig C> struct BlockCost<DeltaNet<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr i64 gate = C.gate ? C.value_dim() : 0;
    constexpr double k = C.head_k, v = C.head_v;
    ops.push_back(
        detail::product(w, "deltanet in_proj", 2 * C.key_dim() + C.value_dim() + gate + C.heads, C.d_model));
    detail::convolution(w, ops, 2 * C.key_dim() + C.value_dim(), C.conv);
    ops.push_back(detail::scan(w, "delta rule + norm",
                               {static_cast<double>(C.heads), k, v, detail::delta_flops(k, v), 7,
                                static_cast<double>(2 * C.key_dim() + 2 * C.value_dim() + gate)}));
    ops.push_back(detail::residual_product(w, "deltanet o_proj + residual", C.d_model, C.value_dim()));
  }
};

template <GlaConfig C> struct BlockCost<Gla<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr i64 gate = C.gate ? C.output_dim() : 0;
    constexpr double k = C.head_k, v = C.head_v;
    ops.push_back(detail::product(w, "gla in_proj", C.query_dim() + C.key_dim() + C.value_dim() + gate + C.low_rank,
                                  C.d_model));
    ops.push_back(detail::product(w, "gla decay", C.key_dim(), C.low_rank));
    detail::convolution(w, ops, C.query_dim() + C.key_dim() + C.value_dim(), C.conv);
    ops.push_back(detail::scan(
        w, "gated linear attention + gated norm",
        {static_cast<double>(C.heads), k, v, detail::additive_flops(k, v), 5,
         static_cast<double>(C.query_dim() + 2 * C.key_dim() + C.value_dim() + C.output_dim() + gate)}));
    ops.push_back(detail::residual_product(w, "gla o_proj + residual", C.d_model, C.output_dim()));
  }
};

template <RetNetConfig C> struct BlockCost<RetNet<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr i64 gate = C.gate ? C.output_dim() : 0;
    constexpr double k = C.head_k, v = C.head_v;
    ops.push_back(
        detail::product(w, "retnet in_proj", C.query_dim() + C.key_dim() + C.value_dim() + gate, C.d_model));
    detail::convolution(w, ops, C.query_dim() + C.key_dim() + C.value_dim(), C.conv);
    ops.push_back(
        detail::scan(w, "retention + gated norm",
                     {static_cast<double>(C.heads), k, v, detail::additive_flops(k, v), 5,
                      static_cast<double>(C.query_dim() + C.key_dim() + C.value_dim() + C.output_dim() + gate)}));
    ops.push_back(detail::residual_product(w, "retnet o_proj + residual", C.d_model, C.output_dim()));
  }
};

template <Mamba2Config C> struct BlockCost<Mamba2<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr double k = C.state, v = C.head;
    ops.push_back(detail::product(w, "mamba2 in_proj", C.in_dim(), C.d_model));
    detail::convolution(w, ops, C.conv_dim(), C.conv);
    ops.push_back(detail::scan(w, "state space scan + gated norm",
                               {static_cast<double>(C.heads), k, v, detail::additive_flops(k, v), 5,
                                static_cast<double>(2 * C.group_dim() + 3 * C.inner())}));
    ops.push_back(detail::residual_product(w, "mamba2 out_proj + residual", C.d_model, C.inner()));
  }
};

template <Rwkv7Config C> struct BlockCost<Rwkv7<C>> {
  static void add(Work const& w, RooflineOps& ops) {
    constexpr double d = C.head;
    constexpr i64 low = C.decay_rank + C.rate_rank + C.value_rank + C.gate_rank;
    ops.push_back(detail::product(w, "rwkv7 r, k, v and low-rank products", 3 * C.dim() + low, C.d_model));
    ops.push_back(detail::product(w, "rwkv7 decay, rate, value residual, gate", C.dim(), low));
    ops.push_back(detail::scan(w, "generalised delta rule + norm",
                               {static_cast<double>(C.heads), d, d, detail::general_delta_flops(d, d), 9,
                                static_cast<double>(8 * C.dim())}));
    ops.push_back(detail::residual_product(w, "rwkv7 o_proj + residual", C.d_model, C.dim()));
  }
};

namespace detail {

/// All operators of a call, equal ones counted together.
template <class Model> RooflineOps model_ops(Work const& w, std::string_view plan) {
  RooflineOps all;
  auto const take = [&](RooflineOps const& ops) {
    for (RooflineOp const& op : ops) {
      auto const same = std::find_if(all.begin(), all.end(), [&](RooflineOp const& o) {
        return o.name == op.name && o.tensor == op.tensor && o.simt == op.simt && o.bytes == op.bytes;
      });
      if (same != all.end()) {
        same->calls += op.calls;
      } else {
        all.push_back(op);
      }
    }
  };
  double const width = static_cast<double>(Model::config.d_model);
  double norms = Model::config.embedding_norm ? 2 : 1;
  for (char const letter : plan) {
    Model::for_letter(letter, [&]<class L>() { norms += L::has_mlp ? 2 : 1; });
  }
  if (!w.decode) {
    double const row_bytes = 2 * w.rows() * width * two_bytes;
    take({{"embedding", 1, 0, 0, row_bytes}, {"norms", norms, 0, 6 * w.rows() * width, row_bytes}});
  }
  for (char const letter : plan) {
    Model::for_letter(letter, [&]<class L>() {
      RooflineOps ops;
      BlockCost<typename L::mixer>::add(w, ops);
      BlockCost<typename L::mlp>::add(w, ops);
      take(ops);
    });
  }
  take({product(w, "LM head", Model::config.vocab, Model::config.d_model, -1, 0, w.seqs)});
  return all;
}

}  // namespace detail

/// The operators of a prefill of `seqs` new sequences of `tokens` tokens, with the logits of each one's last token.
template <class Model> RooflineOps prefill_ops(i64 seqs, i64 tokens, std::string_view plan = Model::plan()) {
  return detail::model_ops<Model>(
      {false, static_cast<double>(seqs), static_cast<double>(tokens), static_cast<double>(tokens), {}}, plan);
}

/// The operators of a decode step of `seqs` sequences that have seen `context` tokens.
template <class Model>
RooflineOps decode_ops(i64 seqs, i64 context, Precision const& p, std::string_view plan = Model::plan()) {
  return detail::model_ops<Model>({true, static_cast<double>(seqs), 1, static_cast<double>(context), p}, plan);
}

/// Bytes that a decode step must move: read only (weights once, keys and values) and read and written (recurrent
/// states twice, the inputs of convolutions once).
struct DecodeTraffic {
  double read_only = 0;
  double read_and_written = 0;

  /// The floor by memory alone: the one at the ceiling of reads, the other at that of copies.
  double seconds(Ceilings const& c) const { return read_only / c.read + read_and_written / c.copy; }
};

template <class Model>
DecodeTraffic decode_traffic(Precision const& p, i64 seqs, i64 context, std::string_view plan = Model::plan()) {
  i64 const embedding = Model::config.vocab * Model::config.d_model;
  DecodeTraffic t;
  t.read_only = static_cast<double>((Model::num_params(plan) - (Model::config.tied ? 0 : embedding)) *
                                    size_of(p.weights));  // of an untied embedding a few rows are read
  auto const add = [&]<class M>(std::type_identity<M>) {
    for (auto const& row : state_specs<M>()) {
      double const bytes = static_cast<double>(seqs * state_bytes(row, p, context));
      (row.per_token ? t.read_only : t.read_and_written) += row.role == Role::recurrent ? 2 * bytes : bytes;
    }
  };
  for (char const letter : plan) {
    Model::for_letter(letter, [&]<class L>() {
      add(std::type_identity<typename L::mixer>{});
      add(std::type_identity<typename L::mlp>{});
    });
  }
  return t;
}

}  // namespace bench
JET_NAMESPACE_END
