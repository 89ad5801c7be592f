// What the examples share: records that survive an interrupted run, charts.
#include "../../examples/records.hpp"

#include "../../examples/chart.hpp"
#include "file_support.hpp"

namespace {

using jet::Json;

Json record(std::string const& model, int context, double rate) {
  return {{"model", model}, {"context", context}, {"rate", rate}};
}

TEST_CASE("records are appended, replaced and read again") {
  tests::ScratchDirectory directory;
  auto const file = directory.path / "records.json";
  {
    Records records(file, {"model", "context"});
    CHECK(records.all().empty());
    records.put(record("a", 1, 0.5));
    records.put(record("a", 2, 1.5));
    records.put(record("a", 1, 2.5));
  }
  Records records(file, {"model", "context"});
  REQUIRE(records.all().size() == 2);
  REQUIRE(records.find(record("a", 1, 0)) != nullptr);
  CHECK(records.find(record("a", 1, 0))->at("rate") == 2.5);
  CHECK(records.find(record("b", 1, 0)) == nullptr);
  CHECK(tests::read_file(file) ==
        "[\n{\"model\":\"a\",\"context\":1,\"rate\":2.5},\n{\"model\":\"a\",\"context\":2,\"rate\":1.5}\n]\n");
}

TEST_CASE("a file of something else is refused and stays as it is") {
  tests::ScratchDirectory directory;
  auto const file = directory.path / "records.json";
  for (std::string const text : {"{}", "[{\"model\": \"a\"}]", "[1]", "[{\"model\": \"a\", \"conte"}) {
    tests::write_file(file, text);
    CHECK(tests::contains(tests::message_of([&] { Records(file, {"model", "context"}); }), "records.json"));
    CHECK(tests::read_file(file) == text);
  }
}

TEST_CASE("a chart has a line per series and nothing that is not finite") {
  Panel const panel{"a < b", {{"one", {{4096, 10}, {8192, 1000}}}, {"two", {{4096, 3}}}}};
  std::string const svg = svg_chart({panel, {"empty", {}}}, "context");
  auto const count = [&](std::string const& part) {
    int n = 0;
    for (std::size_t at = svg.find(part); at != svg.npos; at = svg.find(part, at + 1)) {
      ++n;
    }
    return n;
  };
  CHECK(count("<polyline") == 2);
  CHECK(count("<circle") == 3);
  CHECK(count("a &lt; b") == 1);
  CHECK(count(">8K<") == 1);
  CHECK(count("nan") == 0);
  CHECK(count("inf") == 0);
}

}  // namespace
