// Built twice: JET_LIBRARY is library_sm_80 or library_sm_90a.
#include "library.hpp"

#include <cmath>
#include <vector>

#include <jet/cuda.cuh>

namespace {

std::string run() {
  try {
    using Backend = jet::Cuda<jet::precision::f32>;
    Backend backend;
    int const width = 64;
    std::vector<float> x(width, 2.0f);
    std::vector<float> w(width, 3.0f);
    jet::i64 const bytes = width * jet::i64{sizeof(float)};
    jet::DeviceBuffer const x_memory = backend.allocate(bytes);
    jet::DeviceBuffer const w_memory = backend.allocate(bytes);
    backend.copy_from_host(x_memory.data(), x.data(), bytes);
    backend.copy_from_host(w_memory.data(), w.data(), bytes);
    jet::View const view(x_memory.data(), jet::DType::f32, jet::Shape{1, width});
    std::byte unused[jet::alignment];
    jet::ScratchStack scratch(unused, jet::alignment);
    jet::Context<Backend> context(backend, {}, scratch);
    context.run(jet::op::RmsNorm{}, jet::Slot(w_memory.data(), jet::DType::f32, jet::Shape{width}), view, view);
    backend.copy_to_host(x.data(), x_memory.data(), bytes);
    backend.sync();
    return std::abs(x[5] - 3.0f) < 1e-4f ? "" : jet::concat("wrong result: ", x[5], ", expected 3");
  } catch (jet::Error const& error) {
    return error.what();
  }
}

int device() {
  int count = 0;
  int major = 0;
  int minor = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0 ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) != cudaSuccess) {
    return 0;
  }
  return 10 * major + minor;
}

}  // namespace

Library JET_LIBRARY() {
  return {jet::cuda::architectures, run, device};
}
