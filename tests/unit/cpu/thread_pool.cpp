#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <jet/core/thread_pool.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using jet::i64;
using jet::cpu::parallel_for;
using jet::cpu::thread_pool;

TEST_CASE("thread pool: every task runs once, on a worker within range") {
  for (int const threads : {-1, 0, 1, 2, 3, 7}) {
    for (i64 const tasks : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::atomic<bool> in_range{true};
      parallel_for(threads, tasks, [&](i64 task, int worker) {
        runs[static_cast<std::size_t>(task)].fetch_add(1);
        if (worker < 0 || worker >= std::max(threads, 1)) {
          in_range = false;
        }
      });
      CAPTURE(threads);
      CAPTURE(tasks);
      CHECK(in_range);
      bool once = true;
      for (auto const& count : runs) {
        once &= count == 1;
      }
      CHECK(once);
    }
  }
  CHECK(thread_pool().workers() <= 6);
  CHECK(jet::cpu::available_threads() >= 1);
}

TEST_CASE("thread pool: the tasks of one call run on different threads at once") {
  // Each task waits for the other: on one thread this would never end (so it gives up after a while).
  std::atomic<int> arrived{0};
  auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  parallel_for(2, 2, [&](i64, int) {
    arrived.fetch_add(1);
    while (arrived < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  });
  CHECK(arrived == 2);
  CHECK(std::chrono::steady_clock::now() < deadline);
}

TEST_CASE("thread pool: a worker index is never used twice at once, results are visible to the caller") {
  std::vector<std::atomic<int>> busy(4);
  std::vector<i64> sums(4 * 16);
  std::atomic<bool> overlap{false};
  i64 expected = 0;
  for (int round = 0; round < 300; ++round) {
    parallel_for(4, 20, [&](i64 task, int worker) {
      auto const w = static_cast<std::size_t>(worker);
      if (busy[w].exchange(1) != 0) {
        overlap = true;
      }
      sums[w * 16] += task;  // not atomic on purpose
      busy[w] = 0;
    });
    expected += 190;
    i64 total = 0;
    for (std::size_t w = 0; w < 4; ++w) {
      total += sums[w * 16];
    }
    REQUIRE(total == expected);
  }
  CHECK(!overlap);
}

TEST_CASE("thread pool: workers that sleep wake up") {
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far beyond the spinning
    std::atomic<int> arrived{0};
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    parallel_for(3, 3, [&](i64, int) {
      arrived.fetch_add(1);
      while (arrived < 3 && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
      }
    });
    CHECK(std::chrono::steady_clock::now() < deadline);
  }
}

TEST_CASE("thread pool: a caller that waits long sleeps and is woken") {
  std::atomic<int> done{0};
  std::atomic<int> arrived{0};
  parallel_for(2, 2, [&](i64, int worker) {
    arrived.fetch_add(1);
    auto const deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    if (worker == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    done.fetch_add(1);
  });
  CHECK(done == 2);
}

TEST_CASE("thread pool: nested calls run inline") {
  std::atomic<i64> sum{0};
  std::atomic<bool> inline_worker{true};
  parallel_for(3, 10, [&](i64 outer, int) {
    auto const self = std::this_thread::get_id();
    parallel_for(3, 10, [&](i64 inner, int worker) {
      if (worker != 0 || std::this_thread::get_id() != self) {
        inline_worker = false;
      }
      sum += outer * 10 + inner;
    });
  });
  CHECK(sum == 4950);
  CHECK(inline_worker);
}

TEST_CASE("thread pool: exceptions reach the caller and the pool goes on") {
  for (int const threads : {1, 3}) {
    for (int round = 0; round < 50; ++round) {
      std::string message;
      std::atomic<int> ran{0};
      try {
        parallel_for(threads, 1000, [&](i64 task, int) {
          ran.fetch_add(1);
          if (task == 7) {
            throw std::runtime_error("task 7");
          }
        });
      } catch (std::runtime_error const& error) {
        message = error.what();
      }
      CHECK(message == "task 7");
      CHECK(ran >= 8);
      i64 total = 0;
      std::atomic<i64> sum{0};
      parallel_for(threads, 10, [&](i64 task, int) { sum += task; });
      total = sum;
      CHECK(total == 45);
    }
  }
  // From a worker, while the caller is busy.
  std::atomic<int> arrived{0};
  CHECK_THROWS_AS(parallel_for(2, 2,
                               [&](i64, int worker) {
                                 arrived.fetch_add(1);
                                 while (arrived < 2) {
                                   std::this_thread::yield();
                                 }
                                 if (worker == 1) {
                                   throw std::out_of_range("from a worker");
                                 }
                               }),
                  std::out_of_range);
}

TEST_CASE("thread pool: callers on several threads at once") {
  std::vector<std::thread> users;
  std::vector<i64> totals(4, 0);
  for (std::size_t u = 0; u < 4; ++u) {
    users.emplace_back([u, &totals] {
      for (int round = 0; round < 200; ++round) {
        std::atomic<i64> sum{0};
        parallel_for(3, 50, [&](i64 task, int) { sum += task; });
        totals[u] += sum;
      }
    });
  }
  for (auto& user : users) {
    user.join();
  }
  for (i64 const total : totals) {
    CHECK(total == 200 * 1225);
  }
}
