#!/usr/bin/env bash
# Builds and tests everything, from a fresh checkout or an old build folder. The last line is "N passed, N failed": test
# cases of doctest, and every check of the scripts. Exit status 0 only if nothing failed.
# Usage: tools/test.sh [--quick]
#   --quick   only the -O2 build and its test cases: no sanitizers, fuzzing, headers, packages, CUDA
# Environment: JET_JOBS (compilers at a time, default 2), JET_TEST_BUILD (folder of the builds, default build)
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=${JET_JOBS:-2}
build=${JET_TEST_BUILD:-build}
quick=0
if [[ ${1:-} == --quick ]]; then quick=1; fi
mkdir -p "$build" || exit 1

passed=0 failed=0 not_run=0
problems=()
times=()
started=$SECONDS

# step NAME COMMAND...: runs a step of the build; if it fails, that is one failure and its log is shown.
step() {
  local name=$1 log begin=$SECONDS
  shift
  log=$build/${name// /_}.log
  echo "== $name"
  if "$@" >"$log" 2>&1; then
    times+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$name")")
    return 0
  fi
  times+=("$(printf '%5d s  %s (failed)' $((SECONDS - begin)) "$name")")
  failed=$((failed + 1))
  problems+=("$name: see $log")
  grep -E 'error|Error|FAILED' -A 3 "$log" | head -n 60
  tail -n 5 "$log"
  return 1
}

# Reads the verbose output of ctest: per test, the sums of "test cases: ... | N passed | N failed" (doctest) or "N passed,
# N failed, N not run" (scripts). A test without such a line counts as one; one that fails without naming a failure
# (a crash, a timeout, a missing program) is one failure.
count() {
  awk '
    function number(text, word,   m) { return match(text, "[0-9]+ " word) ? substr(text, RSTART, RLENGTH) + 0 : 0 }
    /^[0-9]+: / {
      id = $1 + 0
      line = $0
      sub(/^[0-9]+: /, "", line)
      if (line ~ /^\[doctest\] test cases: /) { p[id] += number(line, "passed"); f[id] += number(line, "failed"); n[id] = 1 }
      else if (line ~ /: [0-9]+ passed, [0-9]+ failed, [0-9]+ not run$/) {
        p[id] += number(line, "passed"); f[id] += number(line, "failed"); s[id] += number(line, "not run"); n[id] = 1
      }
    }
    / Test +#[0-9]+: / && /(Passed|\*\*\*|Not Run)/ {
      match($0, /#[0-9]+/)
      id = substr($0, RSTART + 1, RLENGTH - 1) + 0
      name = $0
      sub(/.*#[0-9]+: /, "", name)
      sub(/ .*/, "", name)
      if ($0 ~ /\*\*\*Skipped/) { if (s[id] == 0) s[id] = 1 }
      else if ($0 ~ / Passed /) {
        if (!n[id]) p[id] = 1
        else if (p[id] + f[id] + s[id] == 0) { f[id] = 1; print "problem " name ": no test case was run" }
      }
      else { if (f[id] == 0) f[id] = 1; print "problem " name ": " f[id] " failed" }
      passed += p[id]; failed += f[id]; not_run += s[id]
    }
    END { print "sum " passed + 0 " " failed + 0 " " not_run + 0 }' "$1"
}

# run_tests NAME FOLDER ctest options...
run_tests() {
  local name=$1 folder=$2 log begin=$SECONDS kind rest
  shift 2
  log=$build/${name// /_}.log
  echo "== $name"
  ctest --test-dir "$folder" --no-tests=error --verbose --parallel "$jobs" "$@" >"$log" 2>&1
  local status=$? failed_before=$failed
  local p f s
  while read -r kind rest; do
    if [[ $kind == problem ]]; then
      problems+=("$name: $rest, see $log")
    else
      read -r p f s <<<"$rest"
      passed=$((passed + p)) failed=$((failed + f)) not_run=$((not_run + s))
      echo "   $p passed, $f failed, $s not run"
    fi
  done < <(count "$log")
  if ((status != 0 && failed == failed_before)); then
    failed=$((failed + 1))
    problems+=("$name: ctest ended with status $status, see $log")
  fi
  if ((status != 0)); then
    grep -E '^[0-9]+: .*(FAILED|ERROR|TEST CASE:|SUMMARY:|runtime error|broken promise)' -A 6 "$log" | head -n 120
  fi
  grep -E '^[0-9]+: not run' "$log" | sed -E 's/^[0-9]+: /   /' | sort -u | head -n 30
  times+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$name")")
}

step 'dependencies' tools/install_deps.sh || true

benchmarks=OFF
if [[ -n $(find benchmarks -name '*.cpp' -print -quit) ]]; then benchmarks=ON; fi
if step 'configure' cmake --preset cpu -B "$build/cpu" "-DJET_BENCHMARKS=$benchmarks"; then
  # -k 0: what can be built is tested, what cannot is reported as missing.
  step 'build' cmake --build "$build/cpu" --parallel "$jobs" -- -k 0 || true
  if ((quick)); then
    run_tests 'tests' "$build/cpu" -L cases
  else
    run_tests 'tests' "$build/cpu" -L 'cases|benchmarks'
    if compgen -G 'tests/compile_fail/*.cpp' >/dev/null; then
      run_tests 'messages of misuse' "$build/cpu" -L messages
    fi
    run_tests 'headers' "$build/cpu" -L headers
    run_tests 'snippets of the documents' "$build/cpu" -L docs
    run_tests 'packages' "$build/cpu" -L package
  fi
fi

if ((!quick)); then
  if step 'configure with sanitizers' cmake --preset cpu-asan -B "$build/cpu-asan"; then
    step 'build with sanitizers' cmake --build "$build/cpu-asan" --parallel "$jobs" -- -k 0 || true
    UBSAN_OPTIONS=print_stacktrace=1 run_tests 'tests with sanitizers' "$build/cpu-asan" -L cases
  fi
  if command -v clang++ >/dev/null &&
    [[ -e $(clang++ -print-resource-dir)/lib/linux/libclang_rt.fuzzer-$(uname -m).a ]]; then
    if step 'configure fuzzing' cmake --preset fuzz -B "$build/fuzz"; then
      step 'build fuzzing' cmake --build "$build/fuzz" --parallel "$jobs" -- -k 0 || true
      run_tests 'fuzzing' "$build/fuzz" -L fuzz
      sed -nE 's#^.*Test unit written to (.*/)([a-z_]+)-((crash|timeout|oom|leak)-[0-9a-f]+)$#   reproduce: \1jet_fuzz_\2 \1\2-\3#p' \
        "$build/fuzzing.log"
    fi
  else
    programs=$(find tests/fuzz -name '*.cpp' | sort)
    not_run=$((not_run + $(wc -l <<<"$programs")))
    echo "   not run: clang++ with libFuzzer (libclang-rt-dev) is not installed:" $programs
  fi
  if command -v nvcc >/dev/null; then
    # Without a device the programs are compiled only: then quickly, where nvcc can.
    cuda_flags=()
    if ! nvidia-smi -L >/dev/null 2>&1 && nvcc --help | grep -q -e '--Ofast-compile'; then
      cuda_flags=('-DCMAKE_CUDA_FLAGS=-Ofc max')
    fi
    # Everything for sm_90a, and programs that take the portable kernels for sm_80 and PTX too. All for all: preset cuda.
    if step 'configure CUDA' cmake --preset cuda -B "$build/cuda" -DJET_EXAMPLES=OFF -DCMAKE_CUDA_ARCHITECTURES=90a-real \
      ${cuda_flags[@]+"${cuda_flags[@]}"}; then
      step 'build CUDA' cmake --build "$build/cuda" --parallel "$jobs" --target jet_cuda_tests -- -k 0 || true
      run_tests 'CUDA tests' "$build/cuda" -L cuda
    fi
    if step 'configure CUDA, portable' cmake --preset cuda -B "$build/cuda-portable" -DJET_EXAMPLES=OFF \
      '-DCMAKE_CUDA_ARCHITECTURES=80-real;90-virtual' ${cuda_flags[@]+"${cuda_flags[@]}"}; then
      if step 'build CUDA, portable' cmake --build "$build/cuda-portable" --parallel "$jobs" \
        --target jet_cuda_ops jet_cuda_conv jet_cuda_scan_mix jet_cuda_attention_bf16; then
        passed=$((passed + 1))
      fi
    fi
  else
    programs=$(find tests/cuda -name '*.cu' | sort)
    not_run=$((not_run + $(wc -l <<<"$programs")))
    echo "   not run: nvcc is not on PATH:" $programs
  fi
fi

echo
printf '%s\n' "${times[@]}"
printf '%5d s  in all\n' $((SECONDS - started))
for problem in ${problems[@]+"${problems[@]}"}; do echo "FAILED: $problem"; done
if ((not_run > 0)); then echo "$not_run checks were not run on this machine (no compiler, package or device for them)"; fi
if ((passed == 0)); then failed=$((failed + 1)); fi
echo "$passed passed, $failed failed"
((failed == 0))
