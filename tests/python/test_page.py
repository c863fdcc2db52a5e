"""The programs of docs/python.md run as printed, and end with one hash on 1, 2 and 4 ranks."""

import re

import pytest
from conftest import ROOT

PROGRAMS = {
    text.split("\n", 1)[0].strip("# "): text
    for text in re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
}


@pytest.mark.parametrize("name", ["ddp.py", "fsdp.py"])
def test_programs_run_as_printed(name, ranks, tmp_path):
    digests = set()
    for count in (1, 2, 4):
        # Each number of ranks starts anew, in a folder of its own.
        text = PROGRAMS[name].replace("runs/python", str(tmp_path / f"runs{count}"))
        digests.update(re.findall(r"weights sha256:(\w{64})", ranks(count, text)))
    assert len(digests) == 1, digests
    assert len(PROGRAMS[name].splitlines()) <= 27
