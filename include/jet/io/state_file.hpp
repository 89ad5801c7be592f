/// \file
/// The saved state of a sequence as a file, in the safetensors format.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/safetensors.hpp>
#include <jet/model/state_pool.hpp>

JET_NAMESPACE_BEGIN

/// Version of the layout below.
inline constexpr i64 state_file_version = 1;

namespace detail {

/// "layers.3.mixer.recurrent"
inline std::string state_tensor_name(SavedRow const& row) {
  return concat("layers.", row.layer, ".", row.name);
}

}  // namespace detail

/// Writes the state of a sequence: one tensor per row in its own dtype, called `layers.<layer>.<row>`, and as
/// metadata `format` "jet_state", `version`, `plan`, `position` and `rows`, the names of the tensors in the order
/// of the state, one a line. The file appears only when it is complete. Throws jet::Error.
inline void save_state(std::filesystem::path const& path, SavedState const& state) {
  JET_CHECK(state.position >= 0, path.string(), ": state: position ", state.position, ", expected at least 0");
  JET_CHECK(detail::is_printable(state.plan), path.string(), ": state: plan ", detail::in_quotes(state.plan),
            " is not of letters");
  std::vector<SafetensorsSource> sources;
  std::string rows;
  for (SavedRow const& row : state.rows) {
    std::string const name = detail::state_tensor_name(row);
    JET_CHECK(row.layer >= 0 && row.layer < static_cast<i64>(state.plan.size()) &&
                  row.letter == state.plan[static_cast<std::size_t>(row.layer)],
              path.string(), ": state: row ", detail::in_quotes(name), " is of layer ", row.layer, " (", row.letter,
              "), which is not in plan \"", state.plan, "\"");
    JET_CHECK(!row.name.empty() && detail::is_printable(name), path.string(), ": state: ", detail::in_quotes(name),
              " is not a name");
    SafetensorsSource source{name, row.dtype, row.shape, row.data.data(), nullptr};
    i64 const bytes = detail::checked_bytes(source, path.string());
    JET_CHECK(static_cast<i64>(row.data.size()) == bytes, path.string(), ": state: row ", detail::in_quotes(name),
              ": shape ", detail::shape_text(row.shape), " of ", name_of(row.dtype), " expects ", bytes,
              " bytes, found ", row.data.size());
    sources.push_back(std::move(source));
    rows += name + "\n";
  }
  write_safetensors(path, sources,
                    {{"format", "jet_state"},
                     {"version", concat(state_file_version)},
                     {"plan", state.plan},
                     {"position", concat(state.position)},
                     {"rows", rows}});
}

/// Reads a file of save_state, which may be damaged or foreign: every part is checked, and errors name the file,
/// the part, what was expected and what was found. That the rows fit a model is checked when a pool loads them.
/// Throws jet::Error.
inline SavedState load_state(std::filesystem::path const& path) {
  SafetensorsFile const file(path);
  auto const text = [&](std::string_view key) -> std::string const& {
    auto const at = file.metadata().find(key);
    JET_CHECK(at != file.metadata().end(), file.what(), ": metadata ", key,
              ": absent (not a file of a saved state?)");
    return at->second;
  };
  JET_CHECK(text("format") == "jet_state", file.what(), ": metadata format: expected \"jet_state\", found ",
            detail::in_quotes(text("format")));
  JET_CHECK(text("version") == concat(state_file_version), file.what(), ": metadata version: expected ",
            state_file_version, ", found ", detail::in_quotes(text("version")));
  std::optional<i64> const position = detail::whole_number(text("position"));
  JET_CHECK(position.has_value(), file.what(), ": metadata position: expected an integer of at least 0, found ",
            detail::in_quotes(text("position")));

  // Other code puts plan and names into its messages.
  JET_CHECK(detail::is_printable(text("plan")), file.what(), ": metadata plan: expected letters, found ",
            detail::in_quotes(text("plan")));

  SavedState state{text("plan"), *position, {}};
  std::set<std::string_view> seen;
  std::string_view names = text("rows");
  while (!names.empty()) {
    std::size_t const end = names.find('\n');
    JET_CHECK(end != std::string_view::npos, file.what(), ": metadata rows: the last line is not complete");
    std::string_view const name = names.substr(0, end);
    names.remove_prefix(end + 1);
    std::string const where = concat(file.what(), ": row ", detail::in_quotes(name));
    JET_CHECK(seen.insert(name).second, where, ": named twice");
    SafetensorsTensor const& tensor = file.at(name);

    constexpr std::string_view prefix = "layers.";
    std::size_t const dot = name.starts_with(prefix) ? name.find('.', prefix.size()) : std::string_view::npos;
    bool const has_parts = dot != std::string_view::npos && dot + 1 < name.size() && detail::is_printable(name);
    std::optional<i64> const layer =
        has_parts ? detail::whole_number(name.substr(prefix.size(), dot - prefix.size())) : std::nullopt;
    JET_CHECK(layer.has_value(), where, ": expected a name of the form layers.<number>.<row>");
    JET_CHECK(*layer < static_cast<i64>(state.plan.size()), where, ": layer ", *layer, ", expected 0 to ",
              static_cast<i64>(state.plan.size()) - 1, " of plan ", detail::in_quotes(state.plan));
    state.rows.push_back({*layer, state.plan[static_cast<std::size_t>(*layer)], std::string(name.substr(dot + 1)),
                          tensor.dtype, tensor.shape,
                          std::vector<std::byte>(tensor.data, tensor.data + tensor.bytes)});
    JET_CHECK(detail::state_tensor_name(state.rows.back()) == name, where,
              ": expected a name of the form layers.<number>.<row>");
  }
  for (SafetensorsTensor const& tensor : file.tensors()) {
    JET_CHECK(seen.find(tensor.name) != seen.end(), file.what(), ": tensor ", detail::in_quotes(tensor.name),
              ": not named by metadata rows");
  }
  return state;
}

JET_NAMESPACE_END
