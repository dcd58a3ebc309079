"""Safetensors files as bytes: what the study needs to put tensors of one checkpoint into another."""
import json
import struct


def header(data):
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), 8 + size


def read(path):
    """{name: bytes}, and the whole file under the name None."""
    with open(path, "rb") as file:
        data = file.read()
    entries, start = header(data)
    found = {name: data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]]
             for name, entry in entries.items() if name != "__metadata__"}
    return {**found, None: data}


def write(path, tensors, replaced):
    """The file that `tensors` were read from, with the bytes of some of them replaced by as many."""
    data = bytearray(tensors[None])
    entries, start = header(data)
    for name, value in replaced.items():
        first, last = (start + offset for offset in entries[name]["data_offsets"])
        assert last - first == len(value), name
        data[first:last] = value
    with open(path, "wb") as file:
        file.write(data)
