// A candidate layer on the CPU against the official implementation.
#pragma once

#include <string>

#include <jet/cpu/cpu.hpp>

#include "candidate_error.hpp"

namespace golden {

template <class Block> void against_official(std::string const& name, bool values_first) {
  GoldenFile const file(name + "_a.safetensors");
  GoldenFile const float64("f64/" + name + "_a.f64.safetensors");
  using jet::Cpu;
  CHECK(candidate_error<Block, Cpu<jet::precision::f64>>(file, float64, values_first) < 1e-12);
  CHECK(candidate_error<Block, Cpu<jet::precision::f64>>(file, file, values_first) < 2e-6);
  CHECK(candidate_error<Block, Cpu<jet::precision::f32>>(file, file, values_first) < 1e-5);
  CHECK(candidate_error<Block, Cpu<jet::precision::f32>>(file, float64, values_first) < 1e-5);
  // better than the official bf16 kernels (weights rounded too)
  CHECK(candidate_error<Block, Cpu<jet::precision::bf16>>(file, float64, values_first) < 0.9e-2);
}

}  // namespace golden
