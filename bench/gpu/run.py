#!/usr/bin/env python3
"""Cherry beside PyTorch on an NVIDIA GPU: training cherry_566m, cherry_227m and gpt2 in bf16, memory, the time to the
first step, decoding. Prints a table and, with --json FILE, the figures.

    python3 bench/gpu/run.py [--cherry build/cherry] [--python PYTHON] [--models cherry_566m,cherry_227m,gpt2]
                             [--tokens 65536,32768,16384] [--steps 10] [--limit 240] [--json FILE] [--no-peer]
                             [--peer-compile model|blocks|none] [--gpu NAME]

Sequences are those that the models are known with: 2048 tokens, 1024 of gpt2. Each program starts with the most tokens
a step and takes the first that fits; where they differ, Cherry runs with PyTorch's too, so that memory is compared at
the same number. `of peak` is model FLOPs (causal attention counted once) over the rate of an 8192-cubed product that
`cherry bench` measures in the same run; memory is what was allocated for tensors. Decoding is greedy, one sequence; its
limit is to read every byte of the weights once a token. PyTorch compiles into an empty cache; where it cannot, it runs as
it is, and its name says so. Last, where the GPU runs it, Cherry once more with code for what sm_90 alone has
(`--gpu sm_90a`).
"""
import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import libraries

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TINY = "vocab=320 embed=64 heads=4 ffn=96".split()  # --tiny: what tests do
ALONE = "sm_90a"  # what one GPU has, and no other
TIME = {"cherry_566m": 2048, "cherry_227m": 2048, "gpt2": 1024}


def sets(words):
    return [part for word in words for part in ("--set", word)]


class NoMemory(Exception):
    """A program needs more memory than there is."""


def run_text(command, limit, environment=None):
    """What a command prints; None where it fails, and why on standard error."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, env=environment)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        why = ([line for line in lines if "rror" in line] or lines)[-1]
    except subprocess.TimeoutExpired:
        why = f"more than {limit:.0f} s"
    except OSError as error:
        why = str(error)
    print(f"  {' '.join(os.path.basename(word) for word in command[:4])} ...: {why}", file=sys.stderr, flush=True)
    if re.search(r"E0643|OutOfMemory|out of memory", why):
        raise NoMemory(why)
    return None


def run_json(command, limit, environment=None):
    """The JSON object on the last line of what a command prints, and the seconds it took; None where it fails."""
    start = time.time()
    text = run_text(command, limit, environment)
    return dict(json.loads(text.splitlines()[-1]), wall_seconds=time.time() - start) if text else None


def length(arguments, model):
    return 32 if arguments.tiny else TIME[model]


def sizes(arguments, model, batch):
    words = [f"batch={batch}", "accumulate=1", "precision=bf16"] + (TINY if arguments.tiny else [])
    words.append(f"{'context' if model == 'gpt2' else 'time'}={length(arguments, model)}")
    return words + (["key=16"] if arguments.tiny and model != "gpt2" else [])


def model_file(model):
    return os.path.join(ROOT, "models", f"{model}.cherry")


def target(arguments, gpu=None):
    gpu = gpu or arguments.gpu
    return ["--device", arguments.device, *(["--gpu", gpu] if gpu else [])]


def cherry(arguments, model, batch, *options, cache=None, gpu=None):
    environment = dict(arguments.environment, **(dict(XDG_CACHE_HOME=cache) if cache else {}))
    return run_json([arguments.cherry, "bench", model_file(model), *target(arguments, gpu), "--json", "--steps",
                     str(arguments.steps), *sets(sizes(arguments, model, batch)), *options], arguments.limit, environment)


def pytorch(arguments, model, batch):
    """Compiled; where that fails, for want of a C compiler or of Triton, as it is."""
    device = ["--device", "cpu", "--tiny"] if arguments.tiny else []
    for how in dict.fromkeys((arguments.peer_compile, "none")):
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder, TRITON_CACHE_DIR=os.path.join(folder, "triton"))
            run = run_json([arguments.python, os.path.join(HERE, "pytorch_train.py"), model, "--batch", str(batch), "--time",
                            str(length(arguments, model)), "--steps", str(arguments.steps), "--compile", how, *device],
                           arguments.limit, environment)
        if run:
            return run
    return None


def largest(program, arguments, model, batches):
    for batch in batches:
        try:
            return batch, program(arguments, model, batch)
        except NoMemory:
            pass
    return None, None


def at_batch(program, arguments, model, batch):
    return largest(program, arguments, model, [batch])[1]


def first_step(arguments, model, batch):
    """Seconds before the first launch, and of the whole command, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [cherry(arguments, model, batch, "--compile-only", cache=folder) for _ in range(2)]
    return [(run["seconds"], run["wall_seconds"]) if run else None for run in runs]


def weight_bytes(arguments, model, shape):
    """What a token reads of weights: all that its program moves but attention's caches."""
    text = run_text([arguments.cherry, "dump", model_file(model), "--entry", "decode", "--format", "budget", *sets(shape)],
                    arguments.limit, arguments.environment) or ""
    found = {row[4]: float(row[2]) for row in (line.split() for line in text.splitlines()) if len(row) == 6 and row[5] == "all"}
    return 1e6 * sum(megabytes for kind, megabytes in found.items() if kind != "attention")


def decode(arguments, model, bandwidth):
    """Tokens a second of one sequence, from weights of one training step; its share of what memory allows."""
    path = model_file(model)
    shape = [word for word in sizes(arguments, model, 1) if not word.startswith("batch=")]
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text.txt")
        with open(text, "w") as file:
            file.write("The quick brown fox jumps over the lazy dog. " * 2000)
        common = [*target(arguments), *sets(shape)]
        if not run_text([arguments.cherry, "train", path, "--data", text, "--out", os.path.join(folder, "run"), "--steps", "1",
                         "--set", "batch=1", *common], arguments.limit, arguments.environment):
            return None
        told = run_json([arguments.cherry, "generate", path, "--weights", os.path.join(folder, "run", "model.safetensors"),
                         "--prompt", "The ", "--tokens", "16" if arguments.tiny else "512", "--temperature", "0", "--json",
                         *common], arguments.limit, arguments.environment)
    if told and bandwidth:
        told["share_of_bandwidth"] = told["tokens_per_second"] * weight_bytes(arguments, model, shape) / bandwidth
    return told


def measure(arguments, model, result, save):
    """Fills `result`, and saves after each program."""
    batches = [max(1, int(tokens) // length(arguments, model)) for tokens in arguments.tokens.split(",")]
    result["model"] = model
    result["cherry_batch"], result["cherry"] = largest(cherry, arguments, model, batches)
    save()
    if result["cherry"]:
        result["first_step"] = first_step(arguments, model, result["cherry_batch"])
        save()
    if model == "cherry_227m" and result["cherry"]:
        result["decode"] = decode(arguments, model, result["cherry"]["peak_bytes_per_second"])
        save()
    if not arguments.no_peer:
        result["peer_batch"], result["peer"] = largest(pytorch, arguments, model, batches)
        save()
        same = result["cherry"]
        if result["peer"] and result["peer_batch"] != result["cherry_batch"]:
            same = at_batch(cherry, arguments, model, result["peer_batch"])
        result["cherry_at_peer_batch"] = same
        save()
    if result["cherry"] and not arguments.gpu:
        result["cherry_alone"] = at_batch(functools.partial(cherry, gpu=ALONE), arguments, model, result["cherry_batch"])
        save()


def line(model, who, batch, run, share=None, ratio=None):
    first = run.get("first_step_seconds")
    print(f"{model:12} {who:28} {batch:5} {run['step_seconds']:9.4f} {run['tokens_per_second']:12.0f} "
          f"{'%6.1f %%' % (100 * share) if share else '       -'} {run['peak_bytes'] / 2**30:8.2f} "
          f"{'%6.2f' % ratio if ratio else '     -'} {'%8.1f' % first if first else '       -'}", flush=True)


def report(result):
    own, peer, same = result["cherry"], result.get("peer"), result.get("cherry_at_peer_batch")
    if peer:
        share = None
        if own and own["peak_flops_per_second"]:
            flops = own["flops_per_step"] / (own["tokens_per_second"] * own["step_seconds"])  # of a token
            share = peer["tokens_per_second"] * flops / own["peak_flops_per_second"]
        line(result["model"], peer["name"], result["peer_batch"], peer, share)
    if own:
        ratio = own["tokens_per_second"] / peer["tokens_per_second"] if peer else None
        line(result["model"], "cherry", result["cherry_batch"], own, own["share_of_peak"], ratio)
    alone = result.get("cherry_alone")
    if alone:
        ratio = alone["tokens_per_second"] / peer["tokens_per_second"] if peer else None
        line(result["model"], f"cherry, {ALONE}", result["cherry_batch"], alone, alone["share_of_peak"], ratio)
    if peer and same and peer["peak_bytes"]:
        print(f"{'':12} memory at batch {result['peer_batch']}: {same['peak_bytes'] / peer['peak_bytes']:.2f} of PyTorch's")
    for name, run in zip(("cold", "from the cache"), result.get("first_step", ())):
        if run:
            print(f"{'':12} before the first launch, {name}: {run[0]:.2f} s (whole command {run[1]:.2f} s)")
    if result.get("decode"):
        told = result["decode"]
        print(f"{'':12} decoding one sequence: {told['tokens_per_second']:.1f} tokens/s, "
              f"{100 * told.get('share_of_bandwidth', 0):.0f} % of what memory allows")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cherry", default=os.path.join(ROOT, "build", "cherry"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--models", default="cherry_566m,cherry_227m,gpt2")
    parser.add_argument("--tokens", default="65536,32768,16384", help="of a step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=float, default=240, help="seconds for one program")
    parser.add_argument("--peer-compile", choices=("model", "blocks", "none"))
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, the peer on the CPU: a check of this program")
    parser.add_argument("--device", default="cuda", help="of cherry")
    parser.add_argument("--gpu", help="the architecture that cherry compiles for, where it is not that of the device")
    arguments = parser.parse_args()
    arguments.peer_compile = arguments.peer_compile or ("none" if arguments.tiny else "model")
    peers = [] if arguments.no_peer else [arguments.python]
    arguments.environment = libraries.environment(os.path.dirname(os.path.abspath(arguments.cherry)), pythons=peers)
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


if __name__ == "__main__":
    main()
