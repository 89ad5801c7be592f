/// \file
/// Work that is recorded once and replayed: a CUDA graph that owns itself.
#pragma once

#include <memory>
#include <type_traits>

#include <cuda_runtime_api.h>

#include <jet/core/macros.hpp>
#include <jet/cuda/arch.cuh>
#include <jet/cuda/error.cuh>

JET_CUDA_NAMESPACE_BEGIN

/// What Backend::repeat keeps between calls of the same work.
class Recording {
 public:
  /// Queues f(): the first time as it is (kernels are loaded, shapes are looked up), the second time recorded, from
  /// then on as one launch. f queues the same work on `stream` every time, allocates nothing and waits for nothing.
  template <class F> void run(cudaStream_t stream, F const& f) {
    if (!seen_) {
      f();
      seen_ = true;
      return;
    }
    if (graph_ == nullptr) {
      Graph const graph = capture(stream, f);
      cudaGraphExec_t executable = nullptr;
      cuda_check(cudaGraphInstantiate(&executable, graph.get(), 0), "cudaGraphInstantiate");
      graph_.reset(executable);
      cuda_check(cudaGraphUpload(executable, stream), "cudaGraphUpload");
    }
    cuda_check(cudaGraphLaunch(graph_.get(), stream), "cudaGraphLaunch");
  }
  /// Whether the next run is recorded or replayed.
  bool seen() const { return seen_; }
  bool recorded() const { return graph_ != nullptr; }

 private:
  struct DestroyGraph {
    void operator()(cudaGraph_t graph) const { (void)cudaGraphDestroy(graph); }
  };
  struct DestroyExecutable {
    void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
  };

  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;

  template <class F> static Graph capture(cudaStream_t stream, F const& f) {
    cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t captured = nullptr;
    try {
      f();
    } catch (...) {
      (void)cudaStreamEndCapture(stream, &captured);  // or the stream stays unusable
      (void)cudaGetLastError();
      if (captured != nullptr) {
        (void)cudaGraphDestroy(captured);
      }
      throw;
    }
    cuda_check(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
    return Graph(captured);
  }

  bool seen_ = false;
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyExecutable> graph_;
};

JET_CUDA_NAMESPACE_END
