/// \file
/// The CUDA backend: a device, a stream (the caller's, or its own), memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

#include <jet/core/backend_options.hpp>
#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/blas_lt.cuh>
#include <jet/cuda/buffer.cuh>
#include <jet/cuda/error.cuh>
#include <jet/cuda/graph.cuh>
#include <jet/cuda_fwd.hpp>
#include <jet/fwd.hpp>

JET_CUDA_NAMESPACE_BEGIN
namespace kernel {

/// Exists to be asked for: whether this translation unit has kernels for the device.
template <class = void> __global__ void probe() {}

/// A norm that a product can do before it reads its rows: y = norm(x), all bf16 but the weight.
struct NormFirst {
  bf16 const* x;  // (rows, width); null: nothing
  bf16* y;
  float const* weight;
  i64 x_stride, y_stride;
  float eps;
};

}  // namespace kernel

/// Rows for which products do the norm before and the addition after themselves. One row is faster without
/// (measured on an H100: 3% of a step; eight gain as much).
inline bool can_be_normed_first(i64 rows) {
  return rows >= 4 && rows <= 8;
}
JET_CUDA_NAMESPACE_END

JET_NAMESPACE_BEGIN

/// Device memory in bytes, as the driver counts it for the whole device.
struct DeviceMemory {
  i64 free = 0;
  i64 total = 0;
};

/// Runs models on NVIDIA GPUs of compute capability 8.0 and later. Supported policies: acc f32; weights and act
/// each f32 or bf16; kv f32, bf16 or f8e4m3; the recurrent state f32, bf16 or f16.
///
/// Work is queued on `stream()` and returns at once; `sync()` waits for it. One thread at a time.
template <Precision P> class Cuda {
 public:
  using tag = jet::tag::cuda;
  static constexpr Precision precision = P;
  static_assert(P.acc == DType::f32, "jet: the CUDA backend accumulates in f32");
  static constexpr bool supported(DType t) { return t == DType::f32 || t == DType::bf16; }
  static_assert(supported(P.weights) && supported(P.act),
                "jet: on the CUDA backend weights and act are each f32 or bf16");
  static_assert(supported(P.kv_dtype()) || P.kv_dtype() == DType::f8e4m3,
                "jet: on the CUDA backend keys and values are f32, bf16 or f8e4m3");
  static_assert(supported(P.state) || P.state == DType::f16,
                "jet: on the CUDA backend the recurrent state is f32, bf16 or f16");
  /// Tensors are in device memory: weights are copied there, results are copied back.
  static constexpr bool on_host = false;

  /// Reads `device`, `stream`, `batch_invariant` and `record`. A caller's stream is on that device and outlives the
  /// backend; without one the backend makes its own, which does not wait for the legacy default stream. Throws if
  /// there is no such device, or if this translation unit was not built for it.
  explicit Cuda(BackendOptions const& options = {}) : Cuda(options, Ask{}) {
    if (options.stream != nullptr) {
      stream_ = static_cast<cudaStream_t>(options.stream);
    } else {
      cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
      own_stream_.reset(stream_);
    }
    cudaFuncAttributes attributes{};
    cuda_check(cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(&cuda::kernel::probe<>)),
               "Cuda backend");
    blas_ = std::make_unique<cuda::BlasLt>();
  }
  /// A backend that only answers questions about sizes: for planning passes. Without a device it answers as an
  /// H100.
  static Cuda for_planning(BackendOptions const& options = {}) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      (void)cudaGetLastError();
      Cuda backend{Nothing{}};
      backend.batch_invariant_ = options.batch_invariant;
      return backend;
    }
    return Cuda(options, Ask{});
  }

  int device() const { return device_; }
  /// Queues what was put off, so that what follows on the stream comes after it: ask anew after every op.
  cudaStream_t stream() const {
    queue_put_off();
    return stream_;
  }
  /// Puts off the launch that writes `y` until the stream is asked for, in case that the next op adds y to
  /// something: `queue(stream, sum, sum_stride)` launches it; if `sum` is not null it adds y to that, too.
  template <class F> void put_off(void const* y, F queue) const {
    queue_put_off();
    put_off_ = std::move(queue);
    put_off_y_ = y;
  }
  /// Queues the launch that was put off for y with the addition, if there is one.
  bool add_put_off(void const* y, bf16* sum, i64 sum_stride) const {
    if (!put_off_ || put_off_y_ != y) {
      return false;
    }
    std::exchange(put_off_, nullptr)(stream_, sum, sum_stride);
    return true;
  }
  /// Puts off a norm until the stream is asked for, in case that the next op is a product that can do it.
  template <class F> void put_off_norm(cuda::kernel::NormFirst const& norm, F queue) const {
    queue_put_off();
    norm_ = norm;
    queue_norm_ = std::move(queue);
  }
  /// Whether a norm was put off that writes y: then the caller does it.
  bool take_norm(void const* y, cuda::kernel::NormFirst& to) const {
    if (!queue_norm_ || norm_.y != y) {
      return false;
    }
    queue_norm_ = nullptr;
    to = norm_;
    return true;
  }
  void queue_put_off() const {
    if (queue_norm_) {
      std::exchange(queue_norm_, nullptr)(stream_);
    }
    if (put_off_) {
      std::exchange(put_off_, nullptr)(stream_, nullptr, 0);
    }
  }
  /// 90 for compute capability 9.0.
  int compute_capability() const { return compute_capability_; }
  int multiprocessors() const { return multiprocessors_; }
  /// Whether a row's result must not depend on how many rows a call has.
  bool batch_invariant() const { return batch_invariant_; }
  /// Products of many rows.
  cuda::BlasLt& blas() const { return *blas_; }
  /// CUDA's current device is one per thread: every thread that uses the backend calls this once.
  void make_current() const { cuda_check(cudaSetDevice(device_), concat("cudaSetDevice(", device_, ")")); }

  /// Uninitialised memory of the device.
  using Buffer = DeviceBuffer;
  DeviceBuffer allocate(i64 bytes) const {
    make_current();
    return DeviceBuffer(bytes);
  }
  /// Page-locked memory of the host, for results that are copied back.
  using HostBuffer = PinnedBuffer;
  PinnedBuffer allocate_on_host(i64 bytes) const {
    make_current();
    return PinnedBuffer(bytes);
  }
  /// Whether kernels may use this address: memory of the device, or managed.
  bool reaches(void const* memory) const {
    cudaPointerAttributes attributes{};
    if (memory == nullptr || cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) {
      (void)cudaGetLastError();
      return false;
    }
    return attributes.type == cudaMemoryTypeManaged ||
           (attributes.type == cudaMemoryTypeDevice && attributes.device == device_);
  }
  /// Queues a copy, in any direction. Both sides must stay alive until `sync()`. Only from and to page-locked host
  /// memory does it run beside the host.
  void copy(void* to, void const* from, i64 bytes) const {
    JET_CHECK(bytes >= 0, "a copy of ", bytes, " bytes was asked for");
    if (bytes > 0) {
      cuda_check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream()),
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
      cuda_check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream()),
                 concat("cudaMemsetAsync of ", bytes, " bytes"));
    }
  }
  /// Waits for everything queued on the stream. Errors of kernels that ran before appear here at the latest.
  void sync() const { cuda_check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize"); }

  /// Queues f(), which queues the same work each time that it is called with this recording: from the third time on
  /// one launch of a graph. f allocates nothing, waits for nothing, reads nothing from the host that changes, and
  /// visits every state once.
  using Recording = cuda::Recording;
  template <class F> void repeat(Recording& recording, F const& f) const {
    make_current();
    auto const all = [&] {
      f();
      queue_put_off();
    };
    if (record_) {
      cudaStream_t const to = stream();
      in_recording_ = recording.seen();
      struct Leave {
        bool& in_recording;
        ~Leave() { in_recording = false; }
      } const leave{in_recording_};
      recording.run(to, all);
    } else {
      all();
    }
  }
  /// Whether work is being recorded now: it begins when all that was queued before has ended.
  bool in_recording() const { return in_recording_; }
  /// Rows of a recorded step for n sequences, at most `most`: one recording serves several n.
  i64 bucket(i64 n, i64 most) const {
    return record_ ? std::min(most, static_cast<i64>(std::bit_ceil(static_cast<std::uint64_t>(n)))) : n;
  }

  DeviceMemory memory() const {
    make_current();
    std::size_t free = 0;
    std::size_t total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {static_cast<i64>(free), static_cast<i64>(total)};
  }

 private:
  struct Ask {};
  struct Nothing {};
  explicit Cuda(Nothing) {}
  /// Asks the device what it is.
  Cuda(BackendOptions const& options, Ask)
      : device_(options.device), batch_invariant_(options.batch_invariant), record_(options.record) {
    int count = 0;
    cuda_check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    JET_CHECK(device_ >= 0 && device_ < count, "option device is ", device_, ", this machine has ", count,
              " CUDA devices, counted from 0");
    make_current();
    compute_capability_ =
        10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount);
  }

  struct DestroyStream {
    void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
  };
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    cuda_check(cudaDeviceGetAttribute(&value, which, device_), "cudaDeviceGetAttribute");
    return value;
  }

  int device_ = 0;
  bool batch_invariant_ = false;
  bool record_ = true;
  int compute_capability_ = 90;
  int multiprocessors_ = 132;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream> own_stream_;
  std::unique_ptr<cuda::BlasLt> blas_;
  mutable std::function<void(cudaStream_t, bf16*, i64)> put_off_;
  mutable void const* put_off_y_ = nullptr;
  mutable std::function<void(cudaStream_t)> queue_norm_;
  mutable cuda::kernel::NormFirst norm_{};
  mutable bool in_recording_ = false;
};

JET_NAMESPACE_END
