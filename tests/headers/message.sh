#!/usr/bin/env bash
# A misuse must not compile, and the compiler's first error must say what the file's first line expects:
# `// expect: words`. A second line `// compilers: nvcc` limits the compilers that it is for.
# Usage: message.sh FILE g++|clang++|nvcc|PATH      (from the repository's root; exit status 77: no such compiler)
set -u
file=$1 compiler=$2
expected=$(sed -nE '1s/^\/\/ expect: *//p' "$file")
if [[ -z $expected ]]; then
  echo "FAILED: the first line of $file must be '// expect: words of the message'"
  exit 1
fi
if ! command -v "$compiler" >/dev/null; then
  echo "message: 0 passed, 0 failed, 1 not run (no $compiler)"
  exit 77
fi
flags=(-std=c++20 -Iinclude -Itests -isystem "${JET_EIGEN:-/usr/include/eigen3}")
if [[ $compiler == *nvcc ]]; then
  # -cuda stops after the front ends of device and host
  flags+=(-x cu -arch=sm_90a --expt-relaxed-constexpr -cuda -o /dev/null)
else
  flags+=(-fsyntax-only)
fi
if output=$("$compiler" "${flags[@]}" "$file" 2>&1); then
  echo "FAILED: $file compiles with $compiler, expected the error: $expected"
  exit 1
fi
# An error may go over several lines: clang quotes the condition, nvcc breaks long lines.
first=$(awk '/ (error|note|warning)( #[0-9]+-D)?: / && found { exit } / (error|fatal error)( #[0-9]+-D)?: / { found = 1 } found' <<<"$output")
if ! grep -qF -- "$expected" <<<"$(tr -s ' \n' '  ' <<<"$first")"; then
  echo "FAILED: the first error of $compiler for $file does not say: $expected"
  echo "$output" | head -n 20
  exit 1
fi
echo "message: 1 passed, 0 failed, 0 not run"
