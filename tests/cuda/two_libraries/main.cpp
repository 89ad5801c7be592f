// Two shared libraries, built for sm_80 alone and for sm_90a alone, in one program. Neither holds PTX, so on any
// device at most one of them has kernels: were a launcher or the architecture list of one library used by the
// other, the wrong one would run, or refuse with the wrong list.
// Usage: two_libraries names      needs no device
//        two_libraries kernels    exit status 77 without a device
#include <cstdio>
#include <cstring>
#include <string>

#include "../check.hpp"
#include "library.hpp"

namespace {

void expect_architectures(Library const& library, std::string const& want) {
  expect(library.architectures() == want, "a library built for " + want + " says " + library.architectures());
}

void expect_run(Library const& library, bool has_kernels, std::string const& list, int device) {
  std::string const result = library.run();
  std::printf("library for %s: %s\n", list.c_str(), result.empty() ? "ran" : result.c_str());
  std::string const words =
      "built for " + list + ", device is " + std::to_string(device / 10) + "." + std::to_string(device % 10);
  expect(
      has_kernels ? result.empty() : result.find(words) != std::string::npos,
      has_kernels ? "the library for " + list + " must run" : "the library for " + list + " must refuse: " + words);
}

}  // namespace

int main(int argc, char** argv) {
  bool const kernels = argc > 1 && std::strcmp(argv[1], "kernels") == 0;
  Library const older = library_sm_80();
  Library const newer = library_sm_90a();
  expect_architectures(older, "sm_80");
  expect_architectures(newer, "sm_90");
  if (kernels) {
    int const device = newer.device();
    if (device == 0) {
      return no_device();
    }
    for (int round = 0; round < 2; ++round) {
      expect_run(older, device / 10 == 8, "sm_80", device);
      expect_run(newer, device == 90, "sm_90", device);
    }
  }
  return report();
}
