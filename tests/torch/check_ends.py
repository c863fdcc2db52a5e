"""When a rank ends, the others learn why, and `lockstep run` blames the right one.

check_ends.py LOCKSTEP
"""

import pathlib
import subprocess
import sys

LOCKSTEP = sys.argv[1]
SCRIPT = pathlib.Path(__file__).with_name("ends.py")


def check(case, code, report=(), anywhere=()):
    """`report`: what the launcher's report says; `anywhere`: what any rank prints."""
    command = [LOCKSTEP, "run", "-n", "3", "--", sys.executable, SCRIPT, case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    output = done.stdout + done.stderr
    assert done.returncode == code, f"{case}: ended with {done.returncode}, not {code}:\n{output}"
    told = output.partition("first failure:")[2]
    for words in report:
        assert words in told, f"{case}: the report lacks '{words}':\n{output}"
    for words in anywhere:
        assert words in output, f"{case}: nobody says '{words}':\n{output}"
    print("passed", case)


check("killed", 137, ["rank 1 on host"], ["rank 1 (pid", "died"])
blamed = ["rank 1 on host", "reason: OfTheModel: the loss is not finite"]
passed_on = "rank 1 aborted group 'world': OfTheModel: the loss is not finite"
check("raises", 1, blamed, [passed_on, "lockstep.errors.EnvironmentError: [comm] all_reduce"])
check("raises in backward", 1, blamed, [passed_on])
check("exits", 7, ["rank 1 on host"], ["has left the group"])
check("pending", 0)
