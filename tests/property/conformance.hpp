// A block held to what every block promises.
#pragma once

#include <string>

#include "count_allocations.hpp"
#include "property_cases.hpp"

namespace tests {

template <class M, class B> void conforms() {
  jet::testing::ConformanceOptions options;
  options.tolerance = tolerance(B::precision, Check::split);
  options.pieces = {window - 1, window, window + 1};
  options.allocations = [] { return allocations.load(); };
  auto const report = jet::testing::conformance<M, B>(options);
  CHECK(report.findings.size() == 12);
  for (auto const& finding : report.findings) {
    CAPTURE(finding.property);
    CHECK(finding.run);
    CHECK(finding.failure == "");
  }
  // any number of threads, under every instruction set
  options.only = "repeats";
  options.threads = {1, 3, 7};
  for (std::string const& isa : isas<B>()) {
    CAPTURE(isa);
    options.backend.isa = isa;
    auto const repeats = jet::testing::conformance<M, B>(options);
    CHECK(repeats.findings.size() == 1);
    CHECK(repeats.text() == "repeats: holds\n");
  }
}

}  // namespace tests
