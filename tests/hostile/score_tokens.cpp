// Files of tokens to be scored, which come from another machine.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <jet/text/scoring_items.hpp>

#include "hostile.hpp"

namespace {

using hostile::appended;
using hostile::becomes;
using hostile::Case;
using hostile::cut_at;
using hostile::replaced;

constexpr char const* good = R"({"format":"jet score tokens 1","stop_tokens":[2],"token_bytes":["a","é"]}
{"source":"a:1","task":"t","context":[1,2],"choices":[[4],[5,6]],"bytes":[2,5],"answer":1}
{"source":"a:2","task":"t","context":[1],"target":"x","max_new":4,"match":"begins"}
{"document":"b","ids":[0,7,8],"bytes":9}
)";

}  // namespace

TEST_CASE("hostile score tokens: a file, corrupted") {
  std::vector<Case> const cases{
      {"empty", becomes(""), {"expected a header line"}},
      {"no header",
       replaced("\"format\"", "\"formats\""),
       {"tokens.jsonl:1: format: expected \"jet score tokens 1\""}},
      {"another version", replaced("tokens 1", "tokens \\u001b"), {"found \"jet score tokens \\x1b\""}},
      {"cut", cut_at(-2), {"tokens.jsonl:4: byte", "not valid JSON"}, cut_at(-1)},
      {"a line of brackets",
       appended(std::string(1'000'000, '[')),
       {"tokens.jsonl:5: byte", "nested deeper than 64"},
       appended("\n \r\n")},
      {"a zero byte", appended(std::string("\0", 1)), {"tokens.jsonl:5: byte 0", "zero byte"}},
      {"invalid UTF-8", replaced("\"x\"", "\"\xff\""), {"tokens.jsonl:3: byte", "invalid UTF-8"}},
      {"a key twice",
       replaced("\"task\":\"t\"", "\"task\":\"t\",\"task\":\"u\""),
       {"tokens.jsonl:2: byte", "duplicate key \"task\""}},
      {"a negative id",
       replaced("[5,6]", "[5,-6]"),
       {"tokens.jsonl:2: choices[1]: expected a token id, found -6"},
       replaced("[5,6]", "[5,0]")},
      {"an id of 2^31",
       replaced("[0,7,8]", "[0,2147483648]"),
       {"tokens.jsonl:4: ids: expected a token id, found 2147483648"},
       replaced("[0,7,8]", "[0,2147483647]")},
      {"an id beyond 64 bits",
       replaced("[2]", "[18446744073709551616]"),
       {"tokens.jsonl:1: stop_tokens: expected an integer"}},
      {"an id with a fraction",
       replaced("[5,6]", "[5,6.5]"),
       {"choices[1]: expected an integer of 64 bits, found 6.5"}},
      {"an id that is a list",
       replaced("[5,6]", "[5,[6]]"),
       {"choices[1]: expected an integer of 64 bits, found an array"}},
      {"no context", replaced("\"context\":[1,2],", ""), {"tokens.jsonl:2: context: required"}},
      {"an empty context",
       replaced("[1,2]", "[]"),
       {"context: expected an array of at least one token id, found an empty one"}},
      {"an empty choice", replaced("[5,6]", "[]"), {"choices[1]: expected an array of at least one token id"}},
      {"no choices", replaced("[[4],[5,6]]", "[]"), {"choices: expected at least one"}},
      {"fewer bytes than choices",
       replaced("[2,5]", "[2]"),
       {"bytes: expected 2 numbers, one per choice, found 1"}},
      {"no bytes", replaced("[2,5]", "[2,0]"), {"bytes: expected at least 1, found 0"}, replaced("[2,5]", "[2,1]")},
      {"an answer that is no choice",
       replaced("\"answer\":1", "\"answer\":2"),
       {"answer: expected 0 to 1"},
       replaced("\"answer\":1", "\"answer\":0")},
      {"a negative answer", replaced("\"answer\":1", "\"answer\":-1"), {"answer: expected 0 to 1", "found -1"}},
      {"both forms",
       replaced("\"answer\":1", "\"answer\":1,\"target\":\"x\""),
       {"expected either choices and answer, or target and max_new; found both"}},
      {"tokens to generate without end",
       replaced("\"max_new\":4", "\"max_new\":9223372036854775807"),
       {"max_new: expected 1 to 1048576"},
       replaced("\"max_new\":4", "\"max_new\":1048576")},
      {"nothing to generate",
       replaced("\"max_new\":4", "\"max_new\":0"),
       {"max_new: expected 1 to 1048576, found 0"}},
      {"a rule that no one knows",
       replaced("begins", "\\u001b[2J"),
       {"match: expected words or begins, found \"\\x1b[2J\""},
       replaced("begins", "words")},
      {"bytes that are none",
       replaced("é", "ā"),
       {"token_bytes: expected code points below 256, found 257"},
       replaced("é", "ÿ")},
      {"a document of one token",
       replaced("[0,7,8]", "[0]"),
       {"tokens.jsonl:4: ids: expected a prefix token and a text"},
       replaced("[0,7,8]", "[0,7]")},
      {"a document of negative bytes",
       replaced("\"bytes\":9", "\"bytes\":-9"),
       {"bytes: expected at least 1, found -9"},
       replaced("\"bytes\":9", "\"bytes\":1")},
  };
  tests::ScratchDirectory const directory;
  std::filesystem::path const path = directory.path / "tokens.jsonl";
  hostile::check(path, good, cases, [&] { jet::read_score_tokens(path); });
}
