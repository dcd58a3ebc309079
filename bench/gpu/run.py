#!/usr/bin/env python3
"""Cherry beside PyTorch on an NVIDIA GPU: training cherry_566m, cherry_227m and gpt2 in bf16, memory, the time to the
first step, decoding. Prints a table and, with --json FILE, the figures.

    python3 bench/gpu/run.py [--cherry build/cherry] [--python PYTHON] [--models cherry_566m,cherry_227m,gpt2]
                             [--batches 32,16,8] [--steps 10] [--limit 240] [--json FILE] [--no-peer]

Each program starts at the largest of the batches and takes the first that fits; where they differ, Cherry runs at
PyTorch's batch too, so that memory is compared at the same one. `share` is model FLOPs (causal attention counted
once) over the rate of an 8192-cubed product that `cherry bench` measures in the same run.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TINY = "vocab=320 embed=64 heads=4 ffn=96".split()  # --tiny: what tests do


def sets(words):
    return [part for word in words for part in ("--set", word)]


def run_json(command, limit, **environment):
    """The JSON object on the last line of what a command prints, and the seconds it took; None where it fails."""
    start = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env={**os.environ, **environment})
        if done.returncode == 0:
            return dict(json.loads(done.stdout.strip().splitlines()[-1]), wall_seconds=time.time() - start)
        why = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
    except subprocess.TimeoutExpired:
        why = f"more than {limit} s"
    print(f"  {' '.join(os.path.basename(word) for word in command[:4])} ...: {why}", file=sys.stderr, flush=True)
    return None


def sizes(arguments, model, batch):
    words = [f"batch={batch}", "accumulate=1"] + (TINY if arguments.tiny else [])
    words.append(f"{'context' if model == 'gpt2' else 'time'}={32 if arguments.tiny else 2048}")
    return words + (["key=16"] if arguments.tiny and model != "gpt2" else [])


def cherry(arguments, model, batch, *options, **environment):
    path = os.path.join(ROOT, "models", f"{model}.cherry")
    return run_json([arguments.cherry, "bench", path, "--device", arguments.device, "--json", "--steps", str(arguments.steps),
                     *sets(sizes(arguments, model, batch)), *options], arguments.limit, **environment)


def pytorch(arguments, model, batch):
    device = ["--device", "cpu", "--tiny", "--eager", "--time", "32"] if arguments.tiny else []
    return run_json([arguments.python, os.path.join(HERE, "pytorch_train.py"), model, "--batch", str(batch), "--steps",
                     str(arguments.steps), *device], arguments.limit)


def largest(program, arguments, model, batches):
    for batch in batches:
        result = program(arguments, model, batch)
        if result:
            return batch, result
    return None, None


def first_step(arguments, model, batch):
    """Seconds before the first launch, and of the whole command, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [cherry(arguments, model, batch, "--compile-only", XDG_CACHE_HOME=folder) for _ in range(2)]
    return [(run["seconds"], run["wall_seconds"]) if run else None for run in runs]


def decode(arguments, model):
    """Tokens a second of one sequence, from weights of one training step."""
    path = os.path.join(ROOT, "models", f"{model}.cherry")
    shape = [word for word in sizes(arguments, model, 1) if not word.startswith("batch=")]
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text.txt")
        with open(text, "w") as file:
            file.write("The quick brown fox jumps over the lazy dog. " * 2000)
        common = ["--device", arguments.device, *sets(shape)]
        train = subprocess.run([arguments.cherry, "train", path, "--data", text, "--out", os.path.join(folder, "run"),
                                "--steps", "1", "--set", "batch=1", *common], capture_output=True, text=True)
        if train.returncode:
            print(f"  train {model}: {train.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        return run_json([arguments.cherry, "generate", path, "--weights", os.path.join(folder, "run", "model.safetensors"),
                         "--prompt", "The ", "--tokens", "16" if arguments.tiny else "256", "--json", *common], arguments.limit)


def measure(arguments, model, result, save):
    """Fills `result`, and saves after each program."""
    batches = [int(batch) for batch in arguments.batches.split(",")]
    result["model"] = model
    result["cherry_batch"], result["cherry"] = largest(cherry, arguments, model, batches)
    save()
    if not arguments.no_peer:
        result["peer_batch"], result["peer"] = largest(pytorch, arguments, model, batches)
        save()
        same = result["cherry"]
        if result["peer"] and result["peer_batch"] != result["cherry_batch"]:
            same = cherry(arguments, model, result["peer_batch"])
        result["cherry_at_peer_batch"] = same
    if result["cherry"]:
        result["first_step"] = first_step(arguments, model, result["cherry_batch"])
        save()
    if model == "cherry_227m":
        result["decode"] = decode(arguments, model)
        save()


def line(model, who, batch, run, share=None, ratio=None):
    first = run.get("first_step_seconds")
    print(f"{model:12} {who:28} {batch:5} {run['step_seconds']:9.4f} {run['tokens_per_second']:12.0f} "
          f"{'%6.1f %%' % (100 * share) if share else '       -'} {run['peak_bytes'] / 2**30:8.2f} "
          f"{'%6.2f' % ratio if ratio else '     -'} {'%8.1f' % first if first else '       -'}", flush=True)


def report(result):
    own, peer, same = result["cherry"], result.get("peer"), result.get("cherry_at_peer_batch")
    if peer:
        line(result["model"], peer["name"], result["peer_batch"], peer)
    if own:
        ratio = own["tokens_per_second"] / peer["tokens_per_second"] if peer else None
        line(result["model"], "cherry", result["cherry_batch"], own, own["share_of_peak"], ratio)
    if peer and same and peer["peak_bytes"]:
        print(f"{'':12} memory at batch {result['peer_batch']}: {same['peak_bytes'] / peer['peak_bytes']:.2f} of PyTorch's")
    for name, run in zip(("cold", "from the cache"), result.get("first_step", ())):
        if run:
            print(f"{'':12} before the first launch, {name}: {run[0]:.2f} s (whole command {run[1]:.2f} s)")
    if result.get("decode"):
        print(f"{'':12} decoding one sequence: {result['decode']['tokens_per_second']:.1f} tokens/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default=os.path.join(ROOT, "build", "cherry"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--models", default="cherry_566m,cherry_227m,gpt2")
    parser.add_argument("--batches", default="32,16,8")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=int, default=240, help="seconds for one program")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, the peer on the CPU: a check of this program")
    parser.add_argument("--device", default="cuda", help="of cherry")
    arguments = parser.parse_args()
    print(f"{'model':12} {'program':28} {'batch':>5} {'s/step':>9} {'tokens/s':>12} {'of peak':>8} {'GiB':>8} {'ratio':>6} {'first s':>8}")
    results = []

    def save():
        if arguments.json:
            with open(arguments.json + ".part", "w") as file:
                json.dump(results, file, indent=1)
            os.replace(arguments.json + ".part", arguments.json)

    for model in arguments.models.split(","):
        results.append({})
        measure(arguments, model, results[-1], save)
        report(results[-1])


main()
