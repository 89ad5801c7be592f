// Any bytes as a safetensors file: refused, or every byte of every tensor can be read and the file can be written
// again.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <jet/io/safetensors.hpp>

#include "fuzz.hpp"
#include "json_mutator.hpp"

namespace {

void check_written(jet::SafetensorsFile const& file) {
  std::vector<jet::SafetensorsSource> sources;
  std::string data;
  for (jet::SafetensorsTensor const& tensor : file.tensors()) {
    if (tensor.dtype == jet::DType::none) {
      return;
    }
    sources.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.data, nullptr});
    data.append(reinterpret_cast<char const*>(tensor.data), static_cast<std::size_t>(tensor.bytes));
  }
  std::string header;
  if (!fuzz::reads([&] { header = jet::detail::safetensors_header(sources, file.metadata(), "written"); })) {
    return;  // a name that is empty
  }
  std::string const bytes = header + data;
  jet::SafetensorsFile const again = jet::SafetensorsFile::from_memory(std::as_bytes(std::span(bytes)), "written");
  fuzz::require(again.metadata() == file.metadata(), "metadata survives");
  fuzz::require(again.tensors().size() == file.tensors().size(), "tensors survive");
  for (jet::SafetensorsTensor const& tensor : file.tensors()) {
    jet::SafetensorsTensor const& other = again.at(tensor.name);
    fuzz::require(other.dtype == tensor.dtype && other.shape == tensor.shape && other.bytes == tensor.bytes,
                  "dtype and shape survive");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz::AllocationLimit const limit(size);
  fuzz::reads([&] {
    auto const file = jet::SafetensorsFile::from_memory(std::as_bytes(std::span(data, size)), "fuzzed.safetensors");
    unsigned sum = 0;
    std::size_t covered = 0;
    for (jet::SafetensorsTensor const& tensor : file.tensors()) {
      for (std::byte const b : std::span(tensor.data, static_cast<std::size_t>(tensor.bytes))) {
        sum += std::to_integer<unsigned>(b);
      }
      covered += static_cast<std::size_t>(tensor.bytes);
      fuzz::require(file.find(tensor.name) == &tensor, "tensors are found by name");
    }
    std::size_t header = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      header |= std::size_t{data[i]} << (8 * i);
    }
    fuzz::require(8 + header + covered == size && sum <= 255 * covered, "tensors cover the data once");
    check_written(file);
  });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed, true);
}
