// Golden files as doubles: what the reference implementations wrote, for every test that compares with it.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <jet/io/safetensors.hpp>
#include <jet/testing/reference.hpp>

namespace golden {

using jet::i64;
using jet::reference::Matrix;
using jet::reference::Vector;

/// A golden file whose tensors become doubles, without a conversion of the library's: all types in it convert
/// exactly.
class GoldenFile {
 public:
  explicit GoldenFile(std::string const& name) : file_(std::string(JET_TEST_DATA) + "/golden/" + name) {}

  bool has(std::string const& tensor) const { return file_.find(tensor) != nullptr; }

  std::vector<i64> const& shape(std::string const& tensor) const { return file_.at(tensor).shape; }

  /// All values in order.
  Vector values(std::string const& tensor) const {
    jet::SafetensorsTensor const& found = file_.at(tensor);
    if (found.file_dtype == "F64") {
      return convert<double>(found);
    }
    if (found.file_dtype == "F32") {
      return convert<float>(found);
    }
    REQUIRE_MESSAGE(found.file_dtype == "I64", file_.what(), ": ", tensor);
    return convert<i64>(found);
  }

  /// The last axis becomes the columns, all others the rows; a vector is one row.
  Matrix matrix(std::string const& tensor) const {
    Vector values_in_order = values(tensor);
    i64 const cols = shape(tensor).back();
    i64 const rows = std::ssize(values_in_order) / cols;
    return Matrix(rows, cols, std::move(values_in_order));
  }

  /// Element `b` of the first axis, its last axis as columns.
  Matrix slice(std::string const& tensor, i64 b) const {
    Matrix const all = matrix(tensor);
    i64 const rows = all.rows / shape(tensor)[0];
    return jet::reference::rows_of(all, b * rows, rows);
  }

 private:
  template <class T> static Vector convert(jet::SafetensorsTensor const& tensor) {
    Vector result;
    for (i64 offset = 0; offset < tensor.bytes; offset += static_cast<i64>(sizeof(T))) {
      T value{};
      std::memcpy(&value, tensor.data + offset, sizeof(T));
      result.push_back(static_cast<double>(value));
    }
    return result;
  }

  jet::SafetensorsFile file_;
};

}  // namespace golden
