#!/usr/bin/env python3
"""SmolLM2-135M on this machine: jet beside PyTorch (transformers) and llama.cpp, on the same weights in one run.

    python3 benchmarks/compare_peers.py MODEL_DIR --bench build/benchmarks/bench_model_smollm2 [--gguf FILE]
        [--threads 2] [--rounds 3] [--out results.json]

Needs torch and transformers; llama-cpp-python for the llama.cpp columns (--gguf: any GGUF file of the same model; it is
requantised to BF16 and Q8_0 beside itself). Each peer runs in a process of its own, the peers take turns, and the best
of the rounds counts for each. What is measured:
  prefill   2,048 tokens of a new sequence, tokens/s
  decode    32 greedy steps after 512 tokens, tokens/s
  products  the model's matrix products alone at 512 rows, as tokens/s of a prefill that did nothing else: numpy's
            OpenBLAS and torch in float, torch (oneDNN) in bfloat16
  read      GB/s of a plain read of 1 GiB by all threads (a compiled loop of --bench): the bound of decode
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREFILL = 2048
CONTEXT = 512
STEPS = 32


def token_ids(count):
    return [(i * 2654435761 % 2**32) % 49152 for i in range(count)]


def measure(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def worker_torch(model_dir, threads, dtype):
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        ids = torch.tensor([token_ids(PREFILL)])
        model(ids[:, :64], logits_to_keep=1)
        prefill = measure(lambda: model(ids, use_cache=True, logits_to_keep=1))
        cache = model(ids[:, :CONTEXT], use_cache=True, logits_to_keep=1).past_key_values
        token = torch.tensor([[1]])
        for _ in range(2):
            token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        def decode():
            nonlocal token
            for _ in range(STEPS):
                token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

        return {"prefill": PREFILL / prefill, "decode": STEPS / measure(decode), "version": torch.__version__,
                "transformers": transformers.__version__}


def worker_products(model_dir, threads):
    import numpy
    import torch

    torch.set_num_threads(threads)
    config = json.loads((Path(model_dir) / "config.json").read_text())
    d, ffn = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    shapes = [(q, d), (kv, d), (kv, d), (d, q), (ffn, d), (ffn, d), (d, ffn)]  # one layer
    rows = 512

    def rate(make, multiply):
        a = {k: make(rows, k) for k in {k for _, k in shapes}}
        w = [make(n, k) for n, k in shapes]

        def layer():
            for (_, k), b in zip(shapes, w):
                multiply(a[k], b)

        layer()
        best = min(measure(layer) for _ in range(8))
        return rows / (best * config["num_hidden_layers"])

    with torch.inference_mode():
        return {
            "float, OpenBLAS": rate(lambda m, n: numpy.ones((m, n), numpy.float32), lambda a, b: a @ b.T),
            "float, torch": rate(lambda m, n: torch.randn(m, n), torch.nn.functional.linear),
            "bfloat16, torch": rate(lambda m, n: torch.randn(m, n).bfloat16(), torch.nn.functional.linear),
        }


def worker_llama(gguf, threads):
    import llama_cpp

    model = llama_cpp.Llama(gguf, n_ctx=4096, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    ids = token_ids(PREFILL)
    model.eval(ids[:64])
    model.reset()
    prefill = measure(lambda: model.eval(ids))
    model.reset()
    model.eval(ids[:CONTEXT])
    model.eval([1])

    def decode():
        for _ in range(STEPS):
            model.eval([1])

    return {"prefill": PREFILL / prefill, "decode": STEPS / measure(decode), "version": llama_cpp.__version__}


def requantise(source, target, ftype):
    """Writes `source` in another GGUF type beside it, once."""
    import llama_cpp

    if target.exists():
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = ftype
    params.allow_requantize = True
    part = target.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), params) != 0:
        sys.exit(f"{source}: llama.cpp could not write it as type {ftype}")
    part.rename(target)


def run_worker(arguments):
    done = subprocess.run([sys.executable, __file__, "--worker", *map(str, arguments)], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        print(f"  {arguments[0]}: not measured: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(lines[-1])


def run_jet(bench, model_dir, threads, policy):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run(
            [bench, f"--model={model_dir}", f"--threads={threads}", "--benchmark_min_time=0.5",
             f"--benchmark_filter=SmolLM2_135M/{policy}/(prefill|decode/context:{CONTEXT}/)",
             f"--benchmark_out={file.name}", "--benchmark_out_format=json"],
            check=True, capture_output=True)
        rows = json.load(open(file.name))["benchmarks"]
    return {("prefill" if "prefill" in row["name"] else "decode"): row["tokens/s"] for row in rows}


def run_read(bench):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([bench, "--benchmark_filter=read", f"--benchmark_out={file.name}", "--benchmark_out_format=json"],
                       check=True, capture_output=True)
        return max(row["B/s"] for row in json.load(open(file.name))["benchmarks"]) / 1e9


def main():
    if sys.argv[1:2] == ["--worker"]:
        kind, *rest = sys.argv[2:]
        work = {"torch": lambda: worker_torch(rest[0], int(rest[1]), rest[2]),
                "products": lambda: worker_products(rest[0], int(rest[1])),
                "llama": lambda: worker_llama(rest[0], int(rest[1]))}[kind]
        print(json.dumps(work()))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("--bench", required=True)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)

    jobs = {}
    for policy in ("bf16_weights", "bf16", "f32"):
        jobs[f"jet {policy}"] = lambda policy=policy: run_jet(options.bench, options.model_dir, options.threads, policy)
    for dtype in ("bfloat16", "float32"):
        jobs[f"PyTorch {dtype}"] = lambda dtype=dtype: run_worker(["torch", options.model_dir, options.threads, dtype])
    if options.gguf:
        for name, ftype in (("BF16", 32), ("Q8_0", 7)):
            target = options.gguf.with_name(f"{options.gguf.stem}.as_{name}.gguf")
            requantise(options.gguf, target, ftype)
            jobs[f"llama.cpp {name}"] = lambda target=target: run_worker(["llama", target, options.threads])
    best, read, products = {}, 0.0, {}
    for turn in range(options.rounds):
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
        read = max(read, run_read(options.bench))
        for name, rate in (run_worker(["products", options.model_dir, options.threads]) or {}).items():
            products[name] = max(products.get(name, 0), rate)
        for name, job in jobs.items():
            for key, value in (job() or {}).items():
                row = best.setdefault(name, {})
                row[key] = max(row.get(key, 0), value) if isinstance(value, float) else value
    print(f"\nSmolLM2-135M, {options.threads} threads, best of {options.rounds} rounds; plain read {read:.1f} GB/s\n")
    print(f"{'':22} {'prefill tok/s':>14} {'decode tok/s':>13}")
    for name, row in best.items():
        print(f"{name:22} {row['prefill']:14.1f} {row['decode']:13.1f}")
    print(f"\n{'products alone':22}")
    for name, rate in products.items():
        print(f"{name:22} {rate:14.1f}")
    if options.out:
        Path(options.out).write_text(json.dumps({"threads": options.threads, "read_gb_per_s": read, "models": best,
                                                 "products": products}, indent=1) + "\n")


if __name__ == "__main__":
    main()
