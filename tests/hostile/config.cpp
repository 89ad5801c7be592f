// JSON that is not what it seems, and configs whose numbers are traps.
#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include <jet/io/hf_config.hpp>
#include <jet/io/json.hpp>

#include "hostile.hpp"

namespace {

using hostile::becomes;
using hostile::Case;
using hostile::Change;
using hostile::replaced;
using jet::Json;

std::string nested(std::size_t depth, char open, char close) {
  return std::string(depth, open) + std::string(depth, close);
}

// Sets the member at a path such as "rope_scaling/factor".
Change set(std::string const& path, Json const& value) {
  return [path, value](std::string const& text) {
    Json config = jet::parse_json(text, "good");
    config[Json::json_pointer("/" + path)] = value;
    return config.dump();
  };
}

std::filesystem::path golden(std::string const& name) {
  return std::filesystem::path(JET_TEST_DATA) / "golden" / name / "config.json";
}

void check_config(std::string const& good, std::vector<Case> const& cases) {
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "config.json";
  hostile::check(path, good, cases, [&] { jet::read_config(jet::load_json(path), path.string()); });
}

// A jet_hybrid of two layers.
Json hybrid() {
  return {{"model_type", "jet_hybrid"},
          {"vocab_size", 10},
          {"hidden_size", 8},
          {"intermediate_size", 0},
          {"num_hidden_layers", 2},
          {"layer_types", {"x", "x"}},
          {"blocks", {{"x", {{"kind", "mine"}, {"d_model", 8}, {"gain", 0.5}}}}}};
}

}  // namespace

TEST_CASE("hostile JSON: texts that no reader may take") {
  struct Row {
    std::string bad;
    std::string words;
    std::string twin;
  };
  std::string const zero("{}\0{}", 5);
  std::vector<Row> const rows{
      {"", "byte 0 (line 1, column 1): not valid JSON", "0"},
      {"{\"a\":1", "byte 6", "{\"a\":1}"},
      {"{\"a\":1}\n x", "byte 9 (line 2, column 2)", "{\"a\":1}\n  "},
      {"{\"a\":1}{\"a\":1}", "byte 7 (line 1, column 8): not valid JSON", "[{\"a\":1},{\"a\":1}]"},
      {"[1,]", "not valid JSON", "[1]"},
      {"[NaN]", "not valid JSON", "[null]"},
      {"[Infinity]", "not valid JSON", "[1e308]"},
      {"[01]", "not valid JSON", "[1]"},
      {"[+1]", "not valid JSON", "[-1]"},
      {"{'a':1}", "not valid JSON", "{\"a\":1}"},
      {"// note\n1", "not valid JSON", "\n1"},
      {"{\"a\":1,\"b\":{},\"a\":2}", "byte 16 (line 1, column 17): duplicate key \"a\"",
       "{\"a\":1,\"b\":{\"a\":2}}"},
      {"[{\"k\":{\"k\":1,\"k\":1}}]", "duplicate key \"k\"", "[{\"k\":{\"k\":1}},{\"k\":1}]"},
      {"{\"a\":1,\"\\u0061\":2}", "duplicate key \"a\"", "{\"a\":1,\"\\u0062\":2}"},
      {nested(65, '[', ']'), "nested deeper than 64 levels", nested(64, '[', ']')},
      {std::string(2'000'000, '['), "nested deeper than 64 levels", "[]"},
      {"{\"a\":" + std::string(100'000, '['), "nested deeper than 64 levels", "{\"a\":[]}"},
      {"[\"\xff\"]", "byte 2 (line 1, column 3): invalid UTF-8", "[\"\xc3\xa9\"]"},
      {"[\"\xc0\xaf\"]", "byte 2 (line 1, column 3): invalid UTF-8", "[\"/\"]"},                 // overlong
      {"[\"\xed\xa0\x80\"]", "byte 2 (line 1, column 3): invalid UTF-8", "[\"\xee\x80\x80\"]"},  // a surrogate
      {"[\"\xf4\x90\x80\x80\"]", "invalid UTF-8", "[\"\xf4\x8f\xbf\xbf\"]"},                     // beyond U+10FFFF
      {"[\"\xe2\x82", "byte 2 (line 1, column 3): invalid UTF-8", "[\"\xe2\x82\xac\"]"},
      {"[\"\\ud800\"]", "not valid JSON", "[\"\\ud83d\\ude00\"]"},
      {zero, "byte 2 (line 1, column 3): zero byte", "{}  "},
      {"[1e999]", "byte 5 (line 1, column 6): number beyond the range of a double", "[1e300]"},
      {"[" + std::string(400, '9') + "]", "number beyond the range of a double", "[" + std::string(300, '9') + "]"},
      {"[\"a\tb\"]", "not valid JSON", "[\"a\\tb\"]"},
      {"[\"\x1b[31m\"]", "not valid JSON", "[\"\\u001b[31m\"]"},
  };
  std::vector<Case> cases;
  for (Row const& row : rows) {
    cases.push_back({row.words, becomes(row.bad), {"a.json: byte ", row.words}, becomes(row.twin)});
  }
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "a.json";
  hostile::check(path, "{}", cases, [&] { jet::load_json(path); });
}

TEST_CASE("hostile config: the numbers of a Jet-Nemotron") {
  std::string const jet = "efficient_attention_config/jet/";
  std::string const swa = "efficient_attention_config/swa/";
  constexpr std::int64_t largest = std::int64_t{1} << 31;
  check_config(
      tests::read_file(golden("tiny_jet_a")),
      {
          {"zero bytes after it", hostile::appended(std::string("\0", 1)), {"zero byte"}},
          {"an array", becomes("[]"), {"expected an object, found an array"}},
          {"a type that is no string", set("model_type", 3), {"model_type: expected a string, found 3"}},
          {"a type with an escape sequence", set("model_type", "\x1b[2J"), {"found \"\\x1b[2J\""}},
          {"a negative width", set("hidden_size", -64), {"hidden_size: expected 1 to 2147483648, found -64"}},
          {"a width of 2^31 + 1",
           set("hidden_size", largest + 1),
           {"hidden_size: expected 1 to", "found 2147483649"}},
          {"a width beyond 64 bits",
           set("hidden_size", 18446744073709551615u),
           {"hidden_size: expected an integer of 64 bits, found 18446744073709551615"}},
          {"a width with a fraction",
           set("hidden_size", 64.5),
           {"hidden_size: expected an integer"},
           set("hidden_size", 64.0)},
          {"a width that is a list",
           set("hidden_size", {64}),
           {"hidden_size: expected an integer of 64 bits, found an array"}},
          {"a width that is true", set("hidden_size", true), {"found true"}},
          {"a vocabulary of 2^40",
           set("vocab_size", std::int64_t{1} << 40),
           {"vocab_size: expected 1 to"},
           set("vocab_size", largest)},
          {"no layers", set("num_hidden_layers", 0), {"num_hidden_layers: expected 1 to 4096, found 0"}},
          {"a million layers", set("num_hidden_layers", 1'000'000), {"expected 1 to 4096, found 1000000"}},
          {"other layers than it says",
           set("num_hidden_layers", 7),
           {"layer_types: 6 layers, num_hidden_layers says 7"}},
          {"heads of zero", set("num_attention_heads", 0), {"num_attention_heads: expected 1 to"}},
          {"a head size whose product wraps",
           set(jet + "head_dim", std::int64_t{1} << 62),
           {"jet: head_dim: expected 1 to"}},
          {"heads that do not share the width", set("num_attention_heads", 5), {"num_attention_heads 5"}},
          {"a generator that divides nothing",
           set(jet + "dconv_generator_reduction", 7),
           {"7 does not divide"},
           set(jet + "dconv_generator_reduction", 4)},
          {"a factor of 1e300", set(jet + "expand_v", 1e300), {"expand_v", "is not a head size"}},
          {"a negative factor", set(jet + "expand_v", -2), {"expand_v", "is not a head size"}},
          {"a factor between two sizes",
           set(jet + "expand_v", 2.51),
           {"expected an integer within 1e-5"},
           set(jet + "expand_v", 2.5)},
          {"an epsilon in words",
           set(jet + "norm_eps", "inf"),
           {"norm_eps: expected a number or a string that holds one"},
           set(jet + "norm_eps", "1e-300")},
          {"a negative epsilon",
           set("rms_norm_eps", -1e-300),
           {"rms_norm_eps: expected at least 0"},
           set("rms_norm_eps", 0)},
          {"a window of zero",
           set(swa + "window_size", 0),
           {"window_size: expected 1 to"},
           set(swa + "window_size", largest)},
          {"a key of its own", set(jet + "use_gate", true), {"unknown keys \"use_gate\""}},
          {"a key with an escape sequence", set(jet + "\x1b[2J", true), {"unknown keys \"\\x1b[2J\""}},
          {"a rotary base of zero",
           set("rope_theta", 0),
           {"rope_theta: expected more than 0"},
           set("rope_theta", 1e-300)},
          {"scaling by zero",
           set("rope_scaling", {{"rope_type", "llama3"},
                                {"factor", 0},
                                {"low_freq_factor", 1},
                                {"high_freq_factor", 4},
                                {"original_max_position_embeddings", 8}}),
           {"rope_scaling: factor: expected more than 0"}},
          {"scaling per kind of layer",
           set("rope_scaling", {{"\x1b", Json::object()}}),
           {"\\x1b: rotary settings per kind"}},
      });
}

TEST_CASE("hostile config: layers as text") {
  std::string const six = "['jet', 'attn', 'swa', 'jet', 'swa', 'attn']";
  std::string const long_name(257, 'a');
  auto const text = [](std::string const& value) { return set("layer_types", value); };
  check_config(
      tests::read_file(golden("tiny_jet_a")),
      {
          {"a program", text("__import__('os').system('true')"), {"layer_types: expected"}, text(six)},
          {"a list of 2^40", text("['jet'] * 1099511627776"), {"multiplier larger than 4096"}, text("['jet'] * 6")},
          {"a list of 4096 times 4096",
           text("(['jet'] * 4096) * 4096"),
           {"is longer than 4096"},
           text("(['jet'] * 3) * 2")},
          {"sums of long lists",
           text("['jet'] * 4096 + ['jet']"),
           {"is longer than 4096"},
           text("['jet'] * 5 + ['jet']")},
          {"a name of 257 bytes, many times", text("['" + long_name + "'] * 4096"), {"name longer than 256 bytes"}},
          {"a name of 257 bytes",
           set("layer_types", Json::array({long_name})),
           {"[0]: expected a name of at most 256 bytes, found 257"}},
          {"parentheses without end",
           text(std::string(4096, '(')),
           {"nested deeper than 32 levels"},
           text(nested(31, '(', ' ').substr(0, 31) + six + std::string(31, ')'))},
          {"a text of 4097 characters",
           text(six + std::string(4097, ' ')),
           {"at most 4096 characters"},
           text(six + std::string(4096 - six.size(), ' '))},
          {"a name with a control character", text("['j\x01t'] * 6"), {"unexpected character in a name"}},
          {"a name with an escape sequence", set("layer_types/0", "\x1b[2J"), {"found \"\\x1b[2J\""}},
          {"no names", set("layer_types", Json::array()), {"layer_types: 0 layers"}},
          {"a number", set("layer_types/0", 3), {"[0]: expected a mixer name, found 3"}},
      });
}

TEST_CASE("hostile config: sections of a hybrid") {
  Json many = {{"kind", "mine"}};
  for (int i = 0; i < 63; ++i) {
    many["f" + std::to_string(i)] = i;
  }
  Json too_many = many;
  too_many["f63"] = 63;
  auto const field = [](std::string const& key, Json const& value) { return set("blocks/x/" + key, value); };
  check_config(
      hybrid().dump(),
      {
          {"an absent section", set("layer_types/1", "y"), {"blocks: \"y\": required by a layer"}},
          {"a section that is no object", set("blocks/x", 3), {"blocks: x: expected an object, found 3"}},
          {"no kind", field("kind", nullptr), {"kind: required, but absent or null"}},
          {"another width", field("d_model", 9), {"d_model: expected hidden_size 8, found 9"}},
          {"a width that is no integer", field("d_model", 8.5), {"d_model: expected hidden_size 8, found 8.5"}},
          {"a field of lists",
           field("gain", {1}),
           {"gain: expected a number, a string, true or false, found an array"}},
          {"a number beyond 64 bits",
           field("gain", 9223372036854775808u),
           {"gain: expected an integer of 64 bits"},
           field("gain", 9223372036854775807)},
          {"65 keys for each of many layers",
           set("blocks/x", too_many),
           {"expected at most 64 keys, found 65"},
           set("blocks/x", many)},
          {"a name of 241 bytes",
           field(std::string(241, 'n'), 1),
           {"at most 240 bytes, found 241"},
           field(std::string(240, 'n'), 1)},
          {"a value of 241 bytes",
           field("gain", std::string(241, 'n')),
           {"gain: expected a text of at most 240 bytes"},
           field("gain", std::string(240, 'n'))},
          {"a kind of 241 bytes",
           field("kind", std::string(241, 'n')),
           {"kind: expected a text of at most 240 bytes"},
           field("kind", std::string(240, 'n'))},
          {"a field with an escape sequence",
           field("\x1b[2J", nullptr),
           {"\\x1b[2J: expected a number"},
           field("\x1b[2J", 1)},
          {"a block of a kind that is no block",
           field("kind", "none"),
           {"kind: \"none\" says that there is no block"},
           field("kind", "nones")},
          {"an MLP that no section describes",
           set("mlp_types", {"own", "z"}),
           {"mlps: required, but absent"},
           set("mlp_types", {"own", "none"})},
      });
}

TEST_CASE("hostile config: what was read can be written, or is refused") {
  auto const written = [](Json const& config) {
    return tests::message_of([&] {
      jet::ModelDescription const model = jet::read_config(config, "config.json");
      Json const again = jet::config_of(model, jet::DType::f32);
      CHECK(jet::differences(model, jet::read_config(again, "again.json")).empty());
    });
  };
  Json config = hybrid();
  CHECK(written(config) == "");
  // two sections of one kind
  Json named = config["blocks"]["x"];
  named["kind"] = std::string(240, 'k');
  Json other = named;
  other["gain"] = 0.25;
  config["blocks"] = {{"x", named}, {"y", other}};
  config["layer_types"] = {"x", "y"};
  CHECK(written(config) == "");
  config = hybrid();
  Json& block = config["blocks"]["x"];
  // fields of a JetBlock and of attention whose products do not fit 64 bits, and a window that is no number
  block = {{"kind", "jet"},      {"d_model", 8},    {"heads", std::int64_t{1} << 62},
           {"head_k", 4},        {"head_v", 1},     {"conv", 4},
           {"gen_reduction", 0}, {"norm_eps", 1e-5}};
  CHECK(written(config) == "");
  block["head_k"] = -4;
  CHECK(written(config) == "");
  block = {{"kind", "swa"},
           {"d_model", 8},
           {"heads", std::int64_t{1} << 62},
           {"kv_heads", 1},
           {"head", 4},
           {"qkv_bias", true},
           {"qk_norm", false},
           {"norm_eps", 0.0},
           {"rope_theta", 1e4},
           {"rope_factor", 0.0},
           {"rope_low_freq_factor", 0.0},
           {"rope_high_freq_factor", 0.0},
           {"rope_original_max_position", 0},
           {"window", "w"}};
  CHECK(written(config) == "");
  block["heads"] = 2;
  CHECK(written(config) == "");
  block["window"] = 3;
  CHECK(written(config) == "");
}
