#!/usr/bin/env python3
"""Runs `cherry train ...` and stops it: `interrupt.py SIGNAL LINES COMMAND...` sends SIGNAL (INT, TERM, KILL)
once OUT/metrics.jsonl has LINES lines. Exits with the command's status; with KILL, 0 if it was killed.
"""
import os
import signal
import subprocess
import sys
import time


def lines(path):
    try:
        with open(path, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def main():
    name, wanted, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    metrics = os.path.join(command[command.index("--out") + 1], "metrics.jsonl")
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while process.poll() is None and lines(metrics) < wanted:
        if time.monotonic() > deadline:
            process.kill()
            sys.exit("nothing came within 60 s")
        time.sleep(0.002)
    if process.poll() is not None:
        sys.exit(f"it ended with status {process.returncode} before it could be stopped")
    process.send_signal(getattr(signal, "SIG" + name))
    status = process.wait()
    if name == "KILL":
        sys.exit(0 if status == -signal.SIGKILL else f"it ended with status {status}")
    sys.exit(status)


main()
