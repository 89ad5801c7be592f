// Any bytes as a state file, loaded into a pool: refused with the sequence that was there untouched, or the pool
// holds what the file said.
#include <cstddef>
#include <cstdint>

#include <jet/io/state_file.hpp>

#include "../hostile/state_model.hpp"
#include "fuzz.hpp"
#include "json_mutator.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  static hostile::StatePool pool;
  static jet::SavedState const before = pool.filled(8, 1);
  fuzz::MemoryFile const file(fuzz::text_of(data, size));
  fuzz::AllocationLimit const limit(size);
  fuzz::reads([&] {
    jet::SavedState const state = jet::load_state(file.path());
    pool.load(before);
    bool const loaded = fuzz::reads([&] { pool.load(state); });
    jet::SavedState const& expected = loaded ? state : before;
    jet::SavedState const found = pool.save(expected.position);
    fuzz::require(found.rows.size() == expected.rows.size(), "every row is there");
    for (std::size_t i = 0; i < found.rows.size(); ++i) {
      fuzz::require(found.rows[i].data == expected.rows[i].data, "rows hold what was loaded");
    }
  });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  return fuzz::mutate_json(data, size, max_size, seed, true);
}
