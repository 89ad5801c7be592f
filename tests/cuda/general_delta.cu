// The generalised delta rule on the device, in fp32 and with fp16 factors, against loops in float64. Exit status: 0
// right, 1 wrong, 77 no device.
#include <jet/cuda/general_delta.cuh>

#include "run.hpp"
#include "scan_cases.hpp"

namespace {

using namespace scan_test;
using jet::reference::relative_rms;
using jet::reference::rows_of;

double largest[2] = {};

// S <- diag(e^g) S + b (S^T a)^T + k v^T, o = scale S^T q, over sequences of these lengths in one call.
template <ScanShape C, jet::Precision P>
void general(std::vector<i64> const& lengths, double strong, double bound, bool host_state = true) {
  using Backend = jet::Cuda<P>;
  Backend backend;
  jet::Batch batch;
  auto const slots = static_cast<i64>(lengths.size());
  for (i64 s = 0; s < slots; ++s) {
    batch.add(static_cast<std::int32_t>(slots - 1 - s), lengths[static_cast<std::size_t>(s)], 0);
  }
  i64 const n = batch.tokens(), keys = C.heads * C.head_k, values = C.heads * C.head_v;
  Matrix const r = normal(n, keys, 6);
  Matrix const q = normal(n, keys, 1), k = normal(n, keys, 2), v = normal(n, values, 3);
  Matrix g = normal(n, keys, 4);
  Matrix a = as_floats(jet::reference::l2_norm(normal(n, keys, 5), 1e-6, C.heads)), b = a;
  for (i64 t = 0; t < n; ++t) {
    for (i64 i = 0; i < keys; ++i) {
      double const rate = 1 / (1 + std::exp(-r.at(t, i)));
      b.at(t, i) = static_cast<double>(static_cast<float>(-a.at(t, i) * rate));
      g.at(t, i) =
          static_cast<double>(static_cast<float>((i + t) % 5 == 0 ? -strong : -0.05 * std::abs(g.at(t, i))));
    }
  }
  DType const f32 = DType::f32;
  Activation<Backend> const dq(backend, q, f32), dk(backend, k, f32), dv(backend, v, f32), da(backend, a, f32),
      db(backend, b, f32), dg(backend, g, f32), out(backend, n, values, f32);
  Activation<Backend> state(backend, normal(slots, C.heads * C.head_k * C.head_v, 7, 0.3), P.state);
  Matrix const start = state.values();
  jet::testing::run_planned(backend, batch, [&](auto& ctx) {
    ctx.run(jet::op::GeneralDeltaScan<C>{}, dq.view(), dk.view(), dv.view(), da.view(), db.view(), dg.view(),
            host_state ? state.slot({slots, C.heads, C.head_k, C.head_v}) : Slot{}, out.view());
  });
  Matrix const got = out.values(), after = state.values();
  double const scale = C.scale != 0 ? C.scale : 1 / std::sqrt(static_cast<double>(C.head_k));
  for (i64 s = 0; s < slots; ++s) {
    i64 const slot = slots - 1 - s, begin = batch.cu_seqlens[static_cast<std::size_t>(s)];
    i64 const tokens = lengths[static_cast<std::size_t>(s)];
    std::vector<double> x(static_cast<std::size_t>(C.heads * C.head_k * C.head_v));
    Matrix want(tokens, values);
    for (i64 h = 0; h < C.heads; ++h) {
      double* const m = x.data() + h * C.head_k * C.head_v;
      for (i64 i = 0; host_state && i < C.head_k * C.head_v; ++i) {
        m[i] = start.at(slot, h * C.head_k * C.head_v + i);
      }
      for (i64 t = begin; t < begin + tokens; ++t) {
        for (i64 j = 0; j < C.head_v; ++j) {
          double p = 0, o = 0;
          for (i64 i = 0; i < C.head_k; ++i) {
            p += a.at(t, h * C.head_k + i) * m[i * C.head_v + j];
          }
          for (i64 i = 0; i < C.head_k; ++i) {
            i64 const at = h * C.head_k + i;
            double& one = m[i * C.head_v + j];
            one = std::exp(g.at(t, at)) * one + b.at(t, at) * p + k.at(t, at) * v.at(t, h * C.head_v + j);
            o += q.at(t, at) * one;
          }
          want.at(t - begin, h * C.head_v + j) = scale * o;
        }
      }
    }
    if (tokens == 0) {
      continue;
    }
    double const error = relative_rms(rows_of(got, begin, tokens), want);
    double const state_error = host_state ? relative_rms(rows_of(after, slot, 1).data, x) : 0.0;
    double& most = largest[P.act == DType::f32 ? 0 : 1];
    most = std::max({most, error, state_error});
    expect(error <= bound && state_error <= bound,
           jet::concat("generalised delta of ", C.heads, " heads of ", C.head_k, " x ", C.head_v, ", ", tokens,
                       " tokens, strong decay ", strong, ": output error ", error * 1e6, "e-6, state error ",
                       state_error * 1e6, "e-6, allowed ", bound * 1e6, "e-6"));
  }
}

}  // namespace

int main() {
  return run_on_device(
      [] {
        constexpr Decay channel = Decay::channel;
        constexpr ScanShape small{2, 16, 32, channel, Update::delta, 1.0},
            rwkv7{2, 64, 64, channel, Update::delta, 1.0};
        constexpr ScanShape odd{2, 9, 7, channel, Update::delta}, large{1, 128, 16, channel, Update::delta};
        for (double const strong : {0.6, 8.0, 100.0}) {
          std::vector<i64> const lengths{200, 0, 1, 17, 64, 65, 16};
          general<odd, jet::precision::f32>(lengths, strong, 3e-6);
          general<small, jet::precision::f32>(lengths, strong, 3e-6);
          general<rwkv7, jet::precision::f32>(lengths, strong, 3e-6);
          general<small, jet::precision::bf16>(lengths, strong, 2e-3);
          general<rwkv7, jet::precision::bf16>(lengths, strong, 2e-3);
          general<large, jet::precision::bf16>(lengths, strong, 2e-3);
          general<rwkv7, jet::precision::bf16>({130, 5}, strong, 2e-3, false);
        }
      },
      [] {
        std::printf("largest relative RMS error f32 %.3g, fp16 factors %.3g\n", largest[0], largest[1]);
        return report();
      });
}
