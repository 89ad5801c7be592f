// The options of programs that measure and record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "records.hpp"

// What programs that measure and record share of their command lines. Sizes of 0: the program's own choice.
struct RecordOptions {
  std::vector<std::string> only;
  std::filesystem::path json;
  std::string commit = "unknown", date = today(), command;
  std::int64_t prefill_tokens = 0, chunk = 0, steps = 0;
  bool small = false, again = false;

  // `only_what` and `small_what` describe --only and --small.
  void add_to(CLI::App& app, std::string const& only_what, std::string const& small_what) {
    app.add_option("--only", only, only_what + "; repeatable");
    app.add_option("--json", json, "records: read first, then one more after each measurement");
    app.add_option("--steps", steps, "decode steps that are timed");
    app.add_option("--prefill-tokens", prefill_tokens, "at least so many, in whole sequences");
    app.add_option("--chunk", chunk, "tokens of one call of a prefill");
    app.add_option("--commit", commit, "written to the records");
    app.add_option("--date", date, "written to the records")->capture_default_str();
    app.add_flag("--again", again, "measure what is recorded already");
    app.add_flag("--small", small, small_what);
  }
  // Sizes that were not given: those of --small, or the others.
  void complete() {
    auto const set = [&](std::int64_t& value, std::int64_t if_small, std::int64_t otherwise) {
      value = value > 0 ? value : small ? if_small : otherwise;
    };
    set(prefill_tokens, 256, 262144);
    set(chunk, 64, 65536);
    set(steps, 2, 32);
  }
};
