// expect: jet: this op has no kernel for this backend and these arguments
#include <jet/cpu/cpu.hpp>

struct Ema {};

void forward(jet::Context<jet::Cpu<>>& ctx, jet::View x) {
  ctx.run(Ema{}, x);
}
