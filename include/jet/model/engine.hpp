/// \file
/// A model that runs: weights, a pool of states and scratch on one backend. This is also the seam between
/// compilers: its members are defined outside the class, so that
///   extern template class jet::Engine<Model, B>;   // in most translation units: no kernels are compiled there
///   template class jet::Engine<Model, B>;          // in one: by g++ for the CPU, by nvcc for CUDA
/// Several engines live side by side in one process, and may share frozen weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/core/backend_options.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/rng.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/init.hpp>
#include <jet/model/memory_plan.hpp>
#include <jet/model/state_pool.hpp>
#include <jet/model/taps.hpp>
#include <jet/model/weights.hpp>
#include <jet/op/embedding.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/sample.hpp>
#include <jet/text/generate.hpp>

JET_NAMESPACE_BEGIN

/// Sizes that an engine is made for.
struct EngineOptions {
  i64 slots = 1;       // sequences at a time
  i64 max_len = 4096;  // tokens that a sequence may reach
  i64 chunk = 512;     // tokens of one call; longer prompts are cut by `append`
  i64 max_logits = 0;  // rows of logits of one call; 0: one per slot
  i64 page_size = 0;   // tokens of a kv page; 0: every slot has its own contiguous cache
  i64 pages = 0;
  std::string plan{};   // of letters; empty: the model's own
  bool poison = false;  // fill scratch with NaN before every call (tests)
  BackendOptions backend{};

  i64 logit_rows() const { return max_logits > 0 ? max_logits : slots; }
};

namespace detail {
template <class Model, class B> struct EngineImpl;
}

/// Called at every (layer, Point) with the value there.
using Observer = std::function<void(i64, Point, View const&)>;

template <class Model, class B> class Engine {
 public:
  using model = Model;
  using backend_type = B;
  static constexpr Precision precision = precision_of<B>;

  /// Takes weights that are bound completely (loaded or initialised). They may be shared with other engines.
  /// Tensors that the backend does not reach (host memory, for a device) are copied to its memory.
  explicit Engine(std::shared_ptr<Weights<Model>> weights, EngineOptions const& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  /// What an engine of these options will allocate, without allocating it. `letters_of_layer` as in Weights; empty:
  /// the plan.
  static MemoryPlan plan_memory(EngineOptions const& options, std::vector<std::string> letters_of_layer = {});
  /// The same for this engine, weights as they are bound.
  MemoryPlan memory_plan() const;
  /// What it holds, counted at its buffers.
  MemoryPlan allocated() const;

  EngineOptions const& options() const;
  /// The weights that it runs with, in the backend's memory. Their addresses must not change.
  Weights<Model>& weights();
  std::shared_ptr<Weights<Model>> shared_weights();
  B& backend();
  StatePool<Model>& pool();

  /// The plan that calls run, one of those that the weights hold. Changing it allocates nothing; a sequence goes on
  /// only under the plan that it was begun with, or after reset.
  std::string_view plan() const;
  void set_plan(std::string_view plan);

  /// Tokens that a slot's sequence has seen.
  i64 length(i64 slot) const;
  void reset(i64 slot);
  /// Copies the sequence of one slot to another.
  void fork(i64 from, i64 to);
  SavedState save(i64 slot);
  void load(i64 slot, SavedState const& state);
  /// Gives a slot the state of a sequence of `length` tokens made of small random numbers, for benchmarks: caches
  /// are filled, not computed.
  void fill(i64 slot, i64 length, std::uint64_t seed = 0);
  /// Goes back to `length` tokens; throws by name for a state that cannot (recurrent, convolution, a window that
  /// has wrapped).
  void truncate(i64 slot, i64 length);

  /// Copies a tensor with dense rows that is in the backend's memory (what an observer sees, a parameter) to the
  /// host, row after row, when all work queued before is done.
  void read(View const& from, void* to);

  /// Runs one call and returns logits (rows, vocab) at acc in host memory, valid until the next call. Logits::last:
  /// row i is sequence i (zero for an empty or inactive one); all: one row per token; list: one per entry; none: no
  /// rows.
  View forward(Batch const& batch, std::span<std::int32_t const> ids);
  /// The same with an observer of every layer; it sees views in the backend's memory (`read`).
  View forward(Batch const& batch, std::span<std::int32_t const> ids, Observer const& observer);
  /// Runs layers [from, layers) on a given residual stream x (tokens, d_model) at act, dense, in the backend's
  /// memory, where it is overwritten, or in the host's: searches reuse prefixes. `shared` gives values that cross
  /// layers and were filled before `from` (name and view each).
  View forward_from(i64 from, Batch const& batch, View const& x,
                    std::vector<std::pair<SharedSpec, View>> const& shared = {}, Observer const& observer = {});
  /// Continues one slot's sequence, cut into chunks. Returns the logits of its last token. `progress(done)` after
  /// each.
  View append(i64 slot, std::span<std::int32_t const> ids, std::function<void(i64)> const& progress = {});

  /// A decode loop whose tokens and positions live in the backend's memory: begin_decode fixes the slots (-1: an
  /// inactive row) and the first tokens; every decode_step runs one token of each, returns the logits (row i: entry
  /// i) in host memory, chooses the next tokens greedily and advances, reading nothing from the host and allocating
  /// nothing. With Logits::none it returns a null view and waits for nothing. For a paged pool `pages` holds as
  /// many pages for each entry, one entry after another; where an entry is about to leave them, begin again with
  /// more.
  void begin_decode(std::span<std::int32_t const> slots, std::span<std::int32_t const> tokens,
                    std::span<std::int32_t const> pages = {});
  View decode_step(Logits logits = Logits::all);
  /// Tokens chosen by the last step, in host memory.
  std::span<std::int32_t const> decode_tokens();
  /// Replaces them before the next step (sampling on the host).
  void set_decode_tokens(std::span<std::int32_t const> tokens);
  /// Marks an entry inactive from the next step on.
  void stop_decode(i64 entry);

  /// Streams a continuation: for (std::int32_t id : lm.generate(prompt, {.max_new = 64})) ... (text/generate.hpp)
  Generation<Engine> generate(std::vector<std::int32_t> prompt, GenerateOptions options = {}) {
    return jet::generate(*this, std::move(prompt), std::move(options));
  }

  /// The loop's positions, which every step advances in the backend's memory: for tests.
  std::span<std::int64_t const> decode_positions();

 private:
  using Impl = detail::EngineImpl<Model, B>;
  std::unique_ptr<Impl> impl_;
};

// ---- definitions
// ---------------------------------------------------------------------------------------------------------

namespace detail {

/// An engine's parts. Not a member of Engine, so that declaring an Engine elsewhere does not need the backend's
/// definition.
template <class Model, class B> struct EngineImpl {
  B backend;
  EngineOptions options;
  std::shared_ptr<Weights<Model>> weights;
  StatePool<Model> pool;
  std::string plan;
  typename B::Buffer scratch, logits, batch_memory;
  typename B::HostBuffer host_logits, host_batch, host_decode;  // for a backend with memory of its own
  std::vector<i64> length;
  std::vector<std::int32_t> decode_slot;  // of the loop, on the host: which lengths to advance
  i64 decode_seqs = 0;                    // entries of the loop
  i64 decode_rows = 0;                    // rows of a step, inactive ones behind the entries
  i64 decode_room = 0;                    // tokens that an entry's pages hold, or max_len
  std::map<std::pair<i64, std::string>, typename B::Recording> recordings;  // of a step, by rows and plan
  typename B::Recording* recording = nullptr;                               // of the running loop

  /// The batch in the backend's memory.
  struct DeviceBatch {
    std::int64_t* cu_seqlens;
    std::int64_t* position;
    std::int64_t* rows;
    std::int32_t* slot;
    std::int32_t* ids;
    std::int32_t* pages;
  };

  EngineImpl(std::shared_ptr<Weights<Model>> w, EngineOptions const& o)
      : backend(o.backend),
        options(checked(o)),
        weights(std::move(w)),
        pool(B::precision, {o.slots, o.max_len, o.page_size, o.pages}, weights->letters()),
        plan(o.plan.empty() ? std::string(Model::plan()) : o.plan) {
    weights->check_plan(plan);
    weights->check_bound(B::precision);
    if constexpr (!B::on_host) {
      weights = weights->copy_to(backend);
      host_logits = backend.allocate_on_host(logits_bytes(options));
      host_batch = backend.allocate_on_host(batch_bytes(options));
      host_decode = backend.allocate_on_host(max_seqs(options) * i64{sizeof(std::int64_t) + sizeof(std::int32_t)});
    }
    pool.allocate(backend);
    scratch = backend.allocate(scratch_bytes(options, weights->letters()));
    logits = backend.allocate(logits_bytes(options));
    batch_memory = backend.allocate(batch_bytes(options));
    length.assign(static_cast<std::size_t>(options.slots), 0);
    decode_slot.reserve(static_cast<std::size_t>(max_seqs(options)));
  }

  ~EngineImpl() {
    try {
      backend.sync();  // work that is still queued uses the memory
    } catch (Error const&) {
    }
  }

  static EngineOptions const& checked(EngineOptions const& o) {
    JET_CHECK(o.slots >= 1, "option slots is ", o.slots, ", expected at least 1");
    JET_CHECK(o.max_len >= 1, "option max_len is ", o.max_len, ", expected at least 1");
    JET_CHECK(o.chunk >= 1, "option chunk is ", o.chunk, ", expected at least 1");
    JET_CHECK(o.max_logits >= 0, "option max_logits is ", o.max_logits, ", expected at least 0");
    return o;
  }

  /// A call has at most as many sequences as slots, and as inactive rows beside them.
  static i64 max_seqs(EngineOptions const& o) { return o.slots; }
  static i64 max_tokens(EngineOptions const& o) { return std::max(o.chunk, o.slots); }
  static i64 max_pages(EngineOptions const& o) {
    return o.page_size > 0 ? (o.max_len + o.page_size - 1) / o.page_size : 0;
  }
  static i64 logits_bytes(EngineOptions const& o) {
    return align_up(o.logit_rows() * Model::config.vocab * size_of(B::precision.acc));
  }
  static DeviceBatch device_batch(EngineOptions const& o, std::byte* memory, i64* bytes = nullptr) {
    i64 at = 0;
    auto take = [&]<class T>(T*& pointer, i64 n) {
      pointer = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + at);
      at += align_up(n * static_cast<i64>(sizeof(T)));
    };
    DeviceBatch d{};
    take(d.cu_seqlens, max_seqs(o) + 1);
    take(d.position, max_seqs(o));
    take(d.rows, o.logit_rows());
    take(d.slot, max_seqs(o));
    take(d.ids, max_tokens(o));
    take(d.pages, max_seqs(o) * max_pages(o));
    if (bytes != nullptr) {
      *bytes = at;
    }
    return d;
  }
  static i64 batch_bytes(EngineOptions const& o) {
    i64 bytes = 0;
    device_batch(o, nullptr, &bytes);
    return bytes;
  }
  DeviceBatch device() const { return device_batch(options, reinterpret_cast<std::byte*>(batch_memory.data())); }
  /// Where the host writes a batch before `send_batch`.
  DeviceBatch staged() const {
    return B::on_host ? device() : device_batch(options, reinterpret_cast<std::byte*>(host_batch.data()));
  }
  void send_batch() const {
    if constexpr (!B::on_host) {
      backend.copy_from_host(batch_memory.data(), host_batch.data(), batch_memory.bytes());
    }
  }
  /// The loop's positions, and behind them its tokens, as the host sees them.
  std::int64_t* host_positions() const { return reinterpret_cast<std::int64_t*>(host_decode.data()); }
  std::int32_t* host_tokens() const {
    return reinterpret_cast<std::int32_t*>(host_positions() + max_seqs(options));
  }
  /// Logits in host memory.
  View to_host(View const& v) const {
    if constexpr (B::on_host) {
      return v;
    } else {
      View host = v;
      host.data = host_logits.data();
      backend.copy_to_host(host.data, v.data, v.numel() * size_of(v.dtype));
      return host;
    }
  }

  /// Everything between ids (or, from a layer on, a residual stream) and logits: the one path of all calls and of
  /// planning.
  template <class Tap>
  static void call(Context<B>& ctx, Weights<Model>& w, StatePool<Model>& s, std::string_view plan, i64 from,
                   std::int32_t const* ids, View x, std::int64_t const* rows, View const& logits,
                   std::vector<std::pair<SharedSpec, View>> const* shared, Tap&& tap) {
    if (!x) {
      x = ctx.scratch(ctx.tokens(), Model::config.d_model);
      ctx.run(op::Embedding{}, w.embedding, ids, x);
      if constexpr (Model::config.embedding_norm) {
        Model::norm::forward(ctx, w.embedding_norm, x, x);
      }
    } else if (!ctx.planning() && !ctx.backend().reaches(x.data)) {
      View const given = x;
      x = ctx.scratch(ctx.tokens(), Model::config.d_model);
      ctx.backend().copy_from_host(x.data, given.data, x.numel() * size_of(x.dtype));
    }
    if (shared != nullptr) {
      Model::declare_shared(ctx);
      for (auto const& [spec, view] : *shared) {
        SharedSlot& slot = ctx.shared(spec);
        ctx.backend().copy(slot.value.data, view.data, view.numel() * size_of(view.dtype));
        slot.filled = true;
      }
    }
    i64 const mark = ctx.stack().mark();
    Model::forward(ctx, w, s, plan, from, x, tap);
    ctx.stack().release(mark);
    if (logits.tokens() > 0) {
      View const last = ctx.scratch(logits.tokens(), Model::config.d_model);
      View const h = ctx.scratch(logits.tokens(), Model::config.d_model);
      ctx.run(op::GatherRows{}, x, rows, last);
      Model::norm::forward(ctx, w.final_norm, last, h);
      ctx.run(op::Linear{}, w.head, Slot{}, h, logits);
    }
  }

  /// Scratch of the calls that an engine of these options may make: chunks as ragged as they can be, and decode
  /// steps.
  static i64 scratch_bytes(EngineOptions const& o, std::vector<std::string> const& letters) {
    StatePool<Model> planned(B::precision, {o.slots, o.max_len, o.page_size, o.pages}, letters);
    planned.bind_for_planning();
    Weights<Model> w(letters);
    w.visit([](TensorKey const& key, Slot& slot) {
      slot = Slot(reinterpret_cast<void*>(static_cast<std::uintptr_t>(alignment)),
                  param_dtype(B::precision, key.spec), key.spec.shape);
    });
    w.tie();
    std::size_t variants = 0;
    for (auto const& l : letters) {
      variants = std::max(variants, l.size());
    }
    B backend = B::for_planning(o.backend);
    i64 peak = 0;
    for (std::size_t v = 0; v < variants; ++v) {
      std::string plan;
      for (auto const& l : letters) {
        plan += l[std::min(v, l.size() - 1)];
      }
      for (bool const decode : {false, true}) {
        Batch batch;
        i64 const tokens = decode ? o.slots : max_tokens(o);
        for (i64 i = 0; i < std::min(o.slots, tokens);
             ++i) {  // single tokens, and all the rest in the last sequence
          i64 const n = i + 1 < std::min(o.slots, tokens) ? 1 : tokens - i;
          batch.add(static_cast<std::int32_t>(i), n, std::max<i64>(0, o.max_len - n));
        }
        ScratchStack stack = ScratchStack::counting();
        BatchView const view = batch.view();
        Context<B> ctx(backend, view, stack, &view);
        View const logits(stack.take(0), B::precision.acc, Shape{o.logit_rows(), Model::config.vocab});
        call(ctx, w, planned, plan, 0, nullptr, View{}, nullptr, logits, nullptr, NoTap{});
        peak = std::max(peak, stack.peak());
      }
    }
    return peak;
  }

  static MemoryPlan plan_of(EngineOptions const& o, StatePool<Model> const& pool, std::string_view plan,
                            std::vector<std::string> const& letters) {
    MemoryPlan m;
    StateBytes const s = pool.bytes_by_role(plan);
    m.recurrent = s.recurrent;
    m.conv = s.conv;
    m.kv = s.kv + (pool.bytes() - s.total());  // room for larger letters of the same layers counts as kv
    m.scratch = scratch_bytes(o, letters);
    m.logits = logits_bytes(o);
    m.batch = batch_bytes(o);
    return m;
  }

  /// Copies a batch, ids and the rows of logits to the backend's memory.
  BatchView upload(Batch const& b, std::span<std::int32_t const> ids, std::vector<std::int64_t> const& rows) const {
    auto const to = staged();
    std::copy(b.cu_seqlens.begin(), b.cu_seqlens.end(), to.cu_seqlens);
    std::copy(b.position.begin(), b.position.end(), to.position);
    std::copy(rows.begin(), rows.end(), to.rows);
    std::copy(b.slot.begin(), b.slot.end(), to.slot);
    std::copy(ids.begin(), ids.end(), to.ids);
    std::copy(b.pages.begin(), b.pages.end(), to.pages);
    send_batch();
    auto const d = device();
    BatchView view{b.seqs(), b.tokens(), d.cu_seqlens, d.slot, d.position, nullptr, 0, 0};
    if (!b.pages.empty()) {
      view.pages = d.pages;
      view.max_pages = static_cast<i64>(b.pages.size()) / b.seqs();
      view.page_size = b.page_size;
    }
    return view;
  }

  void check(Batch const& b, i64 ids) const {
    JET_CHECK(b.seqs() <= max_seqs(options), "batch: ", b.seqs(), " sequences, the engine was made for ",
              max_seqs(options), " (option slots)");
    b.validate(options.slots, options.max_len);
    JET_CHECK(b.tokens() == ids, "batch: cu_seqlens ends at ", b.tokens(), " but ", ids, " token rows were given");
    JET_CHECK(b.tokens() <= max_tokens(options), "batch: ", b.tokens(), " tokens, the engine was made for ",
              max_tokens(options), " per call (option chunk)");
    JET_CHECK(pool.paged() == !b.pages.empty() || b.seqs() == 0, "batch: ",
              pool.paged() ? "the pool is paged, pages are missing" : "pages are given, the pool is not paged");
    if (pool.paged() && b.seqs() > 0) {
      JET_CHECK(b.page_size == options.page_size, "batch: page_size is ", b.page_size, ", the pool's is ",
                options.page_size);
      i64 const per_seq = static_cast<i64>(b.pages.size()) / b.seqs();
      JET_CHECK(per_seq <= max_pages(options), "batch: ", per_seq, " pages per sequence, max_len allows ",
                max_pages(options));
      for (i64 i = 0; i < b.seqs(); ++i) {
        auto const s = static_cast<std::size_t>(i);
        i64 const end = b.slot[s] < 0 ? 0 : b.position[s] + b.cu_seqlens[s + 1] - b.cu_seqlens[s];
        i64 const used = (end + options.page_size - 1) / options.page_size;
        JET_CHECK(used <= per_seq, "batch: sequence ", i, " needs ", used, " pages, ", per_seq, " are given");
        for (i64 j = 0; j < used; ++j) {
          auto const page = b.pages[static_cast<std::size_t>(i * per_seq + j)];
          JET_CHECK(page >= 0 && page < options.pages, "batch: page ", j, " of sequence ", i, " is ", page,
                    ", expected 0 to ", options.pages - 1);
        }
      }
    }
    for (i64 i = 0; i < b.seqs(); ++i) {
      auto const s = static_cast<std::size_t>(i);
      JET_CHECK(b.slot[s] < 0 || b.position[s] == length[static_cast<std::size_t>(b.slot[s])], "batch: sequence ",
                i, " says position ", b.position[s], ", slot ", b.slot[s], " has seen ",
                b.slot[s] < 0 ? 0 : length[static_cast<std::size_t>(b.slot[s])],
                " tokens; reset the slot for a new sequence");
    }
  }

  /// The rows that get logits.
  std::vector<std::int64_t> logit_rows(Batch const& b) const {
    std::vector<std::int64_t> rows;
    switch (b.logits) {
      case Logits::none: break;
      case Logits::list: rows = b.logit_rows; break;
      case Logits::all:
        for (i64 t = 0; t < b.tokens(); ++t) {
          rows.push_back(t);
        }
        break;
      case Logits::last:
        for (i64 i = 0; i < b.seqs(); ++i) {
          rows.push_back(std::max<std::int64_t>(0, b.cu_seqlens[static_cast<std::size_t>(i) + 1] - 1));
        }
        break;
    }
    JET_CHECK(static_cast<i64>(rows.size()) <= options.logit_rows(), "batch: logits for ", rows.size(),
              " rows, the engine was made for ", options.logit_rows(), " (option max_logits)");
    return rows;
  }

  View logits_view(i64 rows) const {
    return View(logits.data(), B::precision.acc, Shape{rows, Model::config.vocab});
  }
  void poison() {
    if (options.poison) {
      scratch.poison();
      logits.poison();
    }
  }

  template <class Tap>
  View run(Batch const& b, std::span<std::int32_t const> ids, i64 from, View const& x,
           std::vector<std::pair<SharedSpec, View>> const* shared, Tap&& tap) {
    std::vector<std::int64_t> const rows = b.tokens() > 0 ? logit_rows(b) : std::vector<std::int64_t>{};
    poison();
    BatchView const view = upload(b, ids, rows);
    BatchView const host = b.view();
    auto const d = device();
    ScratchStack stack(reinterpret_cast<std::byte*>(scratch.data()), scratch.bytes());
    Context<B> ctx(backend, view, stack, &host);
    View const out = logits_view(static_cast<i64>(rows.size()));
    if (b.tokens() > 0) {
      call(ctx, *weights, pool, plan, from, d.ids, x, d.rows, out, shared, tap);
    }
    for (i64 i = 0; i < b.seqs(); ++i) {
      auto const s = static_cast<std::size_t>(i);
      i64 const n = b.cu_seqlens[s + 1] - b.cu_seqlens[s];
      if (b.slot[s] >= 0) {
        length[static_cast<std::size_t>(b.slot[s])] = b.position[s] + n;
      }
      if (b.logits == Logits::last && b.tokens() > 0 && (n == 0 || b.slot[s] < 0)) {
        backend.zero(out.row_bytes(i), out.width() * size_of(out.dtype));
      }
    }
    return to_host(out);
  }
};

}  // namespace detail

template <class Model, class B>
Engine<Model, B>::Engine(std::shared_ptr<Weights<Model>> weights, EngineOptions const& options)
    : impl_(std::make_unique<Impl>(std::move(weights), options)) {}
template <class Model, class B> Engine<Model, B>::~Engine() = default;
template <class Model, class B> Engine<Model, B>::Engine(Engine&&) noexcept = default;
template <class Model, class B> Engine<Model, B>& Engine<Model, B>::operator=(Engine&&) noexcept = default;

template <class Model, class B>
MemoryPlan Engine<Model, B>::plan_memory(EngineOptions const& options, std::vector<std::string> letters_of_layer) {
  std::string const plan = options.plan.empty() ? std::string(Model::plan()) : options.plan;
  Model::check_plan(plan);
  Impl::checked(options);
  if (letters_of_layer.empty()) {
    letters_of_layer = Weights<Model>(plan).letters();
  }
  StatePool<Model> const pool(B::precision, {options.slots, options.max_len, options.page_size, options.pages},
                              letters_of_layer);
  MemoryPlan m = Impl::plan_of(options, pool, plan, letters_of_layer);
  m.weights = Weights<Model>(letters_of_layer).bytes(B::precision);
  return m;
}
template <class Model, class B> MemoryPlan Engine<Model, B>::memory_plan() const {
  MemoryPlan m = Impl::plan_of(impl_->options, impl_->pool, impl_->plan, impl_->weights->letters());
  m.weights = impl_->weights->owned_bytes();
  m.shared = impl_->weights->shared_bytes();
  return m;
}
template <class Model, class B> MemoryPlan Engine<Model, B>::allocated() const {
  MemoryPlan m;
  StateBytes const s = impl_->pool.bytes_by_role(impl_->plan);
  m.weights = impl_->weights->owned_bytes();
  m.shared = impl_->weights->shared_bytes();
  m.recurrent = s.recurrent;
  m.conv = s.conv;
  m.kv = impl_->pool.bytes() - s.recurrent - s.conv;
  m.scratch = impl_->scratch.bytes();
  m.logits = impl_->logits.bytes();
  m.batch = impl_->batch_memory.bytes();
  return m;
}

template <class Model, class B> EngineOptions const& Engine<Model, B>::options() const {
  return impl_->options;
}
template <class Model, class B> Weights<Model>& Engine<Model, B>::weights() {
  return *impl_->weights;
}
template <class Model, class B> std::shared_ptr<Weights<Model>> Engine<Model, B>::shared_weights() {
  return impl_->weights;
}
template <class Model, class B> B& Engine<Model, B>::backend() {
  return impl_->backend;
}
template <class Model, class B> StatePool<Model>& Engine<Model, B>::pool() {
  return impl_->pool;
}
template <class Model, class B> std::string_view Engine<Model, B>::plan() const {
  return impl_->plan;
}
template <class Model, class B> void Engine<Model, B>::set_plan(std::string_view plan) {
  impl_->weights->check_plan(plan);
  impl_->plan = plan;
  impl_->recording = nullptr;
}

template <class Model, class B> i64 Engine<Model, B>::length(i64 slot) const {
  JET_CHECK(slot >= 0 && slot < impl_->options.slots, "slot ", slot, ", expected 0 to ", impl_->options.slots - 1);
  return impl_->length[static_cast<std::size_t>(slot)];
}
template <class Model, class B> void Engine<Model, B>::reset(i64 slot) {
  impl_->pool.reset(impl_->backend, slot);
  impl_->length[static_cast<std::size_t>(slot)] = 0;
}
template <class Model, class B> void Engine<Model, B>::fork(i64 from, i64 to) {
  impl_->pool.fork(impl_->backend, impl_->plan, from, to, length(from));
  impl_->length[static_cast<std::size_t>(to)] = length(from);
}
template <class Model, class B> SavedState Engine<Model, B>::save(i64 slot) {
  return impl_->pool.save(impl_->backend, impl_->plan, slot, length(slot));
}
template <class Model, class B> void Engine<Model, B>::load(i64 slot, SavedState const& state) {
  impl_->pool.load(impl_->backend, impl_->plan, slot, state);
  impl_->length[static_cast<std::size_t>(slot)] = state.position;
}
template <class Model, class B> void Engine<Model, B>::fill(i64 slot, i64 to, std::uint64_t seed) {
  Impl& e = *impl_;
  reset(slot);
  e.pool.visit_memory(e.plan, slot, to, [&](DType type, void* memory, i64 bytes) {
    fill_repeating(e.backend, memory, bytes, detail::small_numbers(type, seed));
  });
  e.length[static_cast<std::size_t>(slot)] = to;
}
template <class Model, class B> void Engine<Model, B>::truncate(i64 slot, i64 to) {
  impl_->pool.check_truncate(impl_->plan, length(slot), to);
  if (to == 0) {
    reset(slot);
  }
  impl_->length[static_cast<std::size_t>(slot)] = to;
}

namespace detail {

inline void check_ids(std::span<std::int32_t const> ids, i64 vocab) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    JET_CHECK(ids[i] >= 0 && ids[i] < vocab, "token ", i, " is ", ids[i], ", expected 0 to ", vocab - 1);
  }
}

}  // namespace detail

template <class Model, class B> void Engine<Model, B>::read(View const& from, void* to) {
  i64 rows = 1;  // all but the last axis of a dense tensor are rows
  for (int i = 0; i + 1 < from.rank; ++i) {
    rows *= from.extent[i];
    JET_CHECK(from.rank == 2 || from.stride[i] == from.stride[i + 1] * from.extent[i + 1],
              "read: a tensor of rank ", from.rank, " must be dense");
  }
  i64 const bytes = from.width() * size_of(from.dtype);
  if (from.rank != 2 || from.stride[0] == from.extent[1]) {
    impl_->backend.copy_to_host(to, from.data, rows * bytes);
    return;
  }
  for (i64 i = 0; i < rows; ++i) {
    impl_->backend.copy_to_host(static_cast<char*>(to) + i * bytes, from.row_bytes(i), bytes);
  }
}

template <class Model, class B>
View Engine<Model, B>::forward(Batch const& batch, std::span<std::int32_t const> ids) {
  impl_->check(batch, static_cast<i64>(ids.size()));
  detail::check_ids(ids, Model::config.vocab);
  return impl_->run(batch, ids, 0, View{}, nullptr, NoTap{});
}
template <class Model, class B>
View Engine<Model, B>::forward(Batch const& batch, std::span<std::int32_t const> ids, Observer const& observer) {
  impl_->check(batch, static_cast<i64>(ids.size()));
  detail::check_ids(ids, Model::config.vocab);
  return impl_->run(batch, ids, 0, View{}, nullptr, observer);
}
template <class Model, class B>
View Engine<Model, B>::forward_from(i64 from, Batch const& batch, View const& x,
                                    std::vector<std::pair<SharedSpec, View>> const& shared,
                                    Observer const& observer) {
  JET_CHECK(from >= 0 && from <= Model::layers, "forward_from: layer ", from, ", expected 0 to ", Model::layers);
  JET_CHECK(x.rank == 2 && x.extent[1] == Model::config.d_model && x.dtype == B::precision.act,
            "forward_from: x must be (tokens, ", Model::config.d_model, ") of ", name_of(B::precision.act));
  JET_CHECK(x.stride[1] == 1 && (x.stride[0] == x.extent[1] || x.extent[0] <= 1), "forward_from: x must be dense");
  impl_->check(batch, x.tokens());
  if (observer) {
    return impl_->run(batch, {}, from, x, &shared, observer);
  }
  return impl_->run(batch, {}, from, x, &shared, NoTap{});
}
template <class Model, class B>
View Engine<Model, B>::append(i64 slot, std::span<std::int32_t const> ids,
                              std::function<void(i64)> const& progress) {
  View logits{};
  i64 const n = static_cast<i64>(ids.size());
  JET_CHECK(n > 0, "append: no tokens were given");
  for (i64 at = 0; at < n; at += impl_->options.chunk) {
    i64 const count = std::min(impl_->options.chunk, n - at);
    Batch batch;
    batch.add(static_cast<std::int32_t>(slot), count, length(slot));
    batch.logits = at + count == n ? Logits::last : Logits::none;
    logits = forward(batch, ids.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)));
    if (progress) {
      progress(at + count);
    }
  }
  return logits;
}

template <class Model, class B>
void Engine<Model, B>::begin_decode(std::span<std::int32_t const> slots, std::span<std::int32_t const> tokens,
                                    std::span<std::int32_t const> pages) {
  Impl& e = *impl_;
  JET_CHECK(slots.size() == tokens.size(), "begin_decode: ", slots.size(), " slots and ", tokens.size(), " tokens");
  Batch batch;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    batch.add(slots[i], 1, slots[i] < 0 ? 0 : length(slots[i]));
    JET_CHECK(slots[i] < 0 || (tokens[i] >= 0 && tokens[i] < Model::config.vocab), "begin_decode: token ", i,
              " is ", tokens[i], ", expected 0 to ", Model::config.vocab - 1);
  }
  i64 const entries = batch.seqs();
  JET_CHECK(pages.empty() || (entries > 0 && static_cast<i64>(pages.size()) % entries == 0),
            "begin_decode: ", pages.size(), " pages for ", entries, " entries, expected as many for each");
  batch.pages.assign(pages.begin(), pages.end());
  batch.page_size = pages.empty() ? 0 : e.options.page_size;
  e.check(batch, static_cast<i64>(tokens.size()));
  e.logit_rows(batch);
  i64 const each = entries == 0 ? 0 : static_cast<i64>(pages.size()) / entries;
  for (i64 i = 0; i < static_cast<i64>(pages.size()); ++i) {  // those of later steps too
    std::int32_t const page = pages[static_cast<std::size_t>(i)];
    JET_CHECK(slots[static_cast<std::size_t>(i / each)] < 0 || (page >= 0 && page < e.options.pages),
              "begin_decode: page ", i % each, " of entry ", i / each, " is ", page, ", expected 0 to ",
              e.options.pages - 1);
  }
  e.decode_room = e.pool.paged() ? std::min(e.options.max_len, each * e.options.page_size) : e.options.max_len;
  i64 const rows = entries == 0 ? 0 : e.backend.bucket(entries, std::min(e.options.slots, e.options.logit_rows()));
  std::vector<std::int32_t> ids(tokens.begin(), tokens.end());
  for (i64 i = entries; i < rows; ++i) {
    batch.add(-1, 1, 0);
    ids.push_back(0);
  }
  if (e.pool.paged()) {  // a recorded step reads tables of one width
    i64 const most = Impl::max_pages(e.options);
    batch.pages.assign(static_cast<std::size_t>(rows * most), 0);
    for (i64 i = 0; i < entries; ++i) {
      std::copy_n(pages.begin() + i * each, each, batch.pages.begin() + i * most);
    }
  }
  e.upload(batch, ids, e.logit_rows(batch));
  e.decode_slot.assign(slots.begin(), slots.end());
  e.decode_seqs = entries;
  e.decode_rows = rows;
  e.recording = nullptr;
  if constexpr (!B::on_host) {
    std::copy(tokens.begin(), tokens.end(), e.host_tokens());
  }
}
template <class Model, class B> View Engine<Model, B>::decode_step(Logits logits) {
  Impl& e = *impl_;
  JET_CHECK(logits == Logits::all || logits == Logits::none, "decode_step: logits of all entries or of none");
  for (std::int32_t const slot : e.decode_slot) {
    JET_CHECK(slot < 0 || e.length[static_cast<std::size_t>(slot)] < e.decode_room, "decode_step: slot ", slot,
              " has reached ", e.decode_room < e.options.max_len ? "the end of its pages at " : "max_len ",
              e.decode_room);
  }
  e.poison();
  if (e.recording == nullptr) {
    e.recording = &e.recordings[{e.decode_rows, e.plan}];
  }
  if (e.decode_rows > 0) {
    e.backend.repeat(*e.recording, [&e] {
      auto const d = e.device();
      bool const paged = e.pool.paged();
      BatchView const view{e.decode_rows,
                           e.decode_rows,
                           d.cu_seqlens,
                           d.slot,
                           d.position,
                           paged ? d.pages : nullptr,
                           paged ? Impl::max_pages(e.options) : 0,
                           e.options.page_size};
      ScratchStack stack(reinterpret_cast<std::byte*>(e.scratch.data()), e.scratch.bytes());
      Context<B> ctx(e.backend, view, stack);
      View const out = e.logits_view(e.decode_rows);
      Impl::call(ctx, *e.weights, e.pool, e.plan, 0, d.ids, View{}, d.rows, out, nullptr, NoTap{});
      ctx.run(op::Greedy{}, out, d.ids);
      ctx.run(op::Advance{}, d.position);
      if constexpr (!B::on_host) {
        e.backend.copy(e.host_tokens(), d.ids, e.decode_rows * i64{sizeof(std::int32_t)});
      }
    });
  }
  for (std::int32_t const slot : e.decode_slot) {
    if (slot >= 0) {
      ++e.length[static_cast<std::size_t>(slot)];
    }
  }
  return logits == Logits::none ? View{} : e.to_host(e.logits_view(e.decode_seqs));
}
template <class Model, class B> std::span<std::int32_t const> Engine<Model, B>::decode_tokens() {
  auto const n = static_cast<std::size_t>(impl_->decode_seqs);
  if constexpr (B::on_host) {
    return {impl_->device().ids, n};
  } else {
    impl_->backend.sync();
    return {impl_->host_tokens(), n};
  }
}
template <class Model, class B> std::span<std::int64_t const> Engine<Model, B>::decode_positions() {
  auto const n = static_cast<std::size_t>(impl_->decode_seqs);
  if constexpr (B::on_host) {
    return {impl_->device().position, n};
  } else {
    impl_->backend.copy_to_host(impl_->host_positions(), impl_->device().position,
                                impl_->decode_seqs * i64{sizeof(std::int64_t)});
    return {impl_->host_positions(), n};
  }
}
template <class Model, class B> void Engine<Model, B>::set_decode_tokens(std::span<std::int32_t const> tokens) {
  JET_CHECK(static_cast<i64>(tokens.size()) == impl_->decode_seqs, "set_decode_tokens: ", tokens.size(),
            " tokens for ", impl_->decode_seqs, " entries");
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    JET_CHECK(impl_->decode_slot[i] < 0 || (tokens[i] >= 0 && tokens[i] < Model::config.vocab),
              "set_decode_tokens: token ", i, " is ", tokens[i], ", expected 0 to ", Model::config.vocab - 1);
  }
  impl_->backend.copy_from_host(impl_->device().ids, tokens.data(), static_cast<i64>(tokens.size_bytes()));
  if constexpr (!B::on_host) {
    std::copy(tokens.begin(), tokens.end(), impl_->host_tokens());
  }
}
template <class Model, class B> void Engine<Model, B>::stop_decode(i64 entry) {
  JET_CHECK(entry >= 0 && entry < impl_->decode_seqs, "stop_decode: entry ", entry, ", expected 0 to ",
            impl_->decode_seqs - 1);
  std::int32_t const inactive = -1;
  impl_->decode_slot[static_cast<std::size_t>(entry)] = inactive;
  impl_->backend.copy_from_host(impl_->device().slot + entry, &inactive, sizeof inactive);
}

JET_NAMESPACE_END
