/// \file
/// A model's parameters. Keyed by (layer, letter): a store may hold several letters for one layer (a super
/// network); the model's own MLP and norms are keyed by layer and shared by its letters. Storage is shared by
/// reference: two stores, of different models too, may use the same frozen tensors.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/core/arena.hpp>
#include <jet/core/error.hpp>
#include <jet/core/param.hpp>
#include <jet/model/causal_lm.hpp>

JET_NAMESPACE_BEGIN

/// The dtype of a parameter in memory: matrices at `weights`; vectors, convolution kernels and rows marked keep_f32
/// at `acc` (they are small, and kernels use them so).
constexpr DType param_dtype(Precision const& p, ParamSpec const& row) {
  return row.shape.rank == 2 && !row.keep_f32 ? p.weights : p.acc;
}

/// Identifies one tensor of a store. `letter` is 0 for what the letters of a layer share; layer is -1 outside
/// layers.
struct TensorKey {
  Module module = Module::embedding;
  i64 layer = -1;
  char letter = 0;
  ParamSpec spec{};
};

template <class Model> class Weights {
  template <class M> using Params = typename M::template Params<Slot>;
  struct Nothing {};

  /// What a letter has of its own in a layer.
  template <class L> struct Own {
    Params<typename L::mixer> mixer{};
    std::conditional_t<L::shares_mlp, Nothing, Params<typename L::mlp>> mlp{};
    std::conditional_t<L::shares_norm, Nothing, Params<typename L::norm>> mixer_norm{}, mlp_norm{};
  };
  /// What the letters of a layer share.
  struct Common {
    Params<typename Model::mlp> mlp{};
    Params<typename Model::norm> mixer_norm{}, mlp_norm{};
  };

 public:
  using model = Model;

  /// A store that holds, for every layer, the letters of letters_of_layer[l] ("JA": two parameter sets).
  explicit Weights(std::vector<std::string> letters_of_layer) : held_(std::move(letters_of_layer)) {
    JET_CHECK(static_cast<i64>(held_.size()) == Model::layers, "a store needs letters for ", Model::layers,
              " layers, got ", held_.size());
    auto const n = static_cast<std::size_t>(Model::layers);
    common_.resize(n);
    std::apply([&](auto&... own) { (own.resize(n), ...); }, own_);
    for (auto const& letters : held_) {
      JET_CHECK(!letters.empty(), "a layer of a store holds no letter");
      for (char const c : letters) {
        JET_CHECK(Model::letter_index(c) >= 0, "letter '", c, "' is not bound; bound are \"",
                  std::string_view(Model::letters), "\"");
      }
    }
  }
  /// A store for one plan.
  explicit Weights(std::string_view plan = Model::plan()) : Weights(split(plan)) {}

  std::vector<std::string> const& letters() const { return held_; }
  bool holds(i64 layer, char letter) const {
    return held_[static_cast<std::size_t>(layer)].find(letter) != std::string::npos;
  }
  /// Throws unless every letter of the plan is held by its layer.
  void check_plan(std::string_view plan) const {
    Model::check_plan(plan);
    for (i64 l = 0; l < Model::layers; ++l) {
      char const c = plan[static_cast<std::size_t>(l)];
      JET_CHECK(holds(l, c), "plan \"", plan, "\": layer ", l, " has no weights for letter '", c, "', it holds \"",
                held_[static_cast<std::size_t>(l)], "\"");
    }
  }

  Slot embedding{};
  Slot head{};                                    // the embedding when tied
  Params<typename Model::norm> embedding_norm{};  // null unless the config has one
  Params<typename Model::norm> final_norm{};

  /// One layer's tensors under letter L, as a model's forward reads them.
  template <class L> struct LayerRef {
    Own<L>* own;
    Common* common;
    auto& mixer() const { return own->mixer; }
    auto& mlp() const {
      if constexpr (L::shares_mlp) {
        return common->mlp;
      } else {
        return own->mlp;
      }
    }
    auto& mixer_norm() const {
      if constexpr (L::shares_norm) {
        return common->mixer_norm;
      } else {
        return own->mixer_norm;
      }
    }
    auto& mlp_norm() const {
      if constexpr (L::shares_norm) {
        return common->mlp_norm;
      } else {
        return own->mlp_norm;
      }
    }
  };
  template <class L> LayerRef<L> layer(i64 l) {
    constexpr auto index = static_cast<std::size_t>(Model::letter_index(L::letter));
    return {&std::get<index>(own_)[static_cast<std::size_t>(l)], &common_[static_cast<std::size_t>(l)]};
  }

  /// Calls f(TensorKey const&, Slot&) for every tensor that the store holds, in a fixed order; with a plan, only
  /// for those that the plan uses. A tied head is not visited.
  template <class F> void visit(F&& f, std::string_view plan = {}) {
    f(TensorKey{Module::embedding, -1, 0, embedding_spec(Role::embedding)}, embedding);
    if constexpr (Model::config.embedding_norm) {
      rows<typename Model::norm>(Module::embedding_norm, -1, '\0', embedding_norm, f);
    }
    for (i64 l = 0; l < Model::layers; ++l) {
      bool mlp_done = false, mixer_norm_done = false, mlp_norm_done = false;
      std::string_view const letters = plan.empty() ? std::string_view(held_[static_cast<std::size_t>(l)])
                                                    : plan.substr(static_cast<std::size_t>(l), 1);
      for (char const c : letters) {
        Model::for_letter(c, [&]<class L>() {
          auto const w = layer<L>(l);
          rows<typename L::mixer>(Module::mixer, l, c, w.mixer(), f);
          if (!(L::shares_norm && std::exchange(mixer_norm_done, true))) {
            rows<typename L::norm>(Module::mixer_norm, l, L::shares_norm ? '\0' : c, w.mixer_norm(), f);
          }
          if constexpr (L::has_mlp) {
            if (!(L::shares_mlp && std::exchange(mlp_done, true))) {
              rows<typename L::mlp>(Module::mlp, l, L::shares_mlp ? '\0' : c, w.mlp(), f);
            }
            if (!(L::shares_norm && std::exchange(mlp_norm_done, true))) {
              rows<typename L::norm>(Module::mlp_norm, l, L::shares_norm ? '\0' : c, w.mlp_norm(), f);
            }
          }
        });
      }
    }
    rows<typename Model::norm>(Module::final_norm, -1, '\0', final_norm, f);
    if constexpr (!Model::config.tied) {
      f(TensorKey{Module::head, -1, 0, embedding_spec(Role::head)}, head);
    }
  }

  /// Bytes of all tensors under a policy, each aligned; of those not yet bound only, when `missing`.
  i64 bytes(Precision const& p, bool missing = false) {
    i64 n = 0;
    visit([&](TensorKey const& key, Slot& slot) {
      if (!(missing && slot)) {
        n += align_up(key.spec.shape.numel() * size_of(param_dtype(p, key.spec)));
      }
    });
    return n;
  }

  /// Throws jet::Error that names a tensor without memory or of another dtype than the policy wants; of the letters
  /// of a plan only, when one is given.
  void check_bound(Precision const& p, std::string_view plan = {}) {
    visit(
        [&](TensorKey const& key, Slot& slot) {
          DType const type = param_dtype(p, key.spec);
          auto const name = [&] { return Model::names::key(key.module, key.layer, key.spec.name); };
          JET_CHECK(static_cast<bool>(slot), "weights: tensor '", name(),
                    "' has no memory; load, initialise or allocate the store first");
          JET_CHECK(slot.dtype == type, "weights: tensor '", name(), "' is ", name_of(slot.dtype),
                    ", the backend's policy needs ", name_of(type));
        },
        plan);
  }

  /// Gives every tensor that is not bound yet memory of the backend, in one allocation. Contents are not
  /// initialised.
  template <class B> void allocate(B const& backend) {
    bind_missing(B::precision,
                 [&](i64 bytes) { return std::make_shared<typename B::Buffer>(backend.allocate(bytes)); });
  }
  /// The same in host memory, for a backend of this policy: what is loaded or initialised there is copied by the
  /// engine that runs it.
  void allocate_on_host(Precision const& p) {
    bind_missing(p, [](i64 bytes) { return std::make_shared<HostBuffer>(bytes); });
  }

  /// A store with the same tensors in memory that the backend reaches: those that it reaches already are shared,
  /// the others copied, in one allocation. All tensors must be bound.
  template <class B> std::shared_ptr<Weights> copy_to(B const& backend) {
    auto copy = std::make_shared<Weights>(held_);
    std::vector<Slot> sources;
    visit([&](TensorKey const&, Slot& slot) { sources.push_back(slot); });
    std::vector<bool> copied(sources.size());
    std::size_t i = 0;
    copy->visit([&](TensorKey const&, Slot& slot) {
      if (backend.reaches(sources[i].data)) {
        slot = sources[i];
        copy->shared_bytes_ += slot.numel() * size_of(slot.dtype);
      } else {
        copied[i] = true;
      }
      ++i;
    });
    if (copy->shared_bytes_ > 0) {
      copy->storage_ = storage_;
    }
    copy->allocate(backend);
    i = 0;
    copy->visit([&](TensorKey const&, Slot& slot) {
      if (copied[i]) {
        backend.copy_from_host(slot.data, sources[i].data, slot.numel() * size_of(slot.dtype));
      }
      ++i;
    });
    return copy;
  }

  /// Keeps `storage` alive as long as the store; `bytes` of it count as this store's own.
  void own(std::shared_ptr<void const> storage, i64 bytes) {
    storage_.push_back(std::move(storage));
    owned_bytes_ += bytes;
  }
  /// Bytes that this store allocated or mapped itself, shared ones not counted.
  i64 owned_bytes() const { return owned_bytes_; }
  /// Bytes used from other stores.
  i64 shared_bytes() const { return shared_bytes_; }

  /// Uses the tensors of another store, of another model too, wherever module, layer, letter, name, shape agree and
  /// `wanted(TensorKey)` says so, without a copy. Call it before `allocate`. Returns the number of tensors shared.
  template <class Other, class F> i64 share(Weights<Other>& other, F const& wanted) {
    auto const id = [](TensorKey const& k) {
      return std::tuple{k.module, k.layer, k.letter, std::string(k.spec.name.view())};
    };
    std::map<decltype(id(TensorKey{})), Slot> theirs;
    other.visit([&](TensorKey const& key, Slot& slot) { theirs[id(key)] = slot; });
    i64 count = 0;
    visit([&](TensorKey const& key, Slot& slot) {
      auto const found = theirs.find(id(key));
      if (slot || found == theirs.end() || !found->second || !wanted(key)) {
        return;
      }
      bool same = found->second.rank == key.spec.shape.rank;
      for (int i = 0; same && i < key.spec.shape.rank; ++i) {
        same = found->second.extent[i] == key.spec.shape[i];
      }
      if (same) {
        slot = found->second;
        shared_bytes_ += slot.numel() * size_of(slot.dtype);
        ++count;
      }
    });
    if (count > 0) {
      for (auto const& s : other.storage()) {
        storage_.push_back(s);
      }
    }
    tie();
    return count;
  }
  std::vector<std::shared_ptr<void const>> const& storage() const { return storage_; }

  /// A tied head is the embedding.
  void tie() {
    if constexpr (Model::config.tied) {
      head = embedding;
    }
  }

 private:
  template <class F> void bind_missing(Precision const& p, F const& make) {
    i64 const total = bytes(p, true);
    if (total > 0) {
      auto buffer = make(total);
      auto* const base = reinterpret_cast<char*>(buffer->data());
      i64 at = 0;
      visit([&](TensorKey const& key, Slot& slot) {
        if (!slot) {
          DType const type = param_dtype(p, key.spec);
          slot = Slot(base + at, type, key.spec.shape);
          at += align_up(key.spec.shape.numel() * size_of(type));
        }
      });
      own(buffer, total);
    }
    tie();
  }
  static std::vector<std::string> split(std::string_view plan) {
    Model::check_plan(plan);
    std::vector<std::string> letters;
    for (char const c : plan) {
      letters.emplace_back(1, c);
    }
    return letters;
  }
  static constexpr ParamSpec embedding_spec(Role role) {
    return {"weight", {Model::config.vocab, Model::config.d_model}, {}, false, false, role};
  }
  template <class M, class F> static void rows(Module module, i64 layer, char letter, Params<M>& params, F& f) {
    if constexpr (param_arity < M >> 0) {
      constexpr auto specs = param_specs<M>();
      auto slots = as_slots<M>(params);
      for (std::size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].present()) {
          f(TensorKey{module, layer, letter, specs[i]}, slots[i]);
        }
      }
      params = as_params<M>(slots);
    }
  }

  template <class Tuple> struct OwnOf;
  template <class... L> struct OwnOf<std::tuple<L...>> { using type = std::tuple<std::vector<Own<L>>...>; };

  std::vector<std::string> held_;
  std::vector<Common> common_;
  typename OwnOf<typename Model::layer_types>::type own_;
  std::vector<std::shared_ptr<void const>> storage_;
  i64 owned_bytes_ = 0;
  i64 shared_bytes_ = 0;
};

JET_NAMESPACE_END
