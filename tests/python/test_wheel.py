"""A wheel of this build installs without network in a fresh environment, and works there."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

TREE = os.environ.get("LOCKSTEP_TREE", str(ROOT / "build/release"))
USE = """
import lockstep
model = lockstep.nn.Linear(2, 2).initialize(0)
model(lockstep.ones(1, 2)).sum().backward()
print(lockstep.__file__, model.weight.grad.tolist())
"""


def test_a_wheel_installs_and_works(tmp_path):
    for module in ("build", "setuptools", "wheel", "venv"):
        pytest.importorskip(module, reason=f"{module} is missing (scripts/install_deps --test)")
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = dict(clean, LOCKSTEP_BUILD_DIR=TREE)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    command += ["--skip-dependency-check", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", wheel], check=True)
    used = subprocess.run(
        [python, "-c", USE], capture_output=True, text=True, env=clean, cwd=tmp_path, check=True
    )
    assert "venv" in used.stdout and "[[1.0, 1.0], [1.0, 1.0]]" in used.stdout
