"""What the tests share: how a script runs on several ranks."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAM = os.environ.get("LOCKSTEP_PROGRAM", str(ROOT / "build/release/bin/lockstep"))


@pytest.fixture
def ranks(tmp_path):
    """Runs a script (a path below this folder, or its text) on several ranks: its output, or with
    fails=True what it says as it fails."""

    def run(count, script, *arguments, fails=False, limit=100):
        path = HERE / script if script.endswith(".py") else tmp_path / "script.py"
        if not script.endswith(".py"):
            path.write_text(script)
        command = [PROGRAM, "run", "-n", str(count), "--", sys.executable, str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"exit code {done.returncode}:\n{said}"
        return said

    return run


@pytest.fixture
def trained(tmp_path):
    """The digest with which `lockstep train` ends."""

    def run(config, *overrides, ranks=1):
        sets = [f"run.dir={tmp_path}", "train.eval_batches=0", *overrides]
        command = [PROGRAM, "train", config, "-n", str(ranks)]
        for assignment in sets:
            command += ["--set", assignment]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("weights sha256:")[1].split()[0]

    return run
