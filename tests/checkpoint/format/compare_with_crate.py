#!/usr/bin/env python3
"""Reads a corpus (write_safetensors_corpus) with Hugging Face's Rust crate and compares.

scripts/compare_safetensors starts it. corpus.tsv has a line for each file: its name, our verdict,
why the crate's verdict may differ, and what we read from it if it is good:
{"metadata": {key: text}, "tensors": [[name, dtype, shape, begin, bytes]…]}
`begin` counts from the start of the file.
"""

import importlib.metadata
import json
import struct
import sys

import safetensors


def read(data):
    """The tensors that the crate reads, and its error where it refuses."""
    try:
        return safetensors.deserialize(data), None
    except safetensors.SafetensorError as error:
        return None, str(error)


def contents(data, tensors):
    """What the crate read, in our form. The crate does not show metadata and offsets: Python's JSON
    reader finds these."""
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    metadata = header.pop("__metadata__", {})
    return {
        "metadata": metadata,
        "tensors": sorted([name, info["dtype"], info["shape"],
                           begin + header[name]["data_offsets"][0], len(info["data"])]
                          for name, info in tensors),
    }


def main():
    differing, wrong, count = {}, 0, 0
    for line in open("corpus.tsv", encoding="utf-8"):
        name, verdict, reason, ours = line.rstrip("\n").split("\t")
        count += 1
        with open("files/" + name, "rb") as file:
            data = file.read()
        theirs, error = read(data)
        if (error is None) != (verdict == "good"):
            differing.setdefault(reason, []).append(name)
            if not reason:
                wrong += 1
                said = "reads it" if error is None else f"says: {error}"
                print(f"{name}: we find it {verdict}, the crate {said}")
        elif reason:
            wrong += 1
            print(f"{name}: is said to differ, but both find it {verdict}")
        elif error is None and contents(data, theirs) != json.loads(ours):
            wrong += 1
            crate = json.dumps(contents(data, theirs))
            print(f"{name}: we read {ours[:300]}, the crate {crate[:300]}")
    version = importlib.metadata.version("safetensors")
    print(f"{count} files, safetensors {version}: {wrong} disagreements")
    for reason, names in differing.items():
        if reason:
            print(f"allowed: {reason}: {', '.join(names)}")
    return 1 if wrong or count < 200 else 0


if __name__ == "__main__":
    sys.exit(main())
