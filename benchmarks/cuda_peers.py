#!/usr/bin/env python3
"""jet's CUDA ops beside PyTorch's on the same shapes and the same device, in one run.

    python3 benchmarks/cuda_peers.py [--bench build/benchmarks/bench_op_cuda_attention] [--only prefill,decode]
        [--repeats 10] [--out results.json]

Needs torch with CUDA. Attention: torch's scaled_dot_product_attention with its FlashAttention-2 and its cuDNN backend,
bf16, causal, without a cache (prefill) or one query on a full cache (decode; FlashAttention's kernel splits the keys).
With --bench, jet's program runs first and its rates stand beside; without it, the peers alone. Rates: TFLOP/s of
visible pairs (4 heads head per pair), GB/s of keys and values read once. Ceilings of the same run: a bf16 product of
8192 x 8192 matrices by torch, and a copy of 2 GiB (counted twice).
"""

import argparse
import json
import re
import subprocess
import sys

import torch
from device_time import seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# heads, kv heads, head, batch, tokens
PREFILLS = [
    (12, 2, 128, 1, 4096),
    (12, 2, 128, 16, 4096),
    (12, 2, 128, 1, 16384),
    (12, 2, 128, 1, 65536),
    (16, 8, 64, 1, 16384),
    (12, 2, 96, 1, 16384),
    (8, 2, 256, 1, 16384),
]
# heads, kv heads, head, batch, context
DECODES = [(12, 2, 128, batch, context) for context in (4096, 65536) for batch in (1, 8, 64)]
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def graphed(run, calls):
    """Seconds of a call, many of them in one graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(calls):
            run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(calls):
            run(i)
    return seconds(graph.replay, 10) / calls


def attention(backend, q, k, v, causal):
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def ceilings():
    a, b = random(8192, 8192), random(8192, 8192)
    product = 2 * 8192**3 / seconds(lambda: a @ b.t(), 20)
    x = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda")
    y = torch.empty_like(x)
    copy = 4 * (1 << 30) / seconds(lambda: y.copy_(x), 10)
    return product, copy


def prefill(shape, repeats):
    heads, kv_heads, head, batch, tokens = shape
    q = random(batch, tokens, heads, head).transpose(1, 2)
    k = random(batch, tokens, kv_heads, head).transpose(1, 2)
    v = random(batch, tokens, kv_heads, head).transpose(1, 2)
    flop = 4 * batch * heads * head * tokens * (tokens + 1) / 2
    found = {}
    for name, backend in BACKENDS.items():
        try:
            found[name] = flop / seconds(lambda: attention(backend, q, k, v, True), repeats) * 1e-12
        except RuntimeError as error:
            found[name] = None
            print(f"# {name} {shape}: {str(error).splitlines()[0][:90]}", file=sys.stderr)
    return found


def decode(shape):
    heads, kv_heads, head, batch, context = shape
    size = 2 * batch * context * kv_heads * head * 2
    sets = max(1, min(64, (256 << 20) // size))  # five times L2
    q = random(batch, heads, 1, head)
    keys = [random(batch, kv_heads, context, head) for _ in range(sets)]
    values = [random(batch, kv_heads, context, head) for _ in range(sets)]
    found = {}
    for name, backend in BACKENDS.items():
        try:
            run = lambda i: attention(backend, q, keys[i % sets], values[i % sets], False)
            found[name] = size / graphed(run, max(sets, 4)) * 1e-9
        except RuntimeError as error:
            found[name] = None
            print(f"# {name} {shape}: {str(error).splitlines()[0][:90]}", file=sys.stderr)
    return found


def own(bench, only):
    """Rates that jet's program prints, by kind and shape."""
    flags = [f"--{only[0]}"] if len(only) == 1 else []
    text = subprocess.run([bench, *flags], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in text.splitlines():
        number = r"\s*(\d+)"
        head = rf"{number}/{number} heads of{number}, window{number}, batch{number}"
        if match := re.match(rf"prefill bf16{head}, tokens{number} after{number}:.* ([\d.]+) TFLOP/s", line):
            *shape, seen, rate = match.groups()
            heads, kv_heads, size, window, batch, tokens = map(int, shape)
            if window == 0 and seen == "0":
                found["prefill", (heads, kv_heads, size, batch, tokens)] = float(rate)
        elif match := re.match(rf"decode  bf16{head}, context{number}:.*? ([\d.]+) GB/s", line):
            *shape, rate = match.groups()
            heads, kv_heads, size, window, batch, context = map(int, shape)
            if window == 0:
                found["decode", (heads, kv_heads, size, batch, context)] = float(rate)
    return found, text.splitlines()[:1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", help="jet's program, bench_op_cuda_attention")
    parser.add_argument("--only", default="prefill,decode")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", help="a JSON file")
    options = parser.parse_args()
    only = options.only.split(",")
    unknown = set(only) - {"prefill", "decode"}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: expected prefill, decode or both")
    if not torch.cuda.is_available():
        print("no CUDA device: not run")
        return 77
    torch.manual_seed(1)
    jet, header = own(options.bench, only) if options.bench else ({}, [])
    product, copy = ceilings()
    print(*header, sep="\n")
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN "
        f"{torch.backends.cudnn.version()}: a product of 8192 x 8192 {product * 1e-12:.1f} TFLOP/s, a copy "
        f"{copy * 1e-9:.0f} GB/s"
    )
    records = []
    for kind, shapes, unit in (("prefill", PREFILLS, "TFLOP/s"), ("decode", DECODES, "GB/s")):
        if kind not in only:
            continue
        print(f"{kind + ', ' + unit:>40} {'jet':>8} {'flash':>8} {'cudnn':>8}")
        for shape in shapes:
            rates = {"jet": jet.get((kind, shape))}
            rates.update(prefill(shape, options.repeats) if kind == "prefill" else decode(shape))
            torch.cuda.empty_cache()
            heads, kv_heads, head, batch, tokens = shape
            name = f"{heads}/{kv_heads} x {head}, {batch} x {tokens}"
            shown = (f"{rate:8.1f}" if rate else f"{'-':>8}" for rate in rates.values())
            print(f"{name:>40}", *shown, flush=True)
            records.append({"kind": kind, "heads": heads, "kv_heads": kv_heads, "head": head, "batch": batch,
                            "tokens": tokens, "unit": unit, **rates})
    if options.out:
        with open(options.out, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "torch": torch.__version__,
                       "cudnn": torch.backends.cudnn.version(), "product_tflops": product * 1e-12,
                       "copy_gbps": copy * 1e-9, "records": records}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
