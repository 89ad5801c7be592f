#!/usr/bin/env bash
# Header checks. Usage: tests/headers/check.sh rules|g++|clang++|nvcc     (from the repository's root)
#   rules    what may include what; needs no compiler
#   g++      every .hpp compiles alone (and twice: its guard works), warnings are errors
#   clang++  likewise
#   nvcc     every .cuh compiles alone for sm_80, sm_90a and PTX of compute_90, warnings are errors; every .hpp that does
#            not need Eigen goes through nvcc; and including all of jet compiles no kernel
# The last line is "N passed, N failed, N not run". Exit status: 1 if anything failed, 77 if nothing could be run.
# Environment (CTest sets it): JET_EIGEN, JET_HAS_JSON, JET_HAS_TOKENIZER (0 or 1), JET_BUILD (scratch folder).
set -u
check=${1:?usage: check.sh rules|g++|clang++|nvcc}
cd "$(dirname "$0")/../.." || exit 1
eigen=${JET_EIGEN:-/usr/include/eigen3}
scratch=${JET_BUILD:-${TMPDIR:-/tmp}/jet_checks.$$}/headers_$check
rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
jobs=2

passed=0 failed=0 not_run=0
pass() { passed=$((passed + 1)); }
failure() {
  failed=$((failed + 1))
  echo "FAILED: $1"
}
finish() {
  echo "headers $check: $passed passed, $failed failed, $not_run not run"
  if ((failed > 0)); then exit 1; fi
  if ((passed == 0)); then exit 77; fi
  exit 0
}

mapfile -t hpp < <(cd include && find jet -name '*.hpp' | LC_ALL=C sort)
mapfile -t cuh < <(cd include && find jet -name '*.cuh' | LC_ALL=C sort)

# A header that needs an optional package, by itself or through a header of ours, cannot be compiled without it.
# $1: header (jet/...), $2: pattern of a third-party include
needs() {
  local seen=" $1 " queue=("$1") current next
  while ((${#queue[@]} > 0)); do
    current=${queue[0]}
    queue=("${queue[@]:1}")
    [[ -f include/$current ]] || continue
    if grep -qE "^ *# *include *<($2)" "include/$current"; then return 0; fi
    while read -r next; do
      if [[ $seen != *" $next "* ]]; then
        seen+="$next "
        queue+=("$next")
      fi
    done < <(sed -nE 's/^ *# *include *<(jet\/[^>]*)>.*/\1/p' "include/$current")
  done
  return 1
}
available() {
  if [[ ${JET_HAS_JSON:-1} == 0 ]] && needs "$1" 'nlohmann/'; then return 1; fi
  if [[ ${JET_HAS_BENCHMARK:-1} == 0 ]] && needs "$1" 'benchmark/'; then return 1; fi
  if [[ ${JET_HAS_TOKENIZER:-1} == 0 ]] && needs "$1" 'pcre2\.h|utf8proc\.h'; then return 1; fi
  return 0
}

# Runs `compile NAME OUTPUT` for every name, a few at a time, and counts.
compile_all() {
  local name file running=0
  for name in "$@"; do
    file=$scratch/${name//\//_}
    (
      if compile "$name" "$file" >"$file.log" 2>&1; then echo pass; else echo fail; fi >"$file.result"
    ) &
    running=$((running + 1))
    if ((running >= jobs)); then
      wait -n
      running=$((running - 1))
    fi
  done
  wait
  for name in "$@"; do
    file=$scratch/${name//\//_}
    if [[ $(cat "$file.result") == pass ]]; then
      pass
    else
      failure "$check: $name"
      head -n 12 "$file.log"
    fi
  done
}

# A rule: no line but comments, in the files below include/jet but those that match $3, matches the pattern.
rule() { # $1 sentence, $2 extended regular expression, $3 files that may
  local hits
  hits=$(cd include && grep -rnE --include='*.hpp' --include='*.inl' --include='*.cuh' "$2" jet | grep -vE "^($3)|^[^:]*:[0-9]+: *//" || true)
  if [[ -z $hits ]]; then
    pass
  else
    failure "$1"
    echo "$hits" | head -n 12
  fi
}

case $check in
  rules)
    include='^ *# *include *[<"]'
    cuda_header='(cuda|cub/|thrust/|cute/|cutlass|cooperative_groups|mma\.h|nv/|nvtx|curand|cublas|cudnn|nccl)'
    rule 'only cpu/ includes Eigen' "${include}(unsupported/)?Eigen/" 'jet/cpu/'
    rule 'only cuda/ includes CUDA' "${include}${cuda_header}" 'jet/cuda/|jet/cuda\.cuh:'
    rule 'CUDA words stand in cuda/ and core/macros.hpp only' '__(global|device|host|shared)__|__CUDA|cuda[A-Z][A-Za-z]*_t' \
      'jet/cuda/|jet/cuda\.cuh:|jet/core/macros\.hpp:'
    rule 'core/, op/, block/ and model/ include no backend' "${include}jet/(cpu|cuda)/" \
      'jet/(cpu|cuda|io|text|testing|train|bench)/|jet/[a-z_]*\.(hpp|cuh):'
    rule 'no .hpp includes a .cuh' "${include}[^>]*\.cuh" 'jet/[a-z0-9_/]*\.cuh:'
    rule 'headers are included as <jet/...>' '^ *# *include *"' 'nothing'
    rule 'no header opens a namespace of others' '^ *using namespace ' 'nothing'
    rule 'no header changes the options of the compiler for what follows' '^ *# *pragma *(GCC|clang) *(optimize|diagnostic *ignored)' \
      'jet/cpu/'
    if needs jet/jet.hpp 'nlohmann/|pcre2|utf8proc'; then
      failure 'jet.hpp needs Eigen and threads only'
    else
      pass
    fi
    missing=$(cd include && grep -rL --include='*.hpp' --include='*.cuh' '^#pragma once' jet)
    if [[ -z $missing ]]; then pass; else failure "these headers lack #pragma once: $missing"; fi
    ;;
  g++ | clang++)
    if ! command -v "$check" >/dev/null; then
      not_run=${#hpp[@]}
      echo "not run: $check is not installed"
      finish
    fi
    compile() {
      printf '#include <%s>\n#include <%s>\n' "$1" "$1" |
        "$check" -std=c++20 -Wall -Wextra -Wconversion -Werror -fsyntax-only -Iinclude -isystem "$eigen" -x c++ -
    }
    names=()
    for name in "${hpp[@]}"; do
      if available "$name"; then
        names+=("$name")
      else
        not_run=$((not_run + 1))
        echo "not run: $name needs a package that is not installed"
      fi
    done
    compile_all "${names[@]}"
    # Outside nvcc the CUDA umbrella says what to do, in one error.
    if [[ -f include/jet/cuda.cuh ]]; then
      message=$(echo '#include <jet/cuda.cuh>' | "$check" -std=c++20 -Iinclude -fsyntax-only -x c++ - 2>&1)
      if [[ $(grep -c ': error: ' <<<"$message") == 1 && $message == *'nvcc'* ]]; then
        pass
      else
        failure "<jet/cuda.cuh> outside nvcc must be one error that names nvcc, and is: $(head -n 5 <<<"$message")"
      fi
    fi
    ;;
  nvcc)
    if ! command -v nvcc >/dev/null; then
      not_run=$((${#cuh[@]} + 1))
      echo "not run: nvcc is not on PATH: ${cuh[*]}"
      finish
    fi
    flags=(-std=c++20 --expt-relaxed-constexpr -Werror all-warnings -Iinclude)
    architectures=(-gencode "arch=compute_80,code=sm_80" -gencode "arch=compute_90a,code=sm_90a"
      -gencode "arch=compute_90,code=compute_90")
    compile() {
      if [[ $1 == *.cuh ]]; then
        printf '#include <%s>\n#include <%s>\n' "$1" "$1" >"$2.cu"
        nvcc "${flags[@]}" "${architectures[@]}" -c "$2.cu" -o "$2.o"
      else
        for name in "${host_headers[@]}"; do echo "#include <$name>"; done >"$2.cu"
        nvcc "${flags[@]}" -arch=sm_90a -c "$2.cu" -o "$2.o"
      fi
    }
    host_headers=()
    for name in "${hpp[@]}"; do
      if available "$name" && ! needs "$name" '(unsupported/)?Eigen/|immintrin\.h|benchmark/'; then
        host_headers+=("$name")
      fi
    done
    compile_all "${cuh[@]}" "${#host_headers[@]} headers without Eigen"
    echo '#include <jet/cuda.cuh>' >"$scratch/umbrella.cu"
    if nvcc "${flags[@]}" -gencode arch=compute_90a,code=compute_90a -ptx "$scratch/umbrella.cu" -o "$scratch/umbrella.ptx" &&
      ! grep -q '\.entry' "$scratch/umbrella.ptx"; then
      pass
    else
      failure 'including <jet/cuda.cuh> must compile no kernel: what names a kernel is a template'
      grep '\.entry' "$scratch/umbrella.ptx" | head -n 12
    fi
    ;;
  *)
    echo "unknown check: $check"
    exit 2
    ;;
esac
finish
