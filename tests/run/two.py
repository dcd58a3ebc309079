#!/usr/bin/env python3
"""`two.py cherry train ... --out DIR --steps N`: while a run trains into DIR, another is refused, be it a new one or one that
goes on; once the first was killed, a third may go on.
"""
import signal
import subprocess
import sys
import time

from pathlib import Path

command = sys.argv[1:]
metrics = Path(command[command.index("--out") + 1]) / "metrics.jsonl"


def start(command):
    """A run that is under way: it has written beyond what was there."""
    before = metrics.stat().st_size if metrics.exists() else 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.stat().st_size <= before:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            sys.exit("a run did not begin")
        time.sleep(0.01)
    return process


def check_refused(command, what):
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 1 or "another run is writing to" not in process.stderr:
        sys.exit(f"{what} was not refused: status {process.returncode}\n{process.stderr}")


def main():
    first = start(command)
    check_refused(command, "a new run")
    first.send_signal(signal.SIGINT)
    if first.wait() != 0:
        sys.exit("the first run did not save")
    second = start(command + ["--resume"])
    check_refused(command + ["--resume"], "a run that goes on")
    second.kill()
    second.wait()
    command[command.index("--steps") + 1] = "1"  # it has gone further: nothing is left to do
    sys.exit(subprocess.run(command + ["--resume"], stdout=subprocess.DEVNULL).returncode)


main()
