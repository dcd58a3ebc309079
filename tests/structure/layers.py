#!/usr/bin/env python3
"""The laws of the tree: who may include whom, who may see LLVM, who may exit, how long a file may be.

    python3 tests/structure/layers.py
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAY_INCLUDE = {
    "base": {"base"},
    "ir": {"base", "ir"},
    "frontend": {"base", "ir", "frontend"},
    "passes": {"base", "ir", "passes"},
    "codegen": {"base", "ir", "codegen"},
    "runtime": {"base", "ir", "runtime"},
    "driver": {"base", "ir", "frontend", "passes", "codegen", "runtime", "driver", "include"},
    "include": {"driver"},
}
LINE_LIMIT = 600
problems = []


def check(path):
    folder = path.parent.name
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path.relative_to(ROOT)}:{number}"
        include = re.match(r'\s*#\s*include\s+["<]([\w.-]+)/', line)
        if include:
            target = include.group(1)
            if target in MAY_INCLUDE and target not in MAY_INCLUDE[folder]:
                problems.append(f"{where}: {folder}/ must not include {target}/")
            if target == "llvm-c" and not path.name.startswith("cpu_"):
                problems.append(f"{where}: only codegen/cpu_* may see llvm-c/")
            if target == "cjson" and folder not in ("runtime", "driver"):
                problems.append(f"{where}: {folder}/ must not see cJSON")
        code = line.split("//")[0]
        if re.search(r"(?<![\w.])_?exit\s*\(", code) and path.name != "cherry.c":
            problems.append(f"{where}: exit belongs to driver/cherry.c")
    lines = text.count("\n")
    if lines > LINE_LIMIT:
        problems.append(f"{path.relative_to(ROOT)}: {lines} lines, the limit is {LINE_LIMIT}")


def main():
    files = [p for folder in MAY_INCLUDE for p in sorted((ROOT / folder).glob("*.[chyl]"))]
    for path in files:
        check(path)
    print("\n".join(problems) or f"{len(files)} files keep the laws")
    sys.exit(bool(problems))


main()
