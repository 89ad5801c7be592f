#include <doctest/doctest.h>

#include <limits>
#include <string>

#include <jet/io/json.hpp>

#include "file_support.hpp"

using tests::contains;
using tests::message_of;

TEST_CASE("json: values and key order survive") {
  jet::Json const json = jet::parse_json(
      R"({"z": 1, "a": [true, false, null, -3, 18446744073709551615, 1.5, "\u00e9\n"], "m": {"x": {}}})", "text");
  CHECK(json.dump() == R"({"z":1,"a":[true,false,null,-3,18446744073709551615,1.5,"é\n"],"m":{"x":{}}})");
  CHECK(jet::parse_json(" 7 ", "text") == 7);
  CHECK(jet::parse_json("[{\"a\":1},{\"a\":2}]", "text")[1]["a"] == 2);
}

TEST_CASE("json: large objects are linear") {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) {
    text += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":" + std::to_string(i);
  }
  jet::Json const json = jet::parse_json(text + "}", "text");  // quadratic time would be minutes
  CHECK(json.size() == 200'000);
  CHECK(message_of([&] { jet::parse_json(text + ",\"k7\":0}", "text"); }) != "");
}

TEST_CASE("json: files") {
  tests::ScratchDirectory const directory;
  auto const good = directory.write("good.json", "{\"a\": 3}");
  auto const empty = directory.write("empty.json", "");
  CHECK(jet::load_json(good)["a"] == 3);
  CHECK(contains(message_of([&] { jet::load_json(good, 7); }),
                 "good.json: expected at most 7 bytes of JSON, found 8"));
  CHECK(contains(message_of([&] { jet::load_json(empty); }), "empty.json: byte 0"));
  CHECK(contains(message_of([&] { jet::load_json(directory.path / "absent.json"); }),
                 "absent.json: cannot open: No such file or directory"));
  CHECK(
      contains(message_of([&] { jet::load_json(directory.path); }), "expected a regular file, found a directory"));
}

TEST_CASE("json: typed access") {
  jet::Json const json = jet::parse_json(R"({"int": 7, "low": -9223372036854775808, "high": 9223372036854775807,
      "beyond": 9223372036854775808, "below": -9223372036854775809, "whole": 1e3, "half": 1.5, "huge": 1e300,
      "text": "1e-5", "words": "abc", "tail": "1e-5x", "infinite": "inf", "blank": "", "yes": true, "null": null,
      "object": {"x": 1}, "array": [1]})",
                                         "text");
  auto const where = "config.json";
  CHECK(jet::get_int(json, "int", where) == 7);
  CHECK(jet::get_int(json, "low", where) == std::numeric_limits<jet::i64>::min());
  CHECK(jet::get_int(json, "high", where) == std::numeric_limits<jet::i64>::max());
  CHECK(jet::get_int(json, "whole", where) == 1000);
  for (auto const key : {"beyond", "below", "half", "huge", "text", "yes", "object", "array"}) {
    CAPTURE(key);
    std::string const expected = std::string("config.json: ") + key + ": expected an integer";
    CHECK(contains(message_of([&] { jet::get_int(json, key, where); }), expected));
    CHECK(contains(message_of([&] { jet::get_int(json, key, where, 1); }), expected));
    CHECK(contains(message_of([&] { jet::find_int(json, key, where); }), expected));
  }
  for (auto const key : {"null", "absent"}) {
    CAPTURE(key);
    CHECK(contains(message_of([&] { jet::get_int(json, key, where); }), "required, but absent or null"));
    CHECK(contains(message_of([&] { jet::get_object(json, key, where); }), "required, but absent or null"));
    CHECK(jet::get_int(json, key, where, 5) == 5);
    CHECK(!jet::find_int(json, key, where).has_value());
    CHECK(jet::get_number(json, key, where, 0.5) == 0.5);
    CHECK(jet::get_number_or_numeric_string(json, key, where, 0.5) == 0.5);
    CHECK(jet::get_bool(json, key, where, true));
    CHECK(jet::get_string(json, key, where, "x") == "x");
    CHECK(jet::find_object(json, key, where) == nullptr);
    CHECK(jet::find_array(json, key, where) == nullptr);
  }
  CHECK(jet::get_number(json, "half", where) == 1.5);
  CHECK(jet::get_number(json, "int", where) == 7);
  CHECK(contains(message_of([&] { jet::get_number(json, "text", where); }), "found the string \"1e-5\""));
  CHECK(jet::get_number_or_numeric_string(json, "text", where) == 1e-5);
  CHECK(jet::get_number_or_numeric_string(json, "half", where) == 1.5);
  for (auto const key : {"words", "tail", "infinite", "blank", "yes", "array"}) {
    CAPTURE(key);
    CHECK(contains(message_of([&] { jet::get_number_or_numeric_string(json, key, where); }), "expected a number"));
  }
  CHECK(jet::get_bool(json, "yes", where));
  CHECK(contains(message_of([&] { jet::get_bool(json, "int", where); }), "expected true or false, found 7"));
  CHECK(jet::get_string(json, "words", where) == "abc");
  CHECK(contains(message_of([&] { jet::get_string(json, "int", where); }), "expected a string, found 7"));
  CHECK(jet::get_object(json, "object", where)["x"] == 1);
  CHECK(contains(message_of([&] { jet::get_object(json, "array", where); }), "expected an object, found an array"));
  CHECK(jet::get_array(json, "array", where)[0] == 1);
  CHECK(contains(message_of([&] { jet::get_array(json, "object", where); }), "expected an array, found an object"));
  CHECK(
      contains(message_of([&] { jet::get_int(json["array"], "x", where); }), "expected an object, found an array"));
}
