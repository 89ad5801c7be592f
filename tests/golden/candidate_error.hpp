// A candidate layer against the official implementation: outputs and states after the prefill, after five single
// steps.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include <jet/testing/block_harness.hpp>

#include "golden_file.hpp"

namespace golden {

/// A state of sequence `b` in the order of the block's row. A recurrent state that the file stores value row by
/// value row
/// ([heads, d_v, d_k]) is transposed; convolution states are [channels, W] there, of which the newest W - 1 columns
/// count; a token shift's is one token.
inline Vector state_of(GoldenFile const& file, std::string const& name, i64 b, bool values_first, bool shifted) {
  Matrix const all = file.slice(name, b);  // [.., last axis]
  Vector out;
  if (name.find("recurrent") == std::string::npos) {
    if (shifted) {
      return all.data;
    }
    for (i64 w = 1; w < all.cols; ++w) {
      for (i64 c = 0; c < all.rows; ++c) {
        out.push_back(all.at(c, w));
      }
    }
    return out;
  }
  if (!values_first) {
    return all.data;
  }
  i64 const heads = file.shape(name)[1], d_v = file.shape(name)[2], d_k = all.cols;
  for (i64 h = 0; h < heads; ++h) {
    for (i64 i = 0; i < d_k; ++i) {
      for (i64 j = 0; j < d_v; ++j) {
        out.push_back(all.at(h * d_v + j, i));
      }
    }
  }
  return out;
}

/// The file's name of a state row "mixer.q_conv": "conv_state_q"; "mixer.conv" and "mixer.shift":
/// "conv_state".
inline std::string file_state(std::string const& row) {
  if (row == "mixer.recurrent") {
    return "_recurrent_state";
  }
  std::string const name = row.substr(std::string("mixer.").size());
  return name.size() > 2 && name[1] == '_' ? "_conv_state_" + name.substr(0, 1) : "_conv_state";
}

/// Largest relative error of outputs and states against `expected`.
template <class Block, class B>
double candidate_error(GoldenFile const& file, GoldenFile const& expected, bool values_first) {
  jet::testing::BlockHarness<Block, B> block({.slots = 2, .max_len = 256});
  for (jet::ParamSpec const& row : jet::param_specs<Block>()) {
    if (row.present()) {
      block.set_param(row.name.view(), file.values("weights." + std::string(row.name.view())));
    }
  }
  // a tensor of all sequences is compared as one, as the file's own errors are
  std::map<std::string, std::pair<Vector, Vector>> compared;
  auto const add = [&](std::string const& name, Vector const& got, Vector const& want) {
    auto& [all_got, all_want] = compared[name];
    all_got.insert(all_got.end(), got.begin(), got.end());
    all_want.insert(all_want.end(), want.begin(), want.end());
  };
  auto const add_state = [&](i64 b, std::string const& when) {
    for (auto const& row : block.state(b)) {
      std::string const name = when + file_state(row.name);
      add(name, row.values, state_of(expected, name, b, values_first, row.name == "mixer.shift"));
    }
  };
  i64 const sequences = file.shape("input")[0];
  for (i64 b = 0; b < sequences; ++b) {
    add("output", block.forward(b, file.slice("input", b)).data, expected.slice("output", b).data);
    add_state(b, "final");
    Matrix const steps = file.slice("decode_input", b);
    Vector out;
    for (i64 t = 0; t < steps.rows; ++t) {
      Matrix const y = block.forward(b, jet::reference::rows_of(steps, t, 1));
      out.insert(out.end(), y.data.begin(), y.data.end());
    }
    add("decode_output", out, expected.slice("decode_output", b).data);
    add_state(b, "after_decode");
  }
  double worst = 0;
  for (auto const& [name, values] : compared) {
    worst = std::max(worst, jet::reference::relative_rms(values.first, values.second));
  }
  return worst;
}

}  // namespace golden
