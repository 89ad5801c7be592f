// What selftest runs on both sides: blocks with equal parameters and inputs. The device's side is compiled by nvcc
// (device_*.cu), the CPU's, in double precision, by the host's compiler (cpu.cpp).
#pragma once

#include <map>
#include <string>
#include <vector>

#include <jet/block/deltanet.hpp>
#include <jet/block/full_attention.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/model/jet_nemotron.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/compare.hpp>
#include <jet/testing/op_cases.hpp>

namespace selftest {

using namespace jet;

// The blocks, in groups that are compiled side by side.
struct AttentionBlocks {
  template <class F> static void visit(F const& f) {
    f.template operator()<FullAttention<attention_2b>>("full attention, 12/2 heads of 128");
    f.template operator()<
        FullAttention<AttentionConfig{.d_model = 192, .heads = 3, .kv_heads = 3, .head = 64, .qk_norm = true}>>(
        "full attention, 3/3 heads of 64");
    f.template operator()<FullAttention<AttentionConfig{.d_model = 200, .heads = 4, .kv_heads = 1, .head = 50}>>(
        "full attention, 4/1 heads of 50");
    f.template operator()<SlidingWindow<attention_2b, 96>>("window of 96, 12/2 heads of 128");
  }
};
struct JetBlocks {
  template <class F> static void visit(F const& f) {
    f.template operator()<JetBlock<jet_2b>>("JetBlock, 12 heads of 96 x 256");
    f.template operator()<JetBlock<JetBlockConfig{.d_model = 264, .heads = 3, .head_k = 24, .head_v = 40}>>(
        "JetBlock, 3 heads of 24 x 40");
    f.template operator()<GatedDeltaNet<GatedDeltaNetConfig{
        .d_model = 256, .heads = 2, .value_heads = 4, .head_k = 64, .head_v = 64}>>(
        "Gated DeltaNet, 2/4 heads of 64 x 64");
    f.template operator()<DeltaNet<DeltaNetConfig{.d_model = 256, .heads = 2, .head_k = 128, .head_v = 128}>>(
        "DeltaNet, 2 heads of 128 x 128");
  }
};
struct FamilyBlocks {
  template <class F> static void visit(F const& f) {
    f.template operator()<RetNet<RetNetConfig{.d_model = 256, .heads = 2, .head_k = 128, .head_v = 256}>>(
        "RetNet, 2 heads of 128 x 256");
    f.template operator()<Mamba2<Mamba2Config{.d_model = 256, .heads = 8, .groups = 2}>>(
        "Mamba2, 8 heads of 64, 2 groups of 128");
    f.template operator()<Gla<GlaConfig{.d_model = 256, .heads = 2, .head_k = 64, .head_v = 128}>>(
        "GLA, 2 heads of 64 x 128");
    f.template operator()<Rwkv7<Rwkv7Config{.d_model = 256, .heads = 4}>>("RWKV-7, 4 heads of 64");
  }
};

// What one block left.
struct Trace {
  std::string block;
  std::map<std::string, std::vector<double>> params;
  reference::Matrix prefill, decode;
  std::vector<testing::StateValues> state;  // of all sequences
};

// Four sequences of 1, 130, 0 and 33 tokens at once, then three steps of all. Takes the parameters of `like`, or
// makes its own.
template <class Block, class B> Trace trace(std::string const& name, Trace const* like) {
  testing::BlockHarness<Block, B> block({.slots = 4, .max_len = 256});
  Trace t{.block = name, .params = {}, .prefill = {}, .decode = {}, .state = {}};
  if (like == nullptr) {
    block.randomise(1);
    for (auto const& row : param_specs<Block>()) {
      if (row.present()) {
        t.params.emplace(row.name.view(), block.param(row.name.view()));
      }
    }
  } else {
    for (auto const& [param, values] : like->params) {
      block.set_param(param, values);
    }
  }
  Batch prefill;
  prefill.add(2, 1, 0), prefill.add(0, 130, 0), prefill.add(3, 0, 0), prefill.add(1, 33, 0);
  auto const input = [](i64 rows, std::uint64_t seed) {
    reference::Matrix x = testing::normal(rows, Block::width, seed);
    for (double& value : x.data) {
      value = static_cast<double>(static_cast<float>(bf16(static_cast<float>(value))));
    }
    return x;
  };
  t.prefill = block.forward(prefill, input(prefill.tokens(), 3));
  for (std::uint64_t step = 0; step < 3; ++step) {
    Batch batch;
    for (std::int32_t const slot : {1, 0, 3, 2}) {
      batch.add(slot, 1, block.length(slot));
    }
    reference::Matrix const y = block.forward(batch, input(batch.tokens(), 4 + step));
    t.decode.rows += y.rows;
    t.decode.cols = y.cols;
    t.decode.data.insert(t.decode.data.end(), y.data.begin(), y.data.end());
  }
  for (i64 slot = 0; slot < 4; ++slot) {
    for (auto& row : block.state(slot)) {
      t.state.push_back(std::move(row));
    }
  }
  return t;
}

// In device_*.cu: P is precision::f32 or precision::bf16.
template <class Blocks> std::vector<Trace> on_device(Precision const& p);
std::vector<testing::OpResult> ops_on_device(Precision const& p);
// In cpu.cpp: the same parameters in double precision; the ops in the same policy.
template <class Blocks> std::vector<Trace> on_cpu(std::vector<Trace> const& like);
std::vector<testing::OpResult> ops_on_cpu(Precision const& p);

}  // namespace selftest
