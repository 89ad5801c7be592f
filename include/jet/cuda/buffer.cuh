/// \file
/// Device memory, and page-locked host memory, that own themselves.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include <cuda_runtime_api.h>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/cuda/error.cuh>

JET_NAMESPACE_BEGIN

/// A block of memory of the current device. Contents are not initialised. Freed on the device that it is on; the
/// owner must see to it that no stream uses it any more.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(i64 bytes) : bytes_(bytes) {
    JET_CHECK(bytes >= 0, "a device allocation of ", bytes, " bytes was asked for");
    if (bytes > 0) {
      void* memory = nullptr;
      cudaError_t const status = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
      if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        std::size_t free = 0;
        std::size_t total = 0;
        cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
        fail("out of device memory: could not allocate ", bytes, " bytes, ", free, " of ", total,
             " bytes are free");
      }
      cuda_check(status, concat("cudaMalloc of ", bytes, " bytes"));
      data_ = static_cast<std::byte*>(memory);
    }
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  ~DeviceBuffer() { release(); }

  std::byte* data() const { return data_; }
  i64 bytes() const { return bytes_; }
  /// Fills with bytes that read as NaN in every floating dtype (0xff...). Waits for the whole device, before and
  /// after: no stream sees it half done.
  void poison() { fill(0xff); }
  void zero() { fill(0); }

 private:
  void fill(int byte) {
    if (bytes_ > 0) {
      cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      cuda_check(cudaMemset(data_, byte, static_cast<std::size_t>(bytes_)),
                 concat("cudaMemset of ", bytes_, " bytes"));
      cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    }
  }
  void release() noexcept {
    if (data_ != nullptr) {
      (void)cudaFree(data_);  // at exit the context may be gone: not an error
      data_ = nullptr;
      bytes_ = 0;
    }
  }

  std::byte* data_ = nullptr;
  i64 bytes_ = 0;
};

/// Page-locked host memory, which the device copies from and to without help of the host.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(i64 bytes) : bytes_(bytes) {
    JET_CHECK(bytes >= 0, "an allocation of ", bytes, " bytes of page-locked memory was asked for");
    if (bytes > 0) {
      void* memory = nullptr;
      cuda_check(cudaMallocHost(&memory, static_cast<std::size_t>(bytes)),
                 concat("cudaMallocHost of ", bytes, " bytes"));
      data_.reset(static_cast<std::byte*>(memory));
    }
  }
  std::byte* data() const { return data_.get(); }
  i64 bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { (void)cudaFreeHost(memory); }
  };
  std::unique_ptr<std::byte, Free> data_;
  i64 bytes_ = 0;
};

JET_NAMESPACE_END
