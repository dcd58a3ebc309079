#!/usr/bin/env python3
"""`kill.py COUNT cherry train ... --out DIR`: kills the run COUNT times with SIGKILL, a few milliseconds after
it has begun to save, resumes each time, and lets the last one end. The checkpoint is readable after each kill.
"""
import os
import signal
import subprocess
import sys
import time

from pathlib import Path


def stamp(path):
    try:
        status = path.stat()
        return status.st_ino, status.st_mtime_ns
    except FileNotFoundError:
        return None


def run_and_kill(command, checkpoint, delay):
    """Waits for a save by this process, then for `delay` seconds more. False if it ended by itself."""
    before = stamp(checkpoint)
    process = subprocess.Popen(command + (["--resume"] if before else []), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and stamp(checkpoint) == before:
        if time.monotonic() > deadline:
            process.kill()
            sys.exit("no save within 60 s")
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    status = process.wait()
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"it ended with status {status}")
    return status != 0


def main():
    count, command = int(sys.argv[1]), sys.argv[2:]
    folder = Path(command[command.index("--out") + 1])
    checkpoint = folder / "checkpoint.safetensors"
    kills = 0
    for i in range(count):
        kills += run_and_kill(command, checkpoint, (i * 7 % count) * 0.0004)
        header = checkpoint.read_bytes()
        if int.from_bytes(header[:8], "little") + 8 > len(header):
            sys.exit(f"the checkpoint is cut short after kill {i}")
    if kills < count // 2:
        sys.exit(f"only {kills} of {count} runs could be killed")
    subprocess.run(command + ["--resume"], check=True, stdout=subprocess.DEVNULL)
    left = [name for name in os.listdir(folder) if "tmp" in name]
    print(f"{kills} kills, {len(left)} temporary files left behind")


main()
