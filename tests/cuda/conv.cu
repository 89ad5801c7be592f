// Short convolutions, norms and gates of the linear-attention blocks on the device against the float64 reference.
// Exit status: 0 right, 1 wrong, 77 no device.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <jet/cuda/short_conv.cuh>

#include "scan_cases.hpp"

namespace {

using namespace scan_test;
using jet::reference::Vector;

double worst = 0;

void near(double error, double bound, std::string const& what) {
  worst = std::max(worst, error / bound);
  expect(error <= bound, jet::concat(what, ": relative error ", error * 1e6, "e-6, allowed ", bound * 1e6, "e-6"));
}

Matrix rounded(Matrix m, DType type) {
  for (double& x : m.data) {
    x = type == DType::bf16 ? static_cast<double>(static_cast<float>(jet::bf16(static_cast<float>(x)))) : x;
  }
  return as_floats(std::move(m));
}

// A convolution with a pool of 100 states. R: hidden numbers of a generator, 0: a static convolution.
template <jet::Precision P> class Conv {
 public:
  using Backend = jet::Cuda<P>;
  static constexpr i64 slots = 100;

  Conv(i64 channels, i64 taps, i64 r, bool with_state = true, bool bias = true)
      : channels_(channels),
        taps_(taps),
        r_(r),
        with_state_(with_state),
        bias_(bias),
        name_(jet::concat(r > 0 ? "dynamic" : "short", " convolution of ", channels, " channels, ", taps,
                          " taps, r ", r, ", act ", jet::name_of(P.act), ", weights ", jet::name_of(P.weights))),
        w2_(rounded(normal(channels * taps, std::max<i64>(r, 1), 5, 0.5), r > 0 ? P.weights : DType::f32)),
        b2_(as_floats(normal(1, r > 0 ? channels * taps : channels, 6))),
        state_(backend_, normal(slots, taps * channels, 7), P.act) {}

  Matrix call(std::vector<Part> const& parts, std::uint64_t seed, bool check_values = true) {
    jet::Batch batch;
    for (Part const& p : parts) {
      batch.add(p.slot, p.tokens, 0);
    }
    i64 const tokens = batch.tokens();
    Matrix const x = rounded(normal(tokens, channels_, seed * 4 + 1), P.act);
    Matrix const hidden = as_floats(normal(tokens, std::max<i64>(r_, 1), seed * 4 + 2));
    Matrix const before = state_.values();
    Activation<Backend> in(backend_, x, P.act), h(backend_, hidden, DType::f32),
        y(backend_, tokens, channels_, DType::f32);
    Activation<Backend> w2(backend_, w2_, r_ > 0 ? P.weights : DType::f32), b2(backend_, b2_, DType::f32);
    Slot const state = with_state_ ? state_.slot({slots, taps_, channels_}) : Slot{};
    jet::testing::run_planned(backend_, batch, [&](auto& ctx) {
      if (r_ > 0) {
        ctx.run(jet::op::DynamicConv{taps_}, h.view(), w2.slot({channels_ * taps_, r_}),
                b2.slot({channels_ * taps_}), in.view(), state, y.view());
      } else {
        ctx.run(jet::op::ShortConv{taps_, true}, w2.slot({channels_, 1, taps_}),
                bias_ ? b2.slot({channels_}) : Slot{}, in.view(), state, y.view());
      }
    });
    Matrix const got = y.values();
    Matrix const after = state_.values();
    if (!check_values) {
      return got;
    }
    Matrix expected = before;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      Part const& p = parts[s];
      i64 const begin = batch.cu_seqlens[s];
      std::string const what = jet::concat(name_, ": slot ", p.slot, ", ", p.tokens, " tokens");
      Matrix const mine = jet::reference::rows_of(got, begin, p.tokens);
      if (p.slot < 0) {
        expect(std::all_of(mine.data.begin(), mine.data.end(), [](double v) { return std::isnan(v); }),
               what + ": wrote the output of an inactive sequence");
        continue;
      }
      // [taps, channels] to the reference's [channels, taps]
      Matrix old(channels_, taps_);
      for (i64 i = 0; with_state_ && i < taps_; ++i) {
        for (i64 c = 0; c < channels_; ++c) {
          old.at(c, i) = before.at(p.slot, i * channels_ + c);
        }
      }
      Matrix const x_mine = jet::reference::rows_of(x, begin, p.tokens);
      Matrix want(p.tokens, channels_);
      if (r_ > 0) {
        Matrix const kernels = jet::reference::linear(
            rounded(jet::reference::silu(jet::reference::rows_of(hidden, begin, p.tokens)), P.act), w2_,
            Vector(b2_.data.begin(), b2_.data.end()));
        for (i64 t = 0; t < p.tokens; ++t) {
          jet::reference::push_token(old, x_mine, t);
          for (i64 c = 0; c < channels_; ++c) {
            double sum = 0;
            for (i64 i = 0; i < taps_; ++i) {
              sum += kernels.at(t, c * taps_ + i) * old.at(c, i);
            }
            want.at(t, c) = jet::reference::silu(sum);
          }
        }
      } else {
        Matrix w(channels_, taps_);
        w.data = w2_.data;
        want = jet::reference::short_conv(x_mine, w, bias_ ? Vector(b2_.data.begin(), b2_.data.end()) : Vector{},
                                          true, old);
      }
      if (p.tokens > 0) {
        near(jet::reference::relative_rms(mine, want), P.act == DType::bf16 && r_ > 0 ? 2e-3 : 2e-6, what);
        for (i64 i = 0; with_state_ && i < taps_; ++i) {
          for (i64 c = 0; c < channels_; ++c) {
            expected.at(p.slot, i * channels_ + c) = old.at(c, i);
          }
        }
      }
    }
    expect(same_bits(after, expected), name_ + ": the states differ");
    return got;
  }
  void reset() { state_.set(normal(slots, taps_ * channels_, 7)); }

  void all(i64 longest) {
    call({{0, 0}, {1, 1}, {-1, 5}, {2, 2}, {3, 3}, {4, 63}, {-1, 1}, {5, 64}, {6, 65}, {7, longest}}, 1);
    call({{7, 1}, {0, 4}, {1, 2}, {-1, 2}, {5, 1}}, 2);
    call({{3, 1}, {-1, 1}, {0, 1}, {7, 1}, {6, 1}}, 3);
    call({{3, 2}, {-1, 1}, {0, 12}}, 4);
    reset();
    Matrix const alone = call({{8, 1}}, 5);
    reset();
    Matrix const again = call({{8, 1}}, 5);
    expect(same_bits(alone, again), name_ + ": a second run differs");
    reset();
    Matrix const among = call({{8, 1}, {1, 1}, {3, 30}, {4, 1}}, 5);
    expect(same_bits(alone, jet::reference::rows_of(among, 0, 1)),
           name_ + ": a step alone differs from one among others");
    reset();
    Matrix const whole = call({{8, 40}}, 6);
    reset();
    Matrix const part = call({{8, 7}}, 6);
    expect(same_bits(part, jet::reference::rows_of(whole, 0, 7)), name_ + ": a prefix differs");
  }

  // Enough tokens for tiles: ragged calls, steps of many sequences, and the same bits from every kernel.
  void many() {
    call({{0, 1500}, {1, 0}, {2, 1}, {-1, 130}, {3, 127}, {4, 1}, {5, 2}, {6, 3}, {7, 2200}, {9, 64}}, 1);
    call({{7, 130}, {0, 4}, {1, 256}}, 2);
    std::vector<Part> steps{{8, 1}};
    for (std::int32_t i = 10; i < 99; ++i) {
      steps.push_back({i % 7 == 0 ? -1 : i, 1});
    }
    reset();
    call(steps, 3);
    call(steps, 4);
    reset();
    Matrix const among = call(steps, 5);
    reset();
    Matrix const alone = call({{8, 1}}, 5);
    expect(same_bits(alone, jet::reference::rows_of(among, 0, 1)),
           name_ + ": a step alone differs from one among many");
    reset();
    Matrix const whole = call({{8, 300}}, 6);
    reset();
    Matrix const again = call({{8, 300}}, 6);
    expect(same_bits(whole, again), name_ + ": a second run differs");
    for (i64 const tokens : {1, 7, 40, 64, 129}) {
      reset();
      Matrix const part = call({{8, tokens}}, 6, false);
      expect(same_bits(part, jet::reference::rows_of(whole, 0, tokens)),
             jet::concat(name_, ": a prefix of ", tokens, " tokens differs"));
    }
    reset();
    Matrix const behind = call({{8, 300}, {3, 1000}}, 6, false);
    expect(same_bits(jet::reference::rows_of(behind, 0, 300), whole), name_ + ": a sequence before others differs");
  }

 private:
  i64 channels_, taps_, r_;
  bool with_state_, bias_;
  std::string name_;
  Backend backend_;
  Matrix w2_, b2_;
  Activation<Backend> state_;
};

// L2Norm, GatedRmsNorm and DeltaGates.
template <jet::Precision P> void norms(i64 tokens, i64 heads, i64 head) {
  using Backend = jet::Cuda<P>;
  Backend backend;
  jet::Batch batch;
  batch.add(0, tokens, 0);
  std::string const name =
      jet::concat(tokens, " tokens, ", heads, " heads of ", head, ", act ", jet::name_of(P.act));
  DType const f32 = DType::f32;
  Matrix in = normal(tokens, heads * head, 1);
  for (i64 i = 0; i < head; ++i) {
    in.at(0, i) = 0;  // a head of zeros
  }
  Matrix const gate = normal(tokens, heads * head, 2, 3);
  Activation<Backend> const z(backend, gate, f32);
  for (bool const with_silu : {false, true}) {
    Activation<Backend> x(backend, in, f32);
    jet::testing::run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(jet::op::L2Norm{heads, head, 1e-6, with_silu}, x.view());
    });
    near(jet::reference::relative_rms(
             x.values(), jet::reference::l2_norm(with_silu ? jet::reference::silu(in) : in, 1e-6, heads)),
         1e-6, "l2_norm of " + name);
  }
  for (bool const gate_first : {false, true}) {
    i64 const n = gate_first ? heads * head : head;
    Matrix const weight = normal(1, n, 3);
    Activation<Backend> const x(backend, in, f32), w(backend, weight, f32);
    Activation<Backend> y(backend, tokens, heads * head, P.act);
    jet::testing::run_planned(backend, batch, [&](auto& ctx) {
      ctx.run(jet::op::GatedRmsNorm{heads, head, 1e-5, gate_first}, w.slot({n}), x.view(), z.view(), y.view());
    });
    Matrix want(tokens, heads * head);
    if (gate_first) {  // the reference has one weight for all groups
      want = jet::reference::gated_rms_norm(jet::reference::GateOrder::gate_first, in, gate,
                                            Vector(static_cast<std::size_t>(head), 1.0), 1e-5, heads);
      for (i64 t = 0; t < tokens; ++t) {
        for (i64 i = 0; i < n; ++i) {
          want.at(t, i) *= weight.at(0, i);
        }
      }
    } else {
      want =
          jet::reference::gated_rms_norm(jet::reference::GateOrder::norm_first, in, gate, weight.data, 1e-5, heads);
    }
    near(jet::reference::relative_rms(y.values(), want), P.act == DType::bf16 ? 3e-3 : 1e-6,
         jet::concat("gated_rms_norm of ", name, gate_first ? ", gate first" : ""));
  }
  Matrix a = normal(tokens, heads, 4, 8);
  if (a.data.size() > 1) {
    a.at(tokens - 1, heads - 1) = -300;
  }
  a.at(0, 0) = 300;
  Matrix const a_log = normal(1, heads, 5), dt_bias = normal(1, heads, 6);
  Activation<Backend> const la(backend, a_log, f32), dt(backend, dt_bias, f32);
  Activation<Backend> ga(backend, a, f32), gb(backend, a, f32), g(backend, tokens, heads, f32),
      beta(backend, tokens, heads, f32);
  jet::testing::run_planned(backend, batch, [&](auto& ctx) {
    ctx.run(jet::op::DeltaGates{}, ga.view(), gb.view(), la.slot({heads}), dt.slot({heads}), g.view(), beta.view());
  });
  near(jet::reference::relative_rms(g.values(), jet::reference::softplus_decay(a, a_log.data, dt_bias.data)), 1e-6,
       "g of " + name);
  near(jet::reference::relative_rms(beta.values(), jet::reference::sigmoid(a)), 1e-6, "beta of " + name);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    constexpr jet::Precision f32 = jet::precision::f32, bf16 = jet::precision::bf16;
    for (auto const& [tokens, heads, head] :
         {std::array<i64, 3>{1, 1, 1}, {5, 3, 7}, {300, 12, 96}, {17, 2, 576}, {3, 1, 33}}) {
      norms<f32>(tokens, heads, head);
      norms<bf16>(tokens, heads, head);
    }
    Conv<f32>(33, 4, 0).all(129);
    Conv<bf16>(64, 3, 0, true, false).all(129);
    Conv<bf16>(7, 1, 0, false).all(70);
    Conv<f32>(33, 4, 24).all(129);
    Conv<jet::precision::bf16_weights>(40, 3, 17).all(80);
    Conv<bf16>(96, 4, 48).all(300);
    Conv<bf16>(96, 4, 48, false).all(129);
    Conv<bf16>(70, 4, 112).all(129);
    Conv<bf16>(33, 5, 50).all(129);
    Conv<bf16>(768, 4, 384).all(257);
    Conv<bf16>(768, 4, 64).many();
    Conv<bf16>(520, 4, 80).many();
    Conv<bf16>(520, 4, 384).many();
    Conv<bf16>(40, 4, 512, false).many();
    Conv<bf16>(24, 4, 528).many();
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  std::printf("worst error %.3f of its bound\n", worst);
  return report();
}
