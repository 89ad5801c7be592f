#!/usr/bin/env bash
# A small program uses jet in one of the ways that the README names.
# Usage: tests/package/check.sh add_subdirectory|fetch_content|find_package|plain
# The last line is "N passed, N failed, N not run". Environment: JET_EIGEN, JET_HAS_TOKENIZER, JET_BUILD, CMAKE.
set -u
way=${1:?usage: check.sh add_subdirectory|fetch_content|find_package|plain}
cd "$(dirname "$0")/../.." || exit 1
source=$PWD
cmake=${CMAKE:-cmake}
scratch=${JET_BUILD:-${TMPDIR:-/tmp}/jet_checks.$$}/package_$way
rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi

passed=0 failed=0 not_run=0
log=$scratch/log
# check SENTENCE COMMAND...: the command succeeds.
check() {
  local sentence=$1
  shift
  if "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $way: $sentence"
    tail -n 25 "$log"
  fi
}
not_run() {
  not_run=$((not_run + 1))
  echo "not run: $1"
}
configure() { # build folder, options...
  local build=$1
  shift
  "$cmake" "${generator[@]}" -S tests/package/consumer -B "$build" -DJET_SOURCE="$source" -DJET_WAY="$way" \
    -DCMAKE_EXPORT_COMPILE_COMMANDS=ON "$@"
}
# Configures, builds and runs the consumer.
consume() {
  configure "$@" && "$cmake" --build "$1" && "$1/consumer"
}
no_code_generation_flags() {
  [[ -f $1/compile_commands.json ]] && ! grep -E -- '-march|-mtune|-mavx|-ffast-math|-O[0-9s]' "$1/compile_commands.json"
}
eigen_is_a_system_header() {
  grep -qE -- "-isystem [^ ]*eigen" "$1/compile_commands.json"
}
# Configuring must fail, and say the words.
refused() { # words, configure arguments...
  local words=$1 output
  shift
  if output=$(configure "$@" 2>&1); then
    echo "configured, expected a refusal"
    return 1
  fi
  if ! tr -s ' \n' ' ' <<<"$output" | grep -qF -- "$words"; then
    echo "refused without the words: $words"
    echo "$output"
    return 1
  fi
}

case $way in
  add_subdirectory | fetch_content)
    check 'builds and runs' consume "$scratch/build"
    check "no flag of code generation reaches the user's compiler" no_code_generation_flags "$scratch/build"
    check 'Eigen is a system header' eigen_is_a_system_header "$scratch/build"
    check 'without PCRE2 and utf8proc' configure "$scratch/without" \
      -DCMAKE_DISABLE_FIND_PACKAGE_PCRE2=ON -DCMAKE_DISABLE_FIND_PACKAGE_utf8proc=ON
    check 'JET_TOKENIZER=ON without PCRE2 is refused' refused 'these packages were not found: PCRE2' "$scratch/refused" \
      -DCMAKE_DISABLE_FIND_PACKAGE_PCRE2=ON -DJET_TOKENIZER=ON
    check 'a missing Eigen is named' refused 'Eigen 3.4 was not found' "$scratch/eigen" \
      -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON
    ;;
  find_package)
    # The prefix is moved after the installation: the package is relocatable.
    check 'installs' bash -c "'$cmake' ${generator[*]} -S '$source' -B '$scratch/jet' -DJET_TESTS=OFF -DJET_EXAMPLES=OFF \
      -DCMAKE_INSTALL_PREFIX='$scratch/first' && '$cmake' --install '$scratch/jet' && mv '$scratch/first' '$scratch/prefix'"
    check 'installs every file of include/' diff <(cd include && find . -type f | LC_ALL=C sort) \
      <(cd "$scratch/prefix/include" && find . -type f | LC_ALL=C sort)
    check 'names no folder of the build' bash -c "! grep -rnE '$source|$scratch/(jet|first)' '$scratch/prefix/lib'*"
    prefix=(-DCMAKE_PREFIX_PATH="$scratch/prefix")
    check 'builds and runs' consume "$scratch/build" "${prefix[@]}"
    check "no flag of code generation reaches the user's compiler" no_code_generation_flags "$scratch/build"
    check 'Eigen is a system header' eigen_is_a_system_header "$scratch/build"
    version=$(sed -nE 's/^#define JET_VERSION_(MAJOR|MINOR) +([0-9]+).*/\2/p' include/jet/core/macros.hpp | paste -sd.)
    check "accepts the version $version" configure "$scratch/version" "${prefix[@]}" -DJET_VERSION="$version"
    check 'refuses the version 99' refused 'requested version "99"' "$scratch/other" "${prefix[@]}" -DJET_VERSION=99
    check 'the component cuda is refused without CUDA, with the reason' \
      refused "component 'cuda' needs the CUDA toolkit" "$scratch/no_cuda" "${prefix[@]}" -DJET_COMPONENTS=cuda \
      -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON
    check 'the optional component cuda is not found without CUDA' \
      bash -c "'$cmake' ${generator[*]} -S tests/package/consumer -B '$scratch/optional' -DJET_WAY=find_package ${prefix[*]} \
      -DJET_OPTIONAL_COMPONENTS=cuda -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON | grep \"jet_cuda_FOUND is 'FALSE'\""
    if command -v nvcc >/dev/null; then
      check 'the component cuda is found' configure "$scratch/cuda" "${prefix[@]}" -DJET_COMPONENTS=cuda
    else
      not_run 'the component cuda is found: nvcc is not on PATH'
    fi
    if [[ ${JET_HAS_TOKENIZER:-1} == 1 ]]; then
      check 'the component tokenizer builds and runs' consume "$scratch/tokenizer" "${prefix[@]}" -DJET_COMPONENTS=tokenizer
      check 'the component tokenizer is refused without PCRE2' refused "component 'tokenizer' needs PCRE2" \
        "$scratch/no_pcre2" "${prefix[@]}" -DJET_COMPONENTS=tokenizer -DCMAKE_DISABLE_FIND_PACKAGE_PCRE2=ON
    else
      not_run 'the component tokenizer: PCRE2 or utf8proc is not installed'
    fi
    check 'installs without the tokenizer' bash -c "'$cmake' ${generator[*]} -S '$source' -B '$scratch/jet_without' \
      -DJET_TESTS=OFF -DJET_EXAMPLES=OFF -DJET_TOKENIZER=OFF -DCMAKE_INSTALL_PREFIX='$scratch/prefix_without' &&
      '$cmake' --install '$scratch/jet_without'"
    check 'a package without the tokenizer says so' refused "built with JET_TOKENIZER=OFF" "$scratch/without" \
      -DCMAKE_PREFIX_PATH="$scratch/prefix_without" -DJET_COMPONENTS=tokenizer
    ;;
  plain)
    flags=(-std=c++20 -Wall -Wextra -Wconversion -Werror -pthread -Iinclude -isystem "${JET_EIGEN:-/usr/include/eigen3}")
    for compiler in g++ clang++; do
      if command -v $compiler >/dev/null; then
        check "$compiler compiles" $compiler "${flags[@]}" tests/package/consumer/main.cpp tests/package/consumer/other.cpp \
          -o "$scratch/consumer_$compiler"
        check "$compiler's program runs" "$scratch/consumer_$compiler"
      else
        not_run "$compiler is not installed"
      fi
    done
    ;;
  *)
    echo "unknown way: $way"
    exit 2
    ;;
esac
echo "package $way: $passed passed, $failed failed, $not_run not run"
((failed == 0))
