// expect: jet: this op has no kernel for this backend and these arguments
// compilers: nvcc
#include <jet/cuda.cuh>

struct Ema {};

void forward(jet::Context<jet::Cuda<jet::precision::bf16>>& ctx, jet::View x) {
  ctx.run(Ema{}, x);
}
