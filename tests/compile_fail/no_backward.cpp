// expect: jet: a mixer of a model that is trained has no saved() and backward
#include <jet/model/training.hpp>

struct Copy {
  static constexpr std::string_view kind = "copy";
  static constexpr jet::i64 width = 16;
  template <class T> struct Params {};
  template <class T> struct State {};
  static constexpr Params<jet::ParamSpec> params() { return {}; }
  static constexpr State<jet::StateSpec> state() { return {}; }
  template <jet::Backend B>
  static void forward(jet::Context<B>&, Params<jet::Slot> const&, State<jet::Slot>&, jet::View, jet::View) {}
};

struct Model : jet::CausalLM<jet::LmConfig{.vocab = 32, .d_model = 16, .mlp = 32}, "C", jet::Bind<'C', Copy>> {};

jet::SavedValues<Model> const saved(jet::precision::f32, {}, "C");
