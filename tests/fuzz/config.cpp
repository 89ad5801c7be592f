// Any text as a config.json: refused, or a description that is compared with a type, written, and read back equal.
#include <cstddef>
#include <cstdint>

#include <jet/io/hf_config.hpp>
#include <jet/io/json.hpp>

#include "../hostile/state_model.hpp"
#include "fuzz.hpp"
#include "json_mutator.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz::AllocationLimit const limit(size);
  fuzz::reads([&] {
    jet::Json const json = jet::parse_json(fuzz::text_of(data, size), "config.json");
    jet::ModelDescription const model = jet::read_config(json, "config.json");
    fuzz::reads([&] { jet::check_config<hostile::StateModel>(json, "config.json"); });
    jet::Json const written = jet::config_of(model, jet::DType::f32, json);
    jet::ModelDescription const again = jet::read_config(written, "written");
    fuzz::require(jet::differences(model, again).empty(), "a written config says the same");
  });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed, false);
}
