/// \file
/// What a model will need, before anything is allocated.
#pragma once

#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include <jet/core/dtype.hpp>
#include <jet/core/macros.hpp>

JET_NAMESPACE_BEGIN

/// Bytes by purpose.
struct MemoryPlan {
  i64 weights = 0;  // allocated or mapped by this engine; shared ones are not counted
  i64 shared = 0;   // used from another store
  i64 kv = 0;
  i64 recurrent = 0;
  i64 conv = 0;
  i64 scratch = 0;
  i64 logits = 0;
  i64 batch = 0;  // token ids, positions and slots in the backend's memory

  i64 total() const { return weights + kv + recurrent + conv + scratch + logits + batch; }
  friend bool operator==(MemoryPlan const&, MemoryPlan const&) = default;

  /// A table of MiB, one line per purpose.
  std::string table() const {
    std::array<std::pair<char const*, i64>, 8> const rows{{{"weights", weights},
                                                           {"kv", kv},
                                                           {"recurrent", recurrent},
                                                           {"conv", conv},
                                                           {"scratch", scratch},
                                                           {"logits", logits},
                                                           {"batch", batch},
                                                           {"total", total()}}};
    std::string text;
    char line[64];
    for (auto const& [name, bytes] : rows) {
      std::snprintf(line, sizeof line, "%-10s %12.2f MiB\n", name, static_cast<double>(bytes) / (1024.0 * 1024.0));
      text += line;
    }
    if (shared > 0) {
      std::snprintf(line, sizeof line, "%-10s %12.2f MiB (not counted)\n", "shared",
                    static_cast<double>(shared) / (1024.0 * 1024.0));
      text += line;
    }
    return text;
  }
};

JET_NAMESPACE_END
