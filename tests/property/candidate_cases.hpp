// The candidate blocks that properties are tried on.
#pragma once

#include "conformance.hpp"

namespace tests {

/// As `conforms`; thread counts and instruction sets are those of the ops, which are tried elsewhere.
template <class M, class B> void candidate_conforms() {
  jet::testing::ConformanceOptions options;
  options.tolerance = tolerance(B::precision, Check::split);
  options.threads = {1, 3};
  options.allocations = [] { return allocations.load(); };
  auto const report = jet::testing::conformance<M, B>(options);
  CHECK(report.findings.size() == 12);
  for (auto const& finding : report.findings) {
    CAPTURE(finding.property);
    CHECK(finding.run);
    CHECK(finding.failure == "");
  }
}

}  // namespace tests
