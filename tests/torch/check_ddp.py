"""DDP over lockstep trains as over Gloo: equal losses but for rounding. check_ddp.py LOCKSTEP"""

import json
import pathlib
import subprocess
import sys

LOCKSTEP = sys.argv[1]
SCRIPT = pathlib.Path(__file__).with_name("train.py")


def losses(backend, ranks):
    command = [LOCKSTEP, "run", "-n", str(ranks), "--", sys.executable, SCRIPT, backend]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if "{" in line)
    return json.loads(line[line.index("{") :])


for ranks in (2, 4):
    ours, gloo = losses("lockstep", ranks), losses("gloo", ranks)
    for way, tolerance in {"buckets": 1e-5, "hook": 1e-3, "join": 1e-5, "double": 1e-12}.items():
        assert ours[way][-1] < ours[way][0], f"{way}: the loss does not fall: {ours[way]}"
        for step, (a, b) in enumerate(zip(ours[way], gloo[way], strict=True)):
            where = f"{ranks} ranks, {way}, step {step}"
            assert abs(a - b) <= tolerance * abs(b), f"{where}: {a} and, over Gloo, {b}"
    print(ranks, "ranks:", {way: values[-1] for way, values in ours.items()})
