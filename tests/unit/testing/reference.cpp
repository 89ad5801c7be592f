// The float64 loop references against tensors made by the reference implementations of the blocks and models
// (tests/data/golden): float64 files within 1e-12, float32 files within float32 rounding.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "golden/golden_file.hpp"
#include <jet/testing/reference.hpp>

namespace {

namespace reference = jet::reference;
using reference::i64;
using reference::Matrix;
using reference::Vector;

constexpr double float64_bound = 1e-12;
constexpr double float32_bound = 2e-6;

using golden::GoldenFile;

/// Prints the error (with JET_TEST_VERBOSE set) and checks it.
void check_error(std::string const& what, double error, double bound) {
  if (std::getenv("JET_TEST_VERBOSE") != nullptr) {
    std::printf("%-56s %.2e\n", what.c_str(), error);
  }
  CHECK_MESSAGE(error <= bound, what, " is off by ", error);
}

/// Heads stacked into one matrix `[heads * d_k, d_v]`; with transpose `[heads * d_v, d_k]`.
Matrix stacked(reference::ScanState const& state, bool transpose = false) {
  Matrix all;
  for (Matrix const& head : state) {
    Matrix copy = transpose ? Matrix(head.cols, head.rows) : head;
    for (i64 i = 0; transpose && i < head.rows; ++i) {
      for (i64 j = 0; j < head.cols; ++j) {
        copy.at(j, i) = head.at(i, j);
      }
    }
    all = reference::concatenate(all, copy);
  }
  return all;
}

Matrix columns(Matrix const& x, i64 first, i64 count) {
  Matrix y(x.rows, count);
  for (i64 i = 0; i < x.rows; ++i) {
    for (i64 j = 0; j < count; ++j) {
      y.at(i, j) = x.at(i, first + j);
    }
  }
  return y;
}

/// Only the newest taps - 1 columns of a convolution's history are ever read again.
double history_error(Matrix const& actual, Matrix const& expected) {
  return reference::relative_rms(columns(actual, 1, actual.cols - 1), columns(expected, 1, expected.cols - 1));
}

/// Cuts x into calls of the given lengths, the last one repeated as needed, and joins the outputs.
template <class Block> Matrix in_pieces(Matrix const& x, std::vector<i64> const& lengths, Block block) {
  Matrix y;
  std::size_t next = 0;
  for (i64 first = 0; first < x.rows;) {
    i64 const count = std::min(lengths[std::min(next++, lengths.size() - 1)], x.rows - first);
    y = reference::concatenate(y, block(reference::rows_of(x, first, count)));
    first += count;
  }
  return y;
}

/// A golden layer: prefill, then single steps; `block(state, x)`, and `check_state(state, prefix, b)` for its
/// states.
template <class State, class Block, class CheckState>
void check_golden_layer(std::string const& name, Block block, CheckState check_state) {
  GoldenFile const inputs(name + ".safetensors");
  GoldenFile const expected("f64/" + name + ".f64.safetensors");
  for (i64 b = 0; b < inputs.shape("input")[0]; ++b) {
    State state;
    Matrix const output = block(state, inputs.slice("input", b));
    check_error(name + " output", reference::relative_rms(output, expected.slice("output", b)), float64_bound);
    check_state(state, expected, "final_", b);

    State pieces;
    Matrix const in_calls = in_pieces(inputs.slice("input", b), {5, 2, 3, 1, 2, 1, 1, 7},
                                      [&](Matrix const& x) { return block(pieces, x); });
    check_error(name + " output in pieces", reference::relative_rms(in_calls, output), float64_bound);
    check_state(pieces, expected, "final_", b);

    Matrix const steps =
        in_pieces(inputs.slice("decode_input", b), {1}, [&](Matrix const& x) { return block(state, x); });
    check_error(name + " decode output", reference::relative_rms(steps, expected.slice("decode_output", b)),
                float64_bound);
    check_state(state, expected, "after_decode_", b);
  }
}

void check_recurrent(std::string const& name, reference::ScanState const& state, bool transpose,
                     GoldenFile const& expected, std::string const& prefix, i64 b) {
  std::string const tensor = prefix + "recurrent_state";
  check_error(name + " " + tensor, reference::relative_rms(stacked(state, transpose), expected.slice(tensor, b)),
              float64_bound);
}

void check_history(std::string const& name, Matrix const& state, GoldenFile const& expected,
                   std::string const& tensor, i64 b) {
  check_error(name + " " + tensor, history_error(state, expected.slice(tensor, b)), float64_bound);
}

reference::JetBlockParams jet_params(GoldenFile const& file, std::string const& prefix) {
  std::string const generator = prefix + "dynamic_conv1d.kernel_generator.";
  return {.q_proj = file.matrix(prefix + "q_proj.weight"),
          .k_proj = file.matrix(prefix + "k_proj.weight"),
          .v_proj = file.matrix(prefix + "v_proj.weight"),
          .g_proj = file.matrix(prefix + "g_proj.weight"),
          .b_proj = file.matrix(prefix + "b_proj.weight"),
          .a_proj = file.matrix(prefix + "a_proj.weight"),
          .o_proj = file.matrix(prefix + "o_proj.weight"),
          .a_log = file.values(prefix + "A_log"),
          .dt_bias = file.values(prefix + "dt_bias"),
          .w1 = file.matrix(generator + "w1.weight"),
          .w2 = file.matrix(generator + "w2.weight"),
          .w2_bias = file.values(generator + "w2.bias"),
          .o_norm = file.values(prefix + "o_norm.weight")};
}

constexpr reference::JetBlockConfig tiny_jet_config{
    .d_model = 64, .heads = 2, .head_k = 24, .head_v = 64, .conv = 4, .gen_reduction = 8, .norm_eps = 1e-5};

// ---------------------------------------------------------------------------------------------------------------------
// Whole models

/// The fields of config.json that the references need.
struct TinyModel {
  std::string directory;
  i64 heads, kv_heads, head_dim;
  double rope_theta;
  double norm_eps;
  std::string pattern;  // one letter per layer: A attention, S sliding window, J JetBlock
  i64 window = 0;
  bool llama3 = false;
};

constexpr reference::Llama3Scaling llama3_scaling{
    .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 64};

Vector optional_values(GoldenFile const& file, std::string const& tensor) {
  return file.has(tensor) ? file.values(tensor) : Vector{};
}

reference::CausalLmParams load(TinyModel const& model) {
  GoldenFile const file(model.directory + "/model.safetensors");
  reference::CausalLmParams params;
  params.embedding = file.matrix("model.embed_tokens.weight");
  params.final_norm = file.values("model.norm.weight");
  params.norm_eps = model.norm_eps;
  if (file.has("lm_head.weight")) {
    params.head = file.matrix("lm_head.weight");
  }
  for (std::size_t i = 0; i < model.pattern.size(); ++i) {
    std::string const layer = "model.layers." + std::to_string(i) + ".";
    std::string const self = layer + "self_attn.";
    reference::Mixer mixer;
    if (model.pattern[i] == 'J') {
      mixer = reference::mixer(reference::jet_block, jet_params(file, self), tiny_jet_config);
    } else {
      reference::AttentionParams const attention{.q = file.matrix(self + "q_proj.weight"),
                                                 .k = file.matrix(self + "k_proj.weight"),
                                                 .v = file.matrix(self + "v_proj.weight"),
                                                 .o = file.matrix(self + "o_proj.weight"),
                                                 .q_bias = optional_values(file, self + "q_proj.bias"),
                                                 .k_bias = optional_values(file, self + "k_proj.bias"),
                                                 .v_bias = optional_values(file, self + "v_proj.bias"),
                                                 .o_bias = {},
                                                 .q_norm = optional_values(file, self + "q_norm.weight"),
                                                 .k_norm = optional_values(file, self + "k_norm.weight")};
      reference::AttentionConfig const config{
          .heads = model.heads,
          .kv_heads = model.kv_heads,
          .window = model.pattern[i] == 'S' ? model.window : 0,
          .inv_freq = model.llama3
                          ? reference::rope_inv_freq_llama3(model.head_dim, model.rope_theta, llama3_scaling)
                          : reference::rope_inv_freq(model.head_dim, model.rope_theta),
          .norm_eps = model.norm_eps};
      mixer = reference::mixer(reference::attention_block, attention, config);
    }
    params.layers.push_back({.input_norm = file.values(layer + "input_layernorm.weight"),
                             .mixer = mixer,
                             .post_norm = file.values(layer + "post_attention_layernorm.weight"),
                             .mlp = {.gate = file.matrix(layer + "mlp.gate_proj.weight"),
                                     .up = file.matrix(layer + "mlp.up_proj.weight"),
                                     .down = file.matrix(layer + "mlp.down_proj.weight")}});
  }
  return params;
}

std::vector<i64> ids_of(GoldenFile const& file, std::string const& tensor, i64 b) {
  std::vector<i64> ids;
  for (double const id : file.slice(tensor, b).data) {
    ids.push_back(static_cast<i64>(id));
  }
  return ids;
}

/// Logits and hidden states, greedy tokens, and calls of several lengths.
void check_golden_model(TinyModel const& model, std::string const& expected_file, double bound) {
  reference::CausalLmParams const params = load(model);
  GoldenFile const golden(model.directory + "/golden.safetensors");
  GoldenFile const expected(expected_file);
  for (i64 b = 0; b < golden.shape("input_ids")[0]; ++b) {
    std::vector<i64> const ids = ids_of(golden, "input_ids", b);
    reference::CausalLmState state;
    reference::CausalLmOutput const output = reference::causal_lm(params, state, ids);
    for (std::size_t i = 0; i < output.hidden.size(); ++i) {
      std::string const tensor = "hidden_states." + std::to_string(i);
      check_error(expected_file + " " + tensor,
                  reference::relative_rms(output.hidden[i], expected.slice(tensor, b)), bound);
    }
    check_error(expected_file + " logits", reference::relative_rms(output.logits, expected.slice("logits", b)),
                bound);

    // Greedy continuation, one token per call.
    Matrix logits = output.logits;
    for (i64 const token : ids_of(golden, "greedy_ids", b)) {
      i64 best = 0;
      for (i64 j = 1; j < logits.cols; ++j) {
        best = logits.at(logits.rows - 1, j) > logits.at(logits.rows - 1, best) ? j : best;
      }
      REQUIRE(best == token);
      logits = reference::causal_lm(params, state, {token}).logits;
    }

    // The same ids cut into calls, a snapshot restored on the way.
    reference::CausalLmState pieces;
    Matrix joined;
    std::size_t first = 0;
    for (std::size_t const count : {std::size_t{1}, std::size_t{2}, std::size_t{17}, ids.size() - 20}) {
      std::vector<i64> const piece(ids.begin() + static_cast<std::ptrdiff_t>(first),
                                   ids.begin() + static_cast<std::ptrdiff_t>(first + count));
      reference::CausalLmState const snapshot = pieces;
      reference::causal_lm(params, pieces, {0, 1, 2});
      pieces = snapshot;
      joined = reference::concatenate(joined, reference::causal_lm(params, pieces, piece).logits);
      first += count;
    }
    check_error(expected_file + " logits in pieces", reference::relative_rms(joined, output.logits), float64_bound);
  }
}

}  // namespace

TEST_CASE("reference: error measures") {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  double const infinity = std::numeric_limits<double>::infinity();
  CHECK(reference::relative_rms(Vector{3, 4}, Vector{3, 4}) == 0);
  CHECK(reference::relative_rms(Vector{0, 0}, Vector{3, 4}) == 1);
  CHECK(reference::relative_rms(Vector{0, 0}, Vector{0, 0}) == 0);
  CHECK(reference::relative_rms(Vector{1, 0}, Vector{0, 0}) == infinity);
  CHECK(reference::relative_rms(Vector{nan, 0}, Vector{0, 0}) == infinity);
  CHECK(reference::relative_rms(Vector{1, 0}, Vector{nan, 0}) == infinity);
  CHECK(reference::relative_rms(Vector{infinity, 0}, Vector{infinity, 0}) == infinity);
  CHECK(reference::relative_rms(Vector{1, 0}, Vector{infinity, 0}) == infinity);
  CHECK(reference::relative_rms(Vector{}, Vector{}) == 0);
  CHECK(reference::max_abs(Vector{1, -4}, Vector{2, 3}) == 7);
  CHECK(reference::max_abs(Vector{nan, 1, 2}, Vector{1, 1, 1}) == infinity);
  CHECK_THROWS_AS(reference::relative_rms(Vector{1}, Vector{1, 2}), std::invalid_argument);
  CHECK_THROWS_AS(reference::max_abs(Matrix(1, 2), Matrix(2, 1)), std::invalid_argument);
}

TEST_CASE("reference: elementary functions at hand-computed points and at the extremes") {
  CHECK(reference::sigmoid(0.0) == 0.5);
  CHECK(reference::sigmoid(-1000.0) == 0);
  CHECK(reference::silu(std::log(3.0)) == doctest::Approx(0.75 * std::log(3.0)).epsilon(1e-15));
  CHECK(reference::softplus(0.0) == doctest::Approx(std::log(2.0)).epsilon(1e-15));
  CHECK(reference::softplus(1000.0) == 1000);
  CHECK(reference::softplus(-30.0) == doctest::Approx(std::exp(-30.0)).epsilon(1e-12));
  CHECK(reference::log_sigmoid(-1000.0) == -1000);
  Matrix const x(1, 4, {3, 4, 0, 2});
  CHECK(reference::max_abs(reference::l2_norm(x, 0, 2), Matrix(1, 4, {0.6, 0.8, 0, 1})) < 1e-15);
  double const r = std::sqrt(12.5);
  CHECK(reference::max_abs(reference::rms_norm(x, {1, 2}, 0, 2),
                           Matrix(1, 4, {3 / r, 8 / r, 0, 2 * std::sqrt(2.0)})) < 1e-15);
}

TEST_CASE("reference: arguments that do not fit throw") {
  Matrix state;
  reference::ScanState scan_state;
  CHECK_THROWS_AS(reference::linear(Matrix(2, 3), Matrix(4, 5)), std::invalid_argument);
  CHECK_THROWS_AS(reference::linear(Matrix(2, 3), Matrix(4, 3), Vector(3)), std::invalid_argument);
  CHECK_THROWS_AS(reference::embedding({4}, Matrix(4, 2)), std::invalid_argument);
  CHECK_THROWS_AS(reference::embedding({-1}, Matrix(4, 2)), std::invalid_argument);
  CHECK_THROWS_AS(reference::rms_norm(Matrix(1, 4), Vector(3), 0), std::invalid_argument);
  CHECK_THROWS_AS(reference::attention(Matrix(2, 4), Matrix(2, 4), Matrix(2, 4), 2, 2, 0, 1),
                  std::invalid_argument);
  CHECK_THROWS_AS(reference::short_conv(Matrix(1, 4), Matrix(3, 4), {}, true, state), std::invalid_argument);
  CHECK_THROWS_AS(
      reference::scan({.heads = 1}, Matrix(1, 2), Matrix(1, 2), Matrix(1, 2), Matrix(1, 1), {}, scan_state),
      std::invalid_argument);
  CHECK_THROWS_AS(Matrix(2, 2, Vector(3)), std::invalid_argument);
}

TEST_CASE("reference: a window of one key returns the values, a window of the whole sequence changes nothing") {
  Matrix q(5, 4), k(5, 2), v(5, 2);
  for (i64 t = 0; t < 5; ++t) {
    for (i64 j = 0; j < 4; ++j) {
      q.at(t, j) = std::sin(static_cast<double>(7 * t + 3 * j));
      k.at(t, j / 2) = std::cos(static_cast<double>(5 * t + j));
      v.at(t, j / 2) = static_cast<double>(t + j);
    }
  }
  Matrix const own = reference::attention(q, k, v, 2, 1, 1, 0);
  for (i64 t = 0; t < 5; ++t) {
    for (i64 j = 0; j < 4; ++j) {
      CHECK(own.at(t, j) == v.at(t, j % 2));
    }
  }
  Matrix const full = reference::attention(q, k, v, 2, 1, 0, 0);
  CHECK(reference::max_abs(reference::attention(q, k, v, 2, 1, 5, 0), full) == 0);
  Matrix const shorter = reference::attention(q, k, v, 2, 1, 4, 0);  // drops key 0 for the last query only
  CHECK(reference::max_abs(reference::rows_of(shorter, 0, 4), reference::rows_of(full, 0, 4)) == 0);
  CHECK(reference::max_abs(reference::rows_of(shorter, 4, 1), reference::rows_of(full, 4, 1)) > 1e-3);
  // Queries of a later call attend to the same keys.
  CHECK(reference::max_abs(reference::attention(reference::rows_of(q, 3, 2), k, v, 2, 1, 3, 3),
                           reference::rows_of(reference::attention(q, k, v, 2, 1, 3, 0), 3, 2)) == 0);
}

TEST_CASE("reference: scan, properties that no golden file covers") {
  using reference::Decay;
  using reference::Update;
  i64 const tokens = 9, heads = 2, dk = 3, dv = 2;
  Matrix q(tokens, heads * dk), k(tokens, heads * dk), v(tokens, heads * dv), beta(tokens, heads), g(tokens, heads);
  Matrix per_channel(tokens, heads * dk);
  for (i64 t = 0; t < tokens; ++t) {
    for (i64 j = 0; j < heads * dk; ++j) {
      q.at(t, j) = std::sin(static_cast<double>(3 * t + 2 * j));
      k.at(t, j) = std::cos(static_cast<double>(2 * t + 5 * j));
      g.at(t, j / dk) = -0.1 * static_cast<double>(t % 3 + j / dk);
      beta.at(t, j / dk) = reference::sigmoid(std::sin(static_cast<double>(t + j / dk)));
      per_channel.at(t, j) = g.at(t, j / dk);
    }
    for (i64 j = 0; j < heads * dv; ++j) {
      v.at(t, j) = std::cos(static_cast<double>(7 * t + j));
    }
  }
  k = reference::l2_norm(k, 0, heads);

  for (Update const update : {Update::additive, Update::delta}) {
    reference::ScanState a, b, c, d;
    Matrix const head =
        reference::scan({.heads = heads, .decay = Decay::per_head, .update = update}, q, k, v, g, beta, a);
    Matrix const channel = reference::scan({.heads = heads, .decay = Decay::per_channel, .update = update}, q, k, v,
                                           per_channel, beta, b);
    CHECK(reference::max_abs(head, channel) == 0);
    // No decay is a log decay of zero.
    Matrix const none = reference::scan({.heads = heads, .update = update}, q, k, v, {}, beta, c);
    Matrix const zero = reference::scan({.heads = heads, .decay = Decay::per_head, .update = update}, q, k, v,
                                        Matrix(tokens, heads), beta, d);
    CHECK(reference::max_abs(none, zero) == 0);
  }

  // Channels decay by their own factor: an additive write of e_i seen after one more step.
  reference::ScanState state{Matrix(2, 1, {1, 1})};
  reference::scan({.heads = 1, .decay = Decay::per_channel}, Matrix(1, 2), Matrix(1, 2), Matrix(1, 1),
                  Matrix(1, 2, {std::log(0.5), std::log(0.25)}), {}, state);
  CHECK(reference::max_abs(state[0], Matrix(2, 1, {0.5, 0.25})) < 1e-15);

  // The delta rule with beta = 1 and unit keys recalls exactly what was written last, read with the key itself.
  reference::ScanState recall;
  Matrix const o = reference::scan({.heads = heads, .update = Update::delta, .scale = 3}, k, k, v, {}, {}, recall);
  CHECK(reference::max_abs(o, reference::map(v, [](double z) { return 3 * z; })) < 1e-14);

  // Four value heads on two key heads: consecutive value heads share a key head.
  Matrix repeated_keys(tokens, 4 * dk), narrow(tokens, 4), strength(tokens, 4);
  for (i64 t = 0; t < tokens; ++t) {
    for (i64 h = 0; h < 4; ++h) {
      narrow.at(t, h) = v.at(t, h);
      strength.at(t, h) = beta.at(t, h % 2);
      for (i64 i = 0; i < dk; ++i) {
        repeated_keys.at(t, h * dk + i) = k.at(t, h / 2 * dk + i);
      }
    }
  }
  reference::ScanState shared, repeated;
  reference::ScanConfig config{.heads = 4, .key_heads = 2, .update = Update::delta};
  Matrix const grouped = reference::scan(config, k, k, narrow, {}, strength, shared);
  config.key_heads = 4;
  Matrix const separate = reference::scan(config, repeated_keys, repeated_keys, narrow, {}, strength, repeated);
  CHECK(reference::max_abs(grouped, separate) == 0);
}

TEST_CASE("reference: JetBlock against float64") {
  GoldenFile const file("jet_block_a.safetensors");
  reference::JetBlockParams const params = jet_params(file, "weights.");
  check_golden_layer<reference::JetBlockState>(
      "jet_block_a",
      [&](auto& state, Matrix const& x) { return reference::jet_block(params, tiny_jet_config, state, x); },
      [](auto const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("jet_block_a", state.recurrent, false, expected, prefix, b);
        check_history("jet_block_a", state.conv, expected, prefix + "conv_state", b);
      });
}

TEST_CASE("reference: Gated DeltaNet against float64") {
  GoldenFile const file("gated_deltanet_a.safetensors");
  reference::GatedDeltaNetParams const params{.q_proj = file.matrix("weights.q_proj.weight"),
                                              .k_proj = file.matrix("weights.k_proj.weight"),
                                              .v_proj = file.matrix("weights.v_proj.weight"),
                                              .g_proj = file.matrix("weights.g_proj.weight"),
                                              .b_proj = file.matrix("weights.b_proj.weight"),
                                              .a_proj = file.matrix("weights.a_proj.weight"),
                                              .o_proj = file.matrix("weights.o_proj.weight"),
                                              .a_log = file.values("weights.A_log"),
                                              .dt_bias = file.values("weights.dt_bias"),
                                              .q_conv = file.matrix("weights.q_conv1d.weight"),
                                              .k_conv = file.matrix("weights.k_conv1d.weight"),
                                              .v_conv = file.matrix("weights.v_conv1d.weight"),
                                              .o_norm = file.values("weights.o_norm.weight")};
  reference::GatedDeltaNetConfig const config{.d_model = 64, .heads = 2, .head_k = 16, .head_v = 32};
  check_golden_layer<reference::GatedDeltaNetState>(
      "gated_deltanet_a",
      [&](auto& state, Matrix const& x) { return reference::gated_deltanet(params, config, state, x); },
      [](auto const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("gated_deltanet_a", state.recurrent, true, expected, prefix, b);
        check_history("gated_deltanet_a", state.q_conv, expected, prefix + "conv_state_q", b);
        check_history("gated_deltanet_a", state.k_conv, expected, prefix + "conv_state_k", b);
        check_history("gated_deltanet_a", state.v_conv, expected, prefix + "conv_state_v", b);
      });
}

// The four layers below have no function of their own; composed here, they cover the remaining branches of the ops.

TEST_CASE("reference: GLA (decay per channel, additive) against float64") {
  GoldenFile const file("gla_a.safetensors");
  auto project = [&](Matrix const& x, std::string const& name) {
    return reference::linear(x, file.matrix("weights." + name + ".weight"));
  };
  check_golden_layer<reference::ScanState>(
      "gla_a",
      [&](auto& state, Matrix const& x) {
        Matrix const logits = reference::linear(project(x, "gk_proj.0"), file.matrix("weights.gk_proj.1.weight"),
                                                file.values("weights.gk_proj.1.bias"));
        Matrix const g = reference::map(reference::log_sigmoid(logits), [](double z) { return z / 16; });
        Matrix const o =
            reference::scan({.heads = 2, .decay = reference::Decay::per_channel, .scale = 0.25},
                            project(x, "q_proj"), project(x, "k_proj"), project(x, "v_proj"), g, {}, state);
        return project(reference::gated_rms_norm(reference::GateOrder::norm_first, o, project(x, "g_proj"),
                                                 file.values("weights.g_norm_swish_gate.weight"), 1e-5, 2),
                       "o_proj");
      },
      [](auto const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("gla_a", state, true, expected, prefix, b);
      });
}

TEST_CASE("reference: RetNet (decay per head, additive, rotary) against float64") {
  struct State {
    reference::ScanState recurrent;
    i64 position = 0;
  };
  GoldenFile const file("retnet_a.safetensors");
  Vector const inv_freq = reference::rope_inv_freq(16, 10000);
  auto project = [&](Matrix const& x, std::string const& name) {
    return reference::linear(x, file.matrix("weights." + name + ".weight"));
  };
  check_golden_layer<State>(
      "retnet_a",
      [&](State& state, Matrix const& x) {
        Matrix g(x.rows, 4);
        for (i64 t = 0; t < x.rows; ++t) {
          for (i64 h = 0; h < 4; ++h) {
            g.at(t, h) = std::log(1 - std::pow(2.0, static_cast<double>(-5 - h)));
          }
        }
        Matrix const q = reference::rope(project(x, "q_proj"), 4, inv_freq, state.position);
        Matrix const k = reference::rope(project(x, "k_proj"), 4, inv_freq, state.position);
        state.position += x.rows;
        Matrix const o = reference::scan({.heads = 4, .decay = reference::Decay::per_head, .scale = 0.25}, q, k,
                                         project(x, "v_proj"), g, {}, state.recurrent);
        return project(reference::gated_rms_norm(reference::GateOrder::norm_first, o, project(x, "g_proj"),
                                                 file.values("weights.g_norm_swish_gate.weight"), 1e-5, 4),
                       "o_proj");
      },
      [](State const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("retnet_a", state.recurrent, false, expected, prefix, b);
      });
}

TEST_CASE("reference: DeltaNet (no decay, delta rule) against float64") {
  struct State {
    reference::ScanState recurrent;
    Matrix q, k, v;
  };
  GoldenFile const file("deltanet_a.safetensors");
  auto project = [&](Matrix const& x, std::string const& name) {
    return reference::linear(x, file.matrix("weights." + name + "_proj.weight"));
  };
  auto convolve = [&](Matrix const& x, std::string const& name, Matrix& history) {
    return reference::short_conv(project(x, name), file.matrix("weights." + name + "_conv1d.weight"), {}, true,
                                 history);
  };
  check_golden_layer<State>(
      "deltanet_a",
      [&](State& state, Matrix const& x) {
        Matrix const q = reference::l2_norm(convolve(x, "q", state.q), 1e-6, 2);
        Matrix const k = reference::l2_norm(convolve(x, "k", state.k), 1e-6, 2);
        Matrix const v = convolve(x, "v", state.v);
        Matrix const o =
            reference::scan({.heads = 2, .update = reference::Update::delta, .scale = 1 / std::sqrt(32.0)}, q, k, v,
                            {}, reference::sigmoid(project(x, "b")), state.recurrent);
        return project(reference::rms_norm(o, file.values("weights.o_norm.weight"), 1e-5, 2), "o");
      },
      [](State const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("deltanet_a", state.recurrent, false, expected, prefix, b);
        check_history("deltanet_a", state.q, expected, prefix + "conv_state_q", b);
        check_history("deltanet_a", state.k, expected, prefix + "conv_state_k", b);
        check_history("deltanet_a", state.v, expected, prefix + "conv_state_v", b);
      });
}

TEST_CASE("reference: Mamba2 (shared keys, convolution bias, gate first) against float64") {
  struct State {
    reference::ScanState recurrent;
    Matrix conv;
  };
  GoldenFile const file("mamba2_a.safetensors");
  i64 const heads = 4, inner = 128, state_size = 16;
  Vector const a_log = file.values("weights.A_log");
  Vector const dt_bias = file.values("weights.dt_bias");
  Vector const skip = file.values("weights.D");
  check_golden_layer<State>(
      "mamba2_a",
      [&](State& state, Matrix const& u) {
        Matrix const all = reference::linear(u, file.matrix("weights.in_proj.weight"));
        Matrix const z = columns(all, 0, inner);
        Matrix const mixed =
            reference::short_conv(columns(all, inner, inner + 2 * state_size), file.matrix("weights.conv1d.weight"),
                                  file.values("weights.conv1d.bias"), true, state.conv);
        Matrix const x = columns(mixed, 0, inner);
        Matrix const k = columns(mixed, inner, state_size);
        Matrix const q = columns(mixed, inner + state_size, state_size);
        Matrix const dt = columns(all, 2 * inner + 2 * state_size, heads);
        Matrix step(u.rows, heads);
        for (i64 t = 0; t < u.rows; ++t) {
          for (i64 h = 0; h < heads; ++h) {
            step.at(t, h) = reference::softplus(dt.at(t, h) + reference::at(dt_bias, h));
          }
        }
        // beta = step is the additive form of v = step * x.
        Matrix y = reference::scan({.heads = heads, .key_heads = 1, .decay = reference::Decay::per_head}, q, k, x,
                                   reference::softplus_decay(dt, a_log, dt_bias), step, state.recurrent);
        for (i64 t = 0; t < y.rows; ++t) {
          for (i64 j = 0; j < inner; ++j) {
            y.at(t, j) += reference::at(skip, j / (inner / heads)) * x.at(t, j);
          }
        }
        return reference::linear(reference::gated_rms_norm(reference::GateOrder::gate_first, y, z,
                                                           file.values("weights.norm.weight"), 1e-5),
                                 file.matrix("weights.out_proj.weight"));
      },
      [](State const& state, GoldenFile const& expected, std::string const& prefix, i64 b) {
        check_recurrent("mamba2_a", state.recurrent, true, expected, prefix, b);
        check_history("mamba2_a", state.conv, expected, prefix + "conv_state", b);
      });
}

TEST_CASE("reference: frequencies of Llama 3 scaling") {
  GoldenFile const golden("tiny_llama3/golden.safetensors");
  Vector const expected = golden.values("inv_freq");
  Vector const actual = reference::rope_inv_freq_llama3(16, 10000, llama3_scaling);
  check_error("tiny_llama3 inv_freq", reference::relative_rms(actual, expected), 1e-7);
  for (i64 m = 0; m < std::ssize(expected); ++m) {  // every frequency by itself: the small ones are in the far tail
    CHECK(reference::at(actual, m) == doctest::Approx(reference::at(expected, m)).epsilon(2e-7));
  }
}

TEST_CASE("reference: the tiny Jet-Nemotron against float64") {
  TinyModel const model{.directory = "tiny_jet_a",
                        .heads = 4,
                        .kv_heads = 2,
                        .head_dim = 16,
                        .rope_theta = 1e6,
                        .norm_eps = 1e-6,
                        .pattern = "JASJSA",
                        .window = 16};
  check_golden_model(model, "f64/tiny_jet_a.f64.safetensors", float64_bound);
}

TEST_CASE("reference: tiny transformers against float32") {
  for (TinyModel const& model : {TinyModel{.directory = "tiny_qwen2",
                                .heads = 4,
                                .kv_heads = 2,
                                .head_dim = 8,
                                .rope_theta = 1e6,
                                .norm_eps = 1e-6,
                                .pattern = "AA"},
                                 TinyModel{.directory = "tiny_qwen3",
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .rope_theta = 1e6,
                                 .norm_eps = 1e-6,
                                 .pattern = "AA"},
                                 TinyModel{.directory = "tiny_llama",
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 8,
                                 .rope_theta = 1e4,
                                 .norm_eps = 1e-6,
                                 .pattern = "AA"},
                                 TinyModel{.directory = "tiny_llama3",
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 16,
                                 .rope_theta = 1e4,
                                 .norm_eps = 1e-5,
                                 .pattern = "AA",
                                 .llama3 = true}}) {
    check_golden_model(model, model.directory + "/golden.safetensors", float32_bound);
  }
}
