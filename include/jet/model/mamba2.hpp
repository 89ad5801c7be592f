/// \file
/// Mamba2 (arXiv 2405.21060) as a type: layers without an MLP.
#pragma once

#include <string>
#include <string_view>

#include <jet/block/mamba2.hpp>
#include <jet/core/error.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/hf_names.hpp>

JET_NAMESPACE_BEGIN

/// Names of Mamba2 checkpoints, in the form of Hugging Face and of flash-linear-attention.
struct Mamba2Names {
  static std::string key(Module m, i64 layer, std::string_view row) {
    switch (m) {
      case Module::embedding: return "backbone.embeddings.weight";
      case Module::final_norm: return concat("backbone.norm_f.", row);
      case Module::mixer: return concat("backbone.layers.", layer, ".mixer.", row);
      case Module::mixer_norm: return concat("backbone.layers.", layer, ".norm.", row);
      default: return HfNames::key(m, layer, row);
    }
  }
};

struct Mamba2_2_7B
    : CausalLM<LmConfig{.vocab = 50288, .d_model = 2560, .eps = 1e-5},
               "MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM",
               Bind<'M', Mamba2<Mamba2Config{.d_model = 2560, .heads = 80, .head = 64, .state = 128}>>> {
  using names = Mamba2Names;
};

JET_NAMESPACE_END
