// Which of a program's model types a checkpoint is.
#pragma once

#include <filesystem>
#include <string>

#include <jet/io/hf_config.hpp>
#include <jet/io/json.hpp>

/// Calls run.operator()<Model>() for the first of the types that the checkpoint's config.json agrees with.
template <class... Models, class Run> void dispatch(std::filesystem::path const& directory, Run const& run) {
  auto const file = directory / "config.json";
  auto const description = jet::read_config(jet::load_config(file), file.string());
  bool found = false;
  std::string differences;
  auto const attempt = [&]<class Model>() {
    if (found) {
      return;
    }
    auto const lines = jet::compare<Model>(description);
    if (!lines.empty()) {
      differences += jet::concat("\n  ", lines.front(), lines.size() > 1 ? " ..." : "");
      return;
    }
    found = true;
    run.template operator()<Model>();
  };
  (attempt.template operator()<Models>(), ...);
  JET_CHECK(found, file.string(),
            ": no model type of this program agrees with it; the first difference of each:", differences);
}
