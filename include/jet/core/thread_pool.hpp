/// \file
/// Fork-join parallelism for the CPU backend: one persistent pool per process, whose workers spin for some tens of
/// microseconds after a job and then sleep, so that the many short jobs of a forward pass follow each other cheaply
/// and an idle process costs nothing.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN
namespace cpu {

/// Processors that this process may run on: its scheduling affinity where the system has one, else all; at least 1.
inline int available_threads() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return std::max(1, CPU_COUNT(&set));
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Use thread_pool() and parallel_for(). Workers are created on first need, never ended, and detached: at process
/// exit nothing is joined and nothing that they touch is destroyed.
class ThreadPool {
 public:
  /// More threads than this are never used.
  static constexpr int max_threads = 256;

  ThreadPool() = default;
  ThreadPool(ThreadPool const&) = delete;
  ThreadPool& operator=(ThreadPool const&) = delete;

  /// Workers that exist now, besides the callers.
  int workers() const { return workers_.load(std::memory_order_relaxed); }

  /// Calls f(task, worker) once for every task in [0, tasks), on at most `threads` threads including the caller,
  /// and returns when all are done. worker is in [0, threads) and no two calls with the same worker overlap within
  /// one parallel_for, so it may index scratch. Tasks are handed out in ascending order to whoever is free.
  ///
  /// Everything runs on the caller as worker 0 when threads <= 1 or tasks <= 1, inside another parallel_for, and
  /// while a different thread is using the pool. If a call throws, tasks not yet started are dropped and the first
  /// exception is rethrown here. No memory is allocated once the workers exist.
  template <class F> void parallel_for(int threads, i64 tasks, F const& f) {
    if (threads <= 1 || tasks <= 1 || inside() || busy_.exchange(true, std::memory_order_acquire)) {
      for (i64 task = 0; task < tasks; ++task) {
        f(task, 0);
      }
      return;
    }
    call_ = [](void const* context, i64 task, int worker) { (*static_cast<F const*>(context))(task, worker); };
    context_ = &f;
    tasks_ = tasks;
    run(static_cast<int>(std::min<i64>({threads, max_threads, tasks})));
  }

 private:
  /// A worker waits for `posted`, makes it `running`, and answers `idle`. The caller may take a posted job back
  /// (so that it never waits for a thread that has not woken up), and announces when it goes to sleep.
  enum State : int { idle, posted, running, awaited, parked };

  struct alignas(128) Slot {
    std::atomic<int> state{idle};
  };

  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds spin_time{40};

  static bool& inside() {
    static thread_local bool value = false;
    return value;
  }

  static void pause() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ __volatile__("yield");
#endif
  }

  /// Spins until the slot leaves `value` or spin_time is over; returns the last state seen.
  static int spin_while(Slot const& slot, int value) {
    auto const start = Clock::now();
    while (true) {
      for (int i = 0; i < 32; ++i) {
        int const state = slot.state.load(std::memory_order_acquire);
        if (state != value) {
          return state;
        }
        pause();
      }
      if (Clock::now() - start > spin_time) {
        return value;
      }
    }
  }

  void run(int threads) {
    next_.store(0, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    inside() = true;
    int const helpers = std::min(threads - 1, ensure_workers(threads - 1));
    for (int i = 0; i < helpers; ++i) {
      auto& state = slots_[static_cast<std::size_t>(i)].state;
      if (state.exchange(posted, std::memory_order_acq_rel) == parked) {
        state.notify_one();
      }
    }
    work(0);
    for (int i = 0; i < helpers; ++i) {
      join(slots_[static_cast<std::size_t>(i)]);
    }
    inside() = false;
    std::exception_ptr error;
    error.swap(error_);
    busy_.store(false, std::memory_order_release);
    if (error) {
      std::rethrow_exception(error);
    }
  }

  void work(int worker) {
    try {
      while (true) {
        i64 const task = next_.fetch_add(1, std::memory_order_relaxed);
        if (task >= tasks_) {
          return;
        }
        call_(context_, task, worker);
      }
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      if (!failed_.exchange(true, std::memory_order_relaxed)) {
        error_ = std::current_exception();
      }
    }
  }

  static void join(Slot& slot) {
    int expected = posted;
    if (slot.state.compare_exchange_strong(expected, idle, std::memory_order_acq_rel)) {
      return;
    }
    if (spin_while(slot, running) != running) {
      return;
    }
    expected = running;
    if (slot.state.compare_exchange_strong(expected, awaited, std::memory_order_acq_rel)) {
      slot.state.wait(awaited, std::memory_order_acquire);
    }
  }

  [[noreturn]] void serve(Slot& slot, int worker) {
    inside() = true;
    while (true) {
      int state = spin_while(slot, idle);
      if (state == idle) {
        if (slot.state.compare_exchange_strong(state, parked, std::memory_order_acq_rel)) {
          slot.state.wait(parked, std::memory_order_acquire);
        }
        continue;
      }
      if (!slot.state.compare_exchange_strong(state, running, std::memory_order_acq_rel)) {
        continue;  // taken back
      }
      work(worker);
      if (slot.state.exchange(idle, std::memory_order_acq_rel) == awaited) {
        slot.state.notify_one();
      }
    }
  }

  /// Creates workers up to `count`; where the system refuses, fewer. Only the thread that holds busy_ comes here.
  int ensure_workers(int count) {
    int have = workers_.load(std::memory_order_relaxed);
    try {
      for (; have < count; ++have) {
        auto& slot = slots_[static_cast<std::size_t>(have)];
        std::thread([this, &slot, worker = have + 1] { serve(slot, worker); }).detach();
      }
    } catch (...) {
    }
    workers_.store(have, std::memory_order_relaxed);
    return have;
  }

  // What a job is; written by the holder of busy_, published through the slots.
  void (*call_)(void const* context, i64 task, int worker) = nullptr;
  void const* context_ = nullptr;
  i64 tasks_ = 0;
  std::exception_ptr error_;

  alignas(128) std::atomic<i64> next_{0};
  alignas(128) std::atomic<bool> busy_{false};
  std::atomic<bool> failed_{false};
  std::atomic<int> workers_{0};
  std::array<Slot, max_threads - 1> slots_;
};

/// The process's pool. It is never destroyed (its workers may be alive when static objects are).
inline ThreadPool& thread_pool() {
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

/// thread_pool().parallel_for: calls f(i64 task, int worker) for every task, see ThreadPool.
template <class F> void parallel_for(int threads, i64 tasks, F const& f) {
  thread_pool().parallel_for(threads, tasks, f);
}

}  // namespace cpu
JET_NAMESPACE_END
