/// \file
/// One training step without an optimiser: the mean cross-entropy of a batch, and its gradients with respect to
/// every parameter that is not frozen.
///
///   TrainStep<Model, Cpu<precision::f32>> step(weights, {.tokens = 4096, .seqs = 8},
///       [](TensorKey const& key) { return key.spec.role != Role::mlp; });        // the MLPs are frozen
///   step.zero_gradients();
///   double loss = step.loss_and_gradients({cu_seqlens, ids, targets});
///   step.gradients().visit([](TensorKey const& key, Slot& gradient) { ... });
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/core/arena.hpp>
#include <jet/core/backend_options.hpp>
#include <jet/core/batch.hpp>
#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/saved.hpp>
#include <jet/model/causal_lm.hpp>
#include <jet/model/taps.hpp>
#include <jet/model/weights.hpp>
#include <jet/op/embedding.hpp>
#include <jet/op/linear.hpp>
#include <jet/op/loss.hpp>

JET_NAMESPACE_BEGIN

/// Gradients of a model's parameters under a plan: one tensor at acc per trained parameter, null for frozen ones.
/// A tied head and the embedding have one gradient.
template <class Model> class Gradients {
 public:
  /// trained(TensorKey) says which parameters get a gradient: a query on role, part, layer, letter or name. The
  /// gradients start at zero.
  template <class B, class F>
  Gradients(B const& backend, std::string_view plan, F const& trained) : plan_(plan), slots_(plan) {
    auto const each = [&](auto const& f) {
      slots_.visit(
          [&](TensorKey const& key, Slot& slot) {
            if (trained(key)) {
              f(key, slot);
            }
          },
          plan_);
    };
    each([&](TensorKey const& key, Slot&) {
      bytes_ += align_up(key.spec.shape.numel() * size_of(B::precision.acc));
    });
    auto buffer = std::make_shared<typename B::Buffer>(backend.allocate(bytes_));
    base_ = buffer->data();
    storage_ = buffer;
    auto* at = reinterpret_cast<char*>(base_);
    each([&](TensorKey const& key, Slot& slot) {
      slot = Slot(at, B::precision.acc, key.spec.shape);
      at += align_up(slot.numel() * size_of(slot.dtype));
    });
    slots_.tie();
    zero(backend);
  }
  Gradients(Gradients const&) = delete;
  Gradients& operator=(Gradients const&) = delete;

  template <class B> void zero(B const& backend) { backend.zero(base_, bytes_); }
  i64 bytes() const { return bytes_; }
  /// Calls f(TensorKey const&, Slot&) for every trained parameter.
  template <class F> void visit(F&& f) {
    slots_.visit(
        [&](TensorKey const& key, Slot& slot) {
          if (slot) {
            f(key, slot);
          }
        },
        plan_);
  }
  /// The lowest layer with a trained parameter; the number of layers if there is none.
  i64 first_layer() {
    i64 first = Model::layers;
    visit([&](TensorKey const& key, Slot&) { first = key.layer >= 0 ? std::min(first, key.layer) : first; });
    return first;
  }

  /// As a model's backward reads them.
  Slot& embedding() { return slots_.embedding; }
  Slot& head() { return slots_.head; }
  auto& final_norm() { return slots_.final_norm; }
  template <class L> auto layer(i64 l) { return slots_.template layer<L>(l); }

 private:
  std::string plan_;
  Weights<Model> slots_;
  std::shared_ptr<void const> storage_;
  void* base_ = nullptr;
  i64 bytes_ = 0;
};

/// What a saving forward of a model keeps, in one piece of memory: per layer the residual stream before the mixer
/// and before the MLP, and what the blocks declare.
template <class Model> class SavedValues {
  struct Nothing {};
  template <class M> struct SavedOf { using type = typename M::template Saved<Slot>; };
  template <class L>
  using MlpSaved =
      typename std::conditional_t<L::has_mlp, SavedOf<typename L::mlp>, std::type_identity<Nothing>>::type;

 public:
  /// The layout for calls of at most so many rows; `memory` may be null, to count.
  SavedValues(Precision const& p, SavedRows const& rows, std::string_view plan, void* memory = nullptr)
      : precision_(p), rows_(rows), memory_(static_cast<std::byte*>(memory)) {
    for (char const letter : plan) {
      at_.push_back(bytes_);
      Model::for_letter(letter, [&]<class L>() {
        static_assert(HasSaved<typename L::mixer>,
                      "jet: a mixer of a model that is trained has no saved() and backward");
        bytes_ += stream_bytes() + saved_bytes<typename L::mixer>(p, rows);
        if constexpr (L::has_mlp) {
          static_assert(HasSaved<typename L::mlp>,
                        "jet: an MLP of a model that is trained has no saved() and backward");
          bytes_ += stream_bytes() + saved_bytes<typename L::mlp>(p, rows);
        }
      });
    }
  }
  i64 bytes() const { return bytes_; }
  void bind(void* memory) { memory_ = static_cast<std::byte*>(memory); }

  template <class L> struct Layer {
    View mixer_input;  // the stream, before the norm
    View mlp_input;
    typename L::mixer::template Saved<Slot> mixer;
    MlpSaved<L> mlp;
  };
  template <class L> Layer<L> layer(i64 l) const {
    std::byte* at = memory_ + at_[static_cast<std::size_t>(l)];
    Shape const stream{rows_.tokens, Model::config.d_model};
    Layer<L> out;
    out.mixer_input = View(at, precision_.act, stream);
    at += stream_bytes();
    out.mixer = bind_saved<typename L::mixer>(precision_, rows_, at);
    if constexpr (L::has_mlp) {
      at += saved_bytes<typename L::mixer>(precision_, rows_);
      out.mlp_input = View(at, precision_.act, stream);
      out.mlp = bind_saved<typename L::mlp>(precision_, rows_, at + stream_bytes());
    }
    return out;
  }

 private:
  i64 stream_bytes() const { return align_up(rows_.tokens * Model::config.d_model * size_of(precision_.act)); }

  Precision precision_;
  SavedRows rows_;
  std::byte* memory_;
  std::vector<i64> at_;
  i64 bytes_ = 0;
};

/// Sizes that a training step is made for.
struct TrainOptions {
  i64 tokens = 1024;    // of one call at most
  i64 seqs = 1;         // of one call at most
  i64 loss_rows = 64;   // rows whose logits exist at a time
  std::string plan{};   // of letters; empty: the model's own
  bool poison = false;  // fill scratch and saved values with NaN before every call (tests)
  BackendOptions backend{};
};

/// A packed batch in host memory: sequence i is tokens [cu_seqlens[i], cu_seqlens[i + 1]), each from its start.
/// The logits of a token are scored against its target; a negative target (-100) is ignored.
struct TrainBatch {
  std::span<std::int64_t const> cu_seqlens;
  std::span<std::int32_t const> ids;
  std::span<std::int32_t const> targets;
};

/// Bytes of a training step, by purpose.
struct TrainMemory {
  i64 gradients = 0;
  i64 saved = 0;
  i64 scratch = 0;
  i64 batch = 0;
  i64 total() const { return gradients + saved + scratch + batch; }
};

template <class Model, class B> class TrainStep {
 public:
  using model = Model;
  static constexpr Precision precision = B::precision;
  /// Called at every (layer, Point) with the value, or in the backward with the gradient, to which it may add.
  using Observer = std::function<void(i64, Point, View const&)>;

  /// Weights in the backend's memory, bound completely; `trained(TensorKey)` as in Gradients. Everything is
  /// allocated here.
  template <class F>
  TrainStep(std::shared_ptr<Weights<Model>> weights, TrainOptions const& options, F const& trained)
      : options_(checked(options)),
        backend_(options.backend),
        weights_(std::move(weights)),
        plan_(options.plan.empty() ? std::string(Model::plan()) : options.plan),
        gradients_(backend_, plan_, trained),
        saved_(precision, SavedRows::at_most(options.tokens, options.seqs), plan_) {
    weights_->check_plan(plan_);
    weights_->check_bound(precision, plan_);
    saved_memory_ = backend_.allocate(saved_.bytes());
    saved_.bind(saved_memory_.data());
    scratch_ = backend_.allocate(scratch_bytes());
    batch_memory_ = backend_.allocate(device(nullptr).bytes);
  }

  Gradients<Model>& gradients() { return gradients_; }
  void zero_gradients() { gradients_.zero(backend_); }
  Weights<Model>& weights() { return *weights_; }
  B& backend() { return backend_; }
  std::string_view plan() const { return plan_; }
  TrainMemory memory() const {
    return {gradients_.bytes(), saved_memory_.bytes(), scratch_.bytes(), batch_memory_.bytes()};
  }

  /// Mean cross-entropy over the targets that count. Its gradients are added to gradients().
  double loss_and_gradients(TrainBatch const& batch) { return run(batch, std::true_type{}, NoTap{}, NoTap{}); }
  /// The same, observed; either observer may be empty.
  double loss_and_gradients(TrainBatch const& batch, Observer const& forward, Observer const& backward) {
    auto const guarded = [](Observer const& f) {
      return [&f](i64 layer, Point point, View const& v) {
        if (f) {
          f(layer, point, v);
        }
      };
    };
    return run(batch, std::true_type{}, guarded(forward), guarded(backward));
  }
  /// The loss alone: nothing is kept and no gradient is formed.
  double loss(TrainBatch const& batch) { return run(batch, std::false_type{}, NoTap{}, NoTap{}); }

 private:
  /// The batch in the backend's memory.
  struct DeviceBatch {
    std::int64_t* cu_seqlens;
    std::int64_t* position;
    double* losses;
    std::int32_t* slot;
    std::int32_t* ids;
    std::int32_t* targets;
    i64 bytes;
  };
  /// A layer without state: null rows, zero at the start and not kept.
  struct NoState {
    template <class L> struct Layer {
      typename L::mixer::template State<Slot> mixer_rows{};
      typename L::mlp::template State<Slot> mlp_rows{};
      auto& mixer() { return mixer_rows; }
      auto& mlp() { return mlp_rows; }
    };
    template <class L> Layer<L> layer(i64) { return {}; }
  };

  static TrainOptions const& checked(TrainOptions const& o) {
    JET_CHECK(o.tokens >= 1, "option tokens is ", o.tokens, ", expected at least 1");
    JET_CHECK(o.seqs >= 1, "option seqs is ", o.seqs, ", expected at least 1");
    JET_CHECK(o.loss_rows >= 1, "option loss_rows is ", o.loss_rows, ", expected at least 1");
    Model::check_plan(o.plan.empty() ? Model::plan() : std::string_view(o.plan));
    return o;
  }

  DeviceBatch device(std::byte* memory) const {
    DeviceBatch d{};
    auto take = [&]<class T>(T*& pointer, i64 n) {
      pointer = memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + d.bytes);
      d.bytes += align_up(n * static_cast<i64>(sizeof(T)));
    };
    take(d.cu_seqlens, options_.seqs + 1);
    take(d.position, options_.seqs);
    take(d.losses, options_.tokens);
    take(d.slot, options_.seqs);
    take(d.ids, options_.tokens);
    take(d.targets, options_.tokens);
    return d;
  }

  /// Forward, loss and backward: the one path of all calls and of planning.
  template <bool Backward, class ForwardTap, class BackwardTap>
  void call(Context<B>& ctx, DeviceBatch const& d, double scale, ForwardTap&& forward_tap,
            BackwardTap&& backward_tap) {
    constexpr i64 width = Model::config.d_model;
    i64 const tokens = ctx.tokens();
    Weights<Model>& w = *weights_;
    NoState none;
    View const x = ctx.scratch(tokens, width);
    View const dx = Backward ? ctx.accumulator(tokens, width) : View{};
    Model::declare_shared(ctx);
    static_assert(!Model::config.embedding_norm, "jet: a model with a norm of its embedding has no backward");
    ctx.run(op::Embedding{}, w.embedding, static_cast<std::int32_t const*>(d.ids), x);
    i64 const mark = ctx.stack().mark();
    if constexpr (Backward) {
      Model::forward(ctx, w, none, plan_, 0, x, forward_tap, saved_);
    } else {
      Model::forward(ctx, w, none, plan_, 0, x, forward_tap);
    }
    ctx.stack().release(mark);
    for (i64 first = 0; first < tokens; first += options_.loss_rows) {
      i64 const rows = std::min(options_.loss_rows, tokens - first);
      View const h = ctx.scratch(rows, width);
      View const logits = ctx.accumulator(rows, Model::config.vocab);
      Model::norm::forward(ctx, w.final_norm, x.rows(first, rows), h);
      ctx.run(op::Linear{}, w.head, Slot{}, h, logits);
      ctx.run(op::CrossEntropy{scale}, logits, static_cast<std::int32_t const*>(d.targets + first),
              d.losses + first);
      if constexpr (Backward) {
        View const dh = ctx.accumulator(rows, width);
        ctx.run(op::Backward{op::Linear{}}, w.head, h, logits, dh, gradients_.head(), Slot{});
        Model::norm::backward(ctx, w.final_norm, x.rows(first, rows), dh, dx.rows(first, rows),
                              gradients_.final_norm());
      }
      ctx.stack().release(mark);
    }
    if constexpr (Backward) {
      constexpr bool tapped = !std::is_same_v<std::remove_cvref_t<BackwardTap>, NoTap>;
      bool const input = static_cast<bool>(gradients_.embedding());
      Model::backward(ctx, w, saved_, plan_, input || tapped ? 0 : gradients_.first_layer(), dx, input, gradients_,
                      backward_tap);
      ctx.stack().release(mark);
      ctx.run(op::Backward{op::Embedding{}}, static_cast<std::int32_t const*>(d.ids), dx, gradients_.embedding());
    }
  }

  /// Scratch of the calls that may be made: one long sequence and single tokens, or single tokens only.
  i64 scratch_bytes() {
    i64 peak = 0;
    for (bool const single : {false, true}) {
      i64 const seqs = std::min(options_.seqs, options_.tokens);
      Batch batch;
      for (i64 i = 0; i < seqs; ++i) {
        batch.add(static_cast<std::int32_t>(i), single || i + 1 < seqs ? 1 : options_.tokens - i, 0);
      }
      ScratchStack stack = ScratchStack::counting();
      BatchView const view = batch.view();
      Context<B> ctx(backend_, view, stack, &view);
      // an observed backward needs the most
      call<true>(ctx, device(nullptr), 1, NoTap{}, [](i64, Point, View const&) {});
      peak = std::max(peak, stack.peak());
    }
    return peak;
  }

  static void check_tokens(std::string_view what, std::span<std::int32_t const> ids, bool ignorable) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      JET_CHECK((ids[i] >= 0 || ignorable) && ids[i] < Model::config.vocab, what, " ", i, " is ", ids[i],
                ", expected 0 to ", Model::config.vocab - 1, ignorable ? ", or negative to be ignored" : "");
    }
  }

  template <bool Backward, class ForwardTap, class BackwardTap>
  double run(TrainBatch const& b, std::bool_constant<Backward>, ForwardTap&& forward_tap,
             BackwardTap&& backward_tap) {
    i64 const tokens = static_cast<i64>(b.ids.size()), seqs = static_cast<i64>(b.cu_seqlens.size()) - 1;
    JET_CHECK(seqs >= 1 && seqs <= options_.seqs, "batch: ", seqs, " sequences, the step was made for 1 to ",
              options_.seqs, " (option seqs)");
    JET_CHECK(tokens <= options_.tokens, "batch: ", tokens, " tokens, the step was made for ", options_.tokens,
              " (option tokens)");
    JET_CHECK(b.targets.size() == b.ids.size(), "batch: ", b.targets.size(), " targets for ", tokens, " tokens");
    Batch batch;
    batch.cu_seqlens.assign(b.cu_seqlens.begin(), b.cu_seqlens.end());
    for (i64 i = 0; i < seqs; ++i) {
      batch.slot.push_back(static_cast<std::int32_t>(i));
      batch.position.push_back(0);
    }
    batch.validate(seqs, tokens);
    JET_CHECK(batch.tokens() == tokens, "batch: cu_seqlens ends at ", batch.tokens(), " but ", tokens,
              " tokens were given");
    check_tokens("token", b.ids, false);
    check_tokens("target", b.targets, true);
    i64 const counted = std::count_if(b.targets.begin(), b.targets.end(), [](std::int32_t t) { return t >= 0; });
    JET_CHECK(counted > 0, "batch: no token has a target");

    auto const d = device(reinterpret_cast<std::byte*>(batch_memory_.data()));
    auto const put = [&]<class T>(T* to, auto const& from) {
      backend_.copy_from_host(to, from.data(), static_cast<i64>(from.size() * sizeof(T)));
    };
    put(d.cu_seqlens, batch.cu_seqlens);
    put(d.position, batch.position);
    put(d.slot, batch.slot);
    put(d.ids, b.ids);
    put(d.targets, b.targets);
    if (options_.poison) {
      scratch_.poison();
      saved_memory_.poison();
    }
    BatchView const host = batch.view();
    BatchView const view{seqs, tokens, d.cu_seqlens, d.slot, d.position, nullptr, 0, 0};
    ScratchStack stack(reinterpret_cast<std::byte*>(scratch_.data()), scratch_.bytes());
    Context<B> ctx(backend_, view, stack, &host);
    call<Backward>(ctx, d, 1.0 / static_cast<double>(counted), forward_tap, backward_tap);
    std::vector<double> losses(b.ids.size());
    backend_.copy_to_host(losses.data(), d.losses, static_cast<i64>(losses.size() * sizeof(double)));
    double sum = 0;
    for (double const loss : losses) {
      sum += loss;
    }
    return sum / static_cast<double>(counted);
  }

  TrainOptions options_;
  B backend_;
  std::shared_ptr<Weights<Model>> weights_;
  std::string plan_;
  Gradients<Model> gradients_;
  SavedValues<Model> saved_;
  typename B::Buffer saved_memory_, scratch_, batch_memory_;
};

JET_NAMESPACE_END
