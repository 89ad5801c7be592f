// expect: jet: state() must give every row that is not jet::absent_state a unique name and a shape
#include <jet/core/state.hpp>

struct Block {
  template <class T> struct State { T key, value; };
  static constexpr State<jet::StateSpec> state() { return {.key = {"key", {2, 8}, true}, .value = {}}; }
};

jet::i64 const n = jet::state_bytes<Block>(jet::precision::f32, 1, 1);
