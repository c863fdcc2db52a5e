"""Odd arguments of the public API: each call returns or raises a Python exception. A crash ends the
child process, and its last call is on the screen."""

import os
import subprocess
import sys

CALLS = int(os.environ.get("LOCKSTEP_FUZZ_CALLS", "4000"))

CHILD = r"""
import random, sys, warnings
import numpy as np
import lockstep as ls
from lockstep import nn, optim, autograd

warnings.simplefilter("ignore")
seed, count = int(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
log = open(sys.argv[3], "w")
big = 1 << 40


def tensors():
    yield ls.ones(2, 3)
    yield ls.ones(3, requires_grad=True)
    yield ls.tensor(1.0)
    yield ls.zeros(0, 3)
    yield ls.tensor([0, 1, 2])
    yield ls.tensor([True, False])
    yield ls.ones(3, 2).T
    yield ls.ones(1, 3).expand(4, 3)
    yield ls.ones(2, 2).to(ls.bfloat16)
    yield ls.ones(2, 2).to(ls.float16)
    yield ls.tensor([255, 0], dtype=ls.uint8)
    yield ls.ones(2, 3, 4)
    yield (ls.ones(3, requires_grad=True) * 2)
    yield nn.Linear(2, 3).weight
    yield nn.Linear(2, 3).initialize(0).weight
    yield ls.full((3,), float("nan"))
    yield ls.Tensor.__new__(ls.Tensor)


def others():
    yield from (None, True, 0, 1, -1, 2, 7, -big, big, 1 << 70, 0.5, float("nan"), float("inf"))
    yield from ("", "cpu", "cuda:0", "sum", "x" * 50, b"abc", "\ud800")
    yield from ((), (2, 3), (-1,), (3, -1), (0,), (big, big), (1,) * 9, [1, [2]], [[1.0], [2.0]])
    yield from (slice(None), slice(1, 0), slice(None, None, -1), slice(big), Ellipsis, {}, object())
    yield from (ls.float32, ls.int64, ls.bfloat16, ls.bool, ls.Device("cpu"), lambda *a: 1, int)
    yield from (np.ones(3), np.ones((2, 2), "f4")[::-1], np.float32(2), np.int64(3))
    yield np.array(["a"])
    yield from (np.arange(5, dtype="i4")[1::2], np.zeros(0, "f4"), np.ones(2, "c8"))


ODD = list(others())


def draw():
    if random.random() < 0.45:
        made = list(tensors())
        return random.choice(made)
    return random.choice(ODD)


SKIPPED = {"__class__", "__del__", "__init_subclass__", "__subclasshook__", "__getattribute__",
           "__setattr__", "__delattr__", "__dir__", "__sizeof__", "__init__", "__new__"}
methods = [name for name in dir(ls.Tensor) if name not in SKIPPED]
functions = [ls.tensor, ls.full, ls.zeros, ls.ones, ls.arange, ls.cat, ls.stack, ls.from_numpy,
             ls.from_dlpack, ls.Parameter, ls.Device, ls.random_scope, ls.precision,
             autograd.grad, autograd.recompute, autograd.Function.apply, optim.clip_scale,
             optim.grad_norm, optim.Schedule, optim.SGD, optim.AdamW, optim.Adam]
functions += [getattr(nn, name) for name in nn.__all__ if name not in ("functional", "init")]
functions += [getattr(nn.functional, name) for name in nn.functional.__all__]
functions += [getattr(nn.init, name) for name in nn.init.__all__]


def small(value):
    # Sizes that fit no memory are tried; those that would fill it are not.
    return not (isinstance(value, int) and 10**7 < value < 1 << 45 and value != big)


for number in range(count):
    arguments = [draw() for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4)))]
    if random.random() < 0.6:
        target = next(t for t in [draw()] + list(tensors()) if isinstance(t, ls.Tensor))
        name = random.choice(methods)
        call = lambda: getattr(target, name)(*arguments)
        text = name
    else:
        function = random.choice(functions)
        text = getattr(function, "__name__", str(function))
        call = lambda: function(*arguments)
    log.seek(0)
    log.truncate()
    log.write(f"{number} {text} {[type(a).__name__ for a in arguments]}\n")
    log.flush()
    try:
        result = call()
        repr(result)
        if isinstance(result, ls.Tensor) and result.requires_grad and random.random() < 0.3:
            result.sum().backward()
    except Exception:
        pass
    except RecursionError:
        pass
print("survived", count)
"""


def test_no_argument_crashes(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    log = tmp_path / "last"
    for seed in (1, 2):
        done = subprocess.run(
            [sys.executable, str(script), str(seed), str(CALLS // 2), str(log)],
            capture_output=True,
            text=True,
            timeout=350,
        )
        assert done.returncode == 0, (seed, log.read_text(), done.stderr[-3000:])
        assert "survived" in done.stdout
