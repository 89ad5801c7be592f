/// \file
/// What a block's forward gets beside its tensors: the backend, the batch, scratch, and values that cross layers.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include <jet/core/arena.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/core/shape.hpp>
#include <jet/core/view.hpp>
#include <jet/fwd.hpp>

JET_NAMESPACE_BEGIN

/// One value that later layers of the same call read (RWKV7's first-layer value, a table of rotations). `key` tells
/// values of one name and different meaning apart (the hash of a config).
struct SharedSpec {
  Name name{};
  i64 width = 0;  // columns; rows are the call's tokens
  std::uint64_t key = 0;
  bool gradient = false;  // the value depends on parameters or inputs: a backward carries its gradient
};

/// The value during a call. The first layer that finds it not filled fills it. In a backward, later layers add to
/// `grad` and the writer reads it.
struct SharedSlot {
  SharedSpec spec{};
  View value{};
  View grad{};
  bool filled = false;
};

namespace detail {

template <class Op, class B, class... Args>
concept HasRun = requires(Context<B>& ctx, Op const& op, Args&&... args) {
  Kernel<Op, typename B::tag>::run(ctx, op, std::forward<Args>(args)...);
};
template <class Op, class B, class... Args>
concept HasScratch = requires(Context<B>& ctx, Op const& op, Args&&... args) {
  Kernel<Op, typename B::tag>::scratch(ctx, op, std::forward<Args>(args)...);
};
template <class Op, class B, class... Args>
concept HasCompose = requires(Context<B>& ctx, Op const& op, Args&&... args) {
  Op::compose(ctx, op, std::forward<Args>(args)...);
};

}  // namespace detail

/// True if `ctx.run(op, args...)` reaches a kernel of the backend (not a composition).
template <class Op, class B, class... Args>
concept KernelFor = detail::HasRun<Op, B, Args...> || detail::HasScratch<Op, B, Args...>;

/// One call's surroundings. In a planning pass (`planning()`), scratch only counts and no kernel runs: the same
/// forward that will run later tells how much it needs.
template <class B> class Context {
 public:
  using backend_type = B;
  static constexpr Precision precision = B::precision;
  static constexpr int max_shared = 8;

  /// `host` is the batch in host memory for launch decisions; null in a step that must not depend on host values.
  Context(B& backend, BatchView const& batch, ScratchStack& scratch, BatchView const* host = nullptr)
      : backend_(&backend), batch_(batch), host_(host), scratch_(&scratch) {}

  B& backend() const { return *backend_; }
  BatchView const& batch() const { return batch_; }
  BatchView const* host_batch() const { return host_; }
  i64 tokens() const { return batch_.tokens; }
  i64 seqs() const { return batch_.seqs; }
  /// CPU kernels: sequence i of the call.
  Sequence sequence(i64 i) const { return jet::sequence(batch_, i); }
  bool planning() const { return scratch_->is_counting(); }

  /// An activation (rows, columns) of dtype `act`, uninitialised; lives until the layer's part ends.
  View scratch(i64 rows, i64 columns) { return scratch(rows, columns, precision.act); }
  View scratch(i64 rows, i64 columns, DType type) {
    return View(scratch_->take(rows * columns * size_of(type)), type, Shape{rows, columns});
  }
  /// The same at the accumulation type: what lies between matrix products.
  View accumulator(i64 rows, i64 columns) { return scratch(rows, columns, precision.acc); }
  void* scratch_bytes(i64 bytes) { return scratch_->take(bytes); }
  ScratchStack& stack() { return *scratch_; }

  /// Runs an op: its kernel on this backend, else its composition of finer ops.
  template <class Op, class... Args> void run(Op const& op, Args&&... args) {
    using K = Kernel<Op, typename B::tag>;
    if constexpr (detail::HasScratch<Op, B, Args...>) {
      i64 const mark = scratch_->mark();
      auto&& memory = K::scratch(*this, op, std::forward<Args>(args)...);
      if (!planning()) {
        K::run(*this, op, memory, std::forward<Args>(args)...);
      }
      scratch_->release(mark);
    } else if constexpr (detail::HasRun<Op, B, Args...>) {
      if (!planning()) {
        K::run(*this, op, std::forward<Args>(args)...);
      }
    } else if constexpr (detail::HasCompose<Op, B, Args...>) {
      i64 const mark = scratch_->mark();
      Op::compose(*this, op, std::forward<Args>(args)...);
      scratch_->release(mark);
    } else {
      static_assert(
          sizeof(Op) == 0,
          "jet: this op has no kernel for this backend and these arguments; for CUDA include <jet/cuda.cuh> from "
          "a .cu file, for your own op specialise jet::Kernel<Op, BackendTag>");
    }
  }

  /// The call's value for a declared row of `shared()`.
  SharedSlot& shared(SharedSpec const& spec) {
    if (SharedSlot* slot = find_shared(spec)) {
      return *slot;
    }
    fail("shared value '", spec.name.view(), "' was not declared by any block of the model");
  }
  SharedSlot* find_shared(SharedSpec const& spec) {
    for (int i = 0; i < shared_count_; ++i) {
      auto& slot = shared_[static_cast<std::size_t>(i)];
      if (slot.spec.name == spec.name && slot.spec.key == spec.key) {
        return &slot;
      }
    }
    return nullptr;
  }
  /// In a backward, for values whose spec says `gradient`: zeroed, before the last layer's backward.
  void declare_shared_gradients() {
    for (int i = 0; i < shared_count_; ++i) {
      auto& slot = shared_[static_cast<std::size_t>(i)];
      if (slot.spec.gradient) {
        slot.grad = accumulator(batch_.tokens, slot.spec.width);
        if (!planning()) {
          backend_->zero(slot.grad.data, slot.grad.numel() * size_of(slot.grad.dtype));
        }
      }
    }
  }
  /// The model calls this once per declared value before the first layer.
  void declare_shared(SharedSpec const& spec) {
    if (find_shared(spec) != nullptr) {
      return;
    }
    JET_CHECK(shared_count_ < max_shared, "a model declares more than ", max_shared, " values that cross layers");
    shared_[static_cast<std::size_t>(shared_count_++)] = {spec, accumulator(batch_.tokens, spec.width), {}, false};
  }
  std::array<SharedSlot, max_shared>& shared_slots() { return shared_; }
  int shared_count() const { return shared_count_; }

  /// Which layer is running, for messages and taps.
  int layer = 0;

 private:
  B* backend_;
  BatchView batch_;
  BatchView const* host_;
  ScratchStack* scratch_;
  std::array<SharedSlot, max_shared> shared_{};
  int shared_count_ = 0;
};

JET_NAMESPACE_END
