#!/usr/bin/env bash
# A misuse must not compile, and the compiler's first error must say what the file's first line expects:
# `// expect: words`.
# Usage: message.sh FILE COMPILER      (from the repository's root)
set -u
expected=$(sed -nE '1s/^\/\/ expect: *//p' "$1")
if [[ -z $expected ]]; then
  echo "FAILED: the first line of $1 must be '// expect: words of the message'"
  exit 1
fi
if output=$("$2" -std=c++20 -fsyntax-only -Iinclude -Itests -isystem "${JET_EIGEN:-/usr/include/eigen3}" "$1" 2>&1); then
  echo "FAILED: $1 compiles, expected the error: $expected"
  exit 1
fi
# An error may go over several lines: clang quotes the condition.
first=$(awk '/ (error|note|warning): / && found { exit } / error: / { found = 1 } found' <<<"$output")
if ! grep -qF -- "$expected" <<<"$first"; then
  echo "FAILED: the first error of $1 does not say: $expected"
  echo "$output" | head -n 20
  exit 1
fi
echo "message: 1 passed, 0 failed, 0 not run"
