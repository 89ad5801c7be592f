/// \file
/// The weight files of a checkpoint directory in the layout of Hugging Face: `model.safetensors`, or shards with
/// `model.safetensors.index.json`.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/atomic_file.hpp>
#include <jet/io/json.hpp>
#include <jet/io/safetensors.hpp>

JET_NAMESPACE_BEGIN

inline constexpr std::string_view single_file_name = "model.safetensors";
inline constexpr std::string_view index_file_name = "model.safetensors.index.json";

/// A tensor and the file that holds it. The tensor's data lives as long as any copy of `shard`.
struct CheckpointTensor : SafetensorsTensor {
  std::shared_ptr<SafetensorsFile const> shard;
};

/// All tensors of a checkpoint directory under one roof. `model.safetensors` is used when it is there, otherwise
/// the shards that the index names; other files are ignored.
class CheckpointFiles {
 public:
  /// Maps and validates every weight file. Throws jet::Error that lists all problems of one kind: shards that are
  /// absent, tensors that the index or a shard lacks, tensors in two shards, shard names that leave the directory.
  explicit CheckpointFiles(std::filesystem::path directory) : directory_(std::move(directory)) {
    std::error_code error;
    JET_CHECK(std::filesystem::is_directory(directory_, error), directory_.string(),
              ": expected a checkpoint directory");
    if (std::filesystem::exists(directory_ / single_file_name, error)) {
      add_shard(std::string(single_file_name));
    } else if (std::filesystem::exists(directory_ / index_file_name, error)) {
      add_index();
    } else {
      fail(directory_.string(), ": expected ", single_file_name, " or ", index_file_name, ", found neither");
    }
  }

  std::filesystem::path const& directory() const { return directory_; }
  /// Names of the weight files.
  std::vector<std::string> const& shard_names() const { return shard_names_; }
  /// Every tensor by name.
  std::map<std::string, CheckpointTensor, std::less<>> const& tensors() const { return tensors_; }

  /// The tensor, or nullptr.
  CheckpointTensor const* find(std::string_view name) const {
    auto const at = tensors_.find(name);
    return at != tensors_.end() ? &at->second : nullptr;
  }
  /// The tensor. Throws jet::Error when it is absent or of a type that the library cannot read.
  CheckpointTensor const& at(std::string_view name) const {
    CheckpointTensor const* const tensor = find(name);
    JET_CHECK(tensor != nullptr, directory_.string(), ": tensor ", detail::in_quotes(name),
              ": not in the checkpoint");
    JET_CHECK(tensor->dtype != DType::none, tensor->shard->what(), ": tensor ", detail::in_quotes(name), ": dtype ",
              tensor->file_dtype, " cannot be read");
    return *tensor;
  }

 private:
  /// Throws when there are problems, with all of them (the first 200 if there are more).
  void check_none(std::vector<std::string> const& problems, std::string_view title) const {
    if (problems.empty()) {
      return;
    }
    std::string text = concat(directory_.string(), ": ", title, ":");
    constexpr std::size_t limit = 200;
    for (std::size_t i = 0; i < problems.size() && i < limit; ++i) {
      text += "\n  " + problems[i];
    }
    fail(text, problems.size() > limit ? concat("\n  and ", problems.size() - limit, " more") : "");
  }

  static bool is_plain_name(std::string_view name) {
    return name.size() > 12 && name.ends_with(".safetensors") && name.find('/') == name.npos &&
           name.find('\\') == name.npos && name.find("..") == name.npos && detail::is_printable(name);
  }

  /// Opens one file and adds its tensors. Returns names that another shard has already brought.
  std::vector<std::string> add_shard(std::string const& name) {
    auto const shard = std::make_shared<SafetensorsFile const>(directory_ / name);
    shard_names_.push_back(name);
    std::vector<std::string> twice;
    for (SafetensorsTensor const& tensor : shard->tensors()) {
      auto const [at, is_new] = tensors_.emplace(tensor.name, CheckpointTensor{tensor, shard});
      if (!is_new) {
        twice.push_back(
            concat(detail::in_quotes(tensor.name), " in ", at->second.shard->what(), " and ", shard->what()));
      }
    }
    return twice;
  }

  void add_index() {
    std::filesystem::path const path = directory_ / index_file_name;
    Json const index = load_json(path, safetensors_max_header);
    Json const& weight_map = get_object(index, "weight_map", path.string());
    std::map<std::string, std::string> shard_of;
    std::set<std::string> names;
    std::vector<std::string> bad;
    for (auto const& [tensor, shard] : weight_map.get_ref<Json::object_t const&>()) {
      std::string const* const name = shard.get_ptr<std::string const*>();
      if (name == nullptr || !is_plain_name(*name)) {
        bad.push_back(concat(detail::in_quotes(tensor), ": ", detail::shown(shard)));
        continue;
      }
      names.insert(*name);
      shard_of.emplace(tensor, *name);
    }
    check_none(bad, "weight_map: expected names of .safetensors files in the same directory, found");
    std::vector<std::string> absent;
    for (std::string const& name : names) {
      std::error_code error;
      if (!std::filesystem::exists(directory_ / name, error)) {
        absent.push_back(name);
      }
    }
    check_none(absent, "files named by the index are absent (interrupted download?)");

    std::vector<std::string> twice;
    for (std::string const& name : names) {
      std::vector<std::string> const more = add_shard(name);
      twice.insert(twice.end(), more.begin(), more.end());
    }
    check_none(twice, "tensors in two shards");
    std::vector<std::string> problems;
    for (auto const& [tensor, name] : shard_of) {
      auto const at = tensors_.find(tensor);
      if (at == tensors_.end() || at->second.shard->what() != (directory_ / name).string()) {
        problems.push_back(concat(detail::in_quotes(tensor), " is not in ", name, ", where the index has it"));
      }
    }
    for (auto const& [tensor, entry] : tensors_) {
      if (shard_of.find(tensor) == shard_of.end()) {
        problems.push_back(
            concat(detail::in_quotes(tensor), " is in ", entry.shard->what(), ", but not in the index"));
      }
    }
    check_none(problems, "index and shards disagree");
  }

  std::filesystem::path directory_;
  std::vector<std::string> shard_names_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
};

namespace detail {

/// `model-00001-of-00003.safetensors`; a generation above 0 gives `model.<generation>-00001-of-00003.safetensors`.
inline std::string shard_name(std::size_t index, std::size_t count, i64 generation) {
  char numbers[32];
  std::snprintf(numbers, sizeof numbers, "-%05zu-of-%05zu", index + 1, count);
  return concat("model", generation > 0 ? concat(".", generation) : "", numbers, ".safetensors");
}

/// Whether shard_name can have made this name.
inline bool is_shard_name(std::string_view name) {
  auto const skip = [&](std::string_view prefix) {
    bool const matches = name.starts_with(prefix);
    name.remove_prefix(matches ? prefix.size() : 0);
    return matches;
  };
  auto const skip_digits = [&] {
    std::size_t const count = std::min(name.find_first_not_of("0123456789"), name.size());
    name.remove_prefix(count);
    return count;
  };
  return skip("model") && (!skip(".") || skip_digits() > 0) && skip("-") && skip_digits() == 5 && skip("-of-") &&
         skip_digits() == 5 && name == ".safetensors";
}

/// Removes the weight files of earlier saves that are not in `keep`.
inline void remove_stale(std::filesystem::path const& directory, std::set<std::string> const& keep) {
  std::vector<std::filesystem::path> stale;
  for (auto const& entry : std::filesystem::directory_iterator(directory)) {
    std::string const name = entry.path().filename().string();
    bool const is_weights = name == single_file_name || name == index_file_name || is_shard_name(name);
    if (is_weights && keep.find(name) == keep.end()) {
      stale.push_back(entry.path());
    }
  }
  // model.safetensors first: it has priority over an index, so its removal is what makes a sharded save current.
  // An index goes before its shards, so that it never names absent files.
  auto const rank = [](std::filesystem::path const& path) {
    return path.filename() == single_file_name ? 0 : path.filename() == index_file_name ? 1 : 2;
  };
  std::stable_sort(stale.begin(), stale.end(), [&](auto const& a, auto const& b) { return rank(a) < rank(b); });
  int previous_rank = 0;
  for (std::filesystem::path const& path : stale) {
    if (rank(path) > std::exchange(previous_rank, rank(path))) {
      sync_directory(directory);
    }
    std::error_code error;
    std::filesystem::remove(path, error);
    JET_CHECK(!error, path.string(), ": cannot remove the file of an earlier save: ", error.message());
  }
  sync_directory(directory);
}

}  // namespace detail

/// Saves weights into `directory` (created if absent) as `model.safetensors`, or, when they exceed
/// `max_shard_bytes` of data, as shards with an index. A shard holds tensors in the given order, at least one.
///
/// The old checkpoint stays loadable until one atomic step makes the new one current: all files are first written
/// under temporary names; shards then get names that no file has yet; then the index (or the single file) is
/// renamed into place; what an earlier save left is removed last. For that, shards are called
/// `model-00001-of-0000N.safetensors` and, where such files exist, `model.1-00001-of-0000N.safetensors` and so on.
/// An interruption leaves the old or the new checkpoint complete, never a mixture. Other files in the directory are
/// untouched. Weights that are mapped from the same directory may be saved over. Two processes must not save into
/// one directory at once.
///
/// `metadata` goes into every file; the key "format", which other loaders demand, is added as "pt" if absent.
/// Throws jet::Error, or what a source's callback throws; the old checkpoint is then untouched.
inline void save_checkpoint(std::filesystem::path const& directory, std::span<SafetensorsSource const> tensors,
                            i64 max_shard_bytes, SafetensorsMetadata metadata = {}) {
  JET_CHECK(max_shard_bytes > 0, directory.string(), ": expected a positive max_shard_bytes, found ",
            max_shard_bytes);
  metadata.emplace("format", "pt");
  // The checks on all names and sizes together, before anything is written.
  detail::safetensors_header(tensors, metadata, directory.string());
  std::vector<std::span<SafetensorsSource const>> shards;
  i64 total_bytes = 0;
  i64 shard_bytes = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    i64 const bytes = detail::checked_bytes(tensors[i], directory.string());
    if (i > first && bytes > max_shard_bytes - shard_bytes) {
      shards.push_back(tensors.subspan(first, i - first));
      first = i;
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    total_bytes += bytes;
  }
  shards.push_back(tensors.subspan(first));
  JET_CHECK(shards.size() <= 99999, directory.string(), ": max_shard_bytes of ", max_shard_bytes, " would make ",
            shards.size(), " shards");

  std::error_code error;
  std::filesystem::create_directories(directory, error);
  JET_CHECK(!error, directory.string(), ": cannot create directory: ", error.message());
  if (shards.size() == 1) {
    write_safetensors(directory / single_file_name, tensors, metadata);
    detail::remove_stale(directory, {std::string(single_file_name)});
    return;
  }

  std::vector<std::string> names(shards.size());
  bool taken = true;
  for (i64 generation = 0; taken; ++generation) {
    taken = false;
    for (std::size_t i = 0; i < names.size(); ++i) {
      names[i] = detail::shard_name(i, names.size(), generation);
      taken = taken || std::filesystem::exists(std::filesystem::symlink_status(directory / names[i], error));
    }
  }
  std::vector<AtomicFile> files;
  files.reserve(names.size() + 1);
  std::string index =
      concat("{\n  \"metadata\": {\n    \"total_size\": ", total_bytes, "\n  },\n  \"weight_map\": {");
  for (std::size_t i = 0; i < names.size(); ++i) {
    AtomicFile& file = files.emplace_back(directory / names[i]);
    detail::write_safetensors(file, shards[i], metadata);
    file.finish();
    for (SafetensorsSource const& source : shards[i]) {
      index += concat(index.back() == '{' ? "\n    " : ",\n    ", detail::json_string(source.name, names[i]),
                      ": \"", names[i], "\"");
    }
  }
  AtomicFile& index_file = files.emplace_back(directory / index_file_name);
  index_file.write(index + "\n  }\n}\n");
  index_file.finish();

  try {
    for (AtomicFile& file : files) {
      file.commit();
    }
  } catch (...) {
    // Without the index the new shards belong to nothing. With it they are the checkpoint.
    for (AtomicFile const& file : files) {
      if (file.is_committed() && !index_file.is_committed()) {
        std::filesystem::remove(file.target(), error);
      }
    }
    throw;
  }
  std::set<std::string> keep(names.begin(), names.end());
  keep.emplace(index_file_name);
  detail::remove_stale(directory, keep);
}

JET_NAMESPACE_END
