// Indices and shards that lie about each other.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <jet/io/checkpoint_files.hpp>

#include "hostile.hpp"

namespace {

using hostile::becomes;
using hostile::Case;
using hostile::Change;
using hostile::cut_at;
using hostile::replaced;
using tests::file_of;

// A shard with tensors of one byte.
std::string shard(std::vector<std::string> const& names) {
  std::string header = "{";
  for (std::size_t i = 0; i < names.size(); ++i) {
    header += (i > 0 ? ",\"" : "\"") + names[i] + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  return file_of(header + "}", names.size());
}

struct Checkpoint {
  tests::ScratchDirectory directory;
  std::filesystem::path index = directory.path / "model.safetensors.index.json";

  Checkpoint() {
    directory.write("one.safetensors", shard({"a", "b"}));
    directory.write("two.safetensors", shard({"c"}));
    directory.write("twice.safetensors", shard({"c", "a"}));  // not named by the good index: ignored
    std::filesystem::create_directory(directory.path / "sub");
    tests::write_file(directory.path / "sub" / "x.safetensors", shard({"x"}));
    std::filesystem::create_directory(directory.path / "folder.safetensors");
  }
  void load() const { jet::CheckpointFiles const files(directory.path); }
};

constexpr char const* good =
    R"({"metadata":{"total_size":3},"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})";

Change in_map(std::string const& map) {
  return becomes("{\"weight_map\":" + map + "}");
}

}  // namespace

TEST_CASE("hostile checkpoint: an index, corrupted") {
  Checkpoint const checkpoint;
  std::string const names = "weight_map: expected names of .safetensors files in the same directory, found";
  std::vector<Case> cases{
      {"not an object", becomes("[]"), {"index.json: expected an object, found an array"}},
      {"no map", becomes("{}"), {"weight_map: required, but absent"}},
      {"a map that is an array", in_map("[]"), {"weight_map: expected an object, found an array"}},
      {"cut", cut_at(-1), {"byte", "not valid JSON"}},
      {"a tensor twice", replaced("\"b\":", "\"a\":"), {"duplicate key \"a\""}},
      {"numbers as names", replaced("\"two.safetensors\"", "2"), {names, "\"c\": 2"}},
      {"null as a name", replaced("\"two.safetensors\"", "null"), {names, "\"c\": null"}},
      {"an absent shard",
       replaced("two.safetensors", "x.safetensors"),
       {"absent (interrupted download?)", "\n  x.safetensors"}},
      {"a shard that is a directory",
       replaced("two.safetensors", "folder.safetensors"),
       {"expected a regular file, found a directory"}},
      {"a shard that lacks the tensor",
       replaced("\"b\":\"one", "\"b\":\"two"),
       {"index and shards disagree", "\"b\" is not in two.safetensors"}},
      {"a tensor that no shard has",
       replaced("{\"a\"", "{\"d\":\"two.safetensors\",\"a\""),
       {"\"d\" is not in two.safetensors"}},
      {"a tensor that the index lacks",
       replaced("\"b\":\"one.safetensors\",", ""),
       {"\"b\" is in ", "but not in the index"}},
      {"a tensor in two shards",
       replaced("two.safetensors", "twice.safetensors"),
       {"tensors in two shards:\n  \"a\" in "}},
      {"ten thousand bad names",
       [](std::string const&) {
         std::string map;
         for (int i = 0; i < 10'000; ++i) {
           map += (i > 0 ? "," : "") + ("\"" + std::to_string(i)) + "\":1";
         }
         return "{\"weight_map\":{" + map + "}}";
       },
       {"and 9800 more"}},
  };
  // Names that leave the directory, or would be read otherwise by something else.
  for (std::string const name :
       {"../two.safetensors", "sub/../../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", ".", "",
        "a..safetensors", "..\\\\x.safetensors", "x\\u0000.safetensors", "x\\u001b[2J.safetensors",
        "x\\n.safetensors", "\\u202etwo.safetensors", ".safetensors", "pytorch_model.bin", "two.safetensors/"}) {
    cases.push_back({"the shard name " + name, replaced("two.safetensors", name), {names, "\"c\": the string \""}});
  }
  hostile::check(
      checkpoint.index, good, cases, [&] { checkpoint.load(); }, checkpoint.directory.path.string());
}

TEST_CASE("hostile checkpoint: a shard, corrupted") {
  Checkpoint const checkpoint;
  tests::write_file(checkpoint.index, good);
  std::filesystem::path const path = checkpoint.directory.path / "two.safetensors";
  std::vector<Case> const cases{
      {"cut", cut_at(-1), {"truncated?"}},
      {"empty", becomes(""), {"at least 8 bytes"}},
      {"another shard in its place", becomes(shard({"b"})), {"tensors in two shards", "\"b\" in "}},
      {"a tensor more", becomes(shard({"c", "d"})), {"\"d\" is in ", "but not in the index"}},
      {"a tensor less", becomes(shard({})), {"\"c\" is not in two.safetensors, where the index has it"}},
  };
  hostile::check(
      path, shard({"c"}), cases, [&] { checkpoint.load(); }, checkpoint.directory.path.string());
}

TEST_CASE("hostile checkpoint: directories") {
  Checkpoint const checkpoint;
  std::filesystem::path const& path = checkpoint.directory.path;
  auto const load = [](std::filesystem::path const& p) {
    return tests::message_of([&] { jet::CheckpointFiles{p}; });
  };
  CHECK(tests::contains(load(path / "absent"), "absent: expected a checkpoint directory"));
  CHECK(tests::contains(load(path / "one.safetensors"), "one.safetensors: expected a checkpoint directory"));
  CHECK(tests::contains(load(path), "expected model.safetensors or model.safetensors.index.json, found neither"));
  tests::write_file(checkpoint.index, good);
  CHECK(load(path) == "");
  std::filesystem::create_directory(path / "model.safetensors");  // has priority
  CHECK(tests::contains(load(path), "model.safetensors: expected a regular file, found a directory"));
}
