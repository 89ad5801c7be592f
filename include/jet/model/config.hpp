/// \file
/// What a language model is beside its blocks.
#pragma once

#include <jet/core/macros.hpp>
#include <jet/core/shape.hpp>

JET_NAMESPACE_BEGIN

/// A structural value, a template argument of CausalLM.
struct LmConfig {
  i64 vocab = 0;
  i64 d_model = 0;
  i64 mlp = 0;                  // hidden size of the model's own SwiGLU MLP; 0: none
  double eps = 1e-6;            // of the model's norms
  bool tied = true;             // the head is the embedding
  bool layer_norm = false;      // the model's norms are LayerNorm with a bias, not RMSNorm
  bool embedding_norm = false;  // the model's norm of the embedding is where the residual stream begins (RWKV-7)

  constexpr bool valid() const { return vocab > 0 && d_model > 0 && mlp >= 0 && eps >= 0; }
  friend constexpr bool operator==(LmConfig const&, LmConfig const&) = default;
};

JET_NAMESPACE_END
