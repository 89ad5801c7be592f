// The ops of the blocks of Jet-Nemotron-2B on the CPU, many tokens at once (prefill) and one (decode). Sizes derive
// from the blocks' declarations: every matrix of a block is a product, and an op's sizes are its block's.
//
// Names: op/<op>/<of>/<policy>/tokens:<n>[/context:<n>]. Counters: tokens/s, FLOP/s, B/s (weights, input, output,
// and keys and values or states that the call has to move, each once).
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <jet/core/param.hpp>
#include <jet/cpu/cpu.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/compare.hpp>

namespace {

using namespace jet;
using testing::Activation;
using testing::normal;

constexpr i64 many = 512;

// The tensors of one case, and what a token costs.
template <class B> struct Tensors {
  B backend{BackendOptions{}};
  std::vector<std::unique_ptr<Activation<B>>> kept;

  Activation<B>& add(i64 rows, i64 columns, DType type) {
    kept.push_back(std::make_unique<Activation<B>>(backend, normal(rows, columns, kept.size() + 1, 0.3), type));
    return *kept.back();
  }
  i64 bytes() const {
    i64 sum = 0;
    for (auto const& tensor : kept) {
      sum += tensor->view().numel() * size_of(tensor->view().dtype);
    }
    return sum;
  }
};

// Registers a case. make(tensors, tokens) allocates and returns body(ctx).
template <class B, class Make>
void add(std::string const& name, i64 tokens, i64 context, double flop_per_token, Make const& make) {
  std::string const full = "op/" + name + "/tokens:" + std::to_string(tokens) +
                           (context > 0 ? "/context:" + std::to_string(context) : "");
  benchmark::RegisterBenchmark(full.c_str(),
                               [=](benchmark::State& state) {
                                 Tensors<B> t;
                                 auto const body = make(t, tokens);
                                 Batch batch;
                                 batch.add(0, tokens, context);
                                 testing::PreparedCall<B> call(t.backend, batch, body);
                                 for (auto _ : state) {
                                   call.run(body);
                                   t.backend.sync();
                                 }
                                 auto const rate = benchmark::Counter::kIsIterationInvariantRate;
                                 auto const count = static_cast<double>(tokens);
                                 state.counters["tokens/s"] = benchmark::Counter(count, rate);
                                 state.counters["FLOP/s"] = benchmark::Counter(flop_per_token * count, rate);
                                 state.counters["B/s"] = benchmark::Counter(static_cast<double>(t.bytes()), rate);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

// Every matrix of a block as a product.
template <class Block, class B> void products(std::string const& policy) {
  for (auto const& row : param_specs<Block>()) {
    if (!row.present() || row.shape.rank != 2) {
      continue;
    }
    i64 const n = row.shape[0];
    i64 const k = row.shape[1];
    std::string const of = std::string(Block::kind) + "." + std::string(row.name.view());
    for (i64 const tokens : {i64{1}, many}) {
      add<B>("linear/" + of + "/" + policy, tokens, 0, 2.0 * static_cast<double>(n * k), [=](auto& t, i64 rows) {
        auto const& w = t.add(n, k, B::precision.weights);
        auto const& x = t.add(rows, k, B::precision.act);
        auto const& y = t.add(rows, n, B::precision.acc);
        return [&, n, k](auto& ctx) { ctx.run(op::Linear{}, w.slot({n, k}), Slot{}, x.view(), y.view()); };
      });
    }
  }
}

template <AttentionConfig C, class B> void attention(std::string const& policy) {
  static constexpr op::AttentionShape shape{C.heads, C.kv_heads, C.head, 0};
  for (auto const& [tokens, context] : {std::pair<i64, i64>{many, 0}, {many, 4096}, {1, 4096}, {1, 32768}}) {
    i64 const capacity = context + tokens;
    double const visible = static_cast<double>(context) + static_cast<double>(tokens + 1) / 2;
    add<B>("attention/12/2x128/" + policy, tokens, context, 4.0 * C.heads * C.head * visible,
           [=](auto& t, i64 rows) {
             auto const& q = t.add(rows, C.query_dim(), B::precision.acc);
             auto const& k = t.add(rows, C.kv_dim(), B::precision.acc);
             auto const& v = t.add(rows, C.kv_dim(), B::precision.acc);
             auto const& keys = t.add(capacity, C.kv_dim(), B::precision.kv_dtype());
             auto const& values = t.add(capacity, C.kv_dim(), B::precision.kv_dtype());
             auto const& o = t.add(rows, C.query_dim(), B::precision.act);
             Shape const cache{1, capacity, C.kv_heads, C.head};
             return [&, cache](auto& ctx) {
               ctx.run(op::Attention<shape>{}, q.view(), k.view(), v.view(), keys.slot(cache), values.slot(cache),
                       o.view());
             };
           });
  }
}

template <class B> void others(std::string const& policy) {
  static constexpr JetBlockConfig c = jet_2b;
  static constexpr i64 width = c.d_model;
  for (i64 const tokens : {i64{1}, many}) {
    add<B>("rms_norm/" + policy, tokens, 0, 4.0 * width, [](auto& t, i64 rows) {
      auto const& w = t.add(1, width, B::precision.acc);
      auto const& x = t.add(rows, width, B::precision.act);
      auto const& y = t.add(rows, width, B::precision.act);
      return [&](auto& ctx) { ctx.run(op::RmsNorm{}, w.slot({width}), x.view(), y.view()); };
    });
    add<B>("add_rms_norm/" + policy, tokens, 0, 5.0 * width, [](auto& t, i64 rows) {
      auto const& w = t.add(1, width, B::precision.acc);
      auto const& delta = t.add(rows, width, B::precision.act);
      auto const& x = t.add(rows, width, B::precision.act);
      auto const& y = t.add(rows, width, B::precision.act);
      return [&](auto& ctx) { ctx.run(op::AddRmsNorm{}, w.slot({width}), delta.view(), x.view(), y.view()); };
    });
    static constexpr i64 inner = JetNemotron2B::config.mlp;
    add<B>("swiglu_linears/" + policy, tokens, 0, 4.0 * width * inner, [](auto& t, i64 rows) {
      auto const& gate = t.add(inner, width, B::precision.weights);
      auto const& up = t.add(inner, width, B::precision.weights);
      auto const& x = t.add(rows, width, B::precision.act);
      auto const& y = t.add(rows, inner, B::precision.act);
      return [&](auto& ctx) {
        ctx.run(op::SwiGluLinears{}, x.view(), gate.slot({inner, width}), up.slot({inner, width}), y.view());
      };
    });
    add<B>("short_conv/" + policy, tokens, 0, 2.0 * c.conv * c.value_dim(), [](auto& t, i64 rows) {
      auto const& w = t.add(c.value_dim(), c.conv, B::precision.acc);
      auto const& x = t.add(rows, c.value_dim(), B::precision.act);
      auto const& state = t.add(c.conv, c.value_dim(), B::precision.act);
      auto const& y = t.add(rows, c.value_dim(), B::precision.acc);
      return [&](auto& ctx) {
        ctx.run(op::ShortConv{c.conv}, w.slot({c.value_dim(), 1, c.conv}), Slot{}, x.view(),
                state.slot({1, c.conv, c.value_dim()}), y.view());
      };
    });
    add<B>("dynamic_conv/" + policy, tokens, 0, 2.0 * c.conv * c.value_dim() * (c.gen_dim() + 1),
           [](auto& t, i64 rows) {
             constexpr i64 kernels = c.value_dim() * c.conv;
             auto const& hidden = t.add(rows, c.gen_dim(), B::precision.acc);
             auto const& w = t.add(kernels, c.gen_dim(), B::precision.weights);
             auto const& b = t.add(1, kernels, B::precision.acc);
             auto const& x = t.add(rows, c.value_dim(), B::precision.act);
             auto const& state = t.add(c.conv, c.value_dim(), B::precision.act);
             auto const& y = t.add(rows, c.value_dim(), B::precision.acc);
             return [&](auto& ctx) {
               ctx.run(op::DynamicConv{c.conv}, hidden.view(), w.slot({kernels, c.gen_dim()}), b.slot({kernels}),
                       x.view(), state.slot({1, c.conv, c.value_dim()}), y.view());
             };
           });
    add<B>("delta_mix/" + policy, tokens, 0, 7.0 * c.heads * c.head_k * c.head_v, [](auto& t, i64 rows) {
      constexpr op::ScanShape shape{c.heads, c.head_k, c.head_v};
      auto& q = t.add(rows, c.key_dim(), B::precision.acc);
      auto& k = t.add(rows, c.key_dim(), B::precision.acc);
      auto const& v = t.add(rows, c.value_dim(), B::precision.acc);
      auto const& a = t.add(rows, c.heads, B::precision.acc);
      auto const& b = t.add(rows, c.heads, B::precision.acc);
      auto const& a_log = t.add(1, c.heads, B::precision.acc);
      auto const& dt_bias = t.add(1, c.heads, B::precision.acc);
      auto const& state = t.add(c.heads * c.head_k, c.head_v, B::precision.state);
      auto const& z = t.add(rows, c.value_dim(), B::precision.acc);
      auto const& w = t.add(1, c.head_v, B::precision.acc);
      auto const& y = t.add(rows, c.value_dim(), B::precision.act);
      return [&](auto& ctx) {
        ctx.run(op::DeltaMix<shape>{}, q.view(), k.view(), v.view(), a.view(), b.view(), a_log.slot({c.heads}),
                dt_bias.slot({c.heads}), state.slot({1, c.heads, c.head_k, c.head_v}), z.view(), w.slot({c.head_v}),
                y.view());
      };
    });
  }
}

template <Precision P> void all(std::string const& policy) {
  using B = Cpu<P>;
  products<JetBlock<jet_2b>, B>(policy);
  products<FullAttention<attention_2b>, B>(policy);
  attention<attention_2b, B>(policy);
  others<B>(policy);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  all<Precision{}>("bf16_weights");
  all<precision::bf16>("bf16");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
