// A block of your own: an exponential moving average between two projections. One struct declares its parameters
// and its state once; counting, initialisation, saving, state pools and generation derive from that. There is no
// word about a backend in it. At the end the block is held to what every block promises.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string_view>

#include <jet/jet.hpp>
#include <jet/testing/conformance.hpp>

namespace mine {

struct EmaConfig {
  jet::i64 d_model = 0;
  double decay = 0.9;

  template <class Self, class F> static constexpr void fields(Self& self, F&& f) {
    f("d_model", self.d_model);
    f("decay", self.decay);
  }
};

// An op of our own: h <- decay h + (1 - decay) u, u <- h, token by token.
template <EmaConfig C> struct Ema { static constexpr std::string_view name = "ema"; };

template <EmaConfig C> struct EmaBlock {
  static constexpr auto config = C;
  static constexpr std::string_view kind = "ema";
  static constexpr jet::i64 width = C.d_model;

  template <class T> struct Params { T in, out; };
  static constexpr Params<jet::ParamSpec> params() {
    return {.in = {"in_proj.weight", {C.d_model, C.d_model}}, .out = {"out_proj.weight", {C.d_model, C.d_model}}};
  }
  template <class T> struct State { T h; };
  static constexpr State<jet::StateSpec> state() {
    return {.h = {.name = "h", .shape = {C.d_model}, .role = jet::Role::recurrent}};
  }

  template <jet::Backend B>
  static void forward(jet::Context<B>& ctx, Params<jet::Slot> const& w, State<jet::Slot>& s, jet::View x,
                      jet::View y) {
    jet::View const u = ctx.accumulator(x.tokens(), C.d_model);  // (tokens, d_model)
    jet::View const v = ctx.scratch(x.tokens(), C.d_model);      // (tokens, d_model)
    ctx.run(jet::op::Linear{}, w.in, x, u);
    ctx.run(Ema<C>{}, s.h, u, v);
    ctx.run(jet::op::Linear{}, w.out, v, y);
  }
};

}  // namespace mine

// The op on the CPU. Sequences are packed one after another; each has its own slot of the state. `scratch` is taken
// before `run`, so that the memory plan knows of it and a decode step allocates nothing.
template <mine::EmaConfig C> struct jet::Kernel<mine::Ema<C>, jet::tag::cpu> {
  template <class B>
  static jet::View scratch(jet::Context<B>& ctx, mine::Ema<C> const&, jet::Slot const&, jet::View const&,
                           jet::View const&) {
    return ctx.accumulator(1, C.d_model);
  }
  template <class B>
  static void run(jet::Context<B>& ctx, mine::Ema<C> const&, jet::View const& own, jet::Slot const& state,
                  jet::View const& u, jet::View const& y) {
    using T = typename B::scalar;
    for (jet::i64 i = 0; i < ctx.seqs(); ++i) {
      jet::Sequence const seq = ctx.sequence(i);
      if (!seq.active()) {
        continue;
      }
      T* const h = state ? state.row<T>(seq.slot) : own.row<T>(0);
      if (!state) {
        std::fill_n(h, C.d_model, T{0});  // no state: start from zero, keep nothing
      }
      for (jet::i64 t = seq.begin; t < seq.begin + seq.tokens; ++t) {
        T* const row = u.row<T>(t);
        for (jet::i64 d = 0; d < C.d_model; ++d) {
          row[d] = h[d] = static_cast<T>(C.decay) * h[d] + static_cast<T>(1 - C.decay) * row[d];
        }
        jet::cpu::store_row(ctx.backend().kernels(), y.dtype, row, C.d_model, y.row_bytes(t));
      }
    }
  }
};

namespace {

inline constexpr mine::EmaConfig ema{.d_model = 576, .decay = 0.95};

// SmolLM2 with every layer but 10 and 20 an EmaBlock.
struct Hybrid
    : jet::SmolLM2_135M::with<jet::Bind<'E', mine::EmaBlock<ema>>>::replan<"EEEEEEEEEEAEEEEEEEEEAEEEEEEEEE"> {};
static_assert(jet::Mixer<mine::EmaBlock<ema>>);

// Small and odd, in double: what breaks, breaks here first.
inline constexpr mine::EmaConfig odd{.d_model = 13};

}  // namespace

int main() {
  using B = jet::Cpu<jet::Precision{.kv = jet::DType::bf16}>;
  std::printf("parameters %lld, cache at 4K %.2f MiB (SmolLM2: %.2f MiB)\n",
              static_cast<long long>(Hybrid::num_params()),
              static_cast<double>(Hybrid::state_bytes<B::precision>(1, 4096)) / (1 << 20),
              static_cast<double>(jet::SmolLM2_135M::state_bytes<B::precision>(1, 4096)) / (1 << 20));
  auto weights = std::make_shared<jet::Weights<Hybrid>>();
  weights->allocate(B{});
  jet::initialise(*weights, 42);
  jet::Engine<Hybrid, B> lm(weights, {.max_len = 128});
  std::printf("random weights say:");
  for (std::int32_t const id : lm.generate({1, 2, 3}, {.max_new = 8, .temperature = 1.0, .seed = 7})) {
    std::printf(" %d", id);
  }
  std::printf("\n");

  auto const report = jet::testing::conformance<mine::EmaBlock<odd>, jet::Cpu<jet::precision::f64>>();
  std::printf("%s", report.text().c_str());
  return report.passed() ? 0 : 1;
}
