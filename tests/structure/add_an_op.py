#!/usr/bin/env python3
"""docs/add-an-op.md, followed to the letter on a copy of the tree: the row alone must not link, the row
and the definition must, and the sweep over the op table must then pass with the new op in it.

    python3 tests/structure/add_an_op.py [FOLDER FOR THE COPY]
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["base", "ir", "passes", "tests"]
OP = "sum_of_squares"


def sources(tree):
    files = [path for folder in FOLDERS for path in sorted((tree / folder).glob("*.c"))]
    return files + [tree / "tests/unit/ops_sweep.c"]


def compile_one(tree, path):
    target = path.with_suffix(".o")
    launcher = ["ccache"] if shutil.which("ccache") else []
    command = launcher + [os.environ.get("CC", "cc"), "-std=gnu17", "-D_GNU_SOURCE", "-O0", "-I.", "-c",
                          str(path.relative_to(tree)), "-o", str(target.relative_to(tree))]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return str(target)


def link(tree, objects):
    command = ["cc", *objects, "-o", "sweep", "-lcmocka", "-lcjson", "-lpthread", "-lm"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True)


def insert(tree, name, text):
    path = tree / name
    content = path.read_text()
    if name == "ir/ops.def":
        content = re.sub(r"(OP\(sum,.*\n)", lambda found: found.group(1) + text, content)
    elif name == "tests/op_case_table.c":
        content = content.replace("\n};\n\nconst int", "\n" + text + "};\n\nconst int")
    else:
        content += "\n" + text
    path.write_text(content)


def main():
    tree = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="add-an-op-"))
    page = (ROOT / "docs/add-an-op.md").read_text()
    places = dict(re.findall(r"^In `([^`]+)`[^\n]*:\n\n```c\n(.*?)```", page, re.M | re.S))
    assert set(places) == {"ir/ops.def", "ir/ops_reduce.c", "tests/op_case_table.c"}, places.keys()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, dirs_exist_ok=True)
    insert(tree, "ir/ops.def", places["ir/ops.def"])
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda path: compile_one(tree, path), sources(tree)))
    missing = link(tree, objects)
    if missing.returncode == 0 or f"op_{OP}" not in missing.stderr:
        sys.exit(f"the row alone should not link for want of op_{OP}:\n{missing.stderr}")
    for name in ["ir/ops_reduce.c", "tests/op_case_table.c"]:
        insert(tree, name, places[name])
        compile_one(tree, tree / name)
    linked = link(tree, objects)
    if linked.returncode:
        sys.exit(linked.stderr)
    sweep = subprocess.run(["./sweep"], cwd=tree, capture_output=True, text=True)
    if sweep.returncode or f"OK ] {OP}/one" not in sweep.stdout:
        sys.exit(sweep.stdout + sweep.stderr)
    print(next(line for line in sweep.stdout.splitlines() if line.startswith("op table:")))
    if len(sys.argv) < 2:
        shutil.rmtree(tree)


main()
