/// \file
/// What scores mean: the choice taken, accuracies with their standard errors per task, as a table and as JSON.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jet/core/dtype.hpp>
#include <jet/core/error.hpp>
#include <jet/core/macros.hpp>
#include <jet/io/json.hpp>
#include <jet/text/scoring.hpp>
#include <jet/text/scoring_items.hpp>
#include <jet/text/utf8.hpp>

JET_NAMESPACE_BEGIN

/// How one question went. `chosen` is the index of the largest log-likelihood, `chosen_by_byte` of the largest one
/// per byte of the choice; -1: a tie, which counts as wrong.
struct Verdict {
  i64 chosen = -1;
  i64 chosen_by_byte = -1;
  bool correct = false;
  bool correct_by_byte = false;
};

namespace detail {

/// Index of the largest value, -1 when several share it.
inline i64 only_largest(std::vector<double> const& values) {
  auto const best = std::max_element(values.begin(), values.end());
  return std::count(values.begin(), values.end(), *best) == 1 ? best - values.begin() : -1;
}

/// Letters, digits and the underscore; beyond ASCII everything but Latin-1 signs and the common blocks of
/// punctuation.
inline bool is_word_character(std::uint32_t c) {
  if (c < 0x80) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  }
  return c >= 0xc0 && c != 0xd7 && c != 0xf7 && !(c >= 0x2000 && c <= 0x206f) && !(c >= 0x3000 && c <= 0x303f);
}

/// Whether text[at, at + n) does not go on as the same word on either side. The text is valid UTF-8.
inline bool stands_alone(std::string_view text, std::size_t at, std::size_t n) {
  auto const word_at = [&](std::size_t i) { return is_word_character(utf8_step(text, i).code_point); };
  std::size_t const end = at + n;
  bool const before = at > 0 && word_at(utf8_previous(text, at)) && word_at(at);
  bool const after = end < text.size() && word_at(end) && word_at(utf8_previous(text, end));
  return !before && !after;
}

}  // namespace detail

/// Whether generated text is right (MatchRule).
inline bool matches(std::string_view text, std::string_view target, MatchRule rule) {
  std::string const valid = utf8_lossy(text);
  if (rule == MatchRule::begins) {
    return valid.starts_with(' ') && std::string_view(valid).substr(1).starts_with(target) &&
           detail::stands_alone(valid, 1, target.size());
  }
  for (std::size_t at = valid.find(target); at != std::string::npos; at = valid.find(target, at + 1)) {
    if (detail::stands_alone(valid, at, target.size())) {
      return true;
    }
  }
  return false;
}

inline Verdict judge(ScoreItem const& item, ItemScore const& score) {
  Verdict v;
  if (item.generates()) {
    v.correct = matches(score.text, item.target, item.match);
    return v;
  }
  JET_CHECK(score.loglikelihood.size() == item.choices.size() && item.bytes.size() == item.choices.size(),
            item.source, ": ", score.loglikelihood.size(), " scores for ", item.choices.size(), " choices");
  std::vector<double> per_byte = score.loglikelihood;
  for (std::size_t i = 0; i < per_byte.size(); ++i) {
    per_byte[i] /= static_cast<double>(item.bytes[i]);
  }
  v.chosen = detail::only_largest(score.loglikelihood);
  v.chosen_by_byte = detail::only_largest(per_byte);
  v.correct = v.chosen == item.answer;
  v.correct_by_byte = v.chosen_by_byte == item.answer;
  return v;
}

/// One question and how it went as one line of JSON, with "\n".
inline std::string item_line(ScoreItem const& item, ItemScore const& score) {
  Verdict const v = judge(item, score);
  Json json{{"source", item.source}, {"task", item.task}};
  if (item.generates()) {
    json["text"] = utf8_lossy(score.text);
    json["target"] = item.target;
  } else {
    auto const index = [](i64 chosen) { return chosen < 0 ? Json() : Json(chosen); };
    json["loglikelihood"] = score.loglikelihood;
    json["bytes"] = item.bytes;
    json["chosen"] = index(v.chosen);
    json["chosen_by_byte"] = index(v.chosen_by_byte);
    json["answer"] = item.answer;
    json["correct_by_byte"] = v.correct_by_byte;
  }
  json["correct"] = v.correct;
  return json.dump() + "\n";
}

/// Right ones among questions.
struct Accuracy {
  i64 items = 0;
  i64 right = 0;
  void add(bool correct) {
    ++items;
    right += correct ? 1 : 0;
  }
  double value() const { return static_cast<double>(right) / static_cast<double>(items); }
  /// Standard error of the mean from the sample's deviation, sqrt(p (1 - p) / (n - 1)); NaN for one question.
  double standard_error() const {
    double const p = value();
    return items > 1 ? std::sqrt(p * (1 - p) / static_cast<double>(items - 1))
                     : std::numeric_limits<double>::quiet_NaN();
  }
};

/// Accuracies per task, per group (the part of a task's name before '/', where it has several tasks) and overall.
class ScoreReport {
 public:
  struct Row {
    std::string name;
    i64 tasks = 1;       // more than one: a group, or everything
    Accuracy by_sum;     // choices by the sum of log-probabilities; generated texts
    Accuracy by_byte{};  // choices only
    i64 ties = 0;        // of by_sum
  };

  void add(ScoreItem const& item, ItemScore const& score) {
    auto const [at, is_new] = index_.try_emplace(item.task, tasks_.size());
    if (is_new) {
      tasks_.push_back({item.task, 1, {}, {}, 0});
    }
    Row& row = tasks_[at->second];
    Verdict const v = judge(item, score);
    row.by_sum.add(v.correct);
    if (!item.generates()) {
      row.by_byte.add(v.correct_by_byte);
      row.ties += v.chosen < 0 ? 1 : 0;
    }
  }

  /// Tasks in the order in which they came.
  std::vector<Row> const& tasks() const { return tasks_; }
  /// Groups of several tasks.
  std::vector<Row> groups() const {
    std::vector<Row> out;
    for (Row const& task : tasks_) {
      std::string const name = task.name.substr(0, task.name.find('/'));
      auto const at = std::find_if(out.begin(), out.end(), [&](Row const& row) { return row.name == name; });
      if (at == out.end()) {
        out.push_back(task);
        out.back().name = name;
      } else {
        merge(*at, task);
      }
    }
    std::erase_if(out, [](Row const& row) { return row.tasks == 1; });
    return out;
  }
  /// Every question counts the same.
  Row overall() const {
    Row out{"overall", 0, {}, {}, 0};
    for (Row const& task : tasks_) {
      merge(out, task);
    }
    return out;
  }

  /// A line per task, group and overall, accuracies in percent. A group of many tasks is one line if
  /// `short_groups`.
  std::string table(bool short_groups = false) const {
    std::vector<Row> rows;
    std::vector<Row> const all_groups = groups();
    for (Row const& task : tasks_) {
      std::string const name = task.name.substr(0, task.name.find('/'));
      bool const in_group =
          std::any_of(all_groups.begin(), all_groups.end(), [&](Row const& row) { return row.name == name; });
      if (!in_group || !short_groups) {
        rows.push_back(task);
      }
    }
    rows.insert(rows.end(), all_groups.begin(), all_groups.end());
    rows.push_back(overall());
    std::size_t width = 0;
    for (Row& row : rows) {
      row.name += row.tasks > 1 ? concat(" (", row.tasks, " tasks)") : "";
      width = std::max(width, row.name.size());
    }
    auto const pad = [&](std::string_view text) {
      return std::string(text) + std::string(width - std::min(width, text.size()), ' ');
    };
    std::string text = pad("task") + "   items   by sum            per byte          ties\n";
    for (Row const& row : rows) {
      char number[16];
      std::snprintf(number, sizeof number, "  %6lld", static_cast<long long>(row.by_sum.items));
      text += pad(row.name) + number + "  " + cell(row.by_sum) + "  " + cell(row.by_byte);
      std::snprintf(number, sizeof number, "  %4lld\n", static_cast<long long>(row.ties));
      text += number;
    }
    return text;
  }

  /// {"tasks": {name: {"items", "accuracy", "standard_error", "accuracy_per_byte", "standard_error_per_byte",
  /// "ties"}}, "groups": {...}, "overall": {...}}; what does not apply is null.
  Json json() const {
    Json out{{"tasks", Json::object()}, {"groups", Json::object()}, {"overall", json_of(overall())}};
    for (Row const& row : tasks_) {
      out["tasks"][row.name] = json_of(row);
    }
    for (Row const& row : groups()) {
      out["groups"][row.name] = json_of(row);
    }
    return out;
  }

 private:
  static void merge(Row& into, Row const& row) {
    into.tasks += row.tasks;
    into.by_sum.items += row.by_sum.items;
    into.by_sum.right += row.by_sum.right;
    into.by_byte.items += row.by_byte.items;
    into.by_byte.right += row.by_byte.right;
    into.ties += row.ties;
  }
  static std::string cell(Accuracy const& a) {
    char text[32];
    if (a.items == 0) {
      std::snprintf(text, sizeof text, "%-16s", "-");
    } else if (a.items == 1) {
      std::snprintf(text, sizeof text, "%6.2f          ", 100 * a.value());
    } else {
      std::snprintf(text, sizeof text, "%6.2f +- %5.2f %%", 100 * a.value(), 100 * a.standard_error());
    }
    return text;
  }
  static Json json_of(Row const& row) {
    auto const number = [](double x) { return std::isfinite(x) ? Json(x) : Json(); };
    return {{"items", row.by_sum.items},
            {"accuracy", number(row.by_sum.value())},
            {"standard_error", number(row.by_sum.standard_error())},
            {"accuracy_per_byte", number(row.by_byte.value())},
            {"standard_error_per_byte", number(row.by_byte.standard_error())},
            {"ties", row.ties}};
  }

  std::vector<Row> tasks_;
  std::map<std::string, std::size_t> index_;
};

/// The perplexity of a document as JSON.
inline Json document_json(ScoreDocument const& document, DocumentScore const& score,
                          PerplexityOptions const& options) {
  return {
      {"source", document.source},      {"window", options.window},     {"stride", options.stride},
      {"tokens", score.tokens},         {"bytes", score.bytes},         {"loglikelihood", score.sum},
      {"per_token", score.per_token()}, {"per_byte", score.per_byte()}, {"bits_per_byte", score.bits_per_byte()}};
}

JET_NAMESPACE_END
