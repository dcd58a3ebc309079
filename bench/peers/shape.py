"""What the peers of bench/step34m.cherry share: the sizes of the model, as options; the clock; the report."""
import argparse
import json
import resource
import statistics
import time

SIZES = dict(embed=512, heads=8, key=64, ffn=1408, layers=8, vocab=8192, batch=8, time=256)


def parse(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--compile", action="store_true", help="PyTorch: torch.compile")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(arguments, name, step):
    """Times arguments.steps calls of step() behind one that warms up."""
    seconds = []
    for number in range(arguments.steps + 1):
        start = time.perf_counter()
        loss = step()
        if number:
            seconds.append(time.perf_counter() - start)
    peak, middle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, statistics.median(seconds)
    if arguments.json:
        print(json.dumps(dict(name=name, step_seconds=middle, peak_bytes=peak, loss=loss)))
    else:
        print(f"{name}: {middle:.3f} s a step, peak {peak / 2**30:.2f} GiB")
