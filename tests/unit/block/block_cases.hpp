// A block against its reference: what the tests of every block run.
#pragma once

#include <string>
#include <vector>

#include "block_support.hpp"

namespace tests {

// For every length T: T tokens from nothing, then one token, then five, outputs and state after each. The state is
// compared where there has been a token at all. Errors are those of the table, times `slack`.
template <class M, class B>
void against_reference(std::vector<i64> const& sizes = odd_sizes(),
                       jet::BackendOptions const& backend = {.threads = 2}, double slack = 1) {
  BlockHarness<M, B> block({.slots = 2, .max_len = 512, .backend = backend});
  block.randomise(11);
  for (i64 const t : sizes) {
    CAPTURE(t);
    block.reset(1);
    Reference<M> reference(block);
    for (i64 const n : {t, i64{1}, i64{5}}) {
      CAPTURE(n);
      auto const seed = static_cast<std::uint64_t>(100 * t + n);
      Matrix const x = rounded(normal(n, M::width, seed), B::precision.act);
      Matrix const y = block.forward(1, x);
      Matrix const expected = reference.forward(x);
      CHECK(relative_rms(y, expected) <= slack * tolerance(B::precision, n > 5 ? Check::block : Check::token));
      if (block.length(1) > 0) {
        CHECK(state_distance(block.state(1), reference.state()) <= slack * tolerance(B::precision, Check::state));
      }
    }
  }
}

template <class M, class B> void every_isa() {
  for (std::string const& isa : isas<B>()) {
    CAPTURE(isa);
    against_reference<M, B>({1, 5, 65, 129}, {.threads = 2, .isa = isa});
  }
}

// Single tokens after a prompt of `length`.
template <class M, class B> void long_decode(i64 length) {
  BlockHarness<M, B> block({.slots = 1, .max_len = length + 8, .backend = {.threads = 2}});
  block.randomise(12);
  Reference<M> reference(block);
  for (i64 const n : {length, i64{1}, i64{1}}) {
    Matrix const x = rounded(normal(n, M::width, static_cast<std::uint64_t>(n)), B::precision.act);
    Matrix const y = block.forward(0, x);
    CHECK(relative_rms(y, reference.forward(x)) <= tolerance(B::precision, n > 1 ? Check::block : Check::token));
  }
}

}  // namespace tests
