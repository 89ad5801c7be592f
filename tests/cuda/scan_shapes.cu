// Decode steps of many head sizes, with every dtype of the state and every cut of a head over a cluster, against
// the float64 reference. Exit status: 0 right, 1 wrong, 77 no device.
#include "run.hpp"
#include "scan_cases.hpp"

namespace {

using namespace scan_test;

double largest_of[2] = {};

// Two sequences and an inactive one between them, one token each, all fused; the second alone, too.
template <class S, int R> void step(i64 head_v) {
  namespace kernel = jet::cuda::kernel;
  using jet::reference::rows_of;
  constexpr i64 head_k = 16 * R, heads = 2, slots = 3;
  using Backend = jet::Cuda<jet::precision::f32>;
  Backend backend;
  DType const f32 = DType::f32;
  DType const stored = jet::dtype_of<S>;
  std::string const name = jet::concat("step of ", head_k, " x ", head_v, ", state ", jet::name_of(stored));
  Activation<Backend> state(backend, slots, heads * head_k * head_v, stored);
  Matrix const start = normal(slots, heads * head_k * head_v, 1, 0.3);
  Matrix const mq = normal(3, heads * head_k, 2), mk = normal(3, heads * head_k, 3),
               mv = normal(3, heads * head_v, 4);
  Matrix const mz = normal(3, heads * head_v, 5), ma = normal(3, heads, 6), mb = normal(3, heads, 7);
  Matrix const ml = normal(1, heads, 8), md = normal(1, heads, 9), mw = normal(1, head_v, 10);
  Activation<Backend> const q(backend, mq, f32), k(backend, mk, f32), v(backend, mv, f32), z(backend, mz, f32);
  Activation<Backend> const a(backend, ma, f32), b(backend, mb, f32), l(backend, ml, f32), d(backend, md, f32);
  Activation<Backend> const w(backend, mw, f32), y(backend, 3, heads * head_v, f32);
  std::vector<std::int64_t> const ends{0, 1, 2, 3};
  std::vector<std::int32_t> const slot{2, -1, 0};
  jet::DeviceBuffer lists = backend.allocate(64);
  backend.copy_from_host(lists.data(), ends.data(), 32);
  backend.copy_from_host(lists.data() + 32, slot.data(), 12);
  kernel::ScanCall call{};
  call.q = q.view().as<float>(), call.k = k.view().as<float>(), call.v = v.view().as<float>();
  call.a = a.view().as<float>(), call.b = b.view().as<float>(), call.z = z.view().as<float>();
  call.a_log = l.view().as<float>(), call.dt_bias = d.view().as<float>(), call.weight = w.view().as<float>();
  call.y = y.view().data;
  call.q_stride = call.k_stride = heads * head_k;
  call.v_stride = call.z_stride = call.y_stride = heads * head_v;
  call.a_stride = call.b_stride = heads;
  call.state = state.view().data;
  call.slot_stride = heads * head_k * head_v, call.head_stride = head_k * head_v;
  call.cu_seqlens = reinterpret_cast<std::int64_t const*>(lists.data());
  call.slot = reinterpret_cast<std::int32_t const*>(lists.data() + 32);
  call.seqs = 3, call.heads = heads, call.head_k = head_k, call.head_v = static_cast<int>(head_v);
  call.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_k)));
  call.norm_eps = 1e-5f;
  call.decay = Decay::head, call.state_type = stored, call.y_type = f32;
  call.delta = call.raw = call.silu = true;

  Matrix first, first_state;
  for (int const cluster : {1, 2, 3, 4, 8}) {
    if (cluster > kernel::scan_columns(head_k, head_v, kernel::state_numbers<S>).blocks) {
      continue;
    }
    state.set(start);
    Matrix const before = state.values();
    kernel::launch_scan_steps<S, R>(backend.stream(), backend.multiprocessors(), call, 0, true,
                                    {.cluster = cluster});
    backend.sync();
    Matrix const got = y.values();
    Matrix const after = state.values();
    if (cluster > 1) {
      expect(same_bits(got, first) && same_bits(after, first_state),
             jet::concat(name, ": a cluster of ", cluster, " gives other bits"));
      continue;
    }
    first = got;
    first_state = after;
    expect(same_bits(rows_of(after, 1, 1), rows_of(before, 1, 1)), name + ": another slot was changed");
    for (i64 const row : {i64{0}, i64{2}}) {
      using namespace jet::reference;
      i64 const s = slot[static_cast<std::size_t>(row)];
      ScanState states;
      for (i64 h = 0; h < heads; ++h) {
        auto const at = before.data.begin() + (s * heads + h) * head_k * head_v;
        states.emplace_back(head_k, head_v, Vector(at, at + head_k * head_v));
      }
      ScanConfig const config{.heads = heads,
                              .decay = jet::reference::Decay::per_head,
                              .update = jet::reference::Update::delta,
                              .scale = 1 / std::sqrt(static_cast<double>(head_k))};
      Matrix const o =
          scan(config, l2_norm(silu(rows_of(mq, row, 1)), 1e-6, heads),
               l2_norm(silu(rows_of(mk, row, 1)), 1e-6, heads), rows_of(mv, row, 1),
               softplus_decay(rows_of(ma, row, 1), ml.data, md.data), sigmoid(rows_of(mb, row, 1)), states);
      Matrix const want = gated_rms_norm(GateOrder::norm_first, o, rows_of(mz, row, 1), mw.data, 1e-5, heads);
      double const error = relative_rms(rows_of(got, row, 1), want);
      Vector all;
      for (Matrix const& m : states) {
        all.insert(all.end(), m.data.begin(), m.data.end());
      }
      double const state_error = relative_rms(rows_of(after, s, 1).data, all);
      double const state_bound = stored == f32 ? 1e-6 : stored == DType::bf16 ? 2.2e-3 : 2.8e-4;
      largest_of[0] = std::max(largest_of[0], error);
      largest_of[1] = std::max(largest_of[1], state_error / state_bound);
      expect(error <= 2e-6, jet::concat(name, ": output error ", error * 1e6, "e-6"));
      expect(state_error <= state_bound, jet::concat(name, ": state error ", state_error * 1e6, "e-6"));
    }
  }
}

template <class S> void all() {
  step<S, 16>(288), step<S, 12>(384), step<S, 8>(576), step<S, 16>(144), step<S, 12>(192), step<S, 8>(288);
  step<S, 8>(192), step<S, 6>(256), step<S, 4>(384), step<S, 1>(576), step<S, 16>(16), step<S, 7>(400);
  step<S, 1>(16), step<S, 6>(304), step<S, 6>(176);
}

}  // namespace

int main() {
  return run_on_device(
      [] {
        all<float>();
        all<jet::bf16>();
        all<jet::f16>();
      },
      [] {
        std::printf("largest relative error %.3g, of states %.3f of the bound\n", largest_of[0], largest_of[1]);
        return report();
      });
}
