// A JSON array of records in a file, one per line, which is complete at any time: a run that is cut short goes on
// where it was.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <jet/io/atomic_file.hpp>
#include <jet/io/json.hpp>

class Records {
 public:
  // `keys` tell records apart. Reads the file if there is one; an empty path keeps the records in memory only.
  Records(std::filesystem::path file, std::vector<std::string> keys)
      : file_(std::move(file)), keys_(std::move(keys)) {
    if (!file_.empty() && std::filesystem::exists(file_)) {
      jet::Json const read = jet::load_json(file_);
      JET_CHECK(read.is_array(), file_.string(), ": expected an array of records");
      for (jet::Json const& record : read) {
        for (std::string const& key : keys_) {
          jet::get_member(record, key, file_.string());
        }
        records_.push_back(record);
      }
    }
  }

  std::vector<jet::Json>& all() { return records_; }

  // The record that agrees with `wanted` in every key, or null.
  jet::Json* find(jet::Json const& wanted) {
    for (jet::Json& record : records_) {
      bool same = true;
      for (std::string const& key : keys_) {
        same = same && record.at(key) == wanted.at(key);
      }
      if (same) {
        return &record;
      }
    }
    return nullptr;
  }

  // Adds a record, or replaces the one of the same keys, and writes the file.
  void put(jet::Json const& record) {
    if (jet::Json* const old = find(record)) {
      *old = record;
    } else {
      records_.push_back(record);
    }
    save();
  }

  void save() const {
    if (file_.empty()) {
      return;
    }
    jet::AtomicFile file(file_);
    file.write("[\n");
    for (std::size_t i = 0; i < records_.size(); ++i) {
      file.write(records_[i].dump() + (i + 1 < records_.size() ? ",\n" : "\n"));
    }
    file.write("]\n");
    file.commit();
  }

 private:
  std::filesystem::path file_;
  std::vector<std::string> keys_;
  std::vector<jet::Json> records_;
};

// To a multiple of 0.1 or 0.01 (a step of 1 / n), as short a number as it can be.
inline double rounded(double value, double step) {
  double const n = std::round(1 / step);
  return std::round(value * n) / n;
}

// Today, as 2026-01-31.
inline std::string today() {
  std::time_t const now = std::time(nullptr);
  char text[16] = {};
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

// The arguments as they were given.
inline std::string command_of(int argc, char** argv) {
  std::string text;
  for (int i = 0; i < argc; ++i) {
    text += std::string(i > 0 ? " " : "") +
            (i == 0 ? std::filesystem::path(argv[i]).filename().string() : std::string(argv[i]));
  }
  return text;
}

// A number of a record for a table; "-" where it has none.
inline std::string number_text(jet::Json const& record, char const* key, int digits) {
  char text[32] = "-";
  if (record.contains(key)) {
    std::snprintf(text, sizeof text, "%.*f", digits, record.at(key).get<double>());
  }
  return text;
}
