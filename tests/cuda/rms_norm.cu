// RMSNorm on the device against a loop on the host. Exit status: 0 right, 1 wrong, 77 no device.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <jet/concepts.hpp>
#include <jet/cuda.cuh>

#include "run.hpp"

namespace {

using jet::i64;

// Small repeatable values in (-1, 1).
float value_at(i64 i) {
  std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761u + 12345u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<float>(h % 20001u) / 10000.0f - 1.0f;
}

using Backend = jet::Cuda<jet::precision::bf16>;
static_assert(jet::Backend<Backend>);
static_assert(jet::KernelFor<jet::op::RmsNorm, Backend, jet::Slot const&, jet::View const&, jet::View const&>);

template <class X, class W, class Y>
void compare(Backend& backend, i64 rows, i64 width, i64 x_stride, i64 y_stride, bool in_place) {
  std::string const name =
      jet::concat("x ", jet::name_of(jet::dtype_of<X>), ", weight ", jet::name_of(jet::dtype_of<W>), ", y ",
                  jet::name_of(jet::dtype_of<Y>), ", rows ", rows, ", width ", width, in_place ? ", in place" : "");
  double const eps = 1e-6;
  std::vector<X> x(static_cast<std::size_t>(rows * x_stride));
  std::vector<W> w(static_cast<std::size_t>(width));
  Y const untouched(-77.0f);
  std::vector<Y> y(static_cast<std::size_t>(rows * y_stride), untouched);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = X(value_at(static_cast<i64>(i)));
  }
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = W(1.0f + value_at(static_cast<i64>(i) + 7));
  }
  i64 const x_bytes = static_cast<i64>(x.size() * sizeof(X));
  i64 const w_bytes = static_cast<i64>(w.size() * sizeof(W));
  i64 const y_bytes = static_cast<i64>(y.size() * sizeof(Y));
  jet::DeviceBuffer const x_memory = backend.allocate(x_bytes);
  jet::DeviceBuffer const w_memory = backend.allocate(w_bytes);
  jet::DeviceBuffer const y_memory = backend.allocate(in_place ? 0 : y_bytes);
  void* const y_device = in_place ? x_memory.data() : y_memory.data();
  backend.copy_from_host(x_memory.data(), x.data(), x_bytes);
  backend.copy_from_host(w_memory.data(), w.data(), w_bytes);
  if (!in_place) {
    backend.copy_from_host(y_device, y.data(), y_bytes);
  }

  jet::View x_view(x_memory.data(), jet::dtype_of<X>, jet::Shape{rows, width});
  jet::View y_view(y_device, jet::dtype_of<Y>, jet::Shape{rows, width});
  x_view.stride[0] = x_stride;
  y_view.stride[0] = y_stride;
  jet::Slot const w_slot(w_memory.data(), jet::dtype_of<W>, jet::Shape{width});
  std::byte unused[jet::alignment];
  jet::ScratchStack scratch(unused, jet::alignment);
  jet::Context<Backend> context(backend, {}, scratch);
  context.run(jet::op::RmsNorm{eps}, w_slot, x_view, y_view);
  backend.copy_to_host(y.data(), y_device, y_bytes);
  backend.sync();

  double const tolerance = jet::dtype_of<Y> == jet::DType::bf16 ? 1.0 / 256 : 1e-5;  // half an ulp of bf16 is 2^-9
  double worst = 0;
  bool padding_kept = true;
  for (i64 row = 0; row < rows; ++row) {
    double sum = 0;
    for (i64 i = 0; i < width; ++i) {
      double const v = x[static_cast<std::size_t>(row * x_stride + i)];
      sum += v * v;
    }
    double const scale = 1.0 / std::sqrt(sum / static_cast<double>(width) + eps);
    for (i64 i = 0; i < width; ++i) {
      double const want = static_cast<double>(w[static_cast<std::size_t>(i)]) * scale *
                          static_cast<double>(x[static_cast<std::size_t>(row * x_stride + i)]);
      double const got = y[static_cast<std::size_t>(row * y_stride + i)];
      double const error = std::abs(got - want) / (std::abs(want) + 1e-3);
      worst = error <= worst ? worst : error;  // a NaN becomes the worst and stays
    }
    for (i64 i = width; !in_place && i < y_stride; ++i) {
      padding_kept = padding_kept && float(y[static_cast<std::size_t>(row * y_stride + i)]) == float(untouched);
    }
  }
  expect(worst <= tolerance, jet::concat(name, ": relative error ", worst, ", allowed ", tolerance));
  expect(padding_kept, name + ": wrote beyond a row");
}

// Two rows whose distance needs more than 32 bits.
void far_rows(Backend& backend) {
  i64 const width = 256;
  i64 const stride = (i64{1} << 31) + 4096;
  if (backend.memory().free < 6 * (i64{1} << 30)) {
    std::printf("not run: rows 4 GiB apart need 6 GiB of free device memory\n");
    return;
  }
  jet::DeviceBuffer const x = backend.allocate((stride + width) * i64{sizeof(jet::bf16)});
  jet::DeviceBuffer const y = backend.allocate(2 * width * i64{sizeof(float)});
  jet::DeviceBuffer const w = backend.allocate(width * i64{sizeof(float)});
  std::vector<jet::bf16> row(static_cast<std::size_t>(width), jet::bf16(3.0f));
  std::vector<float> ones(static_cast<std::size_t>(width), 1.0f);
  std::vector<float> result(static_cast<std::size_t>(2 * width));
  i64 const row_bytes = width * i64{sizeof(jet::bf16)};
  backend.zero(x.data(), row_bytes);
  backend.copy_from_host(x.data() + stride * i64{sizeof(jet::bf16)}, row.data(), row_bytes);
  backend.copy_from_host(w.data(), ones.data(), w.bytes());
  jet::View x_view(x.data(), jet::DType::bf16, jet::Shape{2, width});
  x_view.stride[0] = stride;
  jet::cuda::kernel::rms_norm(backend.stream(), 1e-6f, jet::Slot(w.data(), jet::DType::f32, jet::Shape{width}),
                              x_view, jet::View(y.data(), jet::DType::f32, jet::Shape{2, width}));
  backend.copy_to_host(result.data(), y.data(), y.bytes());
  backend.sync();
  expect(result[0] == 0.0f, jet::concat("rows 4 GiB apart: the first is ", result[0], ", expected 0"));
  expect(std::abs(result[static_cast<std::size_t>(width)] - 1.0f) < 1e-5f,
         jet::concat("rows 4 GiB apart: the second is ", result[static_cast<std::size_t>(width)], ", expected 1"));
}

// A planning pass has no memory: the kernel must not be reached.
void planning_runs_nothing(Backend& backend) {
  jet::ScratchStack counting = jet::ScratchStack::counting();
  jet::Context<Backend> context(backend, {}, counting);
  jet::View const nowhere(counting.take(64), jet::DType::f32, jet::Shape{2, 8});
  context.run(jet::op::RmsNorm{}, jet::Slot(nullptr, jet::DType::f32, jet::Shape{8}), nowhere, nowhere);
  backend.sync();
}

template <class Body> void expect_error(char const* words, Body const& body) {
  try {
    body();
    expect(false, jet::concat("no error, expected: ", words));
  } catch (jet::Error const& error) {
    expect(std::string(error.what()).find(words) != std::string::npos,
           jet::concat("the error '", error.what(), "' lacks the words: ", words));
  }
}

}  // namespace

int main() {
  return run_on_device([] {
    cudaStream_t stream = nullptr;
    jet::cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    {
      Backend backend(jet::BackendOptions{.stream = stream});
      for (i64 const rows : {0, 1, 3, 65}) {
        for (i64 const width : {1, 7, 48, 576, 1536, 4097}) {
          compare<float, float, float>(backend, rows, width, width, width, false);
          compare<float, float, float>(backend, rows, width, width + 1, width + 2, false);
          compare<float, float, float>(backend, rows, width, width, width, true);
          compare<jet::bf16, float, jet::bf16>(backend, rows, width, width, width, false);
          compare<jet::bf16, float, jet::bf16>(backend, rows, width, width + 3, width + 9, false);
          compare<jet::bf16, float, float>(backend, rows, width, width, width + 5, false);
          compare<float, float, jet::bf16>(backend, rows, width, width, width, false);
        }
      }
      for (i64 const width : {31, 32, 128, 129, 8960, 100003}) {
        compare<float, jet::bf16, float>(backend, 2, width, width, width, false);
        compare<jet::bf16, jet::bf16, jet::bf16>(backend, 2, width, width, width, false);
      }
      compare<jet::bf16, jet::bf16, jet::bf16>(backend, 70000, 8, 8, 8, false);
      compare<float, float, float>(backend, 0, 16, 16, 16, false);
      planning_runs_nothing(backend);
      far_rows(backend);

      float* const none = nullptr;
      jet::View const x(none, jet::DType::f32, jet::Shape{2, 4});
      expect_error("y must have the shape (2, 4)", [&] {
        jet::cuda::kernel::rms_norm(stream, 1e-6f, jet::Slot(none, jet::DType::f32, jet::Shape{4}), x,
                                    jet::View(none, jet::DType::f32, jet::Shape{2, 5}));
      });
      expect_error("weight must be a vector of 4", [&] {
        jet::cuda::kernel::rms_norm(stream, 1e-6f, jet::Slot(none, jet::DType::f32, jet::Shape{3}), x, x);
      });
      expect_error("x has dtype f16", [&] {
        jet::View const half(none, jet::DType::f16, jet::Shape{2, 4});
        jet::cuda::kernel::rms_norm(stream, 1e-6f, jet::Slot(none, jet::DType::f32, jet::Shape{4}), half, x);
      });
      jet::DeviceBuffer filled = backend.allocate(8);
      std::uint64_t word = 0;
      filled.poison();
      backend.copy_to_host(&word, filled.data(), 8);
      expect(word == ~std::uint64_t{0}, "poison fills with 0xff");
      filled.zero();
      backend.copy_to_host(&word, filled.data(), 8);
      expect(word == 0, "zero fills with 0");
      expect_error("out of device memory", [&] { (void)backend.allocate(i64{1} << 50); });
      expect_error("option device is 1000", [] { Backend(jet::BackendOptions{.device = 1000}); });
      Backend with_own_stream;
      expect(with_own_stream.stream() != nullptr && with_own_stream.stream() != stream, "a stream of its own");
      compare<float, float, float>(with_own_stream, 5, 96, 96, 96, false);
      backend.sync();
      std::printf("%s, device of compute capability %d\n", jet::cuda::architectures().c_str(),
                  backend.compute_capability());
    }
    jet::cuda_check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  });
}
