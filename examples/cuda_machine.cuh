// The GPU of a run: its name, its driver, what its memory gives.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <jet/cuda.cuh>
#include <jet/cuda/rates.cuh>

#include "measure.hpp"

inline Machine cuda_machine() {
  jet::Cuda<jet::precision::bf16> const backend;
  Machine machine;
  cudaDeviceProp properties{};
  jet::cuda::cuda_check(cudaGetDeviceProperties(&properties, backend.device()), "cudaGetDeviceProperties");
  machine.device = properties.name;
  if (FILE* const pipe = popen("nvidia-smi --query-gpu=driver_version --format=csv,noheader", "r")) {
    char line[64] = {};
    if (std::fgets(line, sizeof line, pipe) != nullptr) {
      machine.driver = std::string(line, std::string_view(line).find_first_of("\r\n"));
    }
    pclose(pipe);
  }
  // products: the published measurement of the device's kind
  machine.ceilings =
      machine.device.find("H200") != std::string::npos ? jet::bench::h200_ceilings : jet::bench::h100_ceilings;
  auto const rates = jet::cuda::measure_device_rates(backend.stream(), backend.multiprocessors());
  machine.ceilings.read = rates.read;
  machine.ceilings.copy = rates.copy;
  machine.memory = backend.memory().free;
  return machine;
}
