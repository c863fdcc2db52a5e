"""The weights of same_bits.py are equal on 1, 2 and 4 ranks. check_same_bits.py LOCKSTEP"""

import pathlib
import re
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).with_name("same_bits.py")


def weights(ranks):
    command = [sys.argv[1], "run", "-n", str(ranks), "--", sys.executable, SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search("sha256:([0-9a-f]{64})", done.stdout).group(1)


hashes = {ranks: weights(ranks) for ranks in (1, 2, 4)}
assert len(set(hashes.values())) == 1, f"the bits depend on the number of ranks: {hashes}"
print(hashes)
