/// \file
/// A language model as one type: a plan of letters, and what each letter is bound to.
///
///   struct Model : CausalLM<LmConfig{.vocab = 151936, .d_model = 1536, .mlp = 8960}, "JJAJS",
///       Bind<'J', JetBlock<jet>>, Bind<'A', FullAttention<attn>>, Bind<'S', SlidingWindow<attn, 1152>>> {};
///
/// Layers are instantiated once per letter and looped over at run time, so that a plan may also be given at run
/// time, with the same code: `forward` takes the plan as a string, and the type's own plan is one such string.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <jet/block/layer_norm.hpp>
#include <jet/block/rms_norm.hpp>
#include <jet/block/swiglu_mlp.hpp>
#include <jet/concepts.hpp>
#include <jet/core/context.hpp>
#include <jet/core/error.hpp>
#include <jet/core/fixed_string.hpp>
#include <jet/core/param.hpp>
#include <jet/core/saved.hpp>
#include <jet/core/state.hpp>
#include <jet/model/config.hpp>
#include <jet/model/hf_names.hpp>
#include <jet/model/taps.hpp>

JET_NAMESPACE_BEGIN

/// In a Bind: a layer without an MLP.
struct NoMlp {
  static constexpr std::string_view kind = "none";
  template <class T> struct Params {};
  template <class T> struct State {};
  static constexpr Params<ParamSpec> params() { return {}; }
  static constexpr State<StateSpec> state() { return {}; }
};
/// A forward that keeps nothing for a backward.
struct SaveNothing {};

/// In a Bind: the model's own MLP, shared by the letters of one layer.
struct ModelMlp {};
/// In a Bind: the model's own norm, shared by the letters of one layer.
struct ModelNorm {};

/// A letter of a plan. Layers of one letter share code, not weights.
template <char Letter, class M, class Mlp = ModelMlp, class Norm = ModelNorm> struct Bind {
  static constexpr char letter = Letter;
  using mixer = M;
  using mlp = Mlp;
  using norm = Norm;
};

namespace detail {

template <class Old, class... New> struct rebound { using type = Old; };
template <class Old, class N, class... Rest>
struct rebound<Old, N, Rest...>
    : std::conditional_t<N::letter == Old::letter, std::type_identity<N>, rebound<Old, Rest...>> {};

/// Bind with the model's own MLP and norm filled in.
template <class B, class OwnMlp, class OwnNorm> struct Layer {
  static constexpr char letter = B::letter;
  static constexpr bool shares_mlp = std::is_same_v<typename B::mlp, ModelMlp>;
  static constexpr bool shares_norm = std::is_same_v<typename B::norm, ModelNorm>;
  using mixer = typename B::mixer;
  using mlp = std::conditional_t<shares_mlp, OwnMlp, typename B::mlp>;
  using norm = std::conditional_t<shares_norm, OwnNorm, typename B::norm>;
  static constexpr bool has_mlp = !std::is_same_v<mlp, NoMlp>;
  static constexpr i64 num_params() {
    return jet::num_params<mixer>() + jet::num_params<mlp>() + (has_mlp ? 2 : 1) * jet::num_params<norm>();
  }
  static constexpr i64 state_bytes(Precision const& p, i64 batch, i64 seq) {
    return jet::state_bytes<mixer>(p, batch, seq) + jet::state_bytes<mlp>(p, batch, seq);
  }
};

template <i64 DModel, i64 Hidden> struct own_mlp { using type = SwiGluMlp<MlpConfig{DModel, Hidden}>; };
template <i64 DModel> struct own_mlp<DModel, 0> { using type = NoMlp; };

constexpr bool unique_letters(std::string_view letters) {
  for (std::size_t i = 0; i < letters.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (letters[i] == letters[j]) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace detail

template <LmConfig C, fixed_string Plan, class... Binds> struct CausalLM {
  static_assert(C.valid(), "jet: LmConfig needs vocab and d_model > 0, mlp and eps >= 0");
  static_assert(Plan.size() > 0, "jet: a layer plan has at least one letter");
  static_assert((Mixer<typename Binds::mixer> && ...),
                "jet: a bound type is not a Mixer; it needs kind, width, Params, params(), State, state() and "
                "forward(ctx, w, "
                "s, x, y) (concepts.hpp)");
  static_assert(((Binds::mixer::width == C.d_model) && ...),
                "jet: a bound block's d_model differs from the model's; give its config the model's d_model");
  static_assert(
      [] {
        for (std::size_t i = 0; i < Plan.size(); ++i) {
          if (!((Plan[i] == Binds::letter) || ...)) {
            return false;
          }
        }
        return true;
      }(),
      "jet: a letter of the layer plan has no jet::Bind<letter, Block>; bind it or change the plan");

  static constexpr auto config = C;
  static constexpr i64 layers = static_cast<i64>(Plan.size());
  static constexpr char letters[] = {Binds::letter..., '\0'};
  static_assert(detail::unique_letters(std::string_view(letters)), "jet: two Binds have the same letter");
  static constexpr std::string_view plan() { return plan_.view(); }

  /// The same model with other blocks: Binds with the same letter are replaced.
  template <class... New> using rebind = CausalLM<C, Plan, typename detail::rebound<Binds, New...>::type...>;
  /// The same blocks in another order.
  template <fixed_string P> using replan = CausalLM<C, P, Binds...>;
  /// The same model with more letters bound.
  template <class... New> using with = CausalLM<C, Plan, Binds..., New...>;

  /// How checkpoints name tensors. A model that has other names declares its own `names`.
  using names = HfNames;

  using norm = std::conditional_t<C.layer_norm, LayerNorm<NormConfig{C.d_model, C.eps}>,
                                  RmsNorm<NormConfig{C.d_model, C.eps}>>;
  using mlp = typename detail::own_mlp<C.d_model, C.mlp>::type;
  template <class B> using layer = detail::Layer<B, mlp, norm>;
  /// One entry per bound letter, in the order of `letters`.
  using layer_types = std::tuple<layer<Binds>...>;
  static constexpr std::size_t num_letters = sizeof...(Binds);

  /// Index of a letter, or -1.
  static constexpr int letter_index(char letter) {
    for (std::size_t i = 0; i < num_letters; ++i) {
      if (letters[i] == letter) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
  /// Calls f.template operator()<Layer>() for a letter; throws for a letter that is not bound.
  template <class F> static constexpr void for_letter(char letter, F&& f) {
    bool const found = ((Binds::letter == letter ? (f.template operator()<layer<Binds>>(), true) : false) || ...);
    JET_CHECK(found, "plan letter '", letter, "' is not bound; bound are \"", std::string_view(letters), "\"");
  }
  /// Calls f.template operator()<Layer, I>() for every bound letter.
  template <class F> static constexpr void for_each_letter(F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f.template operator()<std::tuple_element_t<I, layer_types>, I>(), ...);
    }
    (std::make_index_sequence<num_letters>{});
  }
  /// Throws unless a plan has the model's number of layers and only bound letters.
  static void check_plan(std::string_view p) {
    JET_CHECK(static_cast<i64>(p.size()) == layers, "plan \"", p, "\" has ", p.size(), " letters, the model has ",
              layers, " layers");
    for (char const c : p) {
      JET_CHECK(letter_index(c) >= 0, "plan letter '", c, "' is not bound; bound are \"", std::string_view(letters),
                "\"");
    }
  }

  /// Parameters of the model under a plan, a tied head counted once.
  static constexpr i64 num_params(std::string_view p = plan()) {
    i64 n = C.vocab * C.d_model * (C.tied ? 1 : 2) + jet::num_params<norm>() * (C.embedding_norm ? 2 : 1);
    for (char const c : p) {
      for_letter(c, [&]<class L>() { n += L::num_params(); });
    }
    return n;
  }
  /// Bytes of the state (recurrent, convolution, keys and values) of `batch` sequences of `seq` tokens.
  template <Precision P> static constexpr i64 state_bytes(i64 batch, i64 seq, std::string_view p = plan()) {
    i64 n = 0;
    for (char const c : p) {
      for_letter(c, [&]<class L>() { n += L::state_bytes(P, batch, seq); });
    }
    return n;
  }

  /// Runs layers [from, layers) of plan `p` on the residual stream x (tokens, d_model), in place.
  /// `weights` and `state` give each layer its tensors: weights.layer<L>(l), state.layer<L>(l) (a null state means
  /// zero and not kept); tap is called as tap(layer, Point, View). With `saved` (SavedValues, model/training.hpp)
  /// it keeps what `backward` needs.
  template <Backend B, class W, class S, class Tap, class Save = SaveNothing>
  static void forward(Context<B>& ctx, W& weights, S& state, std::string_view p, i64 from, View const& x, Tap&& tap,
                      Save const& saved = {}) {
    constexpr bool tapped = !std::is_same_v<std::remove_cvref_t<Tap>, NoTap>;
    constexpr bool saving = !std::is_same_v<Save, SaveNothing>;
    auto const observe = [&](i64 l, Point point, View const& v) {
      if constexpr (tapped) {
        if (!ctx.planning()) {
          tap(l, point, v);
        }
      }
    };
    View const h = ctx.scratch(x.tokens(), C.d_model);
    View const y = ctx.scratch(x.tokens(), C.d_model);
    declare_shared(ctx);
    bool pending = false;  // y waits to be added to x
    for (i64 l = from; l < layers; ++l) {
      ctx.layer = static_cast<int>(l);
      for_letter(p[static_cast<std::size_t>(l)], [&]<class L>() {
        auto&& w = weights.template layer<L>(l);
        auto&& s = state.template layer<L>(l);
        auto kept = [&] {
          if constexpr (saving) {
            return saved.template layer<L>(l);
          } else {
            return 0;
          }
        }();
        auto const normalise = [&](auto const& norm_weights) {
          if (pending) {
            L::norm::add_forward(ctx, norm_weights, y, x, h);
          } else {
            L::norm::forward(ctx, norm_weights, x, h);
          }
          pending = true;
        };
        normalise(w.mixer_norm());
        observe(l, Point::mixer_in, h);
        i64 const mark = ctx.stack().mark();
        if constexpr (saving) {
          copy_rows(ctx, x, kept.mixer_input);
          L::mixer::forward(ctx, w.mixer(), s.mixer(), h, y, &kept.mixer);
        } else {
          L::mixer::forward(ctx, w.mixer(), s.mixer(), h, y);
        }
        ctx.stack().release(mark);
        observe(l, Point::mixer_out, y);
        if constexpr (L::has_mlp) {
          normalise(w.mlp_norm());
          if constexpr (saving) {
            copy_rows(ctx, x, kept.mlp_input);
            L::mlp::forward(ctx, w.mlp(), s.mlp(), h, y, &kept.mlp);
          } else {
            L::mlp::forward(ctx, w.mlp(), s.mlp(), h, y);
          }
          ctx.stack().release(mark);
          observe(l, Point::mlp_out, y);
        }
        if constexpr (tapped) {
          ctx.run(op::Add{}, y, x);
          pending = false;
          observe(l, Point::layer_out, x);
        }
      });
    }
    if (pending) {
      ctx.run(op::Add{}, y, x);
    }
  }

  /// The backward of a saving forward that began with a zero state, through layers [from, layers) in reverse.
  /// dx (tokens, d_model) at acc: the gradient of the residual stream after the last layer, becomes that before
  /// layer `from`; with `input` false nobody reads that, and what only it needs is not formed. Gradients of
  /// parameters (Gradients, model/training.hpp) are added to, null ones are frozen. `tap` is called with the
  /// gradient at every point, in the reverse of the forward's order, and may add to it. Runs in the forward's
  /// context, or in one whose values that cross layers are filled.
  template <Backend B, class W, class Save, class G, class Tap>
  static void backward(Context<B>& ctx, W& weights, Save const& saved, std::string_view p, i64 from, View const& dx,
                       bool input, G& gradients, Tap&& tap) {
    constexpr bool tapped = !std::is_same_v<std::remove_cvref_t<Tap>, NoTap>;
    auto const observe = [&](i64 l, Point point, View const& v) {
      if constexpr (tapped) {
        if (!ctx.planning()) {
          tap(l, point, v);
        }
      }
    };
    View const h = ctx.scratch(dx.tokens(), C.d_model);
    View const dh = ctx.accumulator(dx.tokens(), C.d_model);
    View const dy = tapped ? ctx.accumulator(dx.tokens(), C.d_model) : dx;
    ctx.declare_shared_gradients();
    for (i64 l = layers - 1; l >= from; --l) {
      ctx.layer = static_cast<int>(l);
      for_letter(p[static_cast<std::size_t>(l)], [&]<class L>() {
        auto&& w = weights.template layer<L>(l);
        auto&& g = gradients.template layer<L>(l);
        auto const kept = saved.template layer<L>(l);
        // the part y = M(norm(x)) of x + y: dx is the gradient of the sum before, of x afterwards
        auto const part = [&]<class M>(std::type_identity<M>, Point out, Point in, View const& x, auto const& norm,
                                       auto const& dnorm, auto const& own, auto const& kept_own, auto const& down,
                                       bool last) {
          constexpr bool trainable = Trainable<M>;
          static_assert(trainable, "jet: a block of a model that is trained has no backward (core/saved.hpp)");
          if constexpr (trainable) {
            typename M::template State<Slot> const none{};
            bool const wanted = !last || input || any(as_slots<typename L::norm>(dnorm)) || tapped;
            if constexpr (tapped) {
              copy_rows(ctx, dx, dy);
            }
            observe(l, out, dy);
            i64 const mark = ctx.stack().mark();
            L::norm::forward(ctx, norm, x, h);
            M::backward(ctx, own, none, h, kept_own, dy, wanted ? dh : View{}, down, none, none);
            ctx.stack().release(mark);
            if (wanted) {
              if (in == Point::mixer_in) {
                observe(l, in, dh);
              }
              L::norm::add_backward(ctx, norm, x, dh, dx, dnorm);
            }
          }
        };
        observe(l, Point::layer_out, dx);
        View const& x = kept.mixer_input;
        i64 const t = dx.tokens();
        if constexpr (L::has_mlp) {
          part(std::type_identity<typename L::mlp>{}, Point::mlp_out, Point::mlp_out, kept.mlp_input.rows(0, t),
               w.mlp_norm(), g.mlp_norm(), w.mlp(), kept.mlp, g.mlp(), false);
        }
        part(std::type_identity<typename L::mixer>{}, Point::mixer_out, Point::mixer_in, x.rows(0, t),
             w.mixer_norm(), g.mixer_norm(), w.mixer(), kept.mixer, g.mixer(), l == from);
      });
    }
  }

  /// Reserves the values that cross layers, those of all bound letters, once per call.
  template <Backend B> static void declare_shared(Context<B>& ctx) {
    for_each_letter([&]<class L, std::size_t>() {
      if constexpr (HasShared<typename L::mixer>) {
        for (auto const& spec : detail::to_array<SharedSpec>(L::mixer::shared())) {
          ctx.declare_shared(spec);
        }
      }
    });
  }

 private:
  template <std::size_t N> static bool any(std::array<Slot, N> const& slots) {
    for (Slot const& slot : slots) {
      if (slot) {
        return true;
      }
    }
    return false;
  }

  static constexpr auto plan_ = Plan;
};

JET_NAMESPACE_END
