// What the CUDA test programs share: counting of failures, and the exit status 0 right, 1 wrong, 77 not run.
#pragma once

#include <cstdio>
#include <string>

inline int failures = 0;

inline void expect(bool right, std::string const& what) {
  if (!right) {
    std::printf("FAILED: %s\n", what.c_str());
    ++failures;
  }
}

inline int report() {
  std::printf(failures == 0 ? "ok\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

// The exit status of a program that found no device: what failed without one still counts.
inline int no_device() {
  std::printf("no CUDA device: not run\n");
  return failures == 0 ? 77 : 1;
}
