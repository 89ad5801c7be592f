#!/usr/bin/env bash
# The main job on real input: installs what is missing, builds, fetches SmolLM2-135M-Instruct, has it answer a question on the CPU, and
# shows what replacing attention by JetBlock does to cache and speed.
#   tools/demo.sh [MODEL_DIR]     a Hugging Face directory to use instead of fetching
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install_deps.sh
cmake --preset cpu -DJET_TESTS=OFF >/dev/null
cmake --build --preset cpu --target jet_example_generate jet_example_hybrid_cost jet_example_count_params

build=$(ls -d build/cpu 2>/dev/null || echo build)
model=${1:-models/SmolLM2-135M-Instruct}
if [ $# -eq 0 ]; then
  tools/get_smollm2.py "$model"
fi

echo
"$build"/examples/count_params
echo
echo "> What is gravity?"
"$build"/examples/generate "$model" --chat "What is gravity?" --max-new 100
"$build"/examples/hybrid_cost
