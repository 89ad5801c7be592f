/// \file
/// Runs one block, or one op, as a model would, with everything around it visible: parameters and state as doubles,
/// scratch that is exactly as large as planned and poisoned, keys and values poisoned until they are written.
///
///   testing::BlockHarness<JetBlock<config>, Cpu<precision::f32>> block({.slots = 2, .max_len = 512});
///   block.randomise(1);
///   reference::Matrix y = block.forward(0, x);   // continues the sequence of slot 0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/concepts.hpp>
#include <jet/core/backend_options.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/rng.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/init.hpp>
#include <jet/model/state_pool.hpp>
#include <jet/model/weights.hpp>
#include <jet/testing/reference.hpp>

JET_NAMESPACE_BEGIN
namespace testing {

/// n numbers stored as `type` in host memory, as doubles. Throws for types that are no floating type of the
/// library.
inline std::vector<double> load_as(DType type, void const* from, i64 n) {
  std::vector<double> out(static_cast<std::size_t>(n));
  auto const get = [&]<class T>(T const* in) {
    for (i64 i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<T, double> || std::is_same_v<T, float>) {
        out[static_cast<std::size_t>(i)] = static_cast<double>(in[i]);
      } else {
        out[static_cast<std::size_t>(i)] = static_cast<double>(static_cast<float>(in[i]));
      }
    }
  };
  switch (type) {
    case DType::f64: get(static_cast<double const*>(from)); break;
    case DType::f32: get(static_cast<float const*>(from)); break;
    case DType::bf16: get(static_cast<bf16 const*>(from)); break;
    case DType::f16: get(static_cast<f16 const*>(from)); break;
    default: fail("a tensor of ", name_of(type), " cannot be read as doubles");
  }
  return out;
}

/// Fills backend memory with bytes that read as NaN in every floating dtype.
template <class B> void poison(B const& backend, void* to, i64 bytes) {
  std::vector<std::byte> const nan(static_cast<std::size_t>(bytes), std::byte{0xff});
  if (bytes > 0) {
    backend.copy_from_host(to, nan.data(), bytes);
  }
}

/// A dense (rows, columns) tensor of its own in the backend's memory.
template <class B> class Activation {
 public:
  /// Poisoned.
  Activation(B const& backend, i64 rows, i64 columns, DType type)
      : backend_(&backend),
        buffer_(backend.allocate(std::max<i64>(1, rows * columns * size_of(type)))),
        view_(buffer_.data(), type, Shape{rows, columns}) {
    poison(backend, buffer_.data(), rows * columns * size_of(type));
  }
  /// Holds x, rounded to `type`.
  Activation(B const& backend, reference::Matrix const& x, DType type) : Activation(backend, x.rows, x.cols, type) {
    set(x);
  }

  void set(reference::Matrix const& x) {
    JET_CHECK(x.rows == view_.extent[0] && x.cols == view_.extent[1], "an activation of (", view_.extent[0], ", ",
              view_.extent[1], ") was given values of (", x.rows, ", ", x.cols, ")");
    std::vector<std::byte> host(static_cast<std::size_t>(view_.numel() * size_of(view_.dtype)));
    jet::detail::store_as(view_.dtype, x.data.data(), view_.numel(), host.data());
    if (!host.empty()) {
      backend_->copy_from_host(view_.data, host.data(), static_cast<i64>(host.size()));
    }
  }
  reference::Matrix values() const {
    std::vector<std::byte> host(static_cast<std::size_t>(view_.numel() * size_of(view_.dtype)));
    if (!host.empty()) {
      backend_->copy_to_host(host.data(), view_.data, static_cast<i64>(host.size()));
    }
    return {view_.extent[0], view_.extent[1], load_as(view_.dtype, host.data(), view_.numel())};
  }

  View const& view() const { return view_; }
  /// The same memory as a parameter or state tensor of another shape.
  Slot slot(Shape const& shape) const {
    JET_CHECK(shape.numel() == view_.numel(), "a slot of ", shape.numel(), " numbers on an activation of ",
              view_.numel());
    return {view_.data, view_.dtype, shape};
  }

 private:
  B const* backend_;
  typename B::Buffer buffer_;
  View view_;
};

/// A batch in the backend's memory with scratch for one body: what an engine holds for a call. The body is planned
/// once and can then run again and again without allocation.
template <Backend B> class PreparedCall {
 public:
  /// Counts the scratch of body(ctx) and allocates exactly that much, poisoned.
  template <class F>
  PreparedCall(B& backend, Batch batch, F const& body) : backend_(&backend), batch_(std::move(batch)) {
    host_ = batch_.view();
    ScratchStack counted = ScratchStack::counting();
    Context<B> ctx(backend, host_, counted, &host_);
    body(ctx);
    planned_ = counted.peak();
    scratch_ = backend.allocate(planned_);
    poison(backend, scratch_.data(), scratch_.bytes());
    memory_ = backend.allocate(upload(nullptr));
    upload(memory_.data());
  }

  /// Takes another batch with as many sequences and pages, whose calls need no more scratch than the first.
  void set_batch(Batch batch) {
    JET_CHECK(batch.seqs() == batch_.seqs() && batch.pages.size() == batch_.pages.size(), "a prepared call for ",
              batch_.seqs(), " sequences was given a batch of ", batch.seqs());
    batch_ = std::move(batch);
    host_ = batch_.view();
    upload(memory_.data());
  }

  /// Queues body(ctx) on the prepared memory. Returns the bytes of scratch it used.
  template <class F> i64 run(F const& body) {
    ScratchStack stack(reinterpret_cast<std::byte*>(scratch_.data()), scratch_.bytes());
    Context<B> ctx(*backend_, view_, stack, &host_);
    body(ctx);
    return stack.peak();
  }
  i64 planned_scratch() const { return planned_; }

 private:
  /// Copies the batch's arrays one after another to `memory` (null: only counts). Returns their bytes.
  i64 upload(void* memory) {
    i64 bytes = 0;
    auto const put = [&]<class T>(std::vector<T> const& from) {
      i64 const at = bytes;
      i64 const size = static_cast<i64>(std::span(from).size_bytes());
      bytes += align_up(size);
      auto* const to = static_cast<std::byte*>(memory) + at;
      if (memory != nullptr && size > 0) {
        backend_->copy_from_host(to, from.data(), size);
      }
      return reinterpret_cast<T const*>(to);
    };
    view_ = host_;
    view_.cu_seqlens = put(batch_.cu_seqlens);
    view_.slot = put(batch_.slot);
    view_.position = put(batch_.position);
    auto const* const pages = put(batch_.pages);
    view_.pages = batch_.pages.empty() ? nullptr : pages;
    return bytes;
  }

  B* backend_;
  Batch batch_;
  BatchView host_{};
  BatchView view_{};
  i64 planned_ = 0;
  typename B::Buffer scratch_{};
  typename B::Buffer memory_{};
};

/// Runs body(ctx) on a batch as an engine does: once to count scratch, then on exactly that much, poisoned. Throws
/// if the two runs need different amounts.
template <Backend B, class F> void run_planned(B& backend, Batch const& batch, F const& body) {
  PreparedCall<B> call(backend, batch, body);
  i64 const used = call.run(body);
  backend.sync();
  JET_CHECK(used == call.planned_scratch(), "the planning pass counted ", call.planned_scratch(),
            " bytes of scratch, the run used ", used);
}

struct HarnessOptions {
  i64 slots = 1;
  i64 max_len = 512;
  i64 page_size = 0;
  i64 pages = 0;
  bool keep_state = true;  // false: the block gets null state rows (zero at the start, nothing kept)
  BackendOptions backend{};
};

/// One row of a sequence's state in logical form (model/state_pool.hpp) as doubles.
struct StateValues {
  std::string name;
  std::vector<i64> shape;
  std::vector<double> values;
};

/// A block with parameters, a pool of states and scratch. Memory is that of a model of one layer without MLP, so
/// names, dtypes, strides and saving are those that the block meets in use.
template <Mixer M, Backend B> class BlockHarness {
 public:
  using block = M;
  using backend_type = B;
  using model = CausalLM<LmConfig{.vocab = 1, .d_model = M::width}, "M", Bind<'M', M, NoMlp>>;
  using layer = std::tuple_element_t<0, typename model::layer_types>;
  using Matrix = reference::Matrix;
  static constexpr Precision precision = B::precision;

  /// Parameters and all keys and values start as NaN, other state as zero.
  explicit BlockHarness(HarnessOptions const& options = {})
      : options_(options),
        backend_(options.backend),
        pool_(B::precision, {options.slots, options.max_len, options.page_size, options.pages}, {"M"}),
        length_(static_cast<std::size_t>(options.slots)) {
    weights_.allocate(backend_);
    weights_.visit([&](TensorKey const& key, Slot& slot) {
      poison(backend_, slot.data, slot.numel() * size_of(slot.dtype));
      if (key.module == Module::mixer) {
        params_.emplace(std::string(key.spec.name.view()), std::pair{key.spec, slot});
      }
    });
    pool_.allocate(backend_);
    visit_kv([&](StateSpec const& row, Slot const& s) {
      for (i64 unit = 0; unit < s.extent[0]; ++unit) {
        poison(backend_, s.row_bytes(unit), unit_bytes(row, s));
      }
    });
  }
  BlockHarness(BlockHarness const&) = delete;
  BlockHarness& operator=(BlockHarness const&) = delete;

  B& backend() { return backend_; }
  HarnessOptions const& options() const { return options_; }

  // ---- parameters

  /// Sets a parameter of the block by its declared name ("q_proj.weight"), row-major; rounded to its dtype. Throws
  /// for a name that the block does not declare (or has switched off) and for a wrong number of values.
  void set_param(std::string_view name, std::vector<double> const& values) {
    auto const& [spec, slot] = find(name);
    JET_CHECK(static_cast<i64>(values.size()) == slot.numel(), "parameter '", name, "' has ", slot.numel(),
              " numbers, got ", values.size());
    std::vector<std::byte> host(static_cast<std::size_t>(slot.numel() * size_of(slot.dtype)));
    jet::detail::store_as(slot.dtype, values.data(), slot.numel(), host.data());
    backend_.copy_from_host(slot.data, host.data(), static_cast<i64>(host.size()));
  }
  /// A parameter as it is stored, rounding included.
  std::vector<double> param(std::string_view name) const {
    auto const& [spec, slot] = find(name);
    std::vector<std::byte> host(static_cast<std::size_t>(slot.numel() * size_of(slot.dtype)));
    backend_.copy_to_host(host.data(), slot.data, static_cast<i64>(host.size()));
    return load_as(slot.dtype, host.data(), slot.numel());
  }
  /// The same with axis 0 as rows and the others as columns.
  Matrix param_matrix(std::string_view name) const {
    auto const& [spec, slot] = find(name);
    i64 const rows = slot.extent[0];
    return {rows, slot.numel() / rows, param(name)};
  }

  /// Gives every parameter values that a test can see the effect of, whatever its declared start: matrices normal
  /// with variance 1 / fan-in, weights of norms in [0.5, 1.5], vectors that start at zero normal with deviation
  /// 0.5; gates (uniform, log_uniform, dt_bias) as declared. Values do not depend on the precision.
  void randomise(std::uint64_t seed) {
    std::uint64_t stream = 0;
    for (auto const& row : param_specs<M>()) {
      ++stream;
      if (!row.present()) {
        continue;
      }
      Random const random{seed, stream};
      bool const declared = row.init.kind == Init::Kind::uniform || row.init.kind == Init::Kind::log_uniform ||
                            row.init.kind == Init::Kind::dt_bias || row.init.kind == Init::Kind::constant;
      i64 const fan_in = row.shape.numel() / row.shape[0];
      Init const init = declared                            ? row.init
                        : row.init.kind == Init::Kind::ones ? Init::uniform(0.5, 1.5)
                        : row.shape.rank == 1               ? Init::normal(0, 0.5)
                                              : Init::normal(0, 1 / std::sqrt(static_cast<double>(fan_in)));
      std::vector<double> values(static_cast<std::size_t>(row.shape.numel()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = init_value(init, random, i);
      }
      set_param(row.name.view(), values);
    }
  }

  // ---- runs

  /// One call. x (tokens, width) is rounded to act; the result's rows of inactive sequences mean nothing. Lengths
  /// of active slots become position + tokens.
  Matrix forward(Batch const& batch, Matrix const& x) {
    batch.validate(options_.slots, options_.max_len);
    JET_CHECK(x.rows == batch.tokens() && x.cols == M::width, "the batch needs x of (", batch.tokens(), ", ",
              M::width, "), got (", x.rows, ", ", x.cols, ")");
    Activation<B> const in(backend_, x, precision.act);
    Activation<B> const out(backend_, x.rows, x.cols, precision.act);
    run_planned(backend_, batch, [&](Context<B>& ctx) { forward(ctx, in.view(), out.view()); });
    for (i64 i = 0; i < batch.seqs(); ++i) {
      Sequence const seq = jet::sequence(batch.view(), i);
      if (seq.active()) {
        length_[static_cast<std::size_t>(seq.slot)] = seq.position + seq.tokens;
      }
    }
    return out.values();
  }
  /// The block on views of the caller, inside a planned call: what `forward` and benchmarks run.
  void forward(Context<B>& ctx, View const& x, View const& y) {
    model::declare_shared(ctx);
    auto state = options_.keep_state ? pool_.template layer<layer>(0).mixer() : typename M::template State<Slot>{};
    M::forward(ctx, weights_.template layer<layer>(0).mixer(), state, x, y);
  }
  /// Continues the sequence of one slot.
  Matrix forward(i64 slot, Matrix const& x) {
    Batch batch;
    batch.add(static_cast<std::int32_t>(slot), x.rows, length(slot));
    return forward(batch, x);
  }

  // ---- state

  i64 length(i64 slot) const { return length_.at(static_cast<std::size_t>(slot)); }
  /// Keys and values are poisoned again (those in pages, which belong to no slot, stay).
  void reset(i64 slot) {
    pool_.reset(backend_, slot);
    visit_kv([&](StateSpec const& row, Slot const& s) {
      if (!(pool_.paged() && row.window == 0)) {
        poison(backend_, s.row_bytes(slot), unit_bytes(row, s));
      }
    });
    length_[static_cast<std::size_t>(slot)] = 0;
  }
  /// A state of `length` tokens made of small random numbers.
  void fill(i64 slot, i64 length, std::uint64_t seed = 1) {
    SavedState state = pool_.blank("M", length);
    fill_random(state, seed);
    load(slot, state);
  }
  void fork(i64 from, i64 to) {
    pool_.fork(backend_, "M", from, to, length(from));
    length_[static_cast<std::size_t>(to)] = length(from);
  }
  SavedState save(i64 slot) { return pool_.save(backend_, "M", slot, length(slot)); }
  void load(i64 slot, SavedState const& saved) {
    pool_.load(backend_, "M", slot, saved);
    length_[static_cast<std::size_t>(slot)] = saved.position;
  }
  /// A sequence's state in logical form, rows in the order of the declaration.
  std::vector<StateValues> state(i64 slot) {
    std::vector<StateValues> rows;
    for (SavedRow const& row : save(slot).rows) {
      rows.push_back({row.name, row.shape,
                      load_as(row.dtype, row.data.data(), static_cast<i64>(row.data.size()) / size_of(row.dtype))});
    }
    return rows;
  }
  /// Every byte of a slot's rows (of a page's, for rows that are paged), in physical order.
  std::vector<std::byte> raw_state(i64 unit) {
    std::vector<std::byte> bytes;
    pool_.visit_rows("M", [&](i64, char, std::string_view, StateSpec const& row, Slot const& s) {
      if (unit < s.extent[0]) {
        auto const at = bytes.size();
        bytes.resize(at + static_cast<std::size_t>(unit_bytes(row, s)));
        backend_.copy_to_host(bytes.data() + at, s.row_bytes(unit), unit_bytes(row, s));
      }
    });
    return bytes;
  }
  StatePool<model>& pool() { return pool_; }

 private:
  template <class F> void visit_kv(F const& f) {
    pool_.visit_rows("M", [&](i64, char, std::string_view, StateSpec const& row, Slot const& s) {
      if (row.role == Role::kv) {
        f(row, s);
      }
    });
  }
  static i64 unit_bytes(StateSpec const& row, Slot const& s) {
    return (row.per_token ? s.extent[1] * s.stride[1] : row.shape.numel()) * size_of(s.dtype);
  }
  std::pair<ParamSpec, Slot> const& find(std::string_view name) const {
    auto const found = params_.find(name);
    JET_CHECK(found != params_.end(), "block '", M::kind, "' has no parameter '", name, "'");
    return found->second;
  }

  HarnessOptions options_;
  B backend_;
  Weights<model> weights_;
  StatePool<model> pool_;
  std::vector<i64> length_;
  std::map<std::string, std::pair<ParamSpec, Slot>, std::less<>> params_;
};

}  // namespace testing
JET_NAMESPACE_END
