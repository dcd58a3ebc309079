#!/usr/bin/env python3
"""Safetensors files for tests, without any library.

    tensors.py same A B              names, types and bytes of all tensors are equal; metadata may differ
    tensors.py names A               one line a tensor: name type shape
    tensors.py metadata A KEY        one entry of the metadata
    tensors.py columns OUT ROWS      columns x[ROWS, 8] and label[ROWS] of three separable classes
    tensors.py edit IN OUT EXPRESSION   runs Python on `header` (dict) and `data` (bytearray)
"""
import json
import math
import struct
import sys


def read(path):
    with open(path, "rb") as file:
        content = file.read()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:8 + length]), bytearray(content[8 + length:])


def write(path, header, data):
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def tensors(path):
    header, data = read(path)
    return {name: (entry["dtype"], entry["shape"], bytes(data[slice(*entry["data_offsets"])]))
            for name, entry in header.items() if name != "__metadata__"}


def same(a, b):
    left, right = tensors(a), tensors(b)
    if left.keys() != right.keys():
        sys.exit(f"other names: {sorted(left.keys() ^ right.keys())}")
    for name in left:
        if left[name] != right[name]:
            sys.exit(f"{name} differs")


def columns(path, rows):
    """Class c lies round (cos, sin)(2 pi c / 3) in the first two of eight features; the rest is noise."""
    state, x, labels = 1, [], []
    for row in range(rows):
        label = row * 7 % 3
        labels.append(label)
        for feature in range(8):
            state = (state * 1103515245 + 12345) % 2**31
            noise = state / 2**31 - 0.5
            center = (math.cos, math.sin)[feature](2 * math.pi * label / 3) if feature < 2 else 0
            x.append(center + noise)
    data = struct.pack(f"<{len(x)}f", *x) + struct.pack(f"<{rows}i", *labels)
    header = {"x": {"dtype": "F32", "shape": [rows, 8], "data_offsets": [0, 32 * rows]},
              "label": {"dtype": "I32", "shape": [rows], "data_offsets": [32 * rows, 36 * rows]}}
    write(path, header, data)


def edit(path, out, expression):
    header, data = read(path)
    names = {"header": header, "data": data}
    exec(expression, names)
    write(out, names["header"], names["data"])


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "same":
        same(*arguments)
    elif command == "names":
        for name, (kind, shape, _) in tensors(arguments[0]).items():
            print(name, kind, shape)
    elif command == "metadata":
        print(read(arguments[0])[0]["__metadata__"][arguments[1]])
    elif command == "columns":
        columns(arguments[0], int(arguments[1]))
    elif command == "edit":
        edit(*arguments)
    else:
        sys.exit(__doc__)


main()
