// A model whose engine is compiled in one translation unit and used in another.
#pragma once

#include <jet/block/jet_block.hpp>
#include <jet/model/engine.hpp>

namespace seam {

struct Model
    : jet::CausalLM<
          jet::LmConfig{.vocab = 50, .d_model = 16, .mlp = 24}, "JJ",
          jet::Bind<'J', jet::JetBlock<jet::JetBlockConfig{.d_model = 16, .heads = 2, .head_k = 4, .head_v = 8}>>> {
};
using Backend = jet::Cpu<jet::precision::f32>;

/// Initialised weights; made where the backend is known.
std::shared_ptr<jet::Weights<Model>> make_weights();

}  // namespace seam
