// How much memory a file may ask for.
#pragma once

#include <cstddef>

namespace hostile {

// The largest allocation that a file of this size justifies: a list of 4096 layers as the constant, and a JSON tree
// of single digits or a table of tokens as the multiple.
constexpr std::size_t justified(std::size_t file_bytes) {
  return 192 * 1024 + 20 * file_bytes;
}

}  // namespace hostile
