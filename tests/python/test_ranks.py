"""Several ranks: collectives, failures, Ctrl-C, forks, checkpoints."""

import os
import signal
import socket
import subprocess
import sys

import pytest

COLLECTIVES = """
import lockstep as ls
from lockstep import distributed

group = distributed.init_process_group(timeout=60)
rank, size = group.rank, group.size
x = ls.full((4,), rank + 1)
work = group.all_reduce(x)
work.wait()
assert work.is_completed() and x.tolist() == [size * (size + 1) / 2] * 4
group.all_reduce(x, "max").wait()
out = ls.zeros(size)
group.all_gather(out, ls.full((1,), rank)).wait()
assert out.tolist() == list(range(size))
part = ls.zeros(1)
group.reduce_scatter(part, out).wait()
assert part.item() == rank * size
group.broadcast(part, 0).wait()
assert part.item() == 0
turned = ls.zeros(size, dtype=ls.int64)
group.all_to_all(turned, ls.tensor([10 * rank + i for i in range(size)])).wait()
assert turned.tolist() == [10 * i + rank for i in range(size)]
if rank == 0 and size > 1:
    group.send(ls.ones(2), 1).wait()
if rank == 1:
    got = ls.zeros(2)
    group.recv(got, 0).wait(timeout=30)
    assert got.tolist() == [1, 1]
half = group.split(rank % 2)
assert half.size == (size + 1 - rank % 2) // 2
mesh = distributed.init_device_mesh((1, -1), ("replicate", "shard"))
assert mesh.size("shard") == size and mesh.coordinate("shard") == rank
weight = ls.ones(2, requires_grad=True)
try:
    group.all_reduce(weight)
    raise AssertionError("a leaf was reduced in place")
except ls.UsageError as error:
    assert "requires a gradient" in str(error)
group.barrier().wait()
print("passed")
"""


@pytest.mark.parametrize("count", [1, 2, 4])
def test_collectives(count, ranks):
    assert ranks(count, COLLECTIVES).count("passed") == count


MISMATCH = """
import lockstep as ls
from lockstep import distributed
group = distributed.init_process_group(timeout=30)
try:
    group.all_reduce(ls.ones(2 + group.rank)).wait()
except ls.UsageError as error:
    print("refused:", error)
"""


def test_calls_that_differ_are_named_on_all_ranks(ranks):
    said = ranks(2, MISMATCH)
    assert said.count("refused:") == 2
    assert said.count("2 elements") >= 2 and said.count("3 elements") >= 2


FAILS = """
import lockstep as ls
from lockstep import distributed
group = distributed.init_process_group(timeout=30)
if group.rank == 1:
    raise ValueError("this rank is to blame")
group.barrier().wait()
"""


def test_a_script_that_ends_with_an_exception_is_blamed(ranks):
    said = ranks(2, FAILS, fails=True)
    assert "this rank is to blame" in said
    assert "rank 1" in said.split("this rank is to blame")[0] or "[rank 1]" in said


WAITS = """
import lockstep as ls, sys, time
from lockstep import distributed
group = distributed.init_process_group(timeout=100)
if group.rank == 1:
    sys.stdin.read()  # never comes
work = group.barrier()
print("waiting", flush=True)
work.wait()
group.barrier().wait()
"""


def start_pair(tmp_path, script):
    """Two ranks without an agent, so that one of them can get a signal alone."""
    path = tmp_path / "script.py"
    path.write_text(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        environment = dict(
            os.environ,
            RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_RANK=str(rank),
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        processes.append(
            subprocess.Popen(
                [sys.executable, str(path)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def test_ctrl_c_ends_a_wait(tmp_path):
    first, second = start_pair(tmp_path, WAITS)
    try:
        assert first.stdout.readline() == "waiting\n"
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == -signal.SIGINT
        assert "KeyboardInterrupt" in first.stdout.read()
        # The other rank's calls fail, and say why.
        said = second.communicate("", timeout=60)[0]
        assert second.returncode == 1 and "lockstep.errors." in said
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_a_handler_that_does_not_raise_ends_nothing(tmp_path):
    script = WAITS.replace(
        "import lockstep as ls, sys, time",
        "import lockstep as ls, sys, time, signal\n"
        "signal.signal(signal.SIGINT, lambda *_: print('noted', flush=True))",
    ).replace("sys.stdin.read()", "sys.stdin.readline()")
    first, second = start_pair(tmp_path, script)
    try:
        assert first.stdout.readline() == "waiting\n"
        first.send_signal(signal.SIGINT)
        assert first.stdout.readline() == "noted\n"
        second.stdin.write("\n")
        second.stdin.flush()
        assert first.wait(timeout=60) == 0 and second.wait(timeout=60) == 0
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


GATHERS = """
from lockstep import distributed
try:
    print("in", flush=True)
    distributed.init_process_group()
except KeyboardInterrupt:
    raise SystemExit(7)
"""


def test_ctrl_c_while_ranks_gather(tmp_path):
    first, second = start_pair(tmp_path, GATHERS)
    try:
        second.kill()
        assert first.stdout.readline() == "in\n"
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == 7
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


FORK = """
import os
import lockstep as ls
x = ls.ones(1000, 1000)
(x @ x).sum().item()
child = os.fork()
if child == 0:
    try:
        x @ x
    except ls.UsageError as error:
        os._exit(0 if "spawn" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (x @ x).shape == (1000, 1000)
print("passed")
"""


def test_forked_children_are_refused(ranks):
    assert "passed" in ranks(1, FORK)


CHECKPOINT = """
import sys
import lockstep as ls
from lockstep import checkpoint, distributed, nn, optim

group = distributed.init_process_group(timeout=60)
folder, wrapper, what = sys.argv[1:]
model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8)).initialize(0, materialize=False)
wrap = ls.fully_shard if wrapper == "fsdp" else ls.DistributedDataParallel
model = wrap(model, micro_batches=4)
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
if what == "load":
    found = checkpoint.load_latest(folder, model, optimizer)
    assert found["step"] == 3 and found["metadata"]["note"] == "mine", found
for step in range(1, 4):
    for micro in model.leaves():
        model.backward((model(ls.full((2, 4), micro + step)) - 1).square().mean())
    model.finish()
    optimizer.step()
    optimizer.zero_grad()
    if what == "save" and step == 3:
        checkpoint.save(folder, 3, model, optimizer, {"note": "mine"})
    if what == "async" and step == 3:
        saver = checkpoint.Saver(folder, keep=1)
        saver.start(3, model, optimizer, {"note": "mine"})
        ended = saver.wait()
        assert ended["step"] == 3 and not ended["error"], ended
        saver.close()
digest = model.weights_sha256()
if group.rank == 0:
    print("digest", digest, optimizer.steps)
"""


@pytest.mark.parametrize("how", ["save", "async"])
def test_checkpoints_move_between_topologies(how, ranks, tmp_path):
    ranks(2, CHECKPOINT, str(tmp_path / "saved"), "fsdp", how)
    ends = [
        ranks(count, CHECKPOINT, str(tmp_path / "saved"), wrapper, "load").split("digest ")[1][:66]
        for count, wrapper in ((1, "ddp"), (4, "fsdp"), (2, "ddp"))
    ]
    assert len(set(ends)) == 1 and ends[0].endswith(" 6"), ends
