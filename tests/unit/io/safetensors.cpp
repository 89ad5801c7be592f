#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <jet/io/checkpoint_files.hpp>
#include <jet/io/safetensors.hpp>

#include "file_support.hpp"

namespace {

using jet::i64;
using tests::contains;
using tests::file_of;
using tests::message_of;
using tests::read_file;
using tests::ScratchDirectory;
using tests::with_length;
using tests::write_file;

using Names = std::set<std::string>;

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

}  // namespace

TEST_CASE("mapped file: content, moves, and what is refused") {
  ScratchDirectory const scratch;
  write_file(scratch.path / "file", "abc");
  write_file(scratch.path / "empty", "");
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

  write_file(scratch.path / "new", "xyz");
  std::filesystem::rename(scratch.path / "new", scratch.path / "file");
  CHECK(empty.text() == "abc");  // the mapping outlives a replacement of the file

  CHECK(contains(message_of([&] { jet::MappedFile(scratch.path / "absent"); }),
                 "absent: cannot open: No such file or directory"));
  CHECK(contains(message_of([&] { jet::MappedFile{scratch.path}; }), "found a directory"));
  REQUIRE(::mkfifo((scratch.path / "pipe").c_str(), 0600) == 0);
  CHECK(contains(message_of([&] { jet::MappedFile(scratch.path / "pipe"); }), "found a device, pipe or socket"));
}

TEST_CASE("atomic file: nothing is visible before commit") {
  ScratchDirectory const scratch;
  std::filesystem::path const target = scratch.path / "file";
  write_file(target, "old");
  {
    jet::AtomicFile file(target);
    file.write("new");
    file.finish();
    CHECK(read_file(target) == "old");
    CHECK(contains(message_of([&] { file.write("more"); }), "write after finish"));
    CHECK(scratch.names().size() == 2);
  }
  CHECK(scratch.names() == Names{"file"});
  CHECK(read_file(target) == "old");
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
  CHECK(read_file(target) == "new");
  CHECK(contains(message_of([&] { jet::AtomicFile{scratch.path}; }), "found a directory"));
  CHECK(contains(message_of([&] { jet::AtomicFile(scratch.path / "no" / "file"); }),
                 "cannot create a temporary file beside it: No such file or directory"));
}

TEST_CASE("safetensors: round trip of every dtype, odd and empty sizes, in the given order") {
  ScratchDirectory const scratch;
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
  std::string const raw = read_file(scratch.path / "a.safetensors");
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
  CHECK(read_file(scratch.path / "none.safetensors") == with_length(8, "{}      "));
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

TEST_CASE("safetensors: bad sources are refused before a file appears") {
  ScratchDirectory const scratch;
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
  ScratchDirectory const scratch;
  auto const path = scratch.path / "a.safetensors";
  jet::write_safetensors(path, std::vector{filled("t", 100, 1)});
  std::string const old = read_file(path);
  std::vector<jet::SafetensorsSource> sources{filled("t", 100'000, 2), filled("u", 100, 3)};
  sources[1].fill = [&](std::span<std::byte>) {
    CHECK(scratch.names().size() == 2);  // the temporary is there, under a hidden name
    throw std::runtime_error("midway");
  };
  CHECK_THROWS_WITH_AS(jet::write_safetensors(path, sources), "midway", std::runtime_error);
  CHECK(scratch.names() == Names{"a.safetensors"});
  CHECK(read_file(path) == old);
  sources.pop_back();
  jet::write_safetensors(path, sources);
  CHECK(jet::SafetensorsFile(path).at("t").bytes == 100'000);
  CHECK(scratch.names() == Names{"a.safetensors"});
}

TEST_CASE("checkpoint: one file, shards, and every change between them") {
  ScratchDirectory const scratch;
  write_file(scratch.path / "config.json", "{}");
  write_file(scratch.path / "model-notes.safetensors", "not ours");
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
  ScratchDirectory const scratch;
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
      ScratchDirectory const scratch;
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
  ScratchDirectory const scratch;
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
