/// \file
/// The ops of a model around its mixers, at odd sizes, on any backend: what a backend's tests and self-test run
/// beside the CPU, the oracle.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/rng.hpp>
#include <jet/op/embedding.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/norm.hpp>
#include <jet/op/rope.hpp>
#include <jet/op/sample.hpp>
#include <jet/op/swiglu.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/compare.hpp>
#include <jet/testing/reference.hpp>

JET_NAMESPACE_BEGIN
namespace testing {

/// What an op left in one tensor.
struct OpResult {
  std::string name;
  std::vector<double> values;
  DType stored;  // as
  i64 terms;     // of the longest sum behind a value

  /// The name without its sizes.
  std::string op() const { return name.substr(0, name.find_first_of(" ,")); }
  /// Largest relative RMS between two backends; 0: equal.
  double bound() const {
    switch (stored) {
      case DType::bf16:
        // both sides round; where they fall apart, by one step. Many rows of swiglu_linears are rounded once more.
        return name.starts_with("swiglu_linears") ? 6e-3 : 2e-3;
      case DType::f32: return std::max(3e-7, 2e-6 * std::sqrt(static_cast<double>(terms)) / 32);
      default: return 0;
    }
  }
};

/// Sequences of several lengths, an empty one and an inactive one, far into their contexts.
inline Batch ragged_batch() {
  Batch batch;
  batch.add(2, 3, 0);
  batch.add(0, 0, 5);
  batch.add(-1, 2, 0);
  batch.add(1, 7, 65530);
  batch.add(3, 1, 1000003);
  return batch;
}
/// A decode step of that many sequences, a quarter of them inactive.
inline Batch decode_batch(i64 seqs) {
  Batch batch;
  for (i64 i = 0; i < seqs; ++i) {
    batch.add(i % 4 == 2 ? -1 : static_cast<std::int32_t>(i), 1, 17 * i);
  }
  return batch;
}

/// Runs every case and keeps what it left.
template <class B> class OpCases {
 public:
  static constexpr Precision p = B::precision;
  std::vector<OpResult> results;

  explicit OpCases(B& backend) : backend_(backend) {}

  void all() {
    std::vector<DType> const types = p.act == p.acc ? std::vector{p.acc} : std::vector{p.act, p.acc};
    for (DType const in : types) {
      for (DType const out : types) {
        for (i64 const width : {1, 7, 48, 64, 576, 1536, 4099, 9000, 40000}) {
          norms(width > 4096 ? 3 : 17, width, in, out);
        }
        for (i64 const rows : {1, 2, 4, 5, 8, 9, 16, 17, 40, 200}) {
          linear(rows, 12, 64, in, out, false, false);
          linear(rows, 1, 7, in, out, true, false);
          linear(rows, 33, 40, in, out, true, true);
          linear(rows, 130, 96, in, out, true, false);
          linear(rows, 100, 1000, in, out, false, true);
        }
        linear(3, 512, 1536, in, out, false, false);
        linear(100, 512, 1536, in, out, true, true);
        linear(3, 272, 8960, in, out, false, false);
        linear(60, 272, 8960, in, out, false, false);
        linear(0, 8, 8, in, out, false, false);
      }
    }
    linears(1), linears(16), linears(50);
    for (i64 const rows : {1, 3, 8, 9, 16, 17}) {
      linear_and_norm(rows, 1536, 96);
      linear_and_norm(rows, 264, 1000);
      linear_and_norm(rows, 33, 64);
    }
    for (auto const& [heads, head] : {std::pair<i64, i64>{1, 2}, {3, 12}, {4, 128}, {2, 64}}) {
      heads_of(heads, head);
    }
    for (i64 const width : {1, 33, 176, 8960}) {
      swiglu(5, width);
      for (i64 const rows : {1, 8, 11, 16, 17, 50}) {
        gated(rows, width > 1000 ? 1100 : width, width > 1000 ? 1536 : width == 33 ? 42 : 96);
      }
    }
    embedding(7), embedding(64);
    for (i64 const vocab : {1, 97, 5000, 151936}) {
      choice(vocab);
    }
  }

 private:
  template <class F> void run(Batch const& batch, F const& body) { run_planned(backend_, batch, body); }
  void keep(std::string const& name, Activation<B> const& x, i64 terms = 1) {
    results.push_back({name, x.values().data, x.view().dtype, terms});
  }

  void norms(i64 rows, i64 width, DType in, DType out) {
    std::string const name = concat(" of ", rows, " x ", width, ", ", name_of(in), " to ", name_of(out));
    Activation<B> const w(backend_, normal(1, width, 1), p.acc);
    Activation<B> x(backend_, normal(rows, width, 2), in), y(backend_, rows, width, out);
    Activation<B> const delta(backend_, normal(rows, width, 3), out);
    run(decode_batch(rows), [&](auto& ctx) { ctx.run(op::RmsNorm{1e-5}, w.slot({width}), x.view(), y.view()); });
    keep("rms_norm" + name, y, width);
    run(decode_batch(rows),
        [&](auto& ctx) { ctx.run(op::AddRmsNorm{1e-5}, w.slot({width}), delta.view(), x.view(), y.view()); });
    keep("add_rms_norm" + name, y, width);
    keep("add_rms_norm" + name + ", the sum", x);
    run(decode_batch(rows), [&](auto& ctx) { ctx.run(op::Add{}, delta.view(), x.view()); });
    keep("add" + name, x);
  }

  void linear(i64 rows, i64 n, i64 k, DType in, DType out, bool bias, bool accumulate) {
    Activation<B> const w(backend_, normal(n, k, 4, 0.3), p.weights);
    Activation<B> const b(backend_, normal(1, n, 5), p.acc);
    Activation<B> const x(backend_, normal(rows, k, 6), in);
    Activation<B> y(backend_, rows, n, out);
    if (accumulate) {
      y.set(normal(rows, n, 7));
    }
    run(decode_batch(rows), [&](auto& ctx) {
      ctx.run(op::Linear{accumulate}, w.slot({n, k}), bias ? b.slot({n}) : Slot{}, x.view(), y.view());
    });
    keep(concat("linear of ", rows, " rows, ", n, " x ", k, ", ", name_of(in), " to ", name_of(out),
                bias ? ", bias" : "", accumulate ? ", accumulate" : ""),
         y, k);
  }

  // A product and the norm that follows it: one launch, for few rows of bf16.
  void linear_and_norm(i64 rows, i64 n, i64 k) {
    Activation<B> const w(backend_, normal(n, k, 70, 0.3), p.weights), g(backend_, normal(1, n, 71), p.acc);
    Activation<B> const x(backend_, normal(rows, k, 72), p.act);
    Activation<B> y(backend_, rows, n, p.act), h(backend_, rows, n, p.act);
    Activation<B> stream(backend_, normal(rows, n, 73), p.act);
    run(decode_batch(rows), [&](auto& ctx) {
      for (int i = 0; i < 2; ++i) {
        ctx.run(op::Linear{}, w.slot({n, k}), Slot{}, x.view(), y.view());
        ctx.run(op::AddRmsNorm{1e-5}, g.slot({n}), y.view(), stream.view(), h.view());
      }
    });
    std::string const name = concat("linear_and_norm of ", rows, " rows, ", n, " x ", k);
    keep(name + ", product", y, k);
    keep(name + ", sum", stream, k);
    keep(name + ", norm", h, k + n);
  }

  // As JetBlock's: seven products of one input, of different widths and types.
  void linears(i64 rows) {
    i64 const k = 96;
    std::vector<i64> const widths{48, 48, 64, 64, 17, 2, 2};
    Activation<B> const x(backend_, normal(rows, k, 8), p.act);
    std::vector<Activation<B>> w, y;
    for (std::size_t i = 0; i < 7; ++i) {
      w.emplace_back(backend_, normal(widths[i], k, 9 + i, 0.3), p.weights);
      y.emplace_back(backend_, rows, widths[i], i == 2 ? p.act : p.acc);
    }
    run(decode_batch(rows), [&](auto& ctx) {
      std::array<op::Projection, 7> parts;
      for (std::size_t i = 0; i < 7; ++i) {
        parts[i] = {w[i].slot({widths[i], k}), Slot{}, y[i].view()};
      }
      ctx.run(op::Linears{}, x.view(), parts);
    });
    for (std::size_t i = 0; i < 7; ++i) {
      keep(concat("linears of ", rows, " rows, part ", i), y[i], k);
    }
  }

  void heads_of(i64 heads, i64 head) {
    Batch const batch = ragged_batch();
    i64 const t = batch.tokens();
    std::string const name = concat(" of ", heads, " heads of ", head);
    Activation<B> const w(backend_, normal(1, head, 20), p.acc);
    Activation<B> x(backend_, normal(t, heads * head, 21), p.acc), table(backend_, t, head, p.acc);
    run(batch, [&](auto& ctx) { ctx.run(op::HeadNorm{heads, head, 1e-6}, w.slot({head}), x.view()); });
    keep("head_norm" + name, x, head);
    RopeConfig const rope{.theta = 1e6, .scaling = {.factor = 8, .original_max_position = 64}};
    run(batch, [&](auto& ctx) {
      ctx.run(op::RopeTable{rope, head}, table.view());
      ctx.run(op::Rope{heads, head}, table.view(), x.view());
    });
    keep("rope_table" + name, table);
    keep("rope" + name, x);
    Activation<B> const v(backend_, normal(1, head, 22), p.acc);
    Activation<B> q(backend_, normal(t, heads * head, 23), p.acc), k(backend_, normal(t, 2 * head, 24), p.acc);
    for (bool const norm : {true, false}) {
      run(batch, [&](auto& ctx) {
        ctx.run(op::RotateHeads{heads, 2, head, 1e-6}, table.view(), norm ? w.slot({head}) : Slot{},
                norm ? v.slot({head}) : Slot{}, q.view(), k.view());
      });
      keep("rotate_heads" + name + ", queries", q, head);
      keep("rotate_heads" + name + ", keys", k, head);
    }
  }

  void swiglu(i64 rows, i64 width) {
    Activation<B> const gate(backend_, normal(rows, width, 30, 4), p.acc);
    Activation<B> const up(backend_, normal(rows, width, 31), p.acc);
    Activation<B> y(backend_, rows, width, p.act);
    run(decode_batch(rows), [&](auto& ctx) { ctx.run(op::SwiGlu{}, gate.view(), up.view(), y.view()); });
    keep(concat("swiglu of ", width), y);
  }

  void gated(i64 rows, i64 n, i64 k) {
    Activation<B> const gate(backend_, normal(n, k, 32, 0.3), p.weights),
        up(backend_, normal(n, k, 33, 0.3), p.weights);
    Activation<B> const x(backend_, normal(rows, k, 34), p.act);
    Activation<B> y(backend_, rows, n, p.act);
    run(decode_batch(rows), [&](auto& ctx) {
      ctx.run(op::SwiGluLinears{}, x.view(), gate.slot({n, k}), up.slot({n, k}), y.view());
    });
    keep(concat("swiglu_linears of ", rows, " rows, ", n, " x ", k), y, 4 * k);
  }

  void embedding(i64 width) {
    Batch const batch = ragged_batch();
    i64 const vocab = 19;
    Activation<B> const table(backend_, normal(vocab, width, 40), p.weights);
    Activation<B> x(backend_, batch.tokens(), width, p.act), y(backend_, 3, width, p.act);
    std::vector<std::int32_t> ids;
    for (i64 t = 0; t < batch.tokens(); ++t) {
      ids.push_back(static_cast<std::int32_t>(t * 7 % vocab));
    }
    std::vector<std::int64_t> const rows{12, 0, 5};
    auto const ids_there = there(ids);
    auto const rows_there = there(rows);
    run(batch, [&](auto& ctx) {
      ctx.run(op::Embedding{}, table.slot({vocab, width}), reinterpret_cast<std::int32_t const*>(ids_there.data()),
              x.view());
      ctx.run(op::GatherRows{}, x.view(), reinterpret_cast<std::int64_t const*>(rows_there.data()), y.view());
    });
    keep(concat("embedding of ", width), x);
    keep(concat("gather_rows of ", width), y);
  }

  void choice(i64 vocab) {
    i64 const seqs = 9;
    Batch const batch = decode_batch(seqs);
    reference::Matrix values = normal(seqs, vocab, 50);
    for (i64 i = 0; i < seqs; ++i) {  // equal ones: the lowest index counts
      for (i64 const at : {vocab / 3, vocab - 1, vocab / 2}) {
        values.at(i, at) = i == 5 ? 0.0 : 9.0;
      }
    }
    Activation<B> const logits(backend_, values, p.acc);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(seqs), -7);
    auto const ids_there = there(ids);
    auto const positions = there(batch.position);
    auto* const position = reinterpret_cast<std::int64_t*>(positions.data());
    run(batch, [&](auto& ctx) {
      ctx.run(op::Greedy{}, logits.view(), reinterpret_cast<std::int32_t*>(ids_there.data()));
      ctx.run(op::Advance{}, position);
    });
    backend_.copy_to_host(ids.data(), ids_there.data(), seqs * i64{sizeof(std::int32_t)});
    std::vector<std::int64_t> moved(static_cast<std::size_t>(seqs));
    backend_.copy_to_host(moved.data(), position, seqs * i64{sizeof(std::int64_t)});
    results.push_back({concat("greedy of ", vocab), {ids.begin(), ids.end()}, DType::i32, 0});
    results.push_back({concat("advance ", vocab), {moved.begin(), moved.end()}, DType::i64, 0});
  }

  template <class T> auto there(std::vector<T> const& from) {
    auto buffer = backend_.allocate(static_cast<i64>(from.size() * sizeof(T)));
    backend_.copy_from_host(buffer.data(), from.data(), static_cast<i64>(from.size() * sizeof(T)));
    return buffer;
  }

  B& backend_;
};

/// What all cases leave on backend B.
template <class B> std::vector<OpResult> op_results() {
  B backend;
  OpCases<B> cases(backend);
  cases.all();
  return std::move(cases.results);
}

}  // namespace testing
JET_NAMESPACE_END
