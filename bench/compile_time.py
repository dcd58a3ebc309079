#!/usr/bin/env python3
"""Compile time against depth: from the start of the process to the first launch of a training step, cold
(no object on disk) and from the object cache, for 8, 48 and 96 layers of bench/step34m.cherry.

    bench/compile_time.py [--cherry build/cherry] [--repeat 5] [--layers 8,48,96]

Each number is the best of the repeats: wall time, and in brackets processor time (user and system, all
threads), which a busy machine changes less. The last lines say what each further layer costs."""
import argparse
import json
import os
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(cherry, model, layers, cache):
    command = [cherry, "bench", model, "--set", f"layers={layers}", "--compile-only", "--json"]
    before, start = os.times(), time.monotonic()
    result = subprocess.run(command, env=dict(os.environ, XDG_CACHE_HOME=cache), capture_output=True, text=True)
    wall, after = time.monotonic() - start, os.times()
    if result.returncode:
        raise SystemExit(result.stderr)
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return dict(json.loads(result.stdout), wall=wall, used=used)


def best(runs):
    return {key: min(run[key] for run in runs) for key in runs[0]}


def measure(arguments, layers):
    cold, cached = [], []
    for _ in range(arguments.repeat):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(run(arguments.cherry, arguments.model, layers, cache))
            cached.append(run(arguments.cherry, arguments.model, layers, cache))
    return best(cold), best(cached)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default=os.path.join(ROOT, "build", "cherry"))
    parser.add_argument("--model", default=os.path.join(ROOT, "bench", "step34m.cherry"))
    parser.add_argument("--layers", default="8,48,96")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    print("layers  state   wall s (processor s)   passes s   code s   kernels   peak MiB")
    for layers in [int(text) for text in arguments.layers.split(",")]:
        rows.append((layers, *measure(arguments, layers)))
        for state, row in zip(("cold", "cached"), rows[-1][1:]):
            print(f"{layers:6}  {state:6} {row['wall']:7.3f} ({row['used']:.3f}) {row['pass_seconds']:18.3f}"
                  f" {row['code_seconds']:8.3f} {int(row['kernels']):9} {row['peak_bytes'] / 2**20:10.0f}")
    for (fewer, *less), (more, *much) in zip(rows, rows[1:]):
        for state, a, b in zip(("cold", "cached"), less, much):
            wall, used = (1000 * (b[key] - a[key]) / (more - fewer) for key in ("wall", "used"))
            print(f"{fewer} to {more}, {state}: {wall:.2f} ms ({used:.2f} ms) for each further layer")


if __name__ == "__main__":
    main()
