"""Type stubs: complete, and enough for strict checks of the page's programs. And what an import
costs."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest
from test_page import PROGRAMS

import lockstep

PACKAGE = pathlib.Path(lockstep.__file__).parent
MODULES = ["autograd", "checkpoint", "data", "distributed", "nn", "nn.functional", "nn.init"]
MODULES += ["optim"]
# Of the interpreter, or for the library's own use.
INNER = {"__array_ufunc__", "__reduce_ex__", "__deepcopy__", "_version"}


def stub_of(module):
    path = PACKAGE.joinpath(*module.split("."))
    stub = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    return ast.parse(stub.read_text())


def names_in(body):
    names = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_stubs_have_every_public_name(module):
    public = set(importlib.import_module("lockstep." + module).__all__)
    assert public <= names_in(stub_of(module).body), module


def test_stubs_of_the_package():
    assert set(lockstep.__all__) - names_in(stub_of("").body) <= {"errors"}


def test_stubs_have_every_method_of_a_tensor():
    stub = next(n for n in stub_of("_core").body if getattr(n, "name", "") == "Tensor")
    public = {n for n in vars(lockstep.Tensor) if not n.startswith("__")} - INNER
    assert public <= names_in(stub.body)


def test_programs_are_strictly_typed(tmp_path):
    pytest.importorskip("mypy", reason="mypy is missing (Debian: mypy)")
    files = []
    for name, text in PROGRAMS.items():
        files.append(tmp_path / name)
        files[-1].write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_brings_neither_numpy_nor_torch():
    code = "import sys, lockstep; lockstep.Tensor; lockstep.optim; lockstep.fully_shard;"
    code += "print([m for m in ('numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout and "torch" not in done.stdout


def test_help_has_texts():
    functional = importlib.import_module("lockstep.nn.functional")
    for name in functional.__all__:
        assert getattr(functional, name).__doc__, name
    for name in importlib.import_module("lockstep.nn").__all__:
        if name not in ("ReLU", "SiLU", "Tanh", "Sigmoid"):
            assert getattr(lockstep.nn, name).__doc__, name
