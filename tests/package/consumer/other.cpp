#include "jet_header.hpp"

jet::i64 bytes_in_other(jet::Shape const& shape) {
  JET_CHECK(shape.rank == 2, "a shape of rank ", shape.rank);
  return shape.numel() * jet::size_of(jet::DType::bf16);
}
