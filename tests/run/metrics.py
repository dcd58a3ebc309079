#!/usr/bin/env python3
"""Checks metrics.jsonl: `metrics.py FILE EXPRESSION` fails unless the Python expression over `rows`, `first`
and `last` holds. `metrics.py --same A B [RELATIVE]` compares all but the speed: exactly, or within RELATIVE.
"""
import json
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def same(a, b, relative):
    rows = read(a), read(b)
    if len(rows[0]) != len(rows[1]):
        sys.exit(f"{a} has {len(rows[0])} lines, {b} has {len(rows[1])}")
    for left, right in zip(*rows):
        left.pop("tokens_per_second")
        right.pop("tokens_per_second")
        good = left == right if not relative else left.keys() == right.keys() and all(
            abs(left[key] - right[key]) <= relative * abs(left[key]) for key in left)
        if not good:
            sys.exit(f"they differ:\n  {left}\n  {right}")


def main():
    if sys.argv[1] == "--same":
        same(sys.argv[2], sys.argv[3], float(sys.argv[4]) if len(sys.argv) > 4 else 0)
        return
    rows = read(sys.argv[1])
    if not eval(sys.argv[2], {"rows": rows, "first": rows[0], "last": rows[-1]}):
        sys.exit(f"not so: {sys.argv[2]}\n  first {rows[0]}\n  last  {rows[-1]}")


main()
