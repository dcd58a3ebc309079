#!/usr/bin/env python3
"""Predicted against measured step times: for each point `cherry check --json`, in a process of its own, then
`cherry bench --json`, in turn; medians of the rounds.

    bench/predictions.py [--cherry build/cherry] [--rounds 3] [--steps 3] [--threads N] [--wanted 0.15]
                         [POINT...]

A point is a file and its settings in one argument: "bench/step34m.cherry layers=3 precision=bf16". Without any,
a list of models and seeded shapes is measured, some 2 minutes a round. Columns: predicted and measured seconds, what
the one is of the other, and the lowest and highest such share of the rounds; then how many are within `wanted`."""
import argparse
import json
import os
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def shape(embed, heads, key, ffn, layers, vocab, batch, time):
    return (f"bench/step34m.cherry embed={embed} heads={heads} key={key} ffn={ffn} layers={layers} vocab={vocab} "
            f"batch={batch} time={time}")


POINTS = [
    "bench/step34m.cherry",
    "bench/step34m.cherry precision=bf16",
    "models/nano.cherry",
    "models/shakespeare_char.cherry",
    "models/moe.cherry",
    "models/mlp.cherry",
    "models/gpt2.cherry layers=2 batch=1 time=256 accumulate=1",
    "models/llama.cherry layers=2 batch=1 time=256 accumulate=1",
    shape(256, 4, 64, 704, 20, 3861, 1, 64),
    shape(768, 12, 64, 2048, 3, 7929, 4, 368),
    shape(128, 4, 32, 384, 2, 36738, 2, 1056),
    shape(576, 18, 32, 1536, 3, 51078, 3, 64),
    shape(320, 10, 32, 896, 6, 270, 1, 112),
    shape(192, 6, 32, 512, 8, 1128, 4, 704),
    shape(1088, 34, 32, 2944, 5, 757, 2, 96),
    shape(640, 10, 64, 1728, 3, 11652, 1, 1520),
]


def run(arguments, command, point, *options):
    file, *settings = point.split()
    words = [arguments.cherry, command, os.path.join(ROOT, file), "--json", *options]
    for setting in settings:
        words += ["--set", setting]
    if arguments.threads:
        words += ["--threads", str(arguments.threads)]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{point}: {result.stderr}")
    return json.loads(result.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default=os.path.join(ROOT, "build", "cherry"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--wanted", type=float, default=0.15)
    parser.add_argument("points", nargs="*", default=POINTS, metavar="POINT")
    arguments = parser.parse_args()
    within = 0
    print("predicted s  measured s  share  lowest highest")
    for point in arguments.points:
        rounds = []
        for _ in range(arguments.rounds):
            predicted = run(arguments, "check", point)["predicted_step_seconds"]
            rounds.append((predicted, run(arguments, "bench", point, "--steps", str(arguments.steps))["step_seconds"]))
        predicted, measured = (statistics.median(column) for column in zip(*rounds))
        shares = [a / b for a, b in rounds]
        within += abs(predicted / measured - 1) <= arguments.wanted
        print(f"{predicted:11.5f} {measured:11.5f} {predicted / measured:6.2f} {min(shares):7.2f} {max(shares):7.2f}"
              f"  {point}", flush=True)
    print(f"{within} of {len(arguments.points)} within {arguments.wanted:.0%}")


if __name__ == "__main__":
    main()
