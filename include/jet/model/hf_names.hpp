/// \file
/// Which tensor of a model a name in a checkpoint stands for. The names of Qwen, Llama and Jet-Nemotron, and of
/// flash-linear-attention; a model with other names than the first declares a `names` of the same shape.
#pragma once

#include <string>
#include <string_view>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// Where in a model a tensor sits.
enum class Module : std::uint8_t { embedding, final_norm, head, mixer, mlp, mixer_norm, mlp_norm, embedding_norm };

struct HfNames {
  /// `row` is the name in the block's declaration ("q_proj.weight").
  static std::string key(Module m, i64 layer, std::string_view row) {
    switch (m) {
      case Module::embedding: return "model.embed_tokens.weight";
      case Module::final_norm: return concat("model.norm.", row);
      case Module::head: return "lm_head.weight";
      case Module::mixer: return concat("model.layers.", layer, ".self_attn.", row);
      case Module::mlp: return concat("model.layers.", layer, ".mlp.", row);
      case Module::mixer_norm: return concat("model.layers.", layer, ".input_layernorm.", row);
      case Module::mlp_norm: return concat("model.layers.", layer, ".post_attention_layernorm.", row);
      case Module::embedding_norm: return concat("model.embed_norm.", row);
    }
    return {};
  }
};

/// Names of the checkpoints of flash-linear-attention (GLA, RetNet, DeltaNet, Gated DeltaNet).
struct FlaNames {
  static std::string key(Module m, i64 layer, std::string_view row) {
    switch (m) {
      case Module::embedding: return "model.embeddings.weight";
      case Module::mixer: return concat("model.layers.", layer, ".attn.", row);
      case Module::mixer_norm: return concat("model.layers.", layer, ".attn_norm.", row);
      case Module::mlp_norm: return concat("model.layers.", layer, ".mlp_norm.", row);
      default: return HfNames::key(m, layer, row);
    }
  }
};

JET_NAMESPACE_END
