// A model whose state has every kind of row and few bytes, for tests of state files.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include <jet/block/full_attention.hpp>
#include <jet/block/jet_block.hpp>
#include <jet/block/sliding_window.hpp>
#include <jet/core/arena.hpp>
#include <jet/core/dtype.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/state_pool.hpp>

namespace hostile {

inline constexpr jet::AttentionConfig one_head{.d_model = 4, .heads = 1, .kv_heads = 1, .head = 2};

struct StateModel
    : jet::CausalLM<
          jet::LmConfig{.vocab = 4, .d_model = 4, .mlp = 4}, "JAS",
          jet::Bind<'J', jet::JetBlock<jet::JetBlockConfig{
                             .d_model = 4, .heads = 1, .head_k = 2, .head_v = 2, .conv = 3, .gen_reduction = 1}>>,
          jet::Bind<'A', jet::FullAttention<one_head>>, jet::Bind<'S', jet::SlidingWindow<one_head, 3>>> {};

// What a state pool needs of a backend.
struct HostMemory {
  using Buffer = jet::HostBuffer;
  Buffer allocate(jet::i64 bytes) const { return Buffer(bytes); }
  void zero(void* to, jet::i64 bytes) const { std::memset(to, 0, static_cast<std::size_t>(bytes)); }
  void copy(void* to, void const* from, jet::i64 bytes) const {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
  void copy_to_host(void* to, void const* from, jet::i64 bytes) const { copy(to, from, bytes); }
  void copy_from_host(void* to, void const* from, jet::i64 bytes) const { copy(to, from, bytes); }
};

// A pool of one slot for up to 8 tokens.
struct StatePool {
  HostMemory memory;
  jet::StatePool<StateModel> pool{jet::precision::f32, {.slots = 1, .max_len = 8}, {"J", "A", "S"}};

  StatePool() { pool.allocate(memory); }
  void load(jet::SavedState const& state) { pool.load(memory, "JAS", 0, state); }
  jet::SavedState save(jet::i64 position) { return pool.save(memory, "JAS", 0, position); }
  // The state of a sequence of `position` tokens, every byte `value`.
  jet::SavedState filled(jet::i64 position, int value) {
    jet::SavedState state = pool.blank("JAS", position);
    for (jet::SavedRow& row : state.rows) {
      row.data.assign(row.data.size(), static_cast<std::byte>(value));
    }
    return state;
  }
};

}  // namespace hostile
