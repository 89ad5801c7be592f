#!/usr/bin/env python3
"""What including jet costs: seconds (user and system, the best of some runs) and peak MiB of every umbrella header and
of one instantiated model, with g++ and, where it is installed, with nvcc, beside Eigen/Core and the budgets.

  benchmarks/include_cost.py [--cxx g++] [--nvcc nvcc] [--arch sm_90a] [--runs 3] [--json FILE]

Exit status: 0 all measured (budgets are printed, not enforced), 1 something does not compile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CORE = """
#include <jet/core/context.hpp>
#include <jet/core/param.hpp>
#include <jet/core/rng.hpp>
#include <jet/core/state.hpp>
"""
MODEL = """
#include <jet/jet.hpp>
template class jet::Engine<jet::JetNemotron2B, jet::Cpu<>>;
"""
MODEL_CUDA = """
#include <jet/cuda.cuh>
template class jet::Engine<jet::JetNemotron2B, jet::Cuda<jet::precision::bf16>>;
"""

# name, text, budget in seconds (None: no budget; a string: that case's seconds + 1)
HOST = [
    ("(empty)", "", None),
    ("Eigen/Core", "#include <Eigen/Core>\n", None),
    ("jet/fwd.hpp", "#include <jet/fwd.hpp>\n", 0.1),
    ("jet/core (context, param, state, rng)", CORE, 0.3),
    ("jet/jet.hpp", "#include <jet/jet.hpp>\n", "Eigen/Core"),
    ("JetNemotron2B on the CPU, -O2", MODEL, None),
]
DEVICE = [
    ("(empty .cu)", "", None),
    ("jet/cuda.cuh", "#include <jet/cuda.cuh>\n", 2.5),
    ("JetNemotron2B on CUDA, -O3", MODEL_CUDA, 60.0),
]


def cost(command):
    """Seconds and peak MiB of a command and its children, or None where it fails."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = status
        if status != 0:
            errors.seek(0)
            sys.stderr.write("\n" + errors.read().decode(errors="replace")[-2000:])
            return None
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def measure(folder, compiler, cases, suffix, flags, runs):
    records = []
    seconds_of = {}
    for name, text, budget in cases:
        source = folder / f"case{len(records)}{suffix}"
        source.write_text(text)
        results = []
        for run in range(1 if "Jet" in name else runs):
            print(f"\r{compiler} {name} {run + 1}/{runs} ", end="", file=sys.stderr, flush=True)
            one = cost([compiler, *flags(name), "-c", str(source), "-o", str(folder / "object.o")])
            if one is None:
                print(f"\n{compiler}: {name} does not compile", file=sys.stderr)
                return records, False
            results.append(one)
        best = min(r[0] for r in results)
        seconds_of[name] = best
        limit = seconds_of[budget] + 1 if isinstance(budget, str) else budget
        records.append({"compiler": compiler, "case": name, "seconds": round(best, 2),
                        "peak_mib": round(max(r[1] for r in results)),
                        "budget_seconds": None if limit is None else round(limit, 2)})
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
    return records, True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cxx", default=os.environ.get("CXX", "g++"))
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which(options.cxx) is None:
        parser.error(f"--cxx: no compiler '{options.cxx}'")
    include = f"-I{ROOT / 'include'}"
    eigen = ["-isystem", "/usr/include/eigen3"]

    def host(name):
        return ["-std=c++20", include, *eigen, *(["-O2"] if "Jet" in name else ["-fsyntax-only"])]

    def device(name):  # -arch=sm_90a would also compile PTX of compute_90
        one = f"arch={options.arch.replace('sm_', 'compute_')},code={options.arch}"
        return ["-std=c++20", "-gencode", one, "--expt-relaxed-constexpr", include,
                *(["-O3"] if "Jet" in name else [])]

    with tempfile.TemporaryDirectory() as folder:
        records, right = measure(Path(folder), options.cxx, HOST, ".cpp", host, options.runs)
        if shutil.which(options.nvcc):
            more, also = measure(Path(folder), options.nvcc, DEVICE, ".cu", device, options.runs)
            records += more
            right = right and also
        else:
            print(f"no nvcc ({options.nvcc}): the CUDA headers are not measured", file=sys.stderr)
    print(f"{'compiler':<10} {'what':<40} {'s':>7} {'budget':>7} {'MiB':>6}")
    for r in records:
        budget = "" if r["budget_seconds"] is None else f"{r['budget_seconds']:.2f}"
        over = "  over" if r["budget_seconds"] and r["seconds"] > r["budget_seconds"] else ""
        print(f"{Path(r['compiler']).name:<10} {r['case']:<40} {r['seconds']:7.2f} {budget:>7} {r['peak_mib']:6d}{over}")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
