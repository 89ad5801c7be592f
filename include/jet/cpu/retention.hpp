/// \file
/// The constant decays of multi-scale retention on the CPU.
#pragma once

#include <cmath>

#include <jet/cpu/rows.hpp>
#include <jet/op/retention.hpp>

JET_NAMESPACE_BEGIN

template <> struct Kernel<op::RetentionDecay, tag::cpu> {
  template <class B> static void run(Context<B>&, op::RetentionDecay const&, View const& g) {
    using T = cpu::scalar_of<B>;
    for (i64 h = 0; h < g.width(); ++h) {
      auto const decay = static_cast<T>(std::log1p(-std::exp2(-5.0 - static_cast<double>(h))));
      for (i64 t = 0; t < g.tokens(); ++t) {
        g.row<T>(t)[h] = decay;
      }
    }
  }
};

JET_NAMESPACE_END
