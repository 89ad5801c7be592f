// RWKV-7's channel mixing against a float64 reference.
#include <jet/block/rwkv7_channel_mix.hpp>

#include "block_cases.hpp"

namespace tests {

template <jet::ChannelMixConfig C> class Reference<jet::Rwkv7ChannelMix<C>> {
 public:
  template <class H>
  explicit Reference(H const& h)
      : mix_(h.param("x_k")),
        key_(h.param_matrix("key.weight")),
        value_(h.param_matrix("value.weight")),
        last_(mix_.size()) {}
  Matrix forward(Matrix const& u) {
    Matrix shifted = u;
    for (i64 t = 0; t < u.rows; ++t) {
      for (i64 i = 0; i < u.cols; ++i) {
        auto const c = static_cast<std::size_t>(i);
        shifted.at(t, i) = (1 - mix_[c]) * u.at(t, i) + mix_[c] * last_[c];
        last_[c] = u.at(t, i);
      }
    }
    Matrix hidden = jet::reference::linear(shifted, key_);
    for (double& value : hidden.data) {
      value = value > 0 ? value * value : 0;
    }
    return jet::reference::linear(hidden, value_);
  }
  std::vector<Vector> state() const { return {last_}; }

 private:
  Vector mix_;
  Matrix key_, value_;
  Vector last_;
};

}  // namespace tests

namespace {

using namespace tests;
using Mix = jet::Rwkv7ChannelMix<jet::ChannelMixConfig{.d_model = 23, .hidden = 37}>;

TEST_CASE_TEMPLATE("channel mixing equals the reference", B, F64, F32, Bf16) {
  against_reference<Mix, B>();
}

}  // namespace
