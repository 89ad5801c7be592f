/// \file
/// Random inputs and comparisons for tests of blocks and ops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/rng.hpp>
#include <jet/testing/block_harness.hpp>
#include <jet/testing/reference.hpp>

JET_NAMESPACE_BEGIN
namespace testing {

/// Standard normals times `scale`.
inline reference::Matrix normal(i64 rows, i64 cols, std::uint64_t seed, double scale = 1) {
  reference::Matrix m(rows, cols);
  Random const random{seed, 7};
  for (std::size_t i = 0; i < m.data.size(); ++i) {
    m.data[i] = scale * static_cast<double>(random.normal(i));
  }
  return m;
}
inline reference::Matrix filled(i64 rows, i64 cols, double value) {
  reference::Matrix m(rows, cols);
  m.data.assign(m.data.size(), value);
  return m;
}

/// Equal bit for bit; -0 differs from 0.
inline bool same_bits(reference::Vector const& a, reference::Vector const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}
inline bool same_bits(reference::Matrix const& a, reference::Matrix const& b) {
  return a.rows == b.rows && a.cols == b.cols && same_bits(a.data, b.data);
}
inline bool same_bits(std::vector<StateValues> const& a, std::vector<StateValues> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) {
    same = a[i].name == b[i].name && a[i].shape == b[i].shape && same_bits(a[i].values, b[i].values);
  }
  return same;
}
inline bool all_finite(reference::Vector const& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return v - v == 0; });
}
inline bool all_finite(reference::Matrix const& m) {
  return all_finite(m.data);
}

/// Largest relative RMS over the rows of two states.
inline double state_distance(std::vector<StateValues> const& a, std::vector<reference::Vector> const& b) {
  JET_CHECK(a.size() == b.size(), "a state of ", a.size(), " rows is compared with one of ", b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, reference::relative_rms(a[i].values, b[i]));
  }
  return largest;
}
inline double state_distance(std::vector<StateValues> const& a, std::vector<StateValues> const& b) {
  std::vector<reference::Vector> values;
  for (auto const& row : b) {
    values.push_back(row.values);
  }
  return state_distance(a, values);
}

}  // namespace testing
JET_NAMESPACE_END
