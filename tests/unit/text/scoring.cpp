// Scoring: reading and encoding questions, judging answers, and log-likelihoods and perplexities against plain sums
// over the logits of whole sequences.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <jet/text/generate.hpp>
#include <jet/text/scoring.hpp>
#include <jet/text/scoring_report.hpp>

#include "contract/small.hpp"

using contract::make_weights;
using contract::Small;
using contract::tokens;
using jet::i64;
using B = jet::Cpu<jet::precision::f64>;
using Ids = std::vector<std::int32_t>;

namespace {

/// Bytes as ids; "th" is 256 and "e " is 257, taken from the left: enough to merge across a boundary.
Ids toy_encode(std::string_view text) {
  Ids ids;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string_view const pair = text.substr(i, 2);
    bool const merged = pair == "th" || pair == "e ";
    ids.push_back(pair == "th" ? 256 : pair == "e " ? 257 : static_cast<std::uint8_t>(text[i]));
    i += merged ? 1 : 0;
  }
  return ids;
}

jet::ScoreEncoder toy_encoder() {
  return {toy_encode, 300, false};
}

jet::ScoreText question(std::string context, std::vector<std::string> choices, i64 answer = 0) {
  jet::ScoreText text;
  text.source = "f:1";
  text.task = "t";
  text.context = std::move(context);
  text.choices = std::move(choices);
  text.answer = answer;
  return text;
}

jet::ScoreItem item(Ids context, std::vector<Ids> choices) {
  jet::ScoreItem out;
  out.source = "f:1";
  out.task = "t";
  out.context = std::move(context);
  out.bytes.assign(choices.size(), 1);
  out.choices = std::move(choices);
  return out;
}

Ids joined(Ids a, Ids const& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// log p(ids[i] | ids[0, i)) for every i >= 1, from all logits of one call on a fresh slot, summed by definition.
std::vector<double> plain(jet::Engine<Small, B>& lm, Ids const& ids) {
  lm.reset(0);
  jet::Batch batch;
  batch.add(0, std::ssize(ids), 0);
  batch.logits = jet::Logits::all;
  jet::View const logits = lm.forward(batch, ids);
  std::vector<double> out{0};
  for (i64 i = 0; i + 1 < std::ssize(ids); ++i) {
    double const* const row = logits.row<double>(i);
    long double sum = 0;
    for (int v = 0; v < 97; ++v) {
      sum += std::exp(static_cast<long double>(row[v]));
    }
    out.push_back(row[ids[static_cast<std::size_t>(i) + 1]] - static_cast<double>(std::log(sum)));
  }
  return out;
}

double plain_choice(jet::Engine<Small, B>& lm, Ids const& context, Ids const& choice) {
  auto const all = plain(lm, joined(context, choice));
  double sum = 0;
  for (std::size_t i = context.size(); i < all.size(); ++i) {
    sum += all[i];
  }
  return sum;
}

std::filesystem::path scratch_file(std::string const& text) {
  auto const path = std::filesystem::temp_directory_path() / jet::concat("jet_scoring_", ::getpid(), ".jsonl");
  std::ofstream(path) << text;
  return path;
}

}  // namespace

TEST_CASE("context and choice are encoded together and cut after the context's own tokens") {
  auto const encoder = toy_encoder();
  jet::ScoreItem const plain_cut = jet::encode_item(question("ab", {" c", "d"}), encoder);
  CHECK(plain_cut.context == Ids{'a', 'b'});
  CHECK(plain_cut.choices == std::vector<Ids>{{' ', 'c'}, {'d'}});
  CHECK(plain_cut.length() == 3);

  // "t" + "he " is "th", "e ": the cut after one token leaves "e ", and the context stays "t"
  jet::ScoreItem const merged = jet::encode_item(question("t", {"he "}), encoder);
  CHECK(merged.context == Ids{'t'});
  CHECK(merged.choices == std::vector<Ids>{{257}});
  CHECK_THROWS_WITH_AS(jet::encode_item(question("t", {"he ", "h"}), encoder),
                       "jet: f:1: choices[1]: expected at least one token after the context's 1, found 1 tokens of "
                       "both together (the choice merges with the end of the context)",
                       jet::Error);

  // white space at the end of a context is the choice's (U+2003 too); its bytes are not
  jet::ScoreItem const spaced = jet::encode_item(question("e \xe2\x80\x83\n", {"c"}), encoder);
  CHECK(spaced.context == Ids{'e'});
  CHECK(spaced.choices == std::vector<Ids>{{0xe2, 0x80, 0x83, '\n', 'c'}});
  CHECK(spaced.bytes == std::vector<i64>{1});
}

TEST_CASE("an empty context is the prefix token, and bytes are those of UTF-8") {
  auto encoder = toy_encoder();
  for (std::string const context : {"", " \n"}) {
    jet::ScoreItem const empty = jet::encode_item(question(context, {" \xc3\xa4\xe2\x82\xac", "x"}), encoder);
    CHECK(empty.context == Ids{300});
    CHECK(empty.choices[1] == toy_encode(context + "x"));
    CHECK(empty.bytes == std::vector<i64>{6, 1});
  }
  encoder.always_prefix = true;
  CHECK(jet::encode_item(question("a", {"b"}), encoder).context == Ids{300, 'a'});
  encoder = toy_encoder();
  encoder.prefix.reset();
  CHECK_NOTHROW(jet::encode_item(question("a", {"b"}), encoder));
  CHECK_THROWS_AS(jet::encode_item(question("", {"b"}), encoder), jet::Error);
  CHECK_THROWS_AS(jet::encode_document("text", "f", encoder), jet::Error);
  CHECK(jet::encode_document("the", "f", toy_encoder()).ids == Ids{300, 256, 'e'});
  CHECK_THROWS_AS(jet::encode_document("", "f", toy_encoder()), jet::Error);
}

TEST_CASE("the largest sum and the largest sum per byte are chosen; a tie is wrong") {
  jet::ScoreItem q = jet::encode_item(question("a", {"b", "\xc3\xa4\xc3\xb6", "c"}, 0), toy_encoder());
  jet::Verdict v = jet::judge(q, {{-2.0, -3.0, -4.0}, ""});
  CHECK(v.chosen == 0);
  CHECK(v.chosen_by_byte == 1);  // -2, -0.75, -4
  CHECK(v.correct);
  CHECK_FALSE(v.correct_by_byte);
  v = jet::judge(q, {{-2.0, -8.0, -2.0}, ""});
  CHECK(v.chosen == -1);
  CHECK_FALSE(v.correct);
  CHECK(v.chosen_by_byte == -1);
  v = jet::judge(q, {{-2.0, -2.0, -3.0}, ""});  // a tie of sums is none per byte
  CHECK(v.chosen == -1);
  CHECK(v.chosen_by_byte == 1);
  CHECK(jet::item_line(q, {{-2.0, -2.0, -3.0}, ""}).find("\"chosen\":null,\"chosen_by_byte\":1") !=
        std::string::npos);
}

TEST_CASE("generated text is matched by whole words, or from its start") {
  using enum jet::MatchRule;
  CHECK(jet::matches(" It is 12 now", "12", words));
  CHECK(jet::matches("12", "12", words));
  CHECK(jet::matches("a 112, then 12.", "12", words));
  CHECK_FALSE(jet::matches("a 112 or 123 or x12", "12", words));
  CHECK_FALSE(jet::matches("caf\xc3\xa9s", "caf", words));
  CHECK(jet::matches("\xe2\x80\x9cpassed\xe2\x80\x9d", "passed", words));
  CHECK_FALSE(jet::matches("", "12", words));
  CHECK(jet::matches(" passed. And", "passed", begins));
  CHECK_FALSE(jet::matches("passed", "passed", begins));
  CHECK_FALSE(jet::matches(" passed", "pass", begins));
  CHECK_FALSE(jet::matches(" he passed", "passed", begins));
  CHECK_FALSE(jet::matches("  passed", "passed", begins));
  CHECK(jet::matches(" \xff 12", "12", words));  // bytes that are no text
}

TEST_CASE("accuracy and standard error per task, group and overall") {
  jet::ScoreReport report;
  auto const add = [&](std::string task, bool right) {
    jet::ScoreItem q = item({1}, {{1}, {2}});
    q.task = std::move(task);
    report.add(q, {{right ? -1.0 : -2.0, right ? -2.0 : -1.0}, ""});
  };
  for (bool const right : {true, true, false, true}) {
    add("g/a", right);
  }
  add("g/b", false);
  add("single", true);
  auto const json = report.json();
  CHECK(json["tasks"]["g/a"]["accuracy"].get<double>() == 0.75);
  CHECK(json["tasks"]["g/a"]["standard_error"].get<double>() == doctest::Approx(0.25).epsilon(1e-12));
  CHECK(json["tasks"]["single"]["standard_error"].is_null());
  CHECK(json["groups"].size() == 1);
  CHECK(json["groups"]["g"]["accuracy"].get<double>() == doctest::Approx(0.6).epsilon(1e-12));
  CHECK(json["overall"]["items"].get<i64>() == 6);
  CHECK(json["overall"]["standard_error"].get<double>() ==
        doctest::Approx(std::sqrt(4.0 / 6 * 2 / 6 / 5)).epsilon(1e-12));
  CHECK(report.table().find("g/b") != std::string::npos);
  CHECK(report.table(true).find("g/b") == std::string::npos);
  CHECK(report.table(true).find("g (2 tasks)") != std::string::npos);
}

TEST_CASE("bad lines are refused with file and line") {
  std::string const good = R"({"task":"t","context":"c","choices":[" a"," b"],"answer":1})";
  std::string const generates = R"({"task":"svamp_gen","context":"c","target":"2","max_new":8,"id":7})";
  auto const read = [&](std::string const& bad) {
    return jet::read_score_texts(scratch_file(good + "\n\n" + bad + "\r\n" + good));
  };
  auto const texts = read(generates);
  REQUIRE(texts.size() == 3);
  CHECK(texts[0].answer == 1);
  CHECK(texts[1].source.ends_with(":3"));
  CHECK(texts[1].match == jet::MatchRule::begins);
  CHECK(texts[2].choices == std::vector<std::string>{" a", " b"});

  struct Bad {
    char const* line;
    char const* message;
  };
  for (Bad const& bad : std::initializer_list<Bad>{
           {R"({"task":"t","context":"c","choices":["a","b"],"answer":2})", ":3: answer: expected 0 to 1"},
           {R"({"task":"t","context":"c","choices":["a","b"],"answer":-1})", ":3: answer: expected 0 to 1"},
           {R"({"task":"t","context":"c","choices":["a","b"],"answer":"1"})", ":3: answer: expected an integer"},
           {R"({"task":"t","context":"c","choices":["a","b"]})", ":3: answer: required"},
           {R"({"task":"t","context":"c","choices":[],"answer":0})", ":3: choices: expected at least one"},
           {R"({"task":"t","context":"c","choices":["a",""],"answer":0})", ":3: choices[1]: expected a text"},
           {R"({"task":"t","context":"c","choices":["a",1],"answer":0})", ":3: choices[1]: expected a string"},
           {R"({"task":"t","context":"c","choices":"ab","answer":0})", ":3: choices: expected an array"},
           {R"({"task":"t","choices":["a","b"],"answer":0})", ":3: context: required"},
           {R"({"context":"c","choices":["a","b"],"answer":0})", ":3: task: required"},
           {R"({"task":"","context":"c","choices":["a","b"],"answer":0})", ":3: task: expected a name"},
           {R"({"task":"t","task":"t","context":"c","choices":["a"],"answer":0})", "duplicate key"},
           {R"({"task":"t","context":"c"})", ":3: expected either choices and answer"},
           {R"({"task":"t","context":"c","choices":["a"],"answer":0,"target":"a"})", "found both"},
           {R"({"task":"t","context":"c","target":"a"})", ":3: max_new: required"},
           {R"({"task":"t","context":"c","target":"a","max_new":0})", ":3: max_new: expected 1 to"},
           {R"({"task":"t","context":"c","target":"","max_new":1})", ":3: target: expected a text"},
           {R"({"task":"t","context":"c","target":"a","max_new":1,"match":"x"})", ":3: match: expected words"},
           {"{\"task\":\"t\",\"context\":\"\xff\",\"choices\":[\"a\"],\"answer\":0}", ":3: byte"},
           {"[1]", ":3: expected an object"},
           {"{\"task\":", ":3: byte"}}) {
    std::string message = "none";
    try {
      read(bad.line);
    } catch (jet::Error const& e) {
      message = e.what();
    }
    CHECK_MESSAGE(message.find(bad.message) != std::string::npos, bad.line, " gave ", message);
  }
  CHECK_THROWS_AS(jet::read_score_texts(scratch_file("\n")), jet::Error);
  auto limited = read(good);
  jet::limit_per_task(limited, 2);
  CHECK(limited.size() == 2);
  std::filesystem::remove(scratch_file(""));
}

TEST_CASE("token files come back as they were written; bad ones are refused") {
  jet::ScoreTokens all;
  all.items.push_back(item({5, 6}, {{1}, {2, 3}}));
  all.items.back().bytes = {4, 9};
  all.items.back().answer = 1;
  all.items.push_back(item({7}, {}));
  all.items.back().target = "\xc3\xa4";
  all.items.back().max_new = 5;
  all.items.back().match = jet::MatchRule::begins;
  all.documents.push_back({"d\x1b[2J", {0, 1, 2}, 7});
  all.items.back().source = "f\x07:2";
  all.stop_tokens = {0};
  all.token_bytes = {"", "a\n", "\xff\xc3"};
  auto const path = scratch_file("");
  jet::write_score_tokens(all, path);
  auto const back = jet::read_score_tokens(path);
  REQUIRE(back.items.size() == 2);
  CHECK(back.items[0].context == Ids{5, 6});
  CHECK(back.items[0].choices == all.items[0].choices);
  CHECK(back.items[0].bytes == all.items[0].bytes);
  CHECK(back.items[0].answer == 1);
  CHECK(back.items[0].source == "f:1");
  CHECK(back.items[1].target == "\xc3\xa4");
  CHECK(back.items[1].max_new == 5);
  CHECK(back.items[1].match == jet::MatchRule::begins);
  CHECK(back.documents[0].ids == Ids{0, 1, 2});
  CHECK(back.documents[0].bytes == 7);
  CHECK(back.documents[0].source == "d\\x1b[2J");  // nothing that a terminal would obey
  CHECK(back.items[1].source == "f\\x07:2");
  CHECK(back.token_bytes == all.token_bytes);
  CHECK(back.stop_tokens == all.stop_tokens);
  CHECK(back.longest() == 5);

  std::string const header = R"({"format":"jet score tokens 1","stop_tokens":[],"token_bytes":[]})";
  CHECK_NOTHROW(jet::read_score_tokens(scratch_file(header)));
  for (char const* const bad : {"", R"({"format":"jet score tokens 2","stop_tokens":[],"token_bytes":[]})",
                                R"({"format":"jet score tokens 1","stop_tokens":[],"token_bytes":["Ā"]})",
                                R"({"format":"jet score tokens 1","stop_tokens":[-1],"token_bytes":[]})"}) {
    CHECK_THROWS_AS(jet::read_score_tokens(scratch_file(bad)), jet::Error);
  }
  for (char const* const bad :
       {R"({"task":"t","context":[],"choices":[[1]],"bytes":[1],"answer":0})",
        R"({"task":"t","context":[1],"choices":[[]],"bytes":[1],"answer":0})",
        R"({"task":"t","context":[1],"choices":[[1]],"bytes":[1,2],"answer":0})",
        R"({"task":"t","context":[1],"choices":[[1]],"bytes":[0],"answer":0})",
        R"({"task":"t","context":[3000000000],"choices":[[1]],"bytes":[1],"answer":0})",
        R"({"document":"d","ids":[1],"bytes":1})", R"({"document":"d","ids":[1,2],"bytes":0})"}) {
    CHECK_THROWS_AS(jet::read_score_tokens(scratch_file(header + "\n" + bad)), jet::Error);
  }
  std::filesystem::remove(path);
}

TEST_CASE("runs of questions with a common head") {
  Ids const head = tokens(10, 1), other = tokens(12, 2);
  auto const with = [](Ids const& h, Ids const& rest) { return item(joined(h, rest), {{1}}); };
  std::vector<jet::ScoreItem> const items{with(head, {1, 2}), with(head, {1, 3}), with(head, {4}),  with({}, {90}),
                                          with({}, {91}),     with(other, {1}),   with(other, {2}), with({}, {3})};
  auto const runs = jet::detail::head_runs(items, 8);
  REQUIRE(runs.size() == 4);
  CHECK((runs[0].first == 0 && runs[0].last == 3 && runs[0].head == 10));
  CHECK((runs[1].first == 3 && runs[1].last == 5 && runs[1].head == 0));
  CHECK((runs[2].first == 5 && runs[2].last == 7 && runs[2].head == 12));
  CHECK((runs[3].first == 7 && runs[3].last == 8 && runs[3].head == 0));
  // equal contexts leave one token to be fed
  std::vector<jet::ScoreItem> const equal{with(head, {}), with(head, {})};
  CHECK(jet::detail::head_runs(equal, 8)[0].head == 9);
}

TEST_CASE("log-likelihoods are plain sums over whole sequences, shared or separate, however calls are cut") {
  auto const weights = make_weights<Small, B>(11);
  jet::Engine<Small, B> whole(weights, {.slots = 1, .max_len = 80, .chunk = 80, .max_logits = 80});
  std::vector<jet::ScoreItem> items;
  Ids const head = tokens(21, 50);
  for (std::uint64_t i = 0; i < 9; ++i) {
    Ids context = tokens(1 + i * 5 % 23, 100 + i);
    if (i >= 2 && i < 6) {
      context = joined(head, context);
    }
    std::vector<Ids> choices;
    for (std::uint64_t c = 0; c < 1 + (i * 3 + 1) % 6; ++c) {
      choices.push_back(tokens(1 + (i + c) % 4, 1000 + 10 * i + c));
    }
    choices.push_back(choices.front());  // a tie
    items.push_back(item(context, choices));
  }
  std::vector<std::vector<double>> expected;
  for (auto const& q : items) {
    auto& sums = expected.emplace_back();
    for (auto const& choice : q.choices) {
      sums.push_back(plain_choice(whole, q.context, choice));
    }
  }
  struct Way {
    i64 slots, chunk, max_logits;
    bool share;
  };
  for (Way const way : {Way{3, 16, 2, true}, Way{8, 80, 64, true}, Way{64, 7, 1, true}, Way{3, 33, 3, false},
                        Way{64, 200, 200, false}}) {
    jet::Engine<Small, B> lm(
        weights,
        {.slots = way.slots, .max_len = 60, .chunk = way.chunk, .max_logits = way.max_logits, .poison = true});
    i64 fed = 0;
    jet::Scorer scorer(lm, {.share = way.share, .least_head = 16, .progress = [&](i64 n) { fed = n; }});
    std::size_t next = 0;
    double worst = 0;
    scorer.score(items, [&](std::size_t i, jet::ItemScore const& score) {
      CHECK(i == next++);
      REQUIRE(score.loglikelihood.size() == expected[i].size());
      for (std::size_t c = 0; c < expected[i].size(); ++c) {
        worst = std::max(worst, std::abs(score.loglikelihood[c] - expected[i][c]));
      }
      CHECK(score.loglikelihood.front() == score.loglikelihood.back());
    });
    CHECK(next == items.size());
    CHECK(worst < 1e-9);
    CHECK(fed == scorer.cost(items));
  }
}

TEST_CASE("perplexity counts every token once, with the context of its window") {
  auto const weights = make_weights<Small, B>(12);
  jet::Engine<Small, B> whole(weights, {.slots = 1, .max_len = 80, .chunk = 80, .max_logits = 80});
  jet::Engine<Small, B> lm(weights, {.slots = 3, .max_len = 50, .chunk = 20, .max_logits = 6, .poison = true});
  jet::ScoreDocument const document{"d", tokens(48, 9), 100};  // 47 tokens after the prefix
  i64 fed = 0;
  jet::Scorer scorer(lm, {.progress = [&](i64 n) { fed = n; }});

  auto const all = plain(whole, document.ids);
  double sum = 0;
  for (double const x : all) {
    sum += x;
  }
  for (i64 const window : {47, 50}) {
    auto const score = scorer.score(document, {window, 10});
    CHECK(score.windows == 1);
    CHECK(score.tokens == 47);
    CHECK(score.sum == doctest::Approx(sum).epsilon(1e-12));
    CHECK(score.per_token() == doctest::Approx(std::exp(-sum / 47)).epsilon(1e-12));
    CHECK(score.per_byte() == doctest::Approx(std::exp(-sum / 100)).epsilon(1e-12));
  }
  struct Cut {
    i64 window, stride;
  };
  for (Cut const cut : {Cut{10, 10}, Cut{10, 3}, Cut{7, 5}, Cut{1, 1}, Cut{46, 1}, Cut{20, 13}}) {
    // token t is predicted by the first window that reaches it
    double expected = 0;
    for (i64 t = 1; t <= 47; ++t) {
      i64 begin = 0;
      while (begin + cut.window < t) {
        begin += cut.stride;
      }
      Ids const part(document.ids.begin() + begin, document.ids.begin() + t + 1);
      expected += plain(whole, part).back();
    }
    fed = 0;
    jet::Scorer fresh(lm, {.progress = [&](i64 n) { fed = n; }});
    auto const score = fresh.score(document, {cut.window, cut.stride});
    CHECK(score.sum == doctest::Approx(expected).epsilon(1e-11));
    CHECK(fed == fresh.cost(document, {cut.window, cut.stride}));
  }
  CHECK(scorer.score(document, {1000, 10}).windows == 1);
  CHECK_THROWS_AS(scorer.score({"d", tokens(60, 9), 100}, {51, 10}), jet::Error);
  CHECK_THROWS_AS(scorer.score(document, {10, 11}), jet::Error);
  CHECK_THROWS_AS(scorer.score(document, {10, 0}), jet::Error);
}

TEST_CASE("generated text is the greedy one, up to a blank line, a stop token or max_new") {
  auto const weights = make_weights<Small, B>(13);
  auto const text_of = [](std::int32_t id) {
    return id % 3 == 0 ? std::string("\n") : id % 7 == 1 ? std::string("x\n\ny") : jet::concat(" w", id);
  };
  jet::Engine<Small, B> alone(weights, {.slots = 1, .max_len = 70, .chunk = 70});
  std::vector<jet::ScoreItem> items;
  std::vector<std::string> expected;
  Ids const stops{5, 11, 23};
  int cut = 0, full = 0, stopped = 0, drawn = 0;
  for (std::uint64_t i = 0; i < 12; ++i) {
    Ids const context = i % 2 == 0 ? tokens(4 + i, 70 + i) : joined(tokens(20, 3), tokens(i, 80 + i));
    jet::ScoreItem q = item(context, {});
    q.max_new = static_cast<i64>(1 + i);
    q.target = "w";
    items.push_back(q);
    std::string text;
    bool ended = false;
    for (std::int32_t const id : alone.generate(context, {.max_new = q.max_new})) {
      ended = ended || std::find(stops.begin(), stops.end(), id) != stops.end();
      drawn += ended || text.find("\n\n") != std::string::npos ? 0 : 1;
      text += ended ? "" : text_of(id);
    }
    std::size_t const blank = text.find("\n\n");
    cut += blank != std::string::npos ? 1 : 0;
    stopped += blank == std::string::npos && ended ? 1 : 0;
    full += blank == std::string::npos && !ended ? 1 : 0;
    expected.push_back(text.substr(0, blank));
  }
  items.insert(items.begin() + 5, item(tokens(9, 4), {{1, 2}, {3}}));
  expected.insert(expected.begin() + 5, "");
  CHECK((cut > 0 && full > 0 && stopped > 0));
  for (bool const share : {true, false}) {
    jet::Engine<Small, B> lm(weights, {.slots = 5, .max_len = 60, .chunk = 16, .poison = true});
    i64 fed = 0, asked = 0;
    jet::Scorer scorer(lm, {.share = share,
                            .least_head = 16,
                            .stop_tokens = stops,
                            .token_bytes = [&](std::int32_t id) { return ++asked, text_of(id); },
                            .progress = [&](i64 n) { fed = n; }});
    scorer.score(items, [&](std::size_t i, jet::ItemScore const& score) { CHECK(score.text == expected[i]); });
    CHECK(fed == scorer.cost(items));  // what was not needed counts as done
    CHECK(asked == drawn);
  }
}

TEST_CASE("what does not fit the engine is refused before anything is computed") {
  auto const weights = make_weights<Small, B>(14);
  jet::Engine<Small, B> two(weights, {.slots = 2, .max_len = 30, .chunk = 8});
  CHECK_THROWS_WITH_AS(jet::Scorer{two}, "jet: scoring: the engine has 2 slots, expected at least 3", jet::Error);
  jet::Engine<Small, B> lm(weights, {.slots = 3, .max_len = 30, .chunk = 8});
  jet::Scorer scorer(lm);
  int done = 0;
  auto const score = [&](jet::ScoreItem const& last) {
    std::vector<jet::ScoreItem> const items{item({1}, {{2}}), last};
    scorer.score(items, [&](std::size_t, jet::ItemScore const&) { ++done; });
  };
  jet::ScoreItem generating = item({1}, {});
  generating.max_new = 4;
  for (auto const& bad : {item(tokens(30, 1), {{1, 2}}), item({97}, {{1}}), item({1}, {{-1}}), item({}, {{1}}),
                          item({1}, {{}}), generating}) {
    CHECK_THROWS_AS(score(bad), jet::Error);
  }
  CHECK(done == 0);
  CHECK_NOTHROW(score(item(tokens(29, 1), {{1, 2}})));
  CHECK(done == 2);
}
