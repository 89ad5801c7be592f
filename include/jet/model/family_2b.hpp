/// \file
/// Sizes of the linear-attention blocks in the place of Jet-Nemotron-2B's JetBlock (d_model 1536). The paper does
/// not give the candidates' sizes: these are the ones usual for each, and, as `..._equal`, ones with JetBlock's
/// state of 294,912 numbers per layer where the first have another (cache size is what decode throughput follows).
#pragma once

#include <jet/block/deltanet.hpp>
#include <jet/block/gated_deltanet.hpp>
#include <jet/block/gla.hpp>
#include <jet/block/mamba2.hpp>
#include <jet/block/retnet.hpp>
#include <jet/block/rwkv7.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

inline constexpr RetNetConfig retnet_2b{.d_model = 1536, .heads = 12, .head_k = 128, .head_v = 256};
inline constexpr RetNetConfig retnet_2b_equal{.d_model = 1536, .heads = 12, .head_k = 96, .head_v = 256};
inline constexpr Mamba2Config mamba2_2b{.d_model = 1536, .heads = 48, .head = 64, .state = 128};
inline constexpr Mamba2Config mamba2_2b_equal{.d_model = 1536, .heads = 36, .head = 64, .state = 128};
inline constexpr GlaConfig gla_2b{.d_model = 1536, .heads = 4, .head_k = 192, .head_v = 384};
inline constexpr DeltaNetConfig deltanet_2b{.d_model = 1536, .heads = 12, .head_k = 128, .head_v = 128};
inline constexpr DeltaNetConfig deltanet_2b_equal{.d_model = 1536, .heads = 12, .head_k = 96, .head_v = 256};
inline constexpr GatedDeltaNetConfig gated_deltanet_2b{.d_model = 1536, .heads = 12, .head_k = 96, .head_v = 256};
inline constexpr Rwkv7Config rwkv7_2b{.d_model = 1536, .heads = 24, .head = 64};
inline constexpr Rwkv7Config rwkv7_2b_equal{.d_model = 1536, .heads = 8, .head = 192};

JET_NAMESPACE_END
