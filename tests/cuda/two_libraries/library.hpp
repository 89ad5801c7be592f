// What each of the two libraries exports: a struct of functions under a name of its own.
#pragma once

#include <string>

struct Library {
  std::string (*architectures)();
  // "" if the device computed the right result, else what went wrong.
  std::string (*run)();
  // Compute capability of device 0 as 90 for 9.0; 0 without a device.
  int (*device)();
};

__attribute__((visibility("default"))) Library library_sm_80();
__attribute__((visibility("default"))) Library library_sm_90a();
