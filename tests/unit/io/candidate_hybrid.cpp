// A hybrid of candidate blocks: saved, described by its config, loaded, and run with a value that crosses layers.
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/cpu/cpu.hpp>
#include <jet/io/hf_checkpoint.hpp>
#include <jet/model/engine.hpp>
#include <jet/model/init.hpp>

#include "file_support.hpp"

namespace {

using jet::Bind;
using jet::Json;
using tests::contains;
using tests::message_of;
using tests::ScratchDirectory;

inline constexpr jet::GatedDeltaNetConfig gated{
    .d_model = 16, .heads = 1, .value_heads = 2, .head_k = 6, .head_v = 8};
inline constexpr jet::DeltaNetConfig delta{
    .d_model = 16, .heads = 2, .head_k = 8, .head_v = 8, .activation = jet::Activation::relu};
inline constexpr jet::GlaConfig gla{.d_model = 16, .heads = 2, .head_k = 4, .head_v = 8};
inline constexpr jet::RetNetConfig retnet{.d_model = 16, .heads = 2, .head_k = 8, .head_v = 16};
inline constexpr jet::Mamba2Config mamba{.d_model = 16, .heads = 4, .head = 8, .state = 6, .groups = 2};
inline constexpr jet::Rwkv7Config first{
    .d_model = 16, .heads = 2, .head = 8, .decay_rank = 3, .rate_rank = 3, .gate_rank = 4};
inline constexpr jet::Rwkv7Config later{
    .d_model = 16, .heads = 2, .head = 8, .decay_rank = 3, .rate_rank = 3, .value_rank = 2, .gate_rank = 4};

template <jet::DeltaNetConfig D>
struct Stack
    : jet::CausalLM<jet::LmConfig{.vocab = 31, .d_model = 16, .mlp = 24}, "GDLRMFV",
                    Bind<'G', jet::GatedDeltaNet<gated>>, Bind<'D', jet::DeltaNet<D>>, Bind<'L', jet::Gla<gla>>,
                    Bind<'R', jet::RetNet<retnet>>, Bind<'M', jet::Mamba2<mamba>>, Bind<'F', jet::Rwkv7<first>>,
                    Bind<'V', jet::Rwkv7<later>>> {};
using Model = Stack<delta>;

constexpr jet::DeltaNetConfig other_delta() {
  jet::DeltaNetConfig other = delta;
  other.activation = jet::Activation::silu;
  return other;
}

TEST_CASE("a hybrid of candidates saves and loads") {
  using B = jet::Cpu<jet::precision::f32>;
  auto weights = std::make_shared<jet::Weights<Model>>();
  weights->allocate(B{});
  jet::initialise(*weights, 3);
  ScratchDirectory directory;
  jet::save(*weights, directory.path);
  Json const config = jet::load_json(directory.path / "config.json");
  CHECK(config.at("model_type") == "jet_hybrid");
  CHECK(config.at("layer_types").size() == 7);
  CHECK(config.at("blocks").at("gated_deltanet").at("value_heads") == 2);
  CHECK(config.at("blocks").at("deltanet").at("activation") == static_cast<int>(jet::Activation::relu));
  CHECK(jet::compare<Model>(jet::read_config(config, "config.json")).empty());
  jet::CheckpointFiles const files(directory.path);
  for (std::string const name :
       {"0.self_attn.q_conv1d.weight", "2.self_attn.gk_proj.0.weight", "3.self_attn.g_norm_swish_gate.weight",
        "4.self_attn.in_proj.weight", "6.self_attn.v_lora.lora.2.bias"}) {
    CHECK(files.tensors().count("model.layers." + name) == 1);
  }
  CHECK(files.tensors().count("model.layers.5.self_attn.v_lora.lora.2.bias") == 0);

  jet::Engine<Model, B> before(weights, {.max_len = 16});
  jet::Engine<Model, B> after = jet::load<Model, B>(directory.path, {.max_len = 16});
  std::vector<std::int32_t> const ids{3, 1, 4, 1, 5, 9, 2, 6};
  jet::View const expected = before.append(0, ids);
  jet::View const found = after.append(0, ids);
  CHECK(std::memcmp(expected.data, found.data, static_cast<std::size_t>(expected.numel()) * 4) == 0);

  // an option that differs is named, and so is one that the block does not have
  auto const differences = jet::compare<Stack<other_delta()>>(jet::read_config(config, "config.json"));
  CHECK(differences.size() == 1);
  CHECK((!differences.empty() && contains(differences[0], "activation")));
  Json unknown = config;
  unknown["blocks"]["deltanet"]["qk_norm"] = 1;
  auto const more = jet::compare<Model>(jet::read_config(unknown, "config.json"));
  CHECK((!more.empty() && contains(more[0], "qk_norm")));
}

}  // namespace
