// The main of a CUDA test program.
#pragma once

#include <cuda_runtime_api.h>

#include <exception>

#include "check.hpp"

/// Runs the checks where there is a device; what they throw is a failure. Returns the exit status, of `end`, which
/// may print what was measured.
template <class Checks, class End> int run_on_device(Checks const& checks, End const& end) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return no_device();
  }
  try {
    checks();
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  return end();
}
template <class Checks> int run_on_device(Checks const& checks) {
  return run_on_device(checks, report);
}
