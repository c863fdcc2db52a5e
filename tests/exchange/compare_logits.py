#!/usr/bin/env python3
"""compare_logits.py A B [LIMIT]: the largest difference between the logits and losses of two files.

`lockstep eval --logits X.json` or hf_model.py wrote them. Fails where the difference is above LIMIT
(1e-4) or the tokens differ.
"""

import json
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


a, b = read(sys.argv[1]), read(sys.argv[2])
limit = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-4
assert a["input_ids"] == b["input_ids"], "other tokens"
shape_a, shape_b = ([len(row) for row in file["logits"]] for file in (a, b))
assert shape_a == shape_b, "logits of another shape"
logits = max(abs(x - y) for left, right in zip(a["logits"], b["logits"])
             for x, y in zip(left, right))
loss = abs(a["loss"] - b["loss"])
largest = max(abs(x) for row in a["logits"] for x in row)
print(f"logits differ by at most {logits:.2e} (largest {largest:.3g}), "
      f"losses by {loss:.2e} (loss {a['loss']:.6g})")
if not (logits <= limit and loss <= limit):
    sys.exit(f"more than {limit}")
