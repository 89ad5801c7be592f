// A new member of the linear-attention family: Kimi Delta Attention (arXiv 2510.26692), the delta rule with a decay
// per channel. It takes an op tag with its CPU kernel for what it alone computes, the policy of the scan, and the
// block; the rest is the family's. At the end it is held to a float64 reference and to what every block promises.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include <jet/jet.hpp>
#include <jet/testing/conformance.hpp>

namespace kimi {
using namespace jet;
// x = F(x, z) in place, element by element, at acc. z may be one row for all, and narrower: its elements repeat.
template <auto F> struct Combine { static constexpr std::string_view name = "combine"; };
inline constexpr auto gate = [](auto x, auto z) { return x / (1 + std::exp(-z)); };
inline constexpr auto log_decay = [](auto x, auto a) {  // -e^a softplus(x)
  return -std::exp(a) * (std::fmax(x, x * 0) + std::log1p(std::exp(-std::fabs(x))));
};
struct KimiConfig {
  i64 d_model = 0, heads = 0, head = 0, conv = 4;
  constexpr i64 dim() const { return heads * head; }
  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model), f("heads", self.heads), f("head", self.head), f("conv", self.conv);
  }
};

template <KimiConfig C> struct KimiDelta {
  static constexpr auto config = C;
  static constexpr std::string_view kind = "kimi_delta";
  static constexpr i64 width = C.d_model;

  template <class T> struct Params { T qkv, conv, fg, f, A_log, dt_bias, b, g, g_bias, norm, o; };
  static constexpr Params<ParamSpec> params() {
    return {.qkv = {"qkv_proj.weight", {3 * C.dim(), C.d_model}},
            .conv = detail::conv_param("qkv_conv1d.weight", 3 * C.dim(), C.conv),
            .fg = {"fg_proj.weight", {2 * C.head, C.d_model}},
            .f = {"f_proj.weight", {C.dim(), C.head}},
            .A_log = {"A_log", {C.heads}, Init::log_uniform(1, 16), false, true},
            .dt_bias = {"dt_bias", {C.dim()}, Init::dt_bias(), false, true},
            .b = {"b_proj.weight", {C.heads, C.d_model}},
            .g = {"g_proj.weight", {C.dim(), C.head}},
            .g_bias = {"g_proj.bias", {C.dim()}, Init::zeros(), false},
            .norm = {"o_norm.weight", {C.head}, Init::ones(), false},
            .o = {"o_proj.weight", {C.d_model, C.dim()}}};
  }
  template <class T> struct State { T recurrent, conv; };
  static constexpr State<StateSpec> state() {
    return {.recurrent = {"recurrent", {C.heads, C.head, C.head}, false, 0, Role::recurrent},
            .conv = detail::conv_state("qkv_conv", 3 * C.dim(), C.conv)};
  }

  template <Backend B> static void forward(Context<B>& ctx, Params<Slot> const& w, State<Slot>& s, View x, View y) {
    i64 const t = x.tokens();
    View const raw = ctx.scratch(t, 3 * C.dim()), beta = ctx.accumulator(t, C.heads),
               low = ctx.accumulator(t, 2 * C.head), g = ctx.accumulator(t, C.dim()),
               z = ctx.accumulator(t, C.dim()), o = ctx.accumulator(t, C.dim());
    ctx.run(
        op::Linears{}, x,
        std::array{op::Projection{w.qkv, {}, raw}, op::Projection{w.b, {}, beta}, op::Projection{w.fg, {}, low}});
    ctx.run(op::Linear{}, w.f, w.dt_bias, low.columns(0, C.head), g);
    ctx.run(op::Linear{}, w.g, w.g_bias, low.columns(C.head, C.head), z);
    View const qkv = detail::convolved(ctx, C.conv, true, w.conv, raw, s.conv), q = qkv.columns(0, C.dim()),
               k = qkv.columns(C.dim(), C.dim()), v = qkv.columns(2 * C.dim(), C.dim());
    ctx.run(op::L2Norm{2 * C.heads, C.head}, qkv.columns(0, 2 * C.dim()));
    ctx.run(Combine<log_decay>{}, View(w.A_log.data, w.A_log.dtype, Shape{1, C.heads}), g);
    ctx.run(op::Activate{Activation::sigmoid}, beta);
    constexpr op::ScanShape policy{C.heads, C.head, C.head, op::Decay::channel, op::Update::delta};
    ctx.run(op::GatedScan<policy>{}, q, k, v, g, beta, s.recurrent, o);
    ctx.run(op::HeadNorm{C.heads, C.head, 1e-5}, w.norm, o);
    ctx.run(Combine<gate>{}, z, o);
    ctx.run(op::Linear{}, w.o, o, y);
  }
};

// The block in double, token by token, from nothing.
template <class M, class H> reference::Matrix expected(H const& h, reference::Matrix const& x) {
  using namespace reference;
  constexpr auto C = M::config;
  auto const w = [&](char const* name) { return h.param_matrix(name); };
  Matrix conv, qkv = short_conv(linear(x, w("qkv_proj.weight")), w("qkv_conv1d.weight"), {}, true, conv);
  auto const part = [&](Matrix const& m, i64 i, i64 width) { return columns_of(m, i * width, width); };
  Matrix const low = linear(x, w("fg_proj.weight"));
  Vector const rates = spread_heads({1, C.heads, h.param("A_log")}, C.heads, C.dim()).data;
  Matrix const g = softplus_decay(linear(part(low, 0, C.head), w("f_proj.weight")), rates, h.param("dt_bias"));
  Matrix const z = sigmoid(linear(part(low, 1, C.head), w("g_proj.weight"), h.param("g_proj.bias")));
  ScanState state;
  auto const unit = [&](i64 i) { return l2_norm(part(qkv, i, C.dim()), 1e-6, C.heads); };
  Matrix o = scan({C.heads, 0, Decay::per_channel, Update::delta, 1 / std::sqrt(C.head)}, unit(0), unit(1),
                  part(qkv, 2, C.dim()), g, sigmoid(linear(x, w("b_proj.weight"))), state);
  o = rms_norm(o, h.param("o_norm.weight"), 1e-5, C.heads);
  std::transform(z.data.begin(), z.data.end(), o.data.begin(), o.data.begin(), std::multiplies());
  return linear(o, w("o_proj.weight"));
}

}  // namespace kimi

template <auto F> struct jet::Kernel<kimi::Combine<F>, jet::tag::cpu> {
  template <class B> static void run(Context<B>& ctx, kimi::Combine<F> const&, View const& z, View const& x) {
    using T = typename B::scalar;
    ctx.backend().parallel(x.tokens(), [&](i64 t, int) {
      T const* const with = z.row<T>(z.tokens() == 1 ? 0 : t);
      for (i64 i = 0; i < x.width(); ++i) {
        x.row<T>(t)[i] = F(x.row<T>(t)[i], with[i * z.width() / x.width()]);
      }
    });
  }
};

int main() {
  using M = kimi::KimiDelta<kimi::KimiConfig{.d_model = 20, .heads = 2, .head = 9}>;
  jet::testing::BlockHarness<M, jet::Cpu<jet::precision::f64>> block;
  block.randomise(1);
  auto const x = jet::testing::normal(150, M::width, 2);
  double const error = jet::reference::relative_rms(block.forward(0, x), kimi::expected<M>(block, x));
  auto const report = jet::testing::conformance<M, jet::Cpu<jet::precision::f64>>();
  std::printf("error %.1e\n%s", error, report.text().c_str());
  return error <= 1e-12 && report.passed() ? 0 : 1;
}
