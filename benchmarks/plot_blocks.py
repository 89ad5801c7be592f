#!/usr/bin/env python3
"""Draws tokens/s against context for a family of blocks, from what a block benchmark wrote:

  bench_block_blocks --benchmark_out=blocks.json --benchmark_out_format=json
  benchmarks/plot_blocks.py blocks.json -o blocks.svg

One panel for prefill (tokens of the prompt) and one for decode (tokens before the step), one line per block and
policy, both axes logarithmic. Needs nothing beside Python.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

COLOURS = ["#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#7b4fa3", "#00798c", "#8c564b", "#555555", "#e377c2", "#17becf"]
WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 1180, 430, 70, 40, 390, 320


def read(path):
    """{"prefill" | "decode": {line: [(context, tokens/s)]}}"""
    try:
        runs = json.loads(path.read_text())["benchmarks"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{path}: not a Google Benchmark JSON file: {error}")
    panels = {"prefill": {}, "decode": {}}
    for run in runs:
        if run.get("run_type") == "aggregate" and run.get("aggregate_name") != "median":
            continue
        prefill = re.match(r"block/(.+)/prefill/tokens:(\d+)", run["name"])
        decode = re.match(r"block/(.+)/decode/seqs:1/context:(\d+)", run["name"])
        found = prefill or decode
        if found and run.get("tokens/s", 0) > 0:
            line = panels["prefill" if prefill else "decode"].setdefault(found[1], [])
            line.append((int(found[2]), run["tokens/s"]))
    if not any(panels.values()):
        sys.exit(f"{path}: no cases named block/<name>/prefill/tokens:<n> or block/<name>/decode/seqs:1/context:<n>")
    return panels


def short(value):
    for limit, divisor, unit in ((1048576, 1048576, "M"), (1024, 1024, "K")):
        if value >= limit and value % divisor == 0:
            return f"{value // divisor}{unit}"
    return f"{value:g}"


def panel(title, lines, colours, left):
    points = [p for line in lines.values() for p in line]
    if not points:
        return ""
    x0, x1 = (math.log2(f(p[0] for p in points)) for f in (min, max))
    y0 = math.floor(math.log10(min(p[1] for p in points)))
    y1 = math.ceil(math.log10(max(p[1] for p in points)))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)

    def at(context, rate):
        return (left + (math.log2(context) - x0) / (x1 - x0) * PLOT_W,
                TOP + PLOT_H - (math.log10(rate) - y0) / (y1 - y0) * PLOT_H)

    out = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{title}</text>']
    for decade in range(y0, y1 + 1):
        y = at(2**x0, 10**decade)[1]
        out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + PLOT_W}" y2="{y:.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**decade:g}</text>')
    for context in sorted({p[0] for p in points}):
        x = at(context, 10**y0)[0]
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + PLOT_H}" stroke="#eee"/>'
                   f'<text x="{x:.1f}" y="{TOP + PLOT_H + 18}" text-anchor="middle">{short(context)}</text>')
    for name, line in lines.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in sorted(line)))
        dash = ' stroke-dasharray="6 3"' if name.endswith("/bf16") else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in map(lambda p: at(*p), line)]
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    panels = read(options.json)
    names = list(dict.fromkeys([*panels["prefill"], *panels["decode"]]))
    blocks = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in names))
    colours = {name: COLOURS[blocks.index(name.rsplit("/", 1)[0]) % len(COLOURS)] for name in names}
    parts = [panel("prefill, tokens/s against tokens of the prompt", panels["prefill"], colours, LEFT),
             panel("decode, tokens/s against tokens before the step", panels["decode"], colours, LEFT + PLOT_W + 90)]
    for i, name in enumerate(names):
        y = TOP + 10 + 20 * i
        x = LEFT + 2 * PLOT_W + 110
        dash = ' stroke-dasharray="6 3"' if name.endswith("/bf16") else ""
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 26}" y2="{y}" stroke="{colours[name]}" stroke-width="2"{dash}/>'
                     f'<text x="{x + 32}" y="{y + 4}">{name}</text>')
    height = max(HEIGHT, TOP + 30 + 20 * len(names))
    options.output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 40}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts) + "\n</svg>\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
