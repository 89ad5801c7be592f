"""The linear-attention family through the Triton kernels of flash-linear-attention, beside the library's own figures.

    bench_op_cuda_family --json ours.json
    python3 benchmarks/family_peers.py [--ours ours.json] [--only gla,kda] [--prefill] [--warm]

Needs torch, triton and fla-core (tried with 0.6.0). Both run on the same device at the same shapes, B = 8, T = 4096;
inputs are bf16, log decays float32, as the layers of flash-linear-attention pass them. A figure is the median of
windows of calls that are queued without waiting. Decode steps: one token of as many sequences as make 256 MiB of
float32 state, which is read and written. --prefill leaves them out. --warm runs everything once, to fill Triton's
cache: one process per member in parallel, before the run that measures, saves minutes.
"""

import argparse
import functools
import json

import torch
import triton
from device_time import seconds
from triton.runtime import driver

# name: heads, head_k, head_v; the sizes that bench_op_cuda_family has
SHAPES = {
    "retnet": (12, 128, 256),
    "mamba2": (48, 128, 64),
    "gla": (4, 192, 384),
    "deltanet": (12, 128, 128),
    "gated_deltanet": (12, 96, 256),
    "kda": (12, 128, 128),
    "rwkv7": (24, 64, 64),
}
VECTOR_DECAY = ("gla", "kda", "rwkv7")


def quick_tuning():
    """Triton's tuner tries every configuration for 20 ms instead of 100."""
    bench = functools.partial(triton.testing.do_bench, warmup=5, rep=20)
    type(driver.active).get_benchmarker = lambda self: bench


def inputs(name, batch, tokens):
    heads, head_k, head_v = SHAPES[name]
    torch.manual_seed(0)
    options = {"device": "cuda", "dtype": torch.bfloat16}

    def unit(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, device="cuda"), dim=-1).bfloat16()

    key = (batch, tokens, heads, head_k)
    row = (batch, tokens, heads)
    x = {
        "q": unit(*key),
        "k": unit(*key),
        "v": torch.randn(batch, tokens, heads, head_v, **options),
        "beta": torch.rand(*row, **options),
        "g_head": -torch.rand(*row, device="cuda"),
        "g_channel": -torch.rand(*key, device="cuda") * 0.5,
    }
    x["a"] = -x["k"]
    x["b"] = (x["k"].float() * torch.rand(*key, device="cuda")).bfloat16()
    return x


def call(name, x, decode, state):
    """One call of the peer's kernels."""
    options = {"initial_state": state, "output_final_state": True}
    if name == "retnet":
        from fla.ops.retention import chunk_retention, fused_recurrent_retention

        return (fused_recurrent_retention if decode else chunk_retention)(x["q"], x["k"], x["v"], **options)
    if name == "mamba2":
        from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

        op = fused_recurrent_simple_gla if decode else chunk_simple_gla
        return op(x["q"], x["k"], x["v"], g=x["g_head"], scale=1.0, **options)
    if name == "gla":
        from fla.ops.gla import chunk_gla, fused_recurrent_gla

        if decode:
            return fused_recurrent_gla(x["q"], x["k"], x["v"], gk=x["g_channel"], **options)
        return chunk_gla(x["q"], x["k"], x["v"], x["g_channel"], **options)
    if name == "deltanet":
        from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule

        op = fused_recurrent_delta_rule if decode else chunk_delta_rule
        return op(x["q"], x["k"], x["v"], x["beta"], **options)
    if name == "gated_deltanet":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

        op = fused_recurrent_gated_delta_rule if decode else chunk_gated_delta_rule
        return op(x["q"], x["k"], x["v"], g=x["g_head"], beta=x["beta"], **options)
    if name == "kda":
        from fla.ops.kda import chunk_kda, fused_recurrent_kda

        op = fused_recurrent_kda if decode else chunk_kda
        return op(x["q"], x["k"], x["v"], g=x["g_channel"], beta=x["beta"], **options)
    from fla.ops.rwkv7 import chunk_rwkv7, fused_recurrent_rwkv7

    op = fused_recurrent_rwkv7 if decode else chunk_rwkv7
    return op(x["q"], x["g_channel"], x["k"], x["v"], x["a"], x["b"], scale=1.0, **options)


def measure(name, decode):
    heads, head_k, head_v = SHAPES[name]
    bytes_of_state = heads * head_k * head_v * 4
    batch = -(-(256 << 20) // bytes_of_state) if decode else 8
    x = inputs(name, batch, 1 if decode else 4096)
    state = torch.zeros(batch, heads, head_k, head_v, device="cuda") if decode else None
    with torch.no_grad():
        return seconds(lambda: call(name, x, decode, state), windows=5, calls=10, warm=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", help="JSON that bench_op_cuda_family wrote in the same run")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--prefill", action="store_true")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--json", help="write the table here")
    args = parser.parse_args()
    quick_tuning()
    ours = {}
    if args.ours:
        with open(args.ours) as file:
            ours = {(row["member"], row["what"]): row for row in json.load(file)["rows"]}
    rows = []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    for name in args.only.split(","):
        for decode in (False,) if args.prefill else (False, True):
            what = "decode" if decode else "prefill"
            try:
                theirs = measure(name, decode)
            except Exception as error:  # a kernel that does not compile here is a row without a figure
                print(f"{name:15s} {what}: not run: {type(error).__name__}: {str(error)[:200]}")
                continue
            if args.warm:
                continue
            row = {"member": name, "what": what, "peer_us": theirs * 1e6}
            text = f"{name:15s} {what:8s} flash-linear-attention {theirs * 1e6:9.1f} us"
            mine = ours.get((name, what))
            if mine:
                row["us"] = mine["us"]
                row["ratio"] = row["peer_us"] / row["us"]
                text += f", jet {row['us']:9.1f} us, {row['ratio']:5.2f} times as fast"
            print(text, flush=True)
            rows.append(row)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"device": torch.cuda.get_device_name(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
