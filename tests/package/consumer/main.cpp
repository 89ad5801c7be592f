// Two translation units that include the same headers make one program: everything in them is inline or a template.
#include "jet_header.hpp"

#include <cstdio>

jet::i64 bytes_in_other(jet::Shape const& shape);

int main() {
  jet::Shape const shape{2, 3};
  bool const same = bytes_in_other(shape) == shape.numel() * jet::size_of(jet::DType::bf16);
  std::printf("jet %d.%d.%d: %s\n", JET_VERSION_MAJOR, JET_VERSION_MINOR, JET_VERSION_PATCH,
              same ? "ok" : "differs");
  return same ? 0 : 1;
}
