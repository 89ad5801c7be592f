// Checks the CUDA backend of this build on this machine's GPU in about a minute: every op at odd sizes against the
// CPU's kernels, every block (a ragged prefill, three decode steps, the states after them) against the CPU in
// double precision, in fp32 and in bf16. Prints a table. Exit status: 0 all right, 1 something is wrong, 77 no
// device.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include <jet/core/error.hpp>

#include "cases.hpp"

namespace {

using namespace jet;

int wrong = 0;

void line(std::string const& what, std::string const& policy, double error, double bound) {
  bool const right = error <= bound;
  wrong += right ? 0 : 1;
  std::printf("%-48s %-5s %10.2e %10.2e  %s\n", what.c_str(), policy.c_str(), error, bound, right ? "ok" : "WRONG");
  std::fflush(stdout);
}

// The largest error of every op, as the case that comes closest to its bound has it.
void ops(Precision const& p, std::string const& policy) {
  std::vector<testing::OpResult> const got = selftest::ops_on_device(p);
  std::vector<testing::OpResult> const want = selftest::ops_on_cpu(p);
  JET_CHECK(got.size() == want.size(), "selftest: ", got.size(), " results on the device, ", want.size(),
            " on the CPU");
  struct Worst {
    double error = 0, bound = 0;
    int cases = 0;
  };
  std::map<std::string, Worst> worst;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const error = reference::relative_rms(got[i].values, want[i].values);
    double const bound = want[i].bound();
    Worst& w = worst[want[i].op()];
    if (w.cases++ == 0 || error * std::max(w.bound, 1e-30) > w.error * std::max(bound, 1e-30)) {
      w.error = error;
      w.bound = bound;
    }
  }
  for (auto const& [op, w] : worst) {
    line(concat(op, " (", w.cases, ")"), policy, w.error, w.bound);
  }
}

template <class Blocks> void blocks(Precision const& p, std::string const& policy) {
  std::vector<selftest::Trace> const got = selftest::on_device<Blocks>(p);
  std::vector<selftest::Trace> const want = selftest::on_cpu<Blocks>(got);
  double const bound = p == precision::f32 ? 1e-5 : 5e-3;  // of a whole layer
  for (std::size_t i = 0; i < got.size(); ++i) {
    line(got[i].block + ": prefill", policy, reference::relative_rms(got[i].prefill, want[i].prefill), bound);
    line(got[i].block + ": decode", policy, reference::relative_rms(got[i].decode, want[i].decode), bound);
    line(got[i].block + ": state", policy, testing::state_distance(got[i].state, want[i].state), bound);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    bool const help = std::strcmp(argv[1], "--help") == 0;
    std::fprintf(help ? stdout : stderr,
                 "selftest: checks the CUDA backend on this machine's GPU; takes no options\n");
    return help ? 0 : 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("selftest: no CUDA device: not run\n");
    return 77;
  }
  try {
    auto const start = std::chrono::steady_clock::now();
    cudaDeviceProp device{};
    int driver = 0;
    JET_CHECK(cudaGetDeviceProperties(&device, 0) == cudaSuccess && cudaDriverGetVersion(&driver) == cudaSuccess,
              "selftest: the device does not answer");
    std::printf("%s, compute capability %d.%d, driver for CUDA %d.%d\n\n", device.name, device.major, device.minor,
                driver / 1000, driver % 1000 / 10);
    std::printf("%-48s %-5s %10s %10s\n", "what (cases)", "", "error", "allowed");
    for (auto const& [p, policy] :
         {std::pair<Precision, std::string>{precision::f32, "fp32"}, {precision::bf16, "bf16"}}) {
      ops(p, policy);
      blocks<selftest::AttentionBlocks>(p, policy);
      blocks<selftest::JetBlocks>(p, policy);
      blocks<selftest::FamilyBlocks>(p, policy);
    }
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("\n%s (%.0f s)\n", wrong == 0 ? "all right" : concat(wrong, " wrong").c_str(), seconds);
    return wrong == 0 ? 0 : 1;
  } catch (std::exception const& error) {
    std::fprintf(stderr, "selftest: %s\n", error.what());
    return 1;
  }
}
