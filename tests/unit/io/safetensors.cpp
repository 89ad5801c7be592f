#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <jet/io/checkpoint_files.hpp>
#include <jet/io/safetensors.hpp>

namespace {

using jet::i64;

/// A directory that is removed at the end of the test.
struct Scratch {
  std::filesystem::path path;

  Scratch() {
    static int count = 0;
    path = std::filesystem::temp_directory_path() /
           ("jet-io-" + std::to_string(::getpid()) + "-" + std::to_string(++count));
    std::filesystem::remove_all(path);
    std::filesystem::create_directory(path);
  }
  Scratch(Scratch const&) = delete;
  ~Scratch() { std::filesystem::remove_all(path); }

  std::set<std::string> names() const {
    std::set<std::string> result;
    for (auto const& entry : std::filesystem::directory_iterator(path)) {
      result.insert(entry.path().filename().string());
    }
    return result;
  }
};

using Names = std::set<std::string>;

std::string read(std::filesystem::path const& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void write(std::filesystem::path const& path, std::string const& text) {
  std::ofstream(path, std::ios::binary) << text;
}

template <class F> std::string message_of(F&& call) {
  try {
    call();
  } catch (jet::Error const& error) {
    return error.what();
  }
  return "";
}

bool contains(std::string const& text, std::string const& part) {
  bool const found = text.find(part) != std::string::npos;
  if (!found) {
    MESSAGE("expected \"" << part << "\" in \"" << text << "\"");
  }
  return found;
}

/// The length field for `length`, then the text.
std::string with_length(std::uint64_t length, std::string const& rest) {
  std::string file;
  for (int i = 0; i < 8; ++i) {
    file += static_cast<char>((length >> (8 * i)) & 0xff);
  }
  return file + rest;
}

/// A file of a header and `data_bytes` bytes 0, 1, 2, ...
std::string file_of(std::string const& header, std::size_t data_bytes) {
  std::string data(data_bytes, '\0');
  for (std::size_t i = 0; i < data_bytes; ++i) {
    data[i] = static_cast<char>(i);
  }
  return with_length(header.size(), header + data);
}

jet::SafetensorsFile parse(std::string const& file) {
  // A copy of the exact size, so that the address sanitizer sees a read past the end.
  static std::vector<std::byte> bytes;
  bytes.assign(reinterpret_cast<std::byte const*>(file.data()),
               reinterpret_cast<std::byte const*>(file.data()) + file.size());
  bytes.shrink_to_fit();
  return jet::SafetensorsFile::from_memory(bytes, "a.safetensors");
}

jet::SafetensorsSource source(std::string name, jet::DType dtype, std::vector<i64> shape, void const* data) {
  return {std::move(name), dtype, std::move(shape), data, nullptr};
}

/// A u8 tensor whose callback fills it with one value.
jet::SafetensorsSource filled(std::string name, i64 bytes, int value) {
  return {std::move(name), jet::DType::u8, {bytes}, nullptr, [value](std::span<std::byte> out) {
            std::memset(out.data(), value, out.size());
          }};
}

int value_of(jet::CheckpointFiles const& files, std::string const& name) {
  return std::to_integer<int>(*files.at(name).data);
}

std::string index_of(std::string const& weight_map) {
  return "{\"metadata\":{\"total_size\":1},\"weight_map\":" + weight_map + "}";
}

}  // namespace

TEST_CASE("mapped file: content, moves, and what is refused") {
  Scratch const scratch;
  write(scratch.path / "file", "abc");
  write(scratch.path / "empty", "");
  jet::MappedFile file(scratch.path / "file");
  CHECK(file.text() == "abc");
  jet::MappedFile moved(std::move(file));
  CHECK(moved.size() == 3);
  CHECK(file.size() == 0);
  jet::MappedFile empty(scratch.path / "empty");
  CHECK(empty.bytes().empty());
  empty = std::move(moved);
  CHECK(empty.text() == "abc");
  CHECK(jet::map_file(scratch.path / "file")->path() == scratch.path / "file");

  write(scratch.path / "new", "xyz");
  std::filesystem::rename(scratch.path / "new", scratch.path / "file");
  CHECK(empty.text() == "abc");  // the mapping outlives a replacement of the file

  CHECK(contains(message_of([&] { jet::MappedFile(scratch.path / "absent"); }),
                 "absent: cannot open: No such file or directory"));
  CHECK(contains(message_of([&] { jet::MappedFile{scratch.path}; }), "found a directory"));
  REQUIRE(::mkfifo((scratch.path / "pipe").c_str(), 0600) == 0);
  CHECK(contains(message_of([&] { jet::MappedFile(scratch.path / "pipe"); }), "found a device, pipe or socket"));
}

TEST_CASE("atomic file: nothing is visible before commit") {
  Scratch const scratch;
  std::filesystem::path const target = scratch.path / "file";
  write(target, "old");
  {
    jet::AtomicFile file(target);
    file.write("new");
    file.finish();
    CHECK(read(target) == "old");
    CHECK(contains(message_of([&] { file.write("more"); }), "write after finish"));
    CHECK(scratch.names().size() == 2);
  }
  CHECK(scratch.names() == Names{"file"});
  CHECK(read(target) == "old");
  {
    jet::AtomicFile file(target);
    jet::AtomicFile moved(std::move(file));
    moved.write("new");
    CHECK(moved.size() == 3);
    CHECK(!moved.is_committed());
    moved.commit();
    CHECK(moved.is_committed());
    CHECK(contains(message_of([&] { moved.commit(); }), "committed twice"));
  }
  CHECK(scratch.names() == Names{"file"});
  CHECK(read(target) == "new");
  CHECK(contains(message_of([&] { jet::AtomicFile{scratch.path}; }), "found a directory"));
  CHECK(contains(message_of([&] { jet::AtomicFile(scratch.path / "no" / "file"); }),
                 "cannot create a temporary file beside it: No such file or directory"));
}

TEST_CASE("safetensors: round trip of every dtype, odd and empty sizes, in the given order") {
  Scratch const scratch;
  std::vector<unsigned char> noise(8 * 105);
  for (std::size_t i = 0; i < noise.size(); ++i) {
    noise[i] = static_cast<unsigned char>(i * 37 + 11);
  }
  using jet::DType;
  DType const dtypes[] = {DType::u8,  DType::f64,    DType::f32, DType::bf16,
                          DType::f16, DType::f8e4m3, DType::i64, DType::i32};
  std::vector<jet::SafetensorsSource> sources{source("empty first", DType::f32, {0, 3}, nullptr)};
  for (DType const dtype : dtypes) {
    sources.push_back(
        source(std::string("odd ") + std::string(jet::name_of(dtype)), dtype, {3, 5, 7}, noise.data()));
    sources.push_back(
        source(std::string("scalar.") + std::string(jet::name_of(dtype)), dtype, {}, noise.data() + 1));
    sources.push_back(source(std::string("empty/") + std::string(jet::name_of(dtype)), dtype, {4, 0}, nullptr));
  }
  jet::SafetensorsMetadata const metadata{{"format", "pt"}, {"quote \" and \xc3\xa9", "\n"}};
  jet::write_safetensors(scratch.path / "a.safetensors", sources, metadata);
  CHECK(scratch.names() == Names{"a.safetensors"});
  std::string const raw = read(scratch.path / "a.safetensors");
  CHECK((static_cast<unsigned char>(raw[0]) & 7) == 0);  // the data begins at a multiple of 8

  jet::SafetensorsFile const file(scratch.path / "a.safetensors");
  CHECK(file.metadata() == metadata);
  REQUIRE(file.tensors().size() == sources.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    jet::SafetensorsTensor const& tensor = file.tensors()[i];
    CAPTURE(tensor.name);
    CHECK(tensor.name == sources[i].name);
    CHECK(tensor.dtype == sources[i].dtype);
    CHECK(tensor.shape == sources[i].shape);
    CHECK(file.find(tensor.name) == &tensor);
    CHECK(&file.at(tensor.name) == &tensor);
    i64 elements = 1;
    for (i64 const extent : tensor.shape) {
      elements *= extent;
    }
    CHECK(tensor.bytes == elements * jet::size_of(tensor.dtype));
    if (tensor.bytes > 0) {
      CHECK(std::memcmp(tensor.data, sources[i].data, static_cast<std::size_t>(tensor.bytes)) == 0);
    }
  }
  CHECK(file.find("nothing") == nullptr);
  CHECK(contains(message_of([&] { file.at("nothing"); }), "a.safetensors: tensor \"nothing\": not in the file"));

  jet::write_safetensors(scratch.path / "none.safetensors", {});
  CHECK(read(scratch.path / "none.safetensors") == with_length(8, "{}      "));
  CHECK(jet::SafetensorsFile(scratch.path / "none.safetensors").tensors().empty());
}

TEST_CASE("safetensors: types that the library does not compute with are listed, not read") {
  struct Type {
    std::string name;
    std::size_t size;
  };
  for (Type const& type :
       {Type{"I16", 2}, {"I8", 1}, {"BOOL", 1}, {"F8_E5M2", 1}, {"U16", 2}, {"U32", 4}, {"U64", 8}}) {
    CAPTURE(type.name);
    auto const file = parse(file_of("{\"t\":{\"dtype\":\"" + type.name + "\",\"shape\":[3],\"data_offsets\":[0," +
                                        std::to_string(3 * type.size) + "]}}",
                                    3 * type.size));
    REQUIRE(file.tensors().size() == 1);
    CHECK(file.find("t")->dtype == jet::DType::none);
    CHECK(file.find("t")->file_dtype == type.name);
    CHECK(file.find("t")->bytes == static_cast<i64>(3 * type.size));
    CHECK(contains(message_of([&] { file.at("t"); }), "dtype " + type.name + " cannot be read"));
  }
}

TEST_CASE("safetensors: file order is the order of the data; misaligned tensors are fine") {
  auto const file = parse(file_of(
      R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      5));
  REQUIRE(file.tensors().size() == 2);
  CHECK(file.tensors()[0].name == "a");
  CHECK(file.tensors()[1].name == "b");
  CHECK(std::to_integer<int>(file.find("b")->data[0]) == 1);
}

TEST_CASE("safetensors: corrupted files are refused; their twins pass") {
  struct Case {
    std::string bad;
    std::string message;
    std::string good;
  };
  auto const entry = [](std::string const& dtype, std::string const& shape, std::string const& offsets) {
    return "{\"t\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  auto const two = [](std::string const& first, std::string const& second, std::string const& name = "b") {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + first + "},\"" + name +
           "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}";
  };
  std::string const good = file_of(entry("\"F32\"", "[2,1]", "[0,8]"), 8);
  std::string const empty = with_length(2, "{}");
  Case const cases[] = {
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
  for (Case const& c : cases) {
    CAPTURE(c.message);
    std::string const message = message_of([&] { parse(c.bad); });
    CHECK(contains(message, "jet: a.safetensors: "));
    CHECK(contains(message, c.message));
    CHECK(message.size() < 1000);
    CHECK(message_of([&] { parse(c.good); }) == "");
  }
}

TEST_CASE("safetensors: every truncation and every changed byte is an error or a valid file") {
  std::string const file = file_of(
      R"({"__metadata__":{"a":"b"},"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})",
      5);
  REQUIRE(message_of([&] { parse(file); }) == "");
  for (std::size_t length = 0; length < file.size(); ++length) {
    CAPTURE(length);
    CHECK(message_of([&] { parse(file.substr(0, length)); }) != "");
  }
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = file;
      changed[at] = static_cast<char>(value);
      i64 sum = 0;
      try {
        jet::SafetensorsFile const parsed = parse(changed);
        for (auto const& tensor : parsed.tensors()) {
          for (i64 i = 0; i < tensor.bytes; ++i) {
            sum += std::to_integer<i64>(tensor.data[i]);
          }
        }
      } catch (jet::Error const&) {
        continue;
      }
      CHECK(sum >= 0);
    }
  }
}

TEST_CASE("safetensors: bad sources are refused before a file appears") {
  Scratch const scratch;
  auto const path = scratch.path / "a.safetensors";
  char const byte = 1;
  auto const refused = [&](std::vector<jet::SafetensorsSource> const& sources, std::string const& message,
                           jet::SafetensorsMetadata const& metadata = {}) {
    CHECK(contains(message_of([&] { jet::write_safetensors(path, sources, metadata); }), message));
    CHECK(scratch.names().empty());
  };
  using jet::DType;
  refused({source("", DType::u8, {1}, &byte)}, "not a name for a tensor");
  refused({source("__metadata__", DType::u8, {1}, &byte)}, "not a name for a tensor");
  refused({source("\xff", DType::u8, {1}, &byte)}, "not valid UTF-8");
  refused({}, "not valid UTF-8", {{"k", "\xff"}});
  refused({source("t", DType::none, {1}, &byte)}, "tensor \"t\": dtype is not stated");
  refused({source("t", DType::u8, {-1}, &byte)}, "negative extent in shape [-1]");
  refused({source("t", DType::u8, std::vector<i64>(9, 1), &byte)}, "rank of at most 8, found 9");
  refused({source("t", DType::f64, {i64{1} << 61}, &byte)}, "overflows 64 bits");
  refused({source("t", DType::u8, {1}, nullptr)}, "neither data nor a callback");
  refused({source("t", DType::u8, {1}, &byte), source("t", DType::u8, {1}, &byte)}, "the name occurs twice");
  auto both = filled("t", 1, 1);
  both.data = &byte;
  refused({both}, "both data and a callback");
  auto const half = source("s", DType::u8, {(i64{1} << 62)}, &byte);
  auto other = half;
  other.name = "t";
  refused({half, other}, "the sizes overflow 64 bits");
}

TEST_CASE("safetensors: a callback that throws midway leaves the old file and no temporary") {
  Scratch const scratch;
  auto const path = scratch.path / "a.safetensors";
  jet::write_safetensors(path, std::vector{filled("t", 100, 1)});
  std::string const old = read(path);
  std::vector<jet::SafetensorsSource> sources{filled("t", 100'000, 2), filled("u", 100, 3)};
  sources[1].fill = [&](std::span<std::byte>) {
    CHECK(scratch.names().size() == 2);  // the temporary is there, under a hidden name
    throw std::runtime_error("midway");
  };
  CHECK_THROWS_WITH_AS(jet::write_safetensors(path, sources), "midway", std::runtime_error);
  CHECK(scratch.names() == Names{"a.safetensors"});
  CHECK(read(path) == old);
  sources.pop_back();
  jet::write_safetensors(path, sources);
  CHECK(jet::SafetensorsFile(path).at("t").bytes == 100'000);
  CHECK(scratch.names() == Names{"a.safetensors"});
}

TEST_CASE("checkpoint: one file, shards, and every change between them") {
  Scratch const scratch;
  write(scratch.path / "config.json", "{}");
  write(scratch.path / "model-notes.safetensors", "not ours");
  auto const save = [&](i64 max_shard_bytes, int value) {
    std::vector<jet::SafetensorsSource> sources;
    for (int i = 0; i < 5; ++i) {
      sources.push_back(filled("t" + std::to_string(i), 10, value + i));
    }
    jet::save_checkpoint(scratch.path, sources, max_shard_bytes, {{"step", std::to_string(value)}});
    jet::CheckpointFiles const files(scratch.path);
    REQUIRE(files.tensors().size() == 5);
    for (int i = 0; i < 5; ++i) {
      CHECK(value_of(files, "t" + std::to_string(i)) == value + i);
      CHECK(files.at("t" + std::to_string(i)).shard->metadata() ==
            jet::SafetensorsMetadata{{"format", "pt"}, {"step", std::to_string(value)}});
    }
    Names names = scratch.names();
    CHECK(names.erase("config.json") == 1);
    CHECK(names.erase("model-notes.safetensors") == 1);
    return names;
  };
  Names const one{"model.safetensors"};
  Names const three{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                    "model-00003-of-00003.safetensors", "model.safetensors.index.json"};
  Names const three_again{"model.1-00001-of-00003.safetensors", "model.1-00002-of-00003.safetensors",
                          "model.1-00003-of-00003.safetensors", "model.safetensors.index.json"};
  CHECK(save(50, 0) == one);
  CHECK(save(50, 10) == one);
  CHECK(save(29, 20) == three);  // two, two, one
  CHECK(save(20, 30) == three_again);
  CHECK(save(20, 40) == three);
  CHECK(save(1, 50).size() == 6);  // every tensor is larger than the limit: one shard each
  CHECK(save(1000, 60) == one);

  save(20, 70);
  jet::Json const index = jet::load_json(scratch.path / "model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"] == 50);
  CHECK(index["weight_map"]["t4"] == "model-00003-of-00003.safetensors");
  CHECK(index["weight_map"].size() == 5);

  CHECK(contains(message_of([&] { jet::save_checkpoint(scratch.path, {}, 0); }),
                 "expected a positive max_shard_bytes"));
  jet::save_checkpoint(scratch.path / "new" / "directory", {}, 1);
  CHECK(jet::CheckpointFiles(scratch.path / "new" / "directory").tensors().empty());
}

TEST_CASE("checkpoint: weights can be saved over while they are mapped") {
  Scratch const scratch;
  std::vector<jet::SafetensorsSource> const sources{filled("a", 8, 1), filled("b", 8, 2)};
  jet::save_checkpoint(scratch.path, sources, 8);
  jet::CheckpointTensor kept;
  {
    jet::CheckpointFiles const files(scratch.path);
    std::vector<jet::SafetensorsSource> again;
    for (auto const& [name, tensor] : files.tensors()) {
      again.push_back(source(name, tensor.dtype, tensor.shape, tensor.data));
    }
    for (i64 const limit : {8, 100, 8}) {
      jet::save_checkpoint(scratch.path, again, limit);
    }
    kept = files.at("b");
  }
  CHECK(std::to_integer<int>(kept.data[7]) == 2);  // the tensor alone keeps its mapping
  CHECK(value_of(jet::CheckpointFiles(scratch.path), "b") == 2);
}

TEST_CASE("checkpoint: an interrupted save leaves the old checkpoint") {
  for (i64 const old_limit : {8, 100}) {
    for (i64 const new_limit : {8, 100}) {
      CAPTURE(old_limit);
      CAPTURE(new_limit);
      Scratch const scratch;
      jet::save_checkpoint(scratch.path, std::vector{filled("a", 8, 1), filled("b", 8, 2)}, old_limit);
      Names const names = scratch.names();

      std::vector<jet::SafetensorsSource> sources{filled("a", 8, 3), filled("b", 8, 4)};
      sources[1].fill = [](std::span<std::byte>) { throw std::runtime_error("midway"); };
      CHECK_THROWS_AS(jet::save_checkpoint(scratch.path, sources, new_limit), std::runtime_error);
      CHECK(scratch.names() == names);
      CHECK(value_of(jet::CheckpointFiles(scratch.path), "a") == 1);

      // A process that dies cannot clean up; its hidden temporaries do not matter.
      sources[1].fill = [](std::span<std::byte>) { ::_exit(7); };
      pid_t const child = ::fork();
      if (child == 0) {
        jet::save_checkpoint(scratch.path, sources, new_limit);
        ::_exit(0);
      }
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      REQUIRE(WEXITSTATUS(status) == 7);
      for (std::string const& name : scratch.names()) {
        CHECK((names.count(name) == 1 || name.starts_with(".jet-")));
      }
      CHECK(value_of(jet::CheckpointFiles(scratch.path), "b") == 2);

      jet::save_checkpoint(scratch.path, std::vector{filled("a", 8, 5), filled("b", 8, 6)}, new_limit);
      CHECK(value_of(jet::CheckpointFiles(scratch.path), "b") == 6);
    }
  }
}

TEST_CASE("checkpoint: a save that fails while files are put in place takes its shards back") {
  Scratch const scratch;
  std::vector const first{filled("a", 8, 1), filled("b", 8, 2)};
  jet::save_checkpoint(scratch.path, first, 100);
  Names const names = scratch.names();
  std::vector<jet::SafetensorsSource> sources{filled("a", 8, 3), filled("b", 8, 4)};
  // After the names were chosen, a directory takes the place of the second shard.
  auto const obstacle = scratch.path / "model-00002-of-00002.safetensors";
  sources[1].fill = [&](std::span<std::byte>) { std::filesystem::create_directory(obstacle); };
  CHECK(contains(message_of([&] { jet::save_checkpoint(scratch.path, sources, 8); }), "cannot put the new file"));
  std::filesystem::remove(obstacle);
  CHECK(scratch.names() == names);
  CHECK(value_of(jet::CheckpointFiles(scratch.path), "a") == 1);
}

TEST_CASE("checkpoint: directories and indices that are refused") {
  Scratch const scratch;
  auto const error = [&] { return message_of([&] { jet::CheckpointFiles{scratch.path}; }); };
  auto const index = scratch.path / "model.safetensors.index.json";
  CHECK(contains(message_of([&] { jet::CheckpointFiles(scratch.path / "absent"); }),
                 "expected a checkpoint directory"));
  CHECK(contains(error(), "expected model.safetensors or model.safetensors.index.json, found neither"));

  jet::write_safetensors(scratch.path / "one.safetensors", std::vector{filled("a", 1, 1), filled("b", 1, 2)});
  jet::write_safetensors(scratch.path / "two.safetensors", std::vector{filled("c", 1, 3)});
  jet::write_safetensors(scratch.path / "twice.safetensors", std::vector{filled("c", 1, 4), filled("a", 1, 4)});
  jet::write_safetensors(scratch.path.parent_path() / "jet-outside.safetensors", std::vector{filled("x", 1, 9)});
  std::string const good = R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})";

  for (std::string const name :
       {"../jet-outside.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "a..safetensors",
        "..\\\\x.safetensors", "x\\u0000.safetensors", "", ".safetensors", "pytorch_model.bin"}) {
    CAPTURE(name);
    write(index, index_of("{\"a\":\"one.safetensors\",\"bad\":\"" + name + "\"}"));
    std::string const message = error();
    CHECK(contains(message, "weight_map: expected names of .safetensors files in the same directory, found"));
    CHECK(contains(message, "\"bad\""));
  }
  std::filesystem::remove(scratch.path.parent_path() / "jet-outside.safetensors");
  write(index, index_of(R"({"a":1,"b":null})"));
  CHECK(contains(error(), "\"a\": 1\n  \"b\": null"));

  write(index, "[]");
  CHECK(contains(error(), "model.safetensors.index.json: expected an object, found an array"));
  write(index, "{\"weight_map\":[]}");
  CHECK(contains(error(), "weight_map: expected an object, found an array"));
  write(index, "{}");
  CHECK(contains(error(), "weight_map: required, but absent"));
  write(index, index_of(R"({"a":"one.safetensors","a":"two.safetensors"})"));
  CHECK(contains(error(), "duplicate key \"a\""));

  write(index, index_of(R"({"a":"one.safetensors","c":"x.safetensors","d":"y.safetensors"})"));
  CHECK(contains(error(), "absent (interrupted download?):\n  x.safetensors\n  y.safetensors"));
  write(index, index_of(R"({"a":"one.safetensors","b":"two.safetensors","d":"two.safetensors"})"));
  std::string const message = error();
  CHECK(contains(message, "\"b\" is not in two.safetensors"));
  CHECK(contains(message, "\"d\" is not in two.safetensors"));
  CHECK(contains(message, "\"c\" is in "));
  write(index, index_of(R"({"a":"one.safetensors","b":"one.safetensors","c":"twice.safetensors"})"));
  CHECK(contains(error(), "tensors in two shards:\n  \"a\" in "));

  write(index, index_of(good));
  CHECK(error() == "");  // stray files such as twice.safetensors are ignored
  jet::CheckpointFiles const files(scratch.path);
  CHECK(value_of(files, "c") == 3);
  CHECK(files.shard_names() == std::vector<std::string>{"one.safetensors", "two.safetensors"});
  CHECK(files.find("d") == nullptr);
  CHECK(contains(message_of([&] { files.at("d"); }), "tensor \"d\": not in the checkpoint"));

  write(scratch.path / "two.safetensors", read(scratch.path / "two.safetensors").substr(0, 40));
  CHECK(contains(error(), "two.safetensors: header length"));
}

TEST_CASE("golden files read") {
  std::filesystem::path const golden = std::filesystem::path(JET_TEST_DATA) / "golden";
  int count = 0;
  for (auto const& entry : std::filesystem::recursive_directory_iterator(golden)) {
    if (entry.path().extension() == ".safetensors") {
      CAPTURE(entry.path().string());
      jet::SafetensorsFile const file(entry.path());
      CHECK(!file.tensors().empty());
      ++count;
    }
  }
  CHECK(count >= 20);
  jet::SafetensorsFile const block(golden / "jet_block_a.safetensors");
  CHECK(block.at("input").dtype == jet::DType::f32);
  CHECK(block.at("input").shape.size() == 3);
  CHECK(!block.metadata().empty());
  CHECK(jet::SafetensorsFile(golden / "f64" / "jet_block_a.f64.safetensors").at("output").dtype == jet::DType::f64);
  jet::CheckpointFiles const model(golden / "tiny_jet_a");
  CHECK(model.find("model.embed_tokens.weight") != nullptr);
  CHECK(model.shard_names() == std::vector<std::string>{"model.safetensors"});
}
