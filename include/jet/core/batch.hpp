/// \file
/// What one call runs on: sequences packed one after another (ragged, by cu_seqlens), each bound to a slot of the
/// state pool.
#pragma once

#include <cstdint>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/view.hpp>

JET_NAMESPACE_BEGIN

/// Which rows get logits. No others are formed.
enum class Logits : std::uint8_t { last, all, none, list };

/// The batch as kernels see it: pointers into the memory of the backend. A decode step advances `position` there
/// and reads nothing from the host.
struct BatchView {
  i64 seqs = 0;
  i64 tokens = 0;
  std::int64_t const* cu_seqlens = nullptr;  // [seqs + 1]
  std::int32_t const* slot = nullptr;        // [seqs]; -1: inactive, reads and writes nothing
  std::int64_t const* position = nullptr;    // [seqs] tokens seen before this call
  std::int32_t const* pages = nullptr;       // [seqs, max_pages] page table of kv state; null: contiguous
  i64 max_pages = 0;
  i64 page_size = 0;  // tokens of one page
};

/// One sequence of a call, as CPU kernels loop over it.
struct Sequence {
  i64 index = 0;     // in the batch
  i64 begin = 0;     // first token row
  i64 tokens = 0;    // number of token rows, 0 allowed
  i64 slot = -1;     // of the state pool
  i64 position = 0;  // tokens seen before
  bool active() const { return slot >= 0; }
};

inline Sequence sequence(BatchView const& b, i64 i) {
  return {i, b.cu_seqlens[i], b.cu_seqlens[i + 1] - b.cu_seqlens[i], b.slot[i], b.position[i]};
}

/// The batch on the host.
struct Batch {
  std::vector<std::int64_t> cu_seqlens{0};
  std::vector<std::int32_t> slot;
  std::vector<std::int64_t> position;
  std::vector<std::int32_t> pages;
  i64 page_size = 0;
  Logits logits = Logits::last;
  std::vector<std::int64_t> logit_rows;  // token rows, for Logits::list

  i64 seqs() const { return static_cast<i64>(slot.size()); }
  i64 tokens() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }

  /// Appends a sequence of `n` tokens that has seen `seen` tokens.
  void add(std::int32_t pool_slot, std::int64_t n, std::int64_t seen) {
    cu_seqlens.push_back(cu_seqlens.back() + n);
    slot.push_back(pool_slot);
    position.push_back(seen);
  }

  BatchView view() const {
    i64 const n = seqs();
    return {n,
            tokens(),
            cu_seqlens.data(),
            slot.data(),
            position.data(),
            pages.empty() ? nullptr : pages.data(),
            n > 0 ? static_cast<i64>(pages.size()) / n : 0,
            page_size};
  }

  /// Throws unless the batch is well formed for a pool of `slots` slots of at most `max_len` tokens.
  void validate(i64 slots, i64 max_len) const {
    i64 const n = seqs();
    JET_CHECK(static_cast<i64>(cu_seqlens.size()) == n + 1, "batch: cu_seqlens has ", cu_seqlens.size(),
              " entries, expected ", n + 1, " for ", n, " sequences");
    JET_CHECK(cu_seqlens[0] == 0, "batch: cu_seqlens starts at ", cu_seqlens[0], ", expected 0");
    JET_CHECK(static_cast<i64>(position.size()) == n, "batch: position has ", position.size(),
              " entries, expected ", n);
    std::vector<bool> used(static_cast<std::size_t>(slots));
    for (i64 i = 0; i < n; ++i) {
      auto const s = static_cast<std::size_t>(i);
      i64 const count = cu_seqlens[s + 1] - cu_seqlens[s];
      JET_CHECK(count >= 0, "batch: cu_seqlens decreases at sequence ", i, " (", cu_seqlens[s], " then ",
                cu_seqlens[s + 1], ")");
      JET_CHECK(slot[s] >= -1 && slot[s] < slots, "batch: slot of sequence ", i, " is ", slot[s],
                ", expected -1 to ", slots - 1);
      if (slot[s] < 0) {
        continue;
      }
      JET_CHECK(!used[static_cast<std::size_t>(slot[s])], "batch: slot ", slot[s], " is used by two sequences");
      used[static_cast<std::size_t>(slot[s])] = true;
      JET_CHECK(position[s] >= 0, "batch: position of sequence ", i, " is ", position[s]);
      JET_CHECK(position[s] + count <= max_len, "batch: sequence ", i, " would reach ", position[s] + count,
                " tokens, but the state was made for max_len ", max_len);
    }
    JET_CHECK(pages.empty() || (page_size > 0 && n > 0 && static_cast<i64>(pages.size()) % n == 0),
              "batch: pages has ", pages.size(), " entries for ", n, " sequences and page_size ", page_size);
    for (auto row : logit_rows) {
      JET_CHECK(row >= 0 && row < tokens(), "batch: a logits row is ", row, ", expected 0 to ", tokens() - 1);
    }
  }
};

JET_NAMESPACE_END
