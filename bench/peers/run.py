#!/usr/bin/env python3
"""Cherry against its peers, in turn: one training step of bench/step34m.cherry at several sizes. Prints a table
of ratios (seconds of the peer over seconds of Cherry; above 1, Cherry is faster) and the worst five.

    python3 bench/peers/run.py [--cherry build/cherry] [--python PYTHON ...] [--rounds 3] [--steps 3]
                               [--precision f32] [--points 34m,small] [--random 24] [--seed 4]
                               [--peers eager,compiled,jax]

Peers are what the interpreters can import: PyTorch, as it is and compiled, and JAX. `--python` (or the variable
CHERRY_PEERS, separated by colons) names interpreters besides this one. Each round runs every program once, as a
process of its own, and takes the median of its steps (at least `--steps`, more where they are short); a figure is
the median of the rounds. `--random N` draws N
points of widths 128 to 1536, 2 to 48 layers, time 64 to 2048, vocabulary 256 to 74,000 and batch 1 to 64 that fit
12 GiB and 20 s a step at 200 GFLOP/s, by `cherry check`. `--list` prints the points alone, `--only NAME` measures one
of them, `--record FILE` appends each point's figures as a line of JSON, `--summary FILE` prints the worst of those.
A process that takes more than `--limit` seconds is stopped and left out.
"""
import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = os.path.join(ROOT, "bench", "step34m.cherry")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
NAMED = {
    "34m": dict(embed=512, heads=8, key=64, ffn=1408, layers=8, vocab=8192, batch=8, time=256),
    "small": dict(embed=128, heads=4, key=32, ffn=384, layers=4, vocab=256, batch=12, time=64),
    "long": dict(embed=256, heads=4, key=64, ffn=704, layers=4, vocab=1024, batch=1, time=2048),
}
PEERS = {"eager": ("torch", "pytorch_step34m.py", ()), "compiled": ("torch", "pytorch_step34m.py", ("--compile",)),
         "jax": ("jax", "jax_step34m.py", ())}


def run_json(command, limit=None):
    """The last line of what a command prints, as JSON; None where it fails or takes more than `limit` seconds."""
    try:
        result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=limit)
        if result.returncode == 0:
            return json.loads(result.stdout.strip().splitlines()[-1])
        why = (result.stderr.strip() or f"status {result.returncode}").splitlines()[-1]
    except subprocess.TimeoutExpired:
        why = f"more than {limit} s"
    print(f"  {' '.join(os.path.basename(word) for word in command[:3])} ...: {why}", file=sys.stderr)
    return None


def settings(point):
    return [word for name, value in point.items() for word in ("--set", f"{name}={value}")]


def check(arguments, point):
    """What `cherry check` says, and the FLOPs of a step."""
    found = run_json([arguments.cherry, "check", MODEL, "--json", *settings(point)])
    return found and dict(found, flops=found["flops_per_token"] * point["batch"] * point["time"])


def fits(arguments, point):
    found = check(arguments, point)
    return found and found["flops"] <= 20 * 200e9 and found["training_bytes"] <= 12 << 30


def step_count(arguments, point):
    """So many that they take about two seconds."""
    found = check(arguments, point)
    return max(arguments.steps, min(50, int(2 * 150e9 / found["flops"]))) if found else arguments.steps


def draw(source):
    def between(low, high, multiple=1):  # evenly over the magnitudes
        value = math.exp(source.uniform(math.log(low), math.log(high)))
        return min(high, max(low, round(value / multiple) * multiple))

    embed, key = between(128, 1536, 64), source.choice((32, 64))
    return dict(embed=embed, heads=embed // key, key=key, ffn=math.ceil(embed * 8 / 3 / 64) * 64,
                layers=between(2, 48), vocab=between(256, 74000), batch=between(1, 64), time=between(64, 2048, 16))


def choose_points(arguments):
    points = {name: NAMED[name] for name in arguments.points.split(",") if name}
    source, drawn = random.Random(arguments.seed), 0
    while drawn < arguments.random:
        point = draw(source)
        if fits(arguments, point):
            drawn += 1
            points[f"random {drawn}"] = point
    return points


def find_peers(arguments):
    found = []
    interpreters = [sys.executable, *arguments.python, *filter(None, os.environ.get("CHERRY_PEERS", "").split(":"))]
    for module, program, options in (PEERS[name] for name in arguments.peers.split(",")):
        for python in dict.fromkeys(interpreters):
            if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
                found.append([python, os.path.join(HERE, program), "--json", *options])
                break
    return found


def cherry_point(arguments, point, steps):
    model = [*settings(point), "--set", f"precision={arguments.precision}"]
    result = run_json([arguments.cherry, "bench", MODEL, "--json", "--steps", str(steps),
                       "--threads", str(arguments.threads), *model], arguments.limit)
    return result and dict(result, name="cherry")


def peer_point(arguments, peer, point, steps):
    sizes = [word for name, value in point.items() for word in (f"--{name}", str(value))]
    return run_json([*peer, "--steps", str(steps), "--threads", str(arguments.threads), "--precision",
                     arguments.precision, *sizes], arguments.limit)


def measure(arguments, peers, point):
    """By name: median seconds, peak bytes, share of peak where it is known."""
    runs, steps = {}, step_count(arguments, point)
    for _ in range(arguments.rounds):
        for result in [cherry_point(arguments, point, steps), *(peer_point(arguments, peer, point, steps) for peer in peers)]:
            if result:
                runs.setdefault(result["name"], []).append(result)
    middle = lambda results, key: statistics.median(r.get(key, 0) for r in results)
    return {name: {key: middle(results, key) for key in ("step_seconds", "peak_bytes", "share_of_peak")}
            for name, results in runs.items()}


def report(name, point, figures):
    print(f"{name}: " + " ".join(f"{key}={value}" for key, value in point.items()))
    cherry = figures.get("cherry")
    for who, figure in figures.items():
        ratio = f"{figure['step_seconds'] / cherry['step_seconds']:6.2f}" if cherry else "     -"
        share = f", {100 * figure['share_of_peak']:.1f} % of peak" if figure["share_of_peak"] else ""
        print(f"  {who:32} {figure['step_seconds']:9.4f} s {figure['peak_bytes'] / 2**30:7.2f} GiB {ratio}{share}", flush=True)


def summarize(records):
    """The five points where Cherry leads least, and how many of all reach what is wanted."""
    rows = []
    for name, figures in records:
        cherry = figures.get("cherry")
        peers = [figure["step_seconds"] for who, figure in figures.items() if who != "cherry"]
        if cherry and peers:
            ratio, share = min(peers) / cherry["step_seconds"], cherry["share_of_peak"]
            rows.append((ratio, share, name, ratio >= 1.2 or share >= 0.8))
    print(f"\n{sum(row[3] for row in rows)} of {len(rows)} points reach 1.2 times the best peer or 80 % of peak; the worst:")
    for ratio, share, name, good in sorted(rows)[:5]:
        print(f"  {name:12} {ratio:5.2f}, {100 * share:.1f} % of peak{'' if good else '  short'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default=os.path.join(ROOT, "build", "cherry"))
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--points", default="34m,small,long")
    parser.add_argument("--peers", default=",".join(PEERS))
    for name, value in dict(random=0, seed=4, rounds=3, steps=3, limit=600, threads=len(os.sched_getaffinity(0))).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--list", action="store_true")
    for name in ("only", "record", "summary"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    unknown = set(arguments.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"no peer called {', '.join(sorted(unknown))}: {', '.join(PEERS)}")
    if arguments.summary:
        return summarize(json.loads(line) for line in open(arguments.summary))
    points = choose_points(arguments)
    if arguments.only:
        points = {arguments.only: points[arguments.only]}
    if arguments.list:
        for name, point in points.items():
            print(name, *(f"{key}={value}" for key, value in point.items()))
        return
    peers = find_peers(arguments)
    if not peers:
        print("no peer: no interpreter has PyTorch or JAX (see --help, --python)", file=sys.stderr)
    records = []
    for name, point in points.items():
        records.append((name, measure(arguments, peers, point)))
        report(name, point, records[-1][1])
        if arguments.record:
            with open(arguments.record, "a") as file:
                print(json.dumps(records[-1]), file=file)
    summarize(records)


main()
