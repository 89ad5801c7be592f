// expect: jet: params() must give every row that is not jet::absent a unique name and a shape
#include <jet/core/param.hpp>

struct Block {
  template <class T> struct Params { T in, out; };
  static constexpr Params<jet::ParamSpec> params() {
    return {.in = {"proj.weight", {4, 4}}, .out = {"proj.weight", {4, 4}}};
  }
};

jet::i64 const n = jet::num_params<Block>();
