// Corrupted safetensors files.
#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <vector>

#include <jet/io/safetensors.hpp>

#include "hostile.hpp"

namespace {

using hostile::appended;
using hostile::becomes;
using hostile::Case;
using hostile::cut_at;
using hostile::header;
using hostile::length_field;
using hostile::length_of;
using hostile::replaced;
using jet::i64;
using tests::file_of;
using tests::with_length;

// The sum of all bytes of all tensors, from memory of the exact size, so that the address sanitizer sees a read
// past the end.
i64 sum_of(std::string const& file, std::string const& what) {
  std::vector<std::byte> bytes(file.size());
  std::copy_n(reinterpret_cast<std::byte const*>(file.data()), file.size(), bytes.begin());
  i64 sum = 0;
  jet::SafetensorsFile const parsed = jet::SafetensorsFile::from_memory(bytes, what);
  for (auto const& tensor : parsed.tensors()) {
    for (i64 i = 0; i < tensor.bytes; ++i) {
      sum += std::to_integer<i64>(tensor.data[i]);
    }
  }
  return sum;
}

// The same from the mapping, which must agree.
void load(std::filesystem::path const& path) {
  std::string const from_memory = tests::message_of([&] { sum_of(tests::read_file(path), path.string()); });
  try {
    jet::SafetensorsFile const file(path);
  } catch (jet::Error const& error) {
    CHECK(error.what() == from_memory);
    throw;
  }
  CHECK(from_memory == "");
}

// A header with one tensor "t".
std::string entry(std::string const& dtype, std::string const& shape, std::string const& offsets) {
  return "{\"t\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
}
// A header with two tensors of four bytes.
std::string two(std::string const& first, std::string const& second, std::string const& name = "b") {
  return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + first + "},\"" + name +
         "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}";
}

std::string replace_in(std::string const& text, std::string const& from, std::string const& to) {
  return replaced(from, to)(text);
}
std::string repeated(std::string const& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) {
    all += text;
  }
  return all;
}

struct Row {
  std::string bad;
  std::string words;
  std::string twin;
};

}  // namespace

TEST_CASE("hostile safetensors: a checkpoint of a model, corrupted") {
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "model.safetensors";
  std::string const good =
      tests::read_file(std::filesystem::path(JET_TEST_DATA) / "golden" / "tiny_qwen2" / "model.safetensors");
  std::string const norm = "\"model.norm.weight\": {\"dtype\": \"F32\", \"shape\": [32], \"data_offsets\": [";
  auto const plus = [](std::uint64_t more) { return length_field([more](std::uint64_t n) { return n + more; }); };
  auto const constant = [](std::uint64_t n) { return length_field([n](std::uint64_t) { return n; }); };
  std::vector<Case> const cases{
      {"header length one more", plus(1), {"header"}, header(appended(" "))},
      {"header length one less", plus(~std::uint64_t{0}), {"the tensors end at", "but the file has"}},
      {"header length of the whole file",
       [](std::string const& f) { return with_length(f.size(), f.substr(8)); },
       {"header length", "larger than the"}},
      {"header length zero", constant(0), {"expected '{' as the first character"}},
      {"header length of 100 MB", constant(100'000'000), {"header length 100000000 is larger than the"}},
      {"header length beyond the limit", constant(100'000'001), {"limit of 100000000"}},
      {"header length that wraps", constant(~std::uint64_t{0} - 7), {"header length 18446744073709551608"}},
      {"empty", becomes(""), {"at least 8 bytes, found 0"}},
      {"only a length", cut_at(8), {"larger than the 0 bytes that follow"}},
      {"cut in the header", cut_at(500), {"truncated?"}},
      {"cut in the data", cut_at(-1), {"but the file has", "truncated?"}},
      {"half of the data", [](std::string const& f) { return f.substr(0, f.size() / 2); }, {"truncated?"}},
      {"bytes at the end", appended("x"), {"the tensors end at", "bytes of data"}},
      {"header of zeros",
       [](std::string const& f) { return with_length(length_of(f), std::string(f.size() - 8, '\0')); },
       {"expected '{'"}},
      {"a dtype half as wide",
       header(replaced(norm, replace_in(norm, "F32", "F16"))),
       {"model.norm.weight", "expects 64 bytes, found data_offsets of 128"}},
      {"a dtype that no one knows",
       header(replaced(norm, replace_in(norm, "F32", "Q4_0"))),
       {"model.norm.weight", "unknown dtype \"Q4_0\""}},
      {"a shape that is larger",
       header(replaced(norm, replace_in(norm, "[32]", "[33]"))),
       {"model.norm.weight", "expects 132 bytes, found data_offsets of 128"}},
      {"a shape whose product wraps to the right size",
       header(replaced(norm, replace_in(norm, "[32]", "[4294967296,4294967296,32]"))),
       {"model.norm.weight", "overflows 64 bits"},
       header(replaced(norm, replace_in(norm, "[32]", "[32,1]")))},
      {"two tensors of one name",
       header(replaced("\"model.norm.weight\"", "\"model.embed_tokens.weight\"")),
       {"occurs twice"}},
      {"an empty shape",
       header(replaced(norm, replace_in(norm, "[32]", "[]"))),
       {"expects 4 bytes"},
       header(replaced(norm, replace_in(norm, "[32]", "[2,4,4]")))},
      {"a rank of a thousand",
       header(replaced(norm, replace_in(norm, "[32]", "[32" + repeated(",1", 999) + "]"))),
       {"rank of at most 8"},
       header(replaced(norm, replace_in(norm, "[32]", "[32,1,1,1,1,1,1,1]")))},
      {"a million open brackets",
       header(replaced(norm, "\"x\":" + std::string(1'000'000, '['))),
       {"expected an object, found an array"}},
      {"a name with an escape sequence",
       header(replaced("\"model.norm.weight\": {\"dtype\": \"F32\"", "\"\\u001b[2J\":{\"dtype\":\"X\"")),
       {"\\x1b[2J"},
       header(replaced("\"model.norm.weight\"", "\"\\u001b[2J\""))},
      {"a name of a megabyte",
       header(replaced("\"model.norm.weight\": {\"dtype\": \"F32\"",
                       "\"" + std::string(1'000'000, 'n') + "\":{\"dtype\":\"X\"")),
       {"unknown dtype \"X\""},
       header(replaced("\"model.norm.weight\"", "\"" + std::string(1'000'000, 'n') + "\""))},
  };
  hostile::check(path, good, cases, [&] { load(path); });
}

TEST_CASE("hostile safetensors: every rule of the header has a file that breaks it") {
  std::string const good = file_of(entry("\"F32\"", "[2,1]", "[0,8]"), 8);
  std::string const empty = with_length(2, "{}");
  std::vector<Row> const rows{
      // the length field
      {"", "expected a safetensors file of at least 8 bytes, found 0", empty},
      {"1234567", "found 7", empty},
      {with_length(3, "{}"), "header length 3 is larger than the 2 bytes that follow", empty},
      {with_length(0, ""), "expected '{'", empty},
      {with_length(100'000'001, "{}"), "header length 100000001 is larger than the limit", empty},
      {with_length(~std::uint64_t{0}, "{}"), "header length 18446744073709551615", empty},
      {with_length(~std::uint64_t{0} - 7, "{}"), "larger than the limit", empty},
      // the syntax
      {with_length(1, "{}"), "not valid JSON", empty},
      {with_length(3, " {}"), "expected '{' as the first character", with_length(3, "{} ")},
      {with_length(2, "[]"), "expected '{'", empty},
      {with_length(3, std::string("{}\0", 3)), "zero byte", with_length(3, "{} ")},
      {with_length(3, "{}x"), "not valid JSON", with_length(3, "{} ")},
      {file_of("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1), "UTF-8",
       file_of("{\"\xc3\xa9\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1)},
      {file_of(std::string(1000, '{'), 0), "not valid JSON", empty},
      {file_of("{\"t\":" + std::string(100'000, '[') + "}", 0), "tensor \"t\": expected an object, found an array",
       empty},
      // entries
      {file_of("{\"t\":3}", 0), "tensor \"t\": expected an object, found 3", empty},
      {file_of("{\"t\":{}}", 0), "tensor \"t\": has no dtype", good},
      {file_of("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0), "has no shape", good},
      {file_of("{\"t\":{\"dtype\":\"U8\",\"shape\":[0]}}", 0), "has no data_offsets", good},
      {file_of("{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"extra\":1}}", 0),
       "tensor \"t\": unknown key \"extra\"", good},
      {file_of("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
       "tensor \"t\": duplicate key \"dtype\"", good},
      {file_of("{\"t\":{\"dtype\":\"U8\",\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
       "duplicate key \"shape\"", good},
      // dtype
      {file_of(entry("\"F31\"", "[2]", "[0,8]"), 8), "tensor \"t\": unknown dtype \"F31\", expected one of F64",
       good},
      {file_of(entry("\"f32\"", "[2]", "[0,8]"), 8), "unknown dtype \"f32\"", good},
      {file_of(entry("32", "[2]", "[0,8]"), 8), "dtype: expected a string, found 32", good},
      // shape
      {file_of(entry("\"U8\"", "8", "[0,8]"), 8), "shape: expected an array, found 8",
       file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[-8]", "[0,8]"), 8), "shape: expected a non-negative integer of 63 bits, found -8",
       file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[-2,-4]", "[0,8]"), 8), "found -2", file_of(entry("\"U8\"", "[2,4]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[8.0]", "[0,8]"), 8), "found \"8.0\"", file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[[8]]", "[0,8]"), 8), "found an array",
       file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[null]", "[0,8]"), 8), "found null", file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(entry("\"U8\"", "[\"8\"]", "[0,8]"), 8), "found the string \"8\"", good},
      {file_of(entry("\"U8\"", "[9223372036854775808]", "[0,8]"), 8), "found 9223372036854775808", good},
      {file_of(entry("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1), "rank of at most 8",
       file_of(entry("\"U8\"", "[1,1,1,1,1,1,1,1]", "[0,1]"), 1)},
      {file_of(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0), "overflows 64 bits",
       file_of(entry("\"U8\"", "[4294967296,0]", "[0,0]"), 0)},
      {file_of(entry("\"F64\"", "[2305843009213693952]", "[0,0]"), 0), "overflows 64 bits",
       file_of(entry("\"F64\"", "[0]", "[0,0]"), 0)},
      {file_of(entry("\"U8\"", "[9223372036854775807,0,3]", "[0,0]"), 0), "overflows 64 bits",
       file_of(entry("\"U8\"", "[9223372036854775807,0]", "[0,0]"), 0)},
      // data_offsets
      {file_of(entry("\"U8\"", "[8]", "8"), 8), "data_offsets: expected an array, found 8", good},
      {file_of(entry("\"U8\"", "[8]", "[8]"), 8), "expected two data_offsets, found 1", good},
      {file_of(entry("\"U8\"", "[8]", "[0,8,8]"), 8), "expected two data_offsets, found more", good},
      {file_of(entry("\"U8\"", "[8]", "[-8,0]"), 8), "data_offsets: expected a non-negative integer", good},
      {file_of(entry("\"U8\"", "[8]", "[8,0]"), 8), "data_offsets begin at 8, after their end at 0", good},
      {file_of(entry("\"U8\"", "[8]", "[18446744073709551608,0]"), 8), "found 18446744073709551608", good},
      {file_of(entry("\"F32\"", "[2]", "[0,7]"), 7), "expects 8 bytes, found data_offsets of 7 bytes", good},
      {file_of(entry("\"F32\"", "[2]", "[0,12]"), 12), "expects 8 bytes, found data_offsets of 12 bytes", good},
      {file_of(entry("\"F32\"", "[2]", "[0,8]"), 7), "data_offsets end at 8, but the file has 7 bytes", good},
      {file_of(entry("\"F32\"", "[2]", "[9223372036854775799,9223372036854775807]"), 8),
       "data_offsets end at 9223372036854775807", good},
      {file_of(entry("\"F32\"", "[2]", "[0,8]"), 9), "the tensors end at 8, but the file has 9 bytes", good},
      {file_of("{}", 1), "the tensors end at 0, but the file has 1 bytes", empty},
      // layout
      {file_of(two("[0,4]", "[3,7]"), 7), "tensor \"b\" begins at 3 and overlaps tensor \"a\"",
       file_of(two("[0,4]", "[4,8]"), 8)},
      {file_of(two("[0,4]", "[0,4]"), 4), "overlaps", file_of(two("[4,8]", "[0,4]"), 8)},
      {file_of(two("[0,4]", "[5,9]"), 9), "tensor \"b\" begins at 5, expected 4",
       file_of(two("[0,4]", "[4,8]"), 8)},
      {file_of(entry("\"U8\"", "[4]", "[4,8]"), 8), "tensor \"t\" begins at 4, expected 0",
       file_of(entry("\"U8\"", "[8]", "[0,8]"), 8)},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
           4),
       "tensor \"z\" begins at 2 and overlaps tensor \"a\"",
       file_of(
           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
           4)},
      {file_of(two("[0,4]", "[4,8]", "a"), 8), "tensor \"a\": the name occurs twice",
       file_of(two("[0,4]", "[4,8]"), 8)},
      {file_of(two("[0,4]", "[4,8]", "\\u0061"), 8), "the name occurs twice", file_of(two("[0,4]", "[4,8]"), 8)},
      // metadata
      {file_of("{\"__metadata__\":[]}", 0), "__metadata__: expected an object, found an array",
       file_of("{\"__metadata__\":{}}", 0)},
      {file_of("{\"__metadata__\":{\"k\":1}}", 0), "__metadata__: \"k\": expected a string, found 1",
       file_of("{\"__metadata__\":{\"k\":\"1\"}}", 0)},
      {file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0), "__metadata__: duplicate key \"k\"",
       file_of("{\"__metadata__\":{\"k\":\"1\",\"l\":\"2\"}}", 0)},
      {file_of("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "duplicate key \"__metadata__\"",
       file_of("{\"__metadata__\":{}}", 0)},
      {file_of("{\"__metadata__\":{\"k\":{}}}", 0), "found an object", file_of("{\"__metadata__\":{}}", 0)},
  };
  std::vector<Case> cases;
  for (Row const& row : rows) {
    cases.push_back({row.words, becomes(row.bad), {row.words}, becomes(row.twin)});
  }
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "a.safetensors";
  hostile::check(path, good, cases, [&] { load(path); });
}

TEST_CASE("hostile safetensors: a hundred thousand tensors on one range") {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) {
    text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[64],"data_offsets":[0,64]})";
  }
  std::string twin = "{";
  for (int i = 0; i < 100'000; ++i) {
    twin += (i > 0 ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
            std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "a.safetensors";
  hostile::check(
      path, with_length(2, "{}"),
      {{"overlap", becomes(file_of(text + "}", 64)), {"overlaps tensor"}, becomes(file_of(twin + "}", 100'000))}},
      [&] { load(path); });
}

TEST_CASE("hostile safetensors: every truncation and every changed byte is an error or a valid file") {
  std::string const file = file_of(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})",
      5);
  auto const message_of = [](std::string const& bytes) {
    return tests::message_of([&] { sum_of(bytes, "a.safetensors"); });
  };
  REQUIRE(message_of(file) == "");
  for (std::size_t length = 0; length < file.size(); ++length) {
    CAPTURE(length);
    CHECK(message_of(file.substr(0, length)) != "");
  }
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[at] = static_cast<char>(value);
      std::string const message = message_of(changed);
      CHECK(hostile::is_printable(message));
    }
  }
}
