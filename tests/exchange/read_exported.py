#!/usr/bin/env python3
"""Compares every value of an exported folder with the checkpoint that it came from.

Usage: read_exported.py CHECKPOINT FOLDER hf-gpt2|safetensors
Needs numpy alone. It is an independent reader: it shares no code with lockstep, and reads the files
as docs/formats/checkpoint.md and the safetensors format describe them.
"""

import json
import os
import re
import struct
import sys

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length).decode("utf-8"))
        data = file.read()
    assert (8 + length) % 8 == 0, f"{path}: the data is not aligned"
    metadata = header.pop("__metadata__")
    assert metadata == {"format": "pt"}, f"{path}: metadata {metadata}"
    at = 0
    tensors = {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = info["data_offsets"]
        assert begin == at, f"{path}: {name} begins at {begin}, expected {at}"
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[info["dtype"]]).reshape(info["shape"])
        at = end
    assert at == len(data), f"{path}: {len(data) - at} bytes belong to no tensor"
    return tensors


def read_folder(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_safetensors(os.path.join(folder, "model.safetensors"))
    with open(index, encoding="utf-8") as text:
        index = json.load(text)
    tensors = {}
    for file in sorted(set(index["weight_map"].values())):
        found = read_safetensors(os.path.join(folder, file))
        for name in found:
            where = index["weight_map"][name]
            assert where == file, f"the index has {name} in {where}, not in {file}"
        tensors.update(found)
    assert set(tensors) == set(index["weight_map"])
    assert sum(t.nbytes for t in tensors.values()) == index["metadata"]["total_size"]
    return tensors


def read_checkpoint(folder):
    """The parameters, from the manifest's pieces."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as text:
        manifest = json.load(text)
    tensors = {}
    for name, entry in manifest["entries"].items():
        if name.startswith("optim."):
            continue
        assert entry["dtype"] == "f32", name
        flat = np.full(int(np.prod(entry["shape"], dtype=np.int64)), np.nan, "<f4")
        for piece in entry["pieces"]:
            shape = piece["lengths"] if "lengths" in piece else [piece["length"]]
            name_of_file = os.path.join(folder, manifest["files"][piece["file"]]["name"])
            count = int(np.prod(shape))
            values = np.fromfile(name_of_file, "<f4", count, offset=piece["begin"]).reshape(shape)
            if "offsets" in piece:
                box = tuple(slice(b, b + n) for b, n in zip(piece["offsets"], shape))
                flat.reshape(entry["shape"])[box] = values
            else:
                flat[piece["offset"] : piece["offset"] + piece["length"]] = values
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


PARTS = {"ln_1": "ln1", "ln_2": "ln2", "attn.c_attn": "qkv", "attn.c_proj": "proj",
         "mlp.c_fc": "fc", "mlp.c_proj": "out"}


def from_gpt2(name, values):
    name = name.removeprefix("transformer.")
    block = re.fullmatch(r"h\.(\d+)\.(.*)\.(weight|bias)", name)
    if not block:
        return name.replace("ln_f.", "lnf."), values
    layer, part, kind = block.groups()
    return f"blocks.{layer}.{PARTS[part]}.{kind}", values.T if values.ndim == 2 else values


def main():
    checkpoint, folder, layout = sys.argv[1:]
    expected = read_checkpoint(checkpoint)
    exported = read_folder(folder)
    if layout == "hf-gpt2":
        exported = dict(from_gpt2(name, values) for name, values in exported.items())
    assert set(exported) == set(expected), f"names differ: {set(exported) ^ set(expected)}"
    for name, values in expected.items():
        assert exported[name].dtype == values.dtype and exported[name].shape == values.shape, name
        found = np.ascontiguousarray(exported[name]).tobytes()
        assert found == values.tobytes(), f"values of {name} differ"
    print(f"{len(expected)} tensors, {sum(v.nbytes for v in expected.values())} bytes: equal")


if __name__ == "__main__":
    main()
