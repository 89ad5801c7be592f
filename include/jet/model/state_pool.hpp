/// \file
/// The state of a number of sequences under a model: recurrent and convolution state, keys and values. Allocated
/// once; a sequence is a slot number. A layer's part is sized for the largest letter bound there, so plans change
/// without allocation.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <jet/core/arena.hpp>
#include <jet/core/error.hpp>
#include <jet/core/state.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

/// Sizes of a pool. With page_size > 0, keys and values of full attention live in `pages` pages of page_size
/// tokens, found through Batch::pages, and max_len limits only what a sequence may reach.
struct PoolOptions {
  i64 slots = 1;
  i64 max_len = 4096;
  i64 page_size = 0;
  i64 pages = 0;
};

/// One row of one sequence's state in logical form, the same for every backend and layout: recurrent [heads, d_k,
/// d_v]; keys and values [tokens kept, kv_heads, head], oldest first, and for fp8 behind them a row "....scale"
/// [tokens kept, kv_heads]; convolution [taps - 1, channels], oldest first.
struct SavedRow {
  i64 layer = 0;
  char letter = 0;
  std::string name;  // "mixer.recurrent"
  DType dtype = DType::none;
  std::vector<i64> shape;
  std::vector<std::byte> data;
};

/// The state of one sequence, saved: plan, position, rows. Loads into any pool of the same model and dtypes.
struct SavedState {
  std::string plan;
  i64 position = 0;
  std::vector<SavedRow> rows;
};

/// Bytes of a pool, by what they are for.
struct StateBytes {
  i64 recurrent = 0;
  i64 conv = 0;
  i64 kv = 0;
  i64 total() const { return recurrent + conv + kv; }
};

template <class Model> class StatePool {
  template <class L> struct Rows {
    typename L::mixer::template State<Slot> mixer{};
    typename L::mlp::template State<Slot> mlp{};
  };

 public:
  /// The layout for a pool in which layer l may run any letter of letters_of_layer[l]; no memory yet.
  StatePool(Precision const& p, PoolOptions const& o, std::vector<std::string> letters_of_layer)
      : precision_(p), options_(o), held_(std::move(letters_of_layer)) {
    JET_CHECK(o.slots >= 0, "option slots is ", o.slots, ", expected at least 0");
    JET_CHECK(o.max_len >= 1, "option max_len is ", o.max_len, ", expected at least 1");
    JET_CHECK(o.page_size >= 0 && o.pages >= 0 && (o.page_size > 0 || o.pages == 0), "options page_size ",
              o.page_size, " and pages ", o.pages, ": give both or neither");
    JET_CHECK(static_cast<i64>(held_.size()) == Model::layers, "a pool needs letters for ", Model::layers,
              " layers, got ", held_.size());
    layers_.resize(held_.size());
    for (std::size_t l = 0; l < held_.size(); ++l) {
      for (char const c : held_[l]) {
        Model::for_letter(c, [&]<class L>() {
          i64 fixed = 0, paged = 0;
          each_row<L>([&](StateSpec const& row, auto&&...) {
            (by_unit(row) ? paged : fixed) += align_up(jet::state_bytes(row, p, unit_tokens(row)));
          });
          layers_[l].fixed = std::max(layers_[l].fixed, fixed);
          layers_[l].paged = std::max(layers_[l].paged, paged);
        });
      }
      layers_[l].fixed_at = bytes_;
      bytes_ += layers_[l].fixed * o.slots;
      layers_[l].paged_at = bytes_;
      bytes_ += layers_[l].paged * (o.page_size > 0 ? o.pages : o.slots);
    }
    std::apply([&](auto&... rows) { (rows.resize(held_.size()), ...); }, rows_);
  }

  /// Allocates and zeroes the memory and binds all rows to it.
  template <class B> void allocate(B const& backend) {
    auto buffer = std::make_shared<typename B::Buffer>(backend.allocate(bytes_));
    if (bytes_ > 0) {
      backend.zero(buffer->data(), bytes_);
    }
    bind(reinterpret_cast<char*>(buffer->data()));
    storage_ = std::move(buffer);
  }
  /// Binds rows to addresses that are never used, for a planning pass.
  void bind_for_planning() { bind(reinterpret_cast<char*>(static_cast<std::uintptr_t>(alignment))); }

  i64 bytes() const { return bytes_; }
  PoolOptions const& options() const { return options_; }
  Precision const& precision() const { return precision_; }
  bool paged() const { return options_.page_size > 0; }

  /// Bytes by role for a plan (what the plan's letters use of the pool, padding counted as part of its row).
  StateBytes bytes_by_role(std::string_view plan) const {
    StateBytes n;
    for (i64 l = 0; l < Model::layers; ++l) {
      Model::for_letter(plan[static_cast<std::size_t>(l)], [&]<class L>() {
        each_row<L>([&](StateSpec const& row, auto&&...) {
          i64 const units = by_unit(row) && paged() ? options_.pages : options_.slots;
          i64 const b = align_up(jet::state_bytes(row, precision_, unit_tokens(row))) * units;
          (row.role == Role::kv ? n.kv : row.role == Role::conv ? n.conv : n.recurrent) += b;
        });
      });
    }
    return n;
  }

  template <class L> struct LayerRef {
    Rows<L>* rows;
    auto& mixer() const { return rows->mixer; }
    auto& mlp() const { return rows->mlp; }
  };
  template <class L> LayerRef<L> layer(i64 l) {
    constexpr auto index = static_cast<std::size_t>(Model::letter_index(L::letter));
    return {&std::get<index>(rows_)[static_cast<std::size_t>(l)]};
  }

  /// Forgets a sequence: recurrent and convolution state of all letters become zero (keys and values are never read
  /// beyond a sequence's position).
  template <class B> void reset(B const& backend, i64 slot) {
    check_slot(slot);
    for (auto const& layer : layers_) {
      if (layer.fixed > 0) {
        backend.zero(base_ + layer.fixed_at + slot * layer.fixed, layer.fixed);
      }
    }
  }

  /// Copies a sequence of `position` tokens to another slot.
  template <class B> void fork(B const& backend, std::string_view plan, i64 from, i64 to, i64 position) {
    check_slot(from);
    check_slot(to);
    JET_CHECK(!paged(), "fork: this pool is paged; copy or share the sequence's pages and fork with page_size 0");
    if (from == to) {
      return;
    }
    visit_saved(plan, [&](i64, char, std::string const&, StateSpec const& row, Slot const& slot) {
      i64 const unit = row.per_token ? slot.stride[1] * std::min(position, slot.extent[1]) : row.shape.numel();
      copy_unit(backend, slot, from, to, unit * size_of(slot.dtype));
    });
  }

  /// The state of a sequence of `position` tokens in logical form.
  template <class B> SavedState save(B const& backend, std::string_view plan, i64 slot, i64 position) {
    check_slot(slot);
    JET_CHECK(!paged(), "save: this pool is paged; saving needs page_size 0");
    SavedState saved{std::string(plan), position, {}};
    visit_saved(plan, [&](i64 l, char letter, std::string const& name, StateSpec const& row, Slot const& s) {
      SavedRow out = blank_row(l, letter, name, row, s, position);
      transfer(backend, row, s, slot, position, out.data.data(), true);
      saved.rows.push_back(std::move(out));
    });
    return saved;
  }

  /// The logical form of a sequence of `position` tokens with all numbers zero: to be filled and loaded.
  SavedState blank(std::string_view plan, i64 position) {
    SavedState saved{std::string(plan), position, {}};
    visit_saved(plan, [&](i64 l, char letter, std::string const& name, StateSpec const& row, Slot const& s) {
      saved.rows.push_back(blank_row(l, letter, name, row, s, position));
    });
    return saved;
  }

  /// Puts a saved sequence into a slot. Throws if plan, rows, shapes or dtypes differ.
  template <class B> void load(B const& backend, std::string_view plan, i64 slot, SavedState const& saved) {
    check_slot(slot);
    JET_CHECK(!paged(), "load: this pool is paged; loading needs page_size 0");
    JET_CHECK(saved.plan == plan, "state: saved under plan \"", saved.plan, "\", the running plan is \"", plan,
              "\"");
    JET_CHECK(saved.position >= 0 && saved.position <= options_.max_len, "state: position ", saved.position,
              ", expected 0 to max_len ", options_.max_len);
    std::size_t at = 0;
    std::vector<i64> shape;
    auto const check = [&](i64 l, char letter, std::string const& name, StateSpec const& row, Slot const& s) {
      JET_CHECK(at < saved.rows.size(), "state: row '", name, "' of layer ", l, " is missing");
      SavedRow const& in = saved.rows[at++];
      JET_CHECK(in.layer == l && in.letter == letter && in.name == name, "state: expected row '", name,
                "' of layer ", l, " (", letter, "), found '", in.name, "' of layer ", in.layer, " (", in.letter,
                ")");
      JET_CHECK(in.dtype == s.dtype, "state: row '", name, "' of layer ", l, " is ", name_of(in.dtype),
                ", the pool's is ", name_of(s.dtype));
      transfer_shape(row, s, saved.position, shape);
      i64 n = size_of(s.dtype);
      for (i64 const e : shape) {
        n *= e;
      }
      JET_CHECK(in.shape == shape && static_cast<i64>(in.data.size()) == n, "state: row '", name, "' of layer ", l,
                " has another shape than position ", saved.position, " needs");
    };
    visit_saved(plan, check);
    JET_CHECK(at == saved.rows.size(), "state: ", saved.rows.size(), " rows, the plan has ", at);
    reset(backend, slot);
    at = 0;
    visit_saved(plan, [&](i64, char, std::string const&, StateSpec const& row, Slot const& s) {
      // const_cast: transfer reads from the buffer when loading
      transfer(backend, row, s, slot, saved.position, const_cast<std::byte*>(saved.rows[at++].data.data()), false);
    });
  }

  /// f(dtype, memory, bytes) for every row of a slot's sequence of `position` tokens, where it is kept.
  template <class F> void visit_memory(std::string_view plan, i64 slot, i64 position, F&& f) {
    check_slot(slot);
    JET_CHECK(!paged(), "this pool is paged; a sequence's memory is one piece with page_size 0 only");
    JET_CHECK(position >= 0 && position <= options_.max_len, "state: position ", position,
              ", expected 0 to max_len ", options_.max_len);
    visit_saved(plan, [&](i64, char, std::string const&, StateSpec const& row, Slot const& s) {
      i64 const numbers = row.per_token ? s.stride[1] * std::min(position, s.extent[1]) : row.shape.numel();
      f(s.dtype, s.row_bytes(slot), numbers * size_of(s.dtype));
    });
  }

  /// Throws, naming the layer and row, if a sequence cannot go back from `position` to `length` tokens.
  void check_truncate(std::string_view plan, i64 position, i64 length) {
    JET_CHECK(length >= 0 && length <= position, "truncate: length ", length, ", expected 0 to ", position);
    if (length == position || length == 0) {
      return;
    }
    visit_rows(plan, [&](i64 l, char letter, std::string_view module, StateSpec const& row, Slot const& s) {
      JET_CHECK(row.per_token, "truncate: the state '", module, ".", row.name.view(), "' of layer ", l, " (",
                letter, ") is recurrent and cannot go back from ", position, " to ", length,
                " tokens; fork or save the sequence at the point you want to return to");
      JET_CHECK(row.window == 0 || position <= s.extent[1], "truncate: the window of layer ", l, " (", letter,
                ") keeps ", s.extent[1], " tokens and has dropped what it saw ", position,
                " tokens ago; it cannot go back to ", length);
    });
  }

  /// f(layer, letter, "mixer" | "mlp", StateSpec, Slot&) for every row of a plan.
  template <class F> void visit_rows(std::string_view plan, F&& f) {
    for (i64 l = 0; l < Model::layers; ++l) {
      char const c = plan[static_cast<std::size_t>(l)];
      Model::for_letter(c, [&]<class L>() {
        auto const rows = layer<L>(l);
        each_row_of<typename L::mixer>(rows.mixer(),
                                       [&](StateSpec const& row, Slot& s) { f(l, c, "mixer", row, s); });
        each_row_of<typename L::mlp>(rows.mlp(), [&](StateSpec const& row, Slot& s) { f(l, c, "mlp", row, s); });
      });
    }
  }

 private:
  struct LayerLayout {
    i64 fixed = 0, paged = 0;        // bytes of a slot, of a page or slot of keys and values
    i64 fixed_at = 0, paged_at = 0;  // offsets
  };

  /// Rows of keys and values without a window, which a page table may scatter.
  static bool by_unit(StateSpec const& row) { return row.per_token && row.window == 0; }
  i64 unit_tokens(StateSpec const& row) const {
    return by_unit(row) && options_.page_size > 0 ? options_.page_size : options_.max_len;
  }

  template <class L, class F> static void each_row(F&& f) {
    for (auto const& row : state_specs<typename L::mixer>()) {
      if (row.present()) {
        f(row);
      }
    }
    for (auto const& row : state_specs<typename L::mlp>()) {
      if (row.present()) {
        f(row);
      }
    }
  }
  template <class M, class F> static void each_row_of(typename M::template State<Slot>& state, F&& f) {
    if constexpr (state_arity < M >> 0) {
      constexpr auto specs = state_specs<M>();
      auto slots = detail::to_array<Slot>(state);
      for (std::size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].present()) {
          f(specs[i], slots[i]);
        }
      }
      state = as_state<M>(slots);
    }
  }

  void bind(char* base) {
    base_ = base;
    for (i64 l = 0; l < Model::layers; ++l) {
      auto const& layout = layers_[static_cast<std::size_t>(l)];
      for (char const c : held_[static_cast<std::size_t>(l)]) {
        Model::for_letter(c, [&]<class L>() {
          i64 fixed = layout.fixed_at, paged = layout.paged_at;
          auto const bind_row = [&](StateSpec const& row, Slot& slot) {
            i64& at = by_unit(row) ? paged : fixed;
            i64 const unit = by_unit(row) ? layout.paged : layout.fixed;
            i64 const units = by_unit(row) && this->paged() ? options_.pages : options_.slots;
            slot = make_slot(row, base_ + at, units, unit);
            at += align_up(jet::state_bytes(row, precision_, unit_tokens(row)));
          };
          auto const rows = layer<L>(l);
          each_row_of<typename L::mixer>(rows.mixer(), bind_row);
          each_row_of<typename L::mlp>(rows.mlp(), bind_row);
        });
      }
    }
  }

  /// [units, (capacity,) shape...] with the unit's stride on axis 0.
  Slot make_slot(StateSpec const& row, char* at, i64 units, i64 unit_bytes) const {
    Slot s;
    s.data = at;
    s.dtype = state_dtype(precision_, row.role);
    int const lead = row.per_token ? 2 : 1;
    s.rank = row.shape.rank + lead;
    JET_CHECK(s.rank <= 4, "state row '", row.name.view(), "' has rank ", row.shape.rank, ", at most ", 4 - lead,
              " is possible");
    i64 step = 1;
    for (int i = row.shape.rank - 1; i >= 0; --i) {
      s.extent[lead + i] = row.shape[i];
      s.stride[lead + i] = step;
      step *= row.shape[i];
    }
    if (row.per_token) {
      s.extent[1] = row.capacity(unit_tokens(row));
      s.stride[1] = step;
    }
    s.extent[0] = units;
    s.stride[0] = unit_bytes / size_of(s.dtype);
    if (s.dtype == DType::f8e4m3) {
      s.scale = at + row.numel(unit_tokens(row));
      s.scale_dtype = DType::f16;
    }
    return s;
  }

  template <class B> static void copy_unit(B const& backend, Slot const& s, i64 from, i64 to, i64 bytes) {
    backend.copy(s.row_bytes(to), s.row_bytes(from), bytes);
  }

  /// f(layer, letter, name, StateSpec, Slot) for every row as it is saved: the scales of a quantised row are one
  /// more.
  template <class F> void visit_saved(std::string_view plan, F&& f) {
    visit_rows(plan, [&](i64 l, char letter, std::string_view module, StateSpec const& row, Slot const& s) {
      std::string const name = concat(module, ".", row.name.view());
      f(l, letter, name, row, s);
      if (s.scale != nullptr) {
        StateSpec scales = row;
        scales.shape = Shape{row.shape[0]};
        Slot slot(s.scale, s.scale_dtype, Shape{s.extent[0], s.extent[1], row.shape[0]});
        slot.stride[0] = s.stride[0] * size_of(s.dtype) / size_of(s.scale_dtype);
        f(l, letter, name + ".scale", scales, slot);
      }
    });
  }

  static SavedRow blank_row(i64 layer, char letter, std::string const& name, StateSpec const& row, Slot const& s,
                            i64 position) {
    SavedRow out{layer, letter, name, s.dtype, {}, {}};
    transfer_shape(row, s, position, out.shape);
    i64 n = size_of(s.dtype);
    for (i64 const e : out.shape) {
      n *= e;
    }
    out.data.resize(static_cast<std::size_t>(n));
    return out;
  }

  static void transfer_shape(StateSpec const& row, Slot const& s, i64 position, std::vector<i64>& shape) {
    shape.clear();
    if (row.per_token) {
      shape.push_back(std::min(position, s.extent[1]));
    }
    for (int i = 0; i < row.shape.rank; ++i) {
      shape.push_back(row.role == Role::conv && i == 0 ? row.shape[0] - 1 : row.shape[i]);
    }
  }

  /// Copies a row of one slot to (save) or from a dense buffer in logical order.
  template <class B>
  static void transfer(B const& backend, StateSpec const& row, Slot const& s, i64 slot, i64 position,
                       std::byte* buffer, bool save) {
    auto* const base = static_cast<char*>(s.row_bytes(slot));
    i64 const element = size_of(s.dtype);
    auto const move = [&](i64 offset, i64 bytes, i64 at) {
      if (save) {
        backend.copy_to_host(buffer + at, base + offset, bytes);
      } else {
        backend.copy_from_host(base + offset, buffer + at, bytes);
      }
    };
    if (row.per_token) {
      i64 const capacity = s.extent[1];
      i64 const kept = std::min(position, capacity);
      i64 const bytes = s.stride[1] * element;
      for (i64 i = 0; i < kept;) {  // oldest first; a ring is at most two runs
        i64 const r = (position - kept + i) % capacity;
        i64 const run = std::min(capacity - r, kept - i);
        move(r * bytes, run * bytes, i * bytes);
        i += run;
      }
    } else if (row.role == Role::conv) {
      i64 const bytes = row.shape.numel() / row.shape[0] * element;
      move(bytes, (row.shape[0] - 1) * bytes, 0);
    } else {
      move(0, row.shape.numel() * element, 0);
    }
  }

  void check_slot(i64 slot) const {
    JET_CHECK(slot >= 0 && slot < options_.slots, "slot ", slot, ", expected 0 to ", options_.slots - 1);
  }

  template <class Tuple> struct RowsOf;
  template <class... L> struct RowsOf<std::tuple<L...>> { using type = std::tuple<std::vector<Rows<L>>...>; };

  Precision precision_;
  PoolOptions options_;
  std::vector<std::string> held_;
  std::vector<LayerLayout> layers_;
  typename RowsOf<typename Model::layer_types>::type rows_;
  std::shared_ptr<void const> storage_;
  char* base_ = nullptr;
  i64 bytes_ = 0;
};

/// The state that a forward without a pool sees: zero at the start, nothing kept (training).
template <class Model> struct NoState {
  template <class L> struct Rows {
    mutable typename L::mixer::template State<Slot> mixer_rows{};
    mutable typename L::mlp::template State<Slot> mlp_rows{};
    auto& mixer() const { return mixer_rows; }
    auto& mlp() const { return mlp_rows; }
  };
  template <class L> Rows<L> layer(i64) { return {}; }
};

JET_NAMESPACE_END
