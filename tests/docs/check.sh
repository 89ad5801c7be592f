#!/usr/bin/env bash
# Every C++ snippet of the documents compiles. A fence ```cpp is at namespace scope, ```cpp body the inside of a function; the
# snippets of one document are one file, in order.
# Usage: tests/docs/check.sh [COMPILER]     (from the repository's root). The last line is "N passed, N failed, N not run".
set -u
cd "$(dirname "$0")/../.." || exit 1
compiler=${1:-g++}
scratch=${JET_BUILD:-${TMPDIR:-/tmp}/jet_checks.$$}/docs
mkdir -p "$scratch" || exit 1
passed=0 failed=0 not_run=0
for document in README.md CONTRIBUTING.md docs/*.md; do
  source=$scratch/$(basename "$document" .md).cpp
  awk -v document="$document" '
    /^```cpp/ { inside = 1; body = ($2 == "body"); ++n
      if (body) printf "[[maybe_unused]] static void snippet_%d() {\n", n
      printf "#line %d \"%s\"\n", FNR + 1, document; next }
    /^```/ && inside { inside = 0; if (body) print "}"; next }
    inside { print }' "$document" >"$scratch/snippets"
  if [[ ! -s $scratch/snippets ]]; then continue; fi
  { printf '#include <cstdio>\n#include <iostream>\n#include <memory>\n#include <string>\n#include <vector>\n'
    cat "$scratch/snippets"; } >"$source"
  missing=
  if [[ ${JET_HAS_TOKENIZER:-1} == 0 ]] && grep -q 'jet/io/tokenizer.hpp' "$source"; then missing=tokenizer; fi
  if [[ ${JET_HAS_JSON:-1} == 0 ]] && grep -q 'jet/io/' "$source"; then missing=nlohmann-json; fi
  if [[ ${JET_HAS_BENCHMARK:-1} == 0 ]] && grep -q 'jet/bench/' "$source"; then missing='Google Benchmark'; fi
  if [[ -n $missing ]]; then
    echo "not run: snippets of $document (no $missing)"
    not_run=$((not_run + 1))
  elif "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wno-unused-variable -Wno-unused-but-set-variable -Werror -Iinclude \
    -isystem "${JET_EIGEN:-/usr/include/eigen3}" "$source" >"$scratch/log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: snippets of $document"
    head -n 20 "$scratch/log"
  fi
done
echo "docs: $passed passed, $failed failed, $not_run not run"
((failed == 0))
