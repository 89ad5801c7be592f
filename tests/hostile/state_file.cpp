// State files that are damaged, foreign, or of another model.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <jet/io/state_file.hpp>

#include "hostile.hpp"
#include "state_model.hpp"

namespace {

using hostile::appended;
using hostile::Case;
using hostile::Change;
using hostile::cut_at;
using hostile::header;
using hostile::replaced;
using jet::DType;

struct Fixture {
  tests::ScratchDirectory directory;
  std::filesystem::path path = directory.path / "state";

  std::string file_of(jet::SavedState const& state) const {
    jet::save_state(path, state);
    return tests::read_file(path);
  }
};

// A state of two rows of plan "AB".
jet::SavedState small_state() {
  jet::SavedState state{"AB", 5, {}};
  state.rows.push_back({0, 'A', "mixer.key", DType::bf16, {5, 1, 2}, std::vector<std::byte>(20, std::byte{1})});
  state.rows.push_back({1, 'B', "mlp.shift", DType::f32, {3}, std::vector<std::byte>(12, std::byte{2})});
  return state;
}

Change in_header(std::string const& from, std::string const& to) {
  return header(replaced(from, to));
}

}  // namespace

TEST_CASE("hostile state file: what load_state refuses") {
  Fixture const fixture;
  std::string const good = fixture.file_of(small_state());
  std::string const rows = R"("rows":"layers.0.mixer.key\nlayers.1.mlp.shift\n")";
  std::vector<Case> cases{
      {"cut in the data", cut_at(-1), {"truncated?"}},
      {"cut in the header", cut_at(60), {"truncated?"}},
      {"a byte more", appended("x"), {"the tensors end at 32, but the file has 33"}},
      {"no metadata", in_header("__metadata__", "__metadata"), {"header", "tensor \"__metadata\""}},
      {"of another format",
       in_header("jet_state", "pt"),
       {"metadata format: expected \"jet_state\", found \"pt\""}},
      {"of another version",
       in_header("\"version\":\"1\"", "\"version\":\"2\""),
       {"metadata version: expected 1, found \"2\""}},
      {"a plan that is shorter",
       in_header("\"AB\"", "\"A\""),
       {"layer 1, expected 0 to 0 of plan \"A\""},
       in_header("\"AB\"", "\"ABC\"")},
      {"no plan", in_header("\"AB\"", "\"\""), {"layer 0, expected 0 to -1"}},
      {"a plan with an escape sequence",
       in_header("\"AB\"", "\"\\u001b[2J\""),
       {"metadata plan: expected letters, found \"\\x1b[2J\""}},
      {"no rows", in_header(rows, "\"rows\":\"\""), {"tensor \"layers.0.mixer.key\": not named by metadata rows"}},
      {"rows that do not end", in_header("shift\\n", "shift"), {"the last line is not complete"}},
      {"a row twice",
       in_header("\\nlayers.1.mlp.shift", "\\nlayers.0.mixer.key"),
       {"row \"layers.0.mixer.key\"", "named twice"}},
      {"a row that is not there",
       in_header("\\nlayers.1.mlp.shift", "\\nlayers.1.mlp.other"),
       {"tensor \"layers.1.mlp.other\": not in the file"}},
      {"a dtype that states do not have",
       in_header("\"F32\",\"shape\":[3]", "\"I16\",\"shape\":[6]"),
       {"dtype I16 cannot be read"},
       in_header("[3]", "[1,3]")},
  };
  for (std::string const key : {"format", "version", "plan", "position", "rows"}) {
    cases.push_back(
        {"no " + key, in_header("\"" + key + "\":", "\"x" + key + "\":"), {"metadata " + key + ": absent"}});
  }
  for (std::string const position : {"-1", "-0", "", "5x", " 5", "0x5", "9223372036854775808", "1e3"}) {
    cases.push_back({"position " + position,
                     in_header("\"position\":\"5\"", "\"position\":\"" + position + "\""),
                     {"metadata position: expected an integer of at least 0, found \"" + position + "\""},
                     in_header("\"position\":\"5\"", "\"position\":\"9223372036854775807\"")});
  }
  for (std::string const name :
       {"layers.x.shift", "layers.-1.a", "layers.+1.a", "layers.1.", "layers.1", "layer.1.a", "layers.01.a",
        "layers.99999999999999999999.a", "layers..a", "layers.1.\\u001b"}) {
    auto const renamed = [](std::string const& to) {
      return header([to](std::string const& text) {
        return replaced("layers.1.mlp.shift", to)(replaced("\"layers.1.mlp.shift\"", "\"" + to + "\"")(text));
      });
    };
    cases.push_back({"a row called " + name,
                     renamed(name),
                     {"expected a name of the form layers.<number>.<row>"},
                     renamed("layers.1.a")});
  }
  hostile::check(fixture.path, good, cases, [&] { jet::load_state(fixture.path); });
}

TEST_CASE("hostile state file: what a pool refuses, and the sequence that was there goes on") {
  Fixture const fixture;
  hostile::StatePool pool;
  std::string const good = fixture.file_of(pool.filled(5, 7));
  std::vector<Case> const cases{
      {"a position beyond max_len",
       in_header("\"position\":\"5\"", "\"position\":\"9223372036854775807\""),
       {"state: position 9223372036854775807, expected 0 to max_len 8"}},
      {"a position that the rows contradict",
       in_header("\"position\":\"5\"", "\"position\":\"6\""),
       {"has another shape than position 6 needs"}},
      {"another plan", in_header("\"JAS\"", "\"JSA\""), {"saved under plan \"JSA\", the running plan is \"JAS\""}},
      {"another dtype",
       in_header("\"F32\",\"shape\":[5, 1, 2]", "\"BF16\",\"shape\":[5, 2, 2]"),
       {"is bf16, the pool's is f32"}},
      {"extents in another order", in_header("[5, 1, 2]", "[5, 2, 1]"), {"has another shape"}},
      {"rows in another order",
       header([](std::string const& text) {
         return replaced("layers.1.mixer.key\\nlayers.1.mixer.value\\n",
                         "layers.1.mixer.value\\nlayers.1.mixer.key\\n")(text);
       }),
       {"expected row 'mixer.key' of layer 1 (A), found 'mixer.value'"}},
  };
  hostile::check(
      fixture.path, good, cases,
      [&] {
        jet::SavedState const loaded = jet::load_state(fixture.path);
        pool.load(pool.filled(8, 1));
        try {
          pool.load(loaded);
        } catch (jet::Error const&) {
          for (jet::SavedRow const& row : pool.save(8).rows) {
            CHECK(row.data == std::vector<std::byte>(row.data.size(), std::byte{1}));
          }
          throw;
        }
        for (jet::SavedRow const& row : pool.save(5).rows) {
          CHECK(row.data == std::vector<std::byte>(row.data.size(), std::byte{7}));
        }
      },
      "state: ");
}
