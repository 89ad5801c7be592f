// The 2B hybrid with each candidate in the place of JetBlock, and a small one of the same shape. Two rows per
// block: sizes that are usual for it, and sizes with JetBlock's state of 294,912 numbers per layer where the first
// have another one.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <jet/model/family_2b.hpp>
#include <jet/model/jet_nemotron.hpp>

#include "../measure.hpp"
#include "../tiny_model.hpp"

struct Row {
  std::string block;
  i64 heads = 0, head_k = 0, head_v = 0;
  i64 block_params = 0;
  Subject subject{};

  i64 state_numbers() const { return heads * head_k * head_v; }
  i64 state_bytes() const { return 4 * state_numbers(); }  // of one layer and sequence, fp32
};

static_assert(jet::num_params<jet::RetNet<jet::retnet_2b>>() == 18'874'624);
static_assert(jet::num_params<jet::Mamba2<jet::mamba2_2b>>() == 14'642'576);
static_assert(jet::num_params<jet::Gla<jet::gla_2b>>() == 9'475'200);
static_assert(jet::num_params<jet::DeltaNet<jet::deltanet_2b>>() == 9'474'176);
static_assert(jet::num_params<jet::GatedDeltaNet<jet::gated_deltanet_2b>>() == 17'753'368);

// Sizes of the small hybrid's blocks.
namespace small {
inline constexpr jet::RetNetConfig retnet{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 64};
inline constexpr jet::RetNetConfig retnet_equal{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64};
inline constexpr jet::Mamba2Config mamba2{.d_model = 64, .heads = 4, .head = 32, .state = 32};
inline constexpr jet::Mamba2Config mamba2_equal{.d_model = 64, .heads = 3, .head = 32, .state = 32};
inline constexpr jet::GlaConfig gla{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64};
inline constexpr jet::DeltaNetConfig deltanet{.d_model = 64, .heads = 2, .head_k = 32, .head_v = 32};
inline constexpr jet::DeltaNetConfig deltanet_equal{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64};
inline constexpr jet::GatedDeltaNetConfig gated_deltanet{.d_model = 64, .heads = 2, .head_k = 24, .head_v = 64};
inline constexpr jet::Rwkv7Config rwkv7{
    .d_model = 64, .heads = 4, .head = 16, .decay_rank = 8, .rate_rank = 8, .gate_rank = 8};
inline constexpr jet::Rwkv7Config rwkv7_equal{
    .d_model = 64, .heads = 3, .head = 32, .decay_rank = 8, .rate_rank = 8, .gate_rank = 8};
}  // namespace small

template <class Hybrid, class Block> using Swapped = typename Hybrid::template rebind<jet::Bind<'J', Block>>;

// RWKV-7's first layer differs from the others.
constexpr jet::Rwkv7Config later(jet::Rwkv7Config config, i64 rank) {
  config.value_rank = rank;
  return config;
}
template <class Hybrid, jet::Rwkv7Config C, i64 Rank, jet::fixed_string Plan>
using WithRwkv7 = typename Swapped<Hybrid, jet::Rwkv7<later(C, Rank)>>::template with<
    jet::Bind<'F', jet::Rwkv7<C>>>::template replan<Plan>;

template <class Model, class B> Row make_row(std::string block, i64 heads, i64 head_k, i64 head_v) {
  Row row{std::move(block), heads, head_k, head_v, 0, {}};
  Model::for_letter(Model::plan().front(),
                    [&]<class L>() { row.block_params = jet::num_params<typename L::mixer>(); });
  row.subject = make_subject<Model, B>(row.block + " " + std::to_string(heads) + " x " + std::to_string(head_k) +
                                       " x " + std::to_string(head_v));
  return row;
}
// The hybrid types are formed in here: nvcc 13 cannot name them in a function that is no template.
template <class Hybrid, class Block, class B> Row swapped_row(std::string block) {
  constexpr auto c = Block::config;
  return make_row<Swapped<Hybrid, Block>, B>(std::move(block), c.heads, c.head_k, c.head_v);
}
template <class Hybrid, jet::Mamba2Config C, class B> Row mamba2_row() {
  return make_row<Swapped<Hybrid, jet::Mamba2<C>>, B>("Mamba2", C.heads, C.state, C.head);
}
template <class Hybrid, jet::Rwkv7Config C, i64 Rank, jet::fixed_string Plan, class B> Row rwkv7_row() {
  return make_row<WithRwkv7<Hybrid, C, Rank, Plan>, B>("RWKV7", C.heads, C.head, C.head);
}

// Each a translation unit of its own. On the CUDA backend: bf16, fp32 states.
Machine gpu();
Row gpu_jet_block();
Row gpu_retnet();
Row gpu_retnet_equal();
Row gpu_mamba2();
Row gpu_mamba2_equal();
Row gpu_gla();
Row gpu_deltanet();
Row gpu_deltanet_equal();
Row gpu_gated_deltanet();
Row gpu_rwkv7();
Row gpu_rwkv7_equal();

Machine this_cpu();
std::vector<Row> small_additive_rows();
std::vector<Row> small_delta_rows();
std::vector<Row> cpu_2b_rows();
