// A hybrid of all blocks, run as a model, on every instruction set of this machine and with every dtype of state,
// against the float64 reference decoder made of the same parameters.
#include <map>
#include <memory>
#include <span>
#include <tuple>

#include <jet/model/engine.hpp>

#include "property_cases.hpp"

namespace {

using namespace tests;
using jet::TensorKey;
using jet::Weights;
using jet::reference::rows_of;

struct Hybrid : jet::CausalLM<jet::LmConfig{.vocab = 61, .d_model = 20, .mlp = 37}, "JFWJ", jet::Bind<'J', Jet>,
                              jet::Bind<'F', Full>, jet::Bind<'W', Window>> {};
constexpr i64 max_len = 200;

// The tensors of one part of a layer, as Reference<M> reads those of a harness.
class Parameters {
 public:
  void put(TensorKey const& key, jet::Slot const& slot) {
    std::string const name(key.spec.name.view());
    rows_[name] = key.spec.shape[0];
    values_[name] = jet::testing::load_as(slot.dtype, slot.data, slot.numel());
  }
  Vector const& param(std::string const& name) const { return values_.at(name); }
  Matrix param_matrix(std::string const& name) const {
    i64 const rows = rows_.at(name);
    return {rows, std::ssize(param(name)) / rows, param(name)};
  }
  HarnessOptions options() const { return {.max_len = max_len}; }

 private:
  std::map<std::string, i64> rows_;
  std::map<std::string, Vector> values_;
};

// Values whose effect can be seen, in every tensor; the same numbers, rounded, under every policy.
void randomise(Weights<Hybrid>& weights) {
  jet::initialise(weights, 5);
  std::uint64_t stream = 0;
  weights.visit([&](TensorKey const& key, jet::Slot& slot) {
    jet::Random const random{6, ++stream};
    jet::Init::Kind const kind = key.spec.init.kind;
    double const fan_in = static_cast<double>(slot.numel() / slot.extent[0]);
    Vector values(static_cast<std::size_t>(slot.numel()));
    if (kind == jet::Init::Kind::log_uniform || kind == jet::Init::Kind::dt_bias) {
      return;  // gates as they are declared
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      double const x = static_cast<double>(random.normal(i));
      values[i] = key.spec.shape.rank == 1 ? (kind == jet::Init::Kind::ones ? 1 + 0.2 * x : 0.3 * x)
                                           : x / std::sqrt(fan_in);
    }
    jet::detail::store_as(slot.dtype, values.data(), slot.numel(), slot.data);
  });
}

// A block of the reference as the reference decoder calls it: one sequence, so its state stays inside.
template <class M> jet::reference::Mixer mixer_of(Parameters const& p) {
  auto const block = std::make_shared<Reference<M>>(p);
  return [block](Matrix const& x, std::any&) { return block->forward(x); };
}

jet::reference::CausalLmParams reference_of(Weights<Hybrid>& weights) {
  std::map<std::pair<jet::Module, i64>, Parameters> parts;
  weights.visit([&](TensorKey const& key, jet::Slot& slot) { parts[{key.module, key.layer}].put(key, slot); });
  jet::reference::CausalLmParams out;
  i64 const d = Hybrid::config.d_model;
  out.embedding = {
      Hybrid::config.vocab, d,
      jet::testing::load_as(weights.embedding.dtype, weights.embedding.data, weights.embedding.numel())};
  out.final_norm = parts.at({jet::Module::final_norm, -1}).param("weight");
  out.norm_eps = Hybrid::config.eps;
  for (i64 l = 0; l < Hybrid::layers; ++l) {
    Parameters const& mixer = parts.at({jet::Module::mixer, l});
    Parameters const& mlp = parts.at({jet::Module::mlp, l});
    char const letter = Hybrid::plan()[static_cast<std::size_t>(l)];
    out.layers.push_back({parts.at({jet::Module::mixer_norm, l}).param("weight"),
                          letter == 'J'   ? mixer_of<Jet>(mixer)
                          : letter == 'F' ? mixer_of<Full>(mixer)
                                          : mixer_of<Window>(mixer),
                          parts.at({jet::Module::mlp_norm, l}).param("weight"),
                          {mlp.param_matrix("gate_proj.weight"), mlp.param_matrix("up_proj.weight"),
                           mlp.param_matrix("down_proj.weight")}});
  }
  return out;
}

// A prompt, a single token, a few and many tokens: logits of all rows.
template <class B> void against_reference(std::string const& isa, double bound) {
  auto const weights = std::make_shared<Weights<Hybrid>>();
  weights->allocate(B{});
  randomise(*weights);
  jet::Engine<Hybrid, B> engine(weights, {.slots = 2,
                                          .max_len = max_len,
                                          .chunk = 128,
                                          .max_logits = 128,
                                          .poison = true,
                                          .backend = {.threads = 2, .isa = isa}});
  if (!isa.empty()) {
    CHECK(jet::cpu::name_of(engine.backend().isa()) == isa);
  }
  auto const params = reference_of(*weights);
  jet::reference::CausalLmState state;
  jet::Random const random{9, 1};
  std::uint64_t drawn = 0;
  i64 at = 0;
  for (i64 const n : {i64{65}, i64{1}, i64{5}, i64{100}}) {
    CAPTURE(n);
    std::vector<std::int32_t> ids;
    std::vector<i64> wide;
    for (i64 i = 0; i < n; ++i) {
      ids.push_back(static_cast<std::int32_t>(random.uniform_below(drawn++, 61)));
      wide.push_back(ids.back());
    }
    Batch batch = one(n, 1, at);
    batch.logits = jet::Logits::all;
    View const logits = engine.forward(batch, ids);
    Matrix y(n, Hybrid::config.vocab);
    for (i64 i = 0; i < n; ++i) {
      auto const row = jet::testing::load_as(logits.dtype, logits.row_bytes(i), y.cols);
      std::copy(row.begin(), row.end(), y.data.begin() + i * y.cols);
    }
    CHECK(relative_rms(y, jet::reference::causal_lm(params, state, wide).logits) <= bound);
    at += n;
  }
}

TEST_CASE_TEMPLATE("a hybrid equals the reference on every instruction set", B, F64, F32, Bf16Weights, Bf16) {
  for (std::string const& isa : isas<B>()) {
    CAPTURE(isa);
    against_reference<B>(isa, tolerance(B::precision, Check::model));
  }
  against_reference<B>("", tolerance(B::precision, Check::model));  // the machine's best
}

TEST_CASE("an instruction set that does not exist is refused by name") {
  CHECK_THROWS_WITH_AS(F32(jet::BackendOptions{.isa = "avx1024"}), doctest::Contains("avx1024"), jet::Error);
}

// The state is rounded once per call, in two layers, and the later calls read it.
template <DType S> using WithState = jet::Cpu<jet::Precision{DType::f32, DType::f32, DType::f32, S, DType::none}>;
TEST_CASE("a hybrid with every dtype of recurrent state") {
  for (std::string const& isa : isas<F32>()) {
    CAPTURE(isa);
    against_reference<WithState<DType::f32>>(isa, tolerance(jet::precision::f32, Check::model));
    against_reference<WithState<DType::bf16>>(isa, 8e-3);
    against_reference<WithState<DType::f16>>(isa, 1.5e-3);
  }
}

}  // namespace
