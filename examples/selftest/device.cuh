// The device's side of a group of blocks.
#pragma once

#include <jet/cuda.cuh>

#include "cases.hpp"

namespace selftest {

template <class Blocks> std::vector<Trace> on_device(Precision const& p) {
  std::vector<Trace> traces;
  Blocks::visit([&]<class Block>(std::string const& name) {
    traces.push_back(p == precision::f32 ? trace<Block, Cuda<precision::f32>>(name, nullptr)
                                         : trace<Block, Cuda<precision::bf16>>(name, nullptr));
  });
  return traces;
}

}  // namespace selftest
