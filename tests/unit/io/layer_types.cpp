#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <jet/io/layer_types.hpp>

namespace {

using Names = std::vector<std::string>;

std::string error_of(jet::Json const& value) {
  try {
    jet::parse_layer_types(value, "config.json: layer_types");
  } catch (jet::Error const& error) {
    return error.what();
  }
  return "";
}

std::string repeat(std::string const& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) {
    result += text;
  }
  return result;
}

}  // namespace

TEST_CASE("layer_types: arrays") {
  CHECK(jet::parse_layer_types(jet::Json::parse(R"(["jet", "attn", "swa"])"), "x") == Names{"jet", "attn", "swa"});
  CHECK(jet::parse_layer_types(jet::Json::array(), "x").empty());
  CHECK(jet::parse_layer_types(jet::Json(std::vector<std::string>(4096, "jet")), "x").size() == 4096);
  CHECK(error_of(jet::Json(std::vector<std::string>(4097, "jet"))).find("at most 4096 layers, found 4097") !=
        std::string::npos);
  CHECK(error_of(jet::Json::parse(R"(["jet", 3])")).find("layer_types[1]: expected a mixer name, found 3") !=
        std::string::npos);
  CHECK(error_of(jet::Json::parse(R"([""])")).find("layer_types[0]") != std::string::npos);
  CHECK(error_of(jet::Json(3)).find("expected an array of strings or a string, found 3") != std::string::npos);
  CHECK(error_of(jet::Json()).find("found null") != std::string::npos);
}

TEST_CASE("layer_types: the grammar of strings") {
  struct Case {
    std::string text;
    Names layers;
  };
  Case const cases[] = {
      {"[]", {}},
      {"['jet']", {"jet"}},
      {"[\"jet\"]*3 + [\"attn\"]", {"jet", "jet", "jet", "attn"}},
      {"3*['a','b']", {"a", "b", "a", "b", "a", "b"}},
      {"(['a']+['b'])*2+['c']", {"a", "b", "a", "b", "c"}},
      {"((['a']*2+2*['b'])*1)", {"a", "a", "b", "b"}},
      {" \t[ 'a' , \"b\" ]\n* 2 ", {"a", "b", "a", "b"}},
      {"['a']*0+['b']", {"b"}},
      {"[\"it's\"]+['a \"b\"']", {"it's", "a \"b\""}},
      {"['a']+['b']*2", {"a", "b", "b"}},  // the product binds first
      {repeat("(", 32) + "['a']" + repeat(")", 32), {"a"}},
  };
  for (Case const& c : cases) {
    CAPTURE(c.text);
    CHECK(jet::parse_layer_types(jet::Json(c.text), "x") == c.layers);
  }
  CHECK(jet::parse_layer_types(jet::Json("['a']*4096"), "x").size() == 4096);
}

TEST_CASE("layer_types: everything else is refused with the position") {
  struct Case {
    std::string text;
    std::string message;
  };
  Case const cases[] = {
      {"__import__('os')", "expected '[' at character 0 of \"__import__('os')\""},
      {"['jet' for i in range(3)]", "expected ']' at character 7"},
      {"[open('x')]", "expected a quoted name at character 1"},
      {"['a'].__class__", "expected '+' or the end at character 5"},
      {"", "expected '[' at character 0"},
      {"jet", "expected '['"},
      {"['a'", "expected ']' at character 4"},
      {"['a", "expected a closing '"},
      {"['a\"]", "expected a closing '"},
      {"['a',]", "expected a quoted name at character 5"},
      {"['a' 'b']", "expected ']' at character 5"},
      {"['']", "empty name"},
      {"['a\\n']", "unexpected character in a name at character 3"},
      {"['a\nb']", "unexpected character in a name"},
      {"['a']*", "expected an integer at character 6"},
      {"['a']*-1", "expected an integer"},
      {"['a']*1.5", "expected '+' or the end"},
      {"['a']*02", "leading zero"},
      {"['a']*2*2", "expected '+' or the end at character 7"},
      {"2*3*['a']", "expected '['"},
      {"2*(['a'])", "expected '[' at character 2"},
      {"['a']*['b']", "expected an integer"},
      {"['a']+", "expected '['"},
      {"['a']-['b']", "expected '+' or the end"},
      {"(['a']", "expected ')'"},
      {"['a'])", "expected '+' or the end"},
      {"()", "expected '['"},
      {"['a']*4097", "multiplier larger than 4096"},
      {"['a']*99999999999999999999999999", "multiplier larger than 4096"},
      {"[]*1000000000", "multiplier larger than 4096"},
      {"['a','b']*4096", "list of 8192 layers is longer than 4096"},
      {"['a']*4096+['b']", "list of 4097 layers"},
      {"((['a']*4096)*4096)*4096", "list of 16777216 layers"},
      {repeat("(", 33) + "['a']" + repeat(")", 33), "nested deeper than 32"},
      {repeat("(", 4096), "nested deeper than 32"},
      {repeat(" ", 4097), "expected a text of at most 4096 characters, found 4097"},
  };
  for (Case const& c : cases) {
    CAPTURE(c.text);
    std::string const message = error_of(jet::Json(c.text));
    CAPTURE(message);
    CHECK(message.starts_with("jet: config.json: layer_types: "));
    CHECK(message.find(c.message) != std::string::npos);
  }
}
