/// \file
/// The CUDA backend: a device, a stream (the caller's, or its own), memory.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <jet/core/backend_options.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda_fwd.hpp>
#include <jet/fwd.hpp>

JET_NAMESPACE_BEGIN

/// Device memory in bytes, as the driver counts it for the whole device.
struct DeviceMemory {
  i64 free = 0;
  i64 total = 0;
};

/// A backend with a precision policy. Work is queued on `stream()` and returns at once; `sync()` waits for it.
template <Precision P> class Cuda {
 public:
  using tag = jet::tag::cuda;
  static constexpr Precision precision = P;
  /// Tensors are in device memory: weights are copied there.
  static constexpr bool on_host = false;

  /// Reads `device` and `stream`. A caller's stream is on that device and outlives the backend; without one the
  /// backend makes its own, which does not wait for the legacy default stream. Throws if there is no such device.
  explicit Cuda(BackendOptions const& options = {}) : device_(options.device) {
    int count = 0;
    cuda_check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    JET_CHECK(device_ >= 0 && device_ < count, "option device is ", device_, ", this machine has ", count,
              " CUDA devices, counted from 0");
    make_current();
    if (options.stream != nullptr) {
      stream_ = static_cast<cudaStream_t>(options.stream);
    } else {
      cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
      own_stream_.reset(stream_);
    }
    compute_capability_ =
        10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount);
  }

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  /// 90 for compute capability 9.0.
  int compute_capability() const { return compute_capability_; }
  int multiprocessors() const { return multiprocessors_; }
  /// CUDA's current device is one per thread: every thread that uses the backend calls this once.
  void make_current() const { cuda_check(cudaSetDevice(device_), concat("cudaSetDevice(", device_, ")")); }

  /// Uninitialised memory of the device.
  using Buffer = DeviceBuffer;
  DeviceBuffer allocate(i64 bytes) const {
    make_current();
    return DeviceBuffer(bytes);
  }
  /// Queues a copy, in any direction. Both sides must stay alive until `sync()`. Only from and to page-locked host
  /// memory does it run beside the host.
  void copy(void* to, void const* from, i64 bytes) const {
    JET_CHECK(bytes >= 0, "a copy of ", bytes, " bytes was asked for");
    if (bytes > 0) {
      cuda_check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_),
                 concat("cudaMemcpyAsync of ", bytes, " bytes"));
    }
  }
  /// Waits: the host may read the result.
  void copy_to_host(void* to, void const* from, i64 bytes) const {
    copy(to, from, bytes);
    sync();
  }
  /// Waits: the host may change `from` again.
  void copy_from_host(void* to, void const* from, i64 bytes) const {
    copy(to, from, bytes);
    sync();
  }
  /// Queues filling with zero bytes.
  void zero(void* memory, i64 bytes) const {
    JET_CHECK(bytes >= 0, "zeroing of ", bytes, " bytes was asked for");
    if (bytes > 0) {
      cuda_check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream_),
                 concat("cudaMemsetAsync of ", bytes, " bytes"));
    }
  }
  /// Waits for everything queued on the stream. Errors of kernels that ran before appear here at the latest.
  void sync() const { cuda_check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  DeviceMemory memory() const {
    make_current();
    std::size_t free = 0;
    std::size_t total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {static_cast<i64>(free), static_cast<i64>(total)};
  }

 private:
  struct DestroyStream {
    void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
  };
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    cuda_check(cudaDeviceGetAttribute(&value, which, device_), "cudaDeviceGetAttribute");
    return value;
  }

  int device_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream> own_stream_;
  int compute_capability_ = 0;
  int multiprocessors_ = 0;
};

JET_NAMESPACE_END
