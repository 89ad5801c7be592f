// expect: jet: NormConfig needs d_model > 0 and eps >= 0
#include <jet/block/rms_norm.hpp>

inline constexpr jet::NormConfig norms{.d_model = 16, .eps = -1};

jet::i64 const n = jet::num_params<jet::RmsNorm<norms>>();
