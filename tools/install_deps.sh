#!/usr/bin/env bash
# Installs what building and testing jet needs, on Debian and Ubuntu. Skips what is there; without root it works when
# nothing is missing. nvcc is not among them: the CUDA checks run where it is on PATH.
# Usage: tools/install_deps.sh [--required]     --required: only what the library and its tests cannot do without
set -eu

required=(g++ cmake ninja-build libeigen3-dev doctest-dev nlohmann-json3-dev libcli11-dev python3 python3-venv)
optional=(libpcre2-dev libutf8proc-dev libbenchmark-dev clang libclang-rt-dev git)

packages=("${required[@]}")
if [[ ${1:-} != --required ]]; then packages+=("${optional[@]}"); fi

# A tool or header that is there counts, wherever it came from.
there() {
  case $1 in
    g++ | cmake) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    clang) command -v clang++ >/dev/null ;;
    libclang-rt-dev)  # libFuzzer and the sanitizers of clang
      command -v clang++ >/dev/null && compgen -G "$(clang++ -print-resource-dir)/lib/linux/libclang_rt.fuzzer-*" >/dev/null
      ;;
    git) command -v git >/dev/null ;;
    python3) command -v python3 >/dev/null ;;
    python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
    *) dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q '^install ok installed' ;;
  esac
}

missing=()
for package in "${packages[@]}"; do
  if ! there "$package"; then missing+=("$package"); fi
done
if ((${#missing[@]} == 0)); then
  echo "install_deps: nothing is missing"
  exit 0
fi
echo "install_deps: missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
  echo "install_deps: this is not Debian or Ubuntu: install these packages by hand" >&2
  exit 1
fi
root=()
if [[ $(id -u) != 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: needs root: run 'apt-get install ${missing[*]}'" >&2
    exit 1
  fi
  root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${root[@]}" apt-get update -qq
# Left out where the archive does not know it: fuzzing is then counted as not run.
known=()
for package in "${missing[@]}"; do
  if [[ $package != libclang-rt-dev ]] || apt-cache show "$package" >/dev/null 2>&1; then known+=("$package"); fi
done
missing=("${known[@]}")
"${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
