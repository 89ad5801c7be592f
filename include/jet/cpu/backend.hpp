/// \file
/// The CPU backend: a precision policy, an instruction set and a number of threads.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include <jet/concepts.hpp>
#include <jet/core/arena.hpp>
#include <jet/core/backend_options.hpp>
#include <jet/core/error.hpp>
#include <jet/core/thread_pool.hpp>
#include <jet/cpu/simd/simd.hpp>
#include <jet/fwd.hpp>

JET_NAMESPACE_BEGIN

/// Runs models on any x86-64 machine. Supported policies: all roles f64; or acc f32 with weights, act and kv each
/// f32 or bf16. The recurrent state may be acc, f32, bf16 or f16.
template <Precision P> class Cpu {
 public:
  using tag = jet::tag::cpu;
  static constexpr Precision precision = P;
  static_assert(P.acc == DType::f32 || P.acc == DType::f64, "jet: the CPU backend accumulates in f32 or f64");
  /// The accumulation type.
  using scalar = type_of<P.acc>;
  static constexpr bool supported(DType t) { return t == P.acc || t == DType::bf16; }
  static_assert(supported(P.weights) && supported(P.act) && supported(P.kv_dtype()),
                "jet: on the CPU backend weights, act and kv are each the accumulation type or bf16");
  static_assert(supported(P.state) || P.state == DType::f32 || P.state == DType::f16,
                "jet: on the CPU backend the recurrent state is the accumulation type, f32, bf16 or f16");

  /// Tensors are in host memory: weights can be used where a file is mapped.
  static constexpr bool on_host = true;

  explicit Cpu(BackendOptions const& options = {})
      : threads_(options.threads > 0 ? options.threads : cpu::available_threads()),
        isa_(find_isa(options.isa)),
        kernels_(&cpu::kernels<scalar>(isa_)) {
    JET_CHECK(options.threads >= 0 && options.threads <= cpu::ThreadPool::max_threads, "option threads is ",
              options.threads, ", expected 0 to ", cpu::ThreadPool::max_threads);
  }

  int threads() const { return threads_; }
  cpu::Isa isa() const { return isa_; }
  cpu::KernelTable<scalar> const& kernels() const { return *kernels_; }

  /// f(task, worker) for every task; worker < threads().
  template <class F> void parallel(i64 tasks, F const& f) const { cpu::parallel_for(threads_, tasks, f); }

  /// A backend that only answers questions about sizes: for planning passes.
  static Cpu for_planning(BackendOptions const& options = {}) { return Cpu(options); }

  using Buffer = jet::HostBuffer;
  Buffer allocate(i64 bytes) const { return Buffer(bytes); }
  /// Memory of the host for results that are copied back.
  using HostBuffer = jet::HostBuffer;
  HostBuffer allocate_on_host(i64 bytes) const { return HostBuffer(bytes); }
  /// Whether kernels may use this address.
  bool reaches(void const*) const { return true; }
  /// Addresses may be null when `bytes` is 0.
  void zero(void* to, i64 bytes) const {
    if (bytes > 0) {
      std::memset(to, 0, static_cast<std::size_t>(bytes));
    }
  }
  void copy(void* to, void const* from, i64 bytes) const {
    if (bytes > 0) {
      std::memmove(to, from, static_cast<std::size_t>(bytes));
    }
  }
  void copy_to_host(void* to, void const* from, i64 bytes) const { copy(to, from, bytes); }
  void copy_from_host(void* to, void const* from, i64 bytes) const { copy(to, from, bytes); }
  void sync() const {}

  /// Runs f(), which does the same work each time that it is called with this recording. A backend may keep what it
  /// needs to start that work at once.
  struct Recording {};
  template <class F> void repeat(Recording&, F const& f) const { f(); }
  /// Rows of such a step for n sequences, at most `most`.
  i64 bucket(i64 n, i64) const { return n; }

 private:
  static cpu::Isa find_isa(std::string_view name) {
    if (name.empty()) {
      return cpu::best_isa();
    }
    std::string names;
    for (cpu::Isa const isa : cpu::available_isas()) {
      if (cpu::name_of(isa) == name) {
        return isa;
      }
      names += concat(names.empty() ? "" : ", ", cpu::name_of(isa));
    }
    fail("option isa is '", name, "'; this machine has ", names);
  }

  int threads_;
  cpu::Isa isa_;
  cpu::KernelTable<scalar> const* kernels_;
};

JET_NAMESPACE_END
