// expect: jet: MlpConfig needs d_model and hidden > 0
#include <jet/block/swiglu_mlp.hpp>

inline constexpr jet::MlpConfig mlp{.d_model = 16};

jet::i64 const n = jet::num_params<jet::SwiGluMlp<mlp>>();
