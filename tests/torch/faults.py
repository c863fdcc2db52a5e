"""What goes wrong is named, on every rank: calls that do not match, wrong use, limits.

lockstep run -n 2 or 3 -- python3 faults.py
"""

import builtins
import multiprocessing
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from ranks import fails, join, run

from lockstep.torch import (
    EnvironmentError,
    LockstepError,
    Options,
    TimeoutError,
    UnsupportedType,
    UsageError,
)

RANK, SIZE = join()
LAST = SIZE - 1
OP = dist.ReduceOp


def mismatch(first, other, words):
    """Rank 0 and the others make different calls in a new group."""
    group = dist.new_group(list(range(SIZE)))
    call = first if RANK == 0 else other
    words = ["different things", "rank 0", *words]
    fails([UsageError, ValueError, RuntimeError], words, lambda: call(group))
    # No data came, and the group has ended.
    fails([EnvironmentError], ["has ended"], lambda: dist.barrier(group=group))
    dist.barrier()


def exchange(send_splits, group):
    """An all_to_all that expects one element of each rank."""
    output = torch.zeros(SIZE)
    send = torch.ones(sum(send_splits))
    dist.all_to_all_single(output, send, [1] * SIZE, send_splits, group=group)


def test_different_calls():
    tensor = torch.ones(4)
    mismatch(
        lambda g: dist.all_reduce(tensor, group=g),
        lambda g: dist.broadcast(tensor, 0, group=g),
        ["all_reduce #1 (f32, 4 elements, sum", "broadcast #1 (f32, 4 elements, root 0)"],
    )
    assert torch.equal(tensor, torch.ones(4)), tensor
    mismatch(
        lambda g: dist.all_reduce(torch.ones(4), group=g),
        lambda g: dist.all_reduce(torch.ones(5), group=g),
        ["4 elements", "5 elements"],
    )
    mismatch(
        lambda g: dist.all_reduce(torch.ones(4), op=OP.MAX, group=g),
        lambda g: dist.all_reduce(torch.ones(4), op=OP.MIN, group=g),
        ["max", "min"],
    )


def test_different_calls_that_look_alike_to_the_library():
    mismatch(
        lambda g: dist.all_reduce(torch.ones(4), op=OP.SUM, group=g),
        lambda g: dist.all_reduce(torch.ones(4), op=OP.AVG, group=g),
        ["label 256"],
    )
    mismatch(
        lambda g: dist.broadcast(torch.ones(4, dtype=torch.float64), 0, group=g),
        lambda g: dist.broadcast(torch.ones(4, dtype=torch.complex64), 0, group=g),
        ["label 8", "label 10"],
    )
    mismatch(
        lambda g: dist.all_reduce(torch.ones(4, dtype=torch.float64), op=OP.MAX, group=g),
        lambda g: dist.all_reduce(torch.ones(4, dtype=torch.float64), op=OP.MIN, group=g),
        ["label"],
    )
    mismatch(
        lambda g: dist.all_reduce(torch.ones(SIZE), group=g),
        lambda g: exchange([1] * SIZE, g),
        ["all_to_all #1", "all_reduce #1"],
    )


def test_messages_with_different_tags():
    group = dist.new_group(list(range(SIZE)))
    words = ["label 327680", "label 393216"]
    if RANK == 0:
        fails([UsageError], words, lambda: dist.send(torch.ones(2), 1, group=group, tag=5))
    if RANK == 1:
        fails([UsageError], words, lambda: dist.recv(torch.ones(2), 0, group=group, tag=6))
    dist.barrier()


def test_splits_that_do_not_fit_each_other():
    group = dist.new_group(list(range(SIZE)))
    to_first = 3 if RANK == 1 else 1  # rank 0 expects 1
    send = [to_first] + [1] * (SIZE - 1)
    words = ["rank 1 sends 3 elements to rank 0, which expects 1", "No data was exchanged"]
    fails([UsageError], words, lambda: exchange(send, group))
    dist.barrier(group=group)  # all ranks know the same: the group goes on


def test_errors_come_through_futures():
    group = dist.new_group(list(range(SIZE)))
    work = dist.all_reduce(torch.ones(4 + (RANK == 0)), group=group, async_op=True)
    fails([UsageError], ["different things"], lambda: work.get_future().wait())
    fails([UsageError], ["different things"], lambda: work.wait())
    dist.barrier()


def test_limits_name_who_is_missing():
    # Of several ranks that wait, one reaches the limit first and tells the others.
    kinds = [TimeoutError, builtins.TimeoutError] if SIZE == 2 else [EnvironmentError]
    missing = f"rank {LAST} (pid"
    group = dist.new_group(list(range(SIZE)))
    if RANK != LAST:
        work = dist.all_reduce(torch.ones(3), group=group, async_op=True)
        words = ["all_reduce #1", "given up after a wait of 0.2 s", missing]
        fails(kinds, words, lambda: work.wait(timedelta(seconds=0.2)))
    dist.barrier()
    group = dist.new_group(list(range(SIZE)), timeout=timedelta(seconds=0.2))
    if RANK != LAST:
        words = ["barrier #1", "time limit of 0.2 s reached", missing]
        fails(kinds, words, lambda: dist.barrier(group=group))
    dist.barrier()
    group = dist.new_group(list(range(SIZE)))
    if RANK != LAST:
        words = ["barrier #1", "given up after a wait of", missing]
        fails(kinds, words, lambda: group.monitored_barrier(timedelta(seconds=0.3), True))
    dist.barrier()


def test_types_and_devices():
    sparse = torch.ones(2, 2).to_sparse()
    words = ["all_reduce", "Sparse", "to_dense"]
    fails([UnsupportedType, TypeError], words, lambda: dist.all_reduce(sparse))
    elsewhere = torch.ones(2, device="meta")
    words = ["all_gather_into_tensor", "device meta", ".cpu()"]
    fails([UnsupportedType], words, lambda: dist._all_gather_base(torch.ones(2 * SIZE), elsewhere))
    quantized = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8)
    words = ["all_reduce", "QUInt8", "float32"]
    fails([UnsupportedType], words, lambda: dist.all_reduce(quantized))
    mixed = [torch.ones(2, dtype=torch.int32) for _ in range(SIZE)]
    fails([RuntimeError], ["tensor"], lambda: dist.all_gather(mixed, torch.ones(2)))
    dist.barrier()


def test_operations():
    def all_reduce(dtype, op):
        return lambda: dist.all_reduce(torch.ones(2, dtype=dtype), op=op)

    fails([UnsupportedType], ["band needs integers", "Float"], all_reduce(torch.float32, OP.BAND))
    fails([UnsupportedType], ["average", "Long", "ReduceOp.SUM"], all_reduce(torch.int64, OP.AVG))
    group = dist.distributed_c10d._get_default_group()
    scaled = dist.AllreduceOptions()
    scaled.reduceOp = torch._C._distributed_c10d._make_nccl_premul_sum(2.0)
    ones = [torch.ones(2)]
    fails([UsageError], ["PREMUL_SUM", "multiply"], lambda: group.allreduce(ones, scaled))
    smallest = dist.AllreduceOptions()
    smallest.reduceOp = OP.MIN
    complex_ones = [torch.ones(2, dtype=torch.complex64)]
    fails([UnsupportedType], ["complex", "min"], lambda: group.allreduce(complex_ones, smallest))
    fails([UsageError], ["any rank", "src="], lambda: dist.recv(torch.ones(2)))
    dist.barrier()


def test_shapes():
    lists = [torch.ones(3) for _ in range(SIZE)]
    two = torch.ones(2)
    fails([UsageError], ["all_gather", "2 elements", "[3]"], lambda: dist.all_gather(lists, two))
    words = [f"expected {SIZE} output tensors", f"got {SIZE + 1}"]
    fails([UsageError], words, lambda: dist.all_gather([two] * (SIZE + 1), two))
    flat = torch.ones(2 * SIZE + 1)
    fails([UsageError], [f"expected {SIZE} times"], lambda: dist._all_gather_base(flat, two))
    fails(
        [UsageError],
        ["split sizes of the input tensor add up to", f"it has {SIZE} rows"],
        lambda: dist.all_to_all_single(torch.ones(SIZE), torch.ones(SIZE), [1] * SIZE, [2] * SIZE),
    )
    fails(
        [UsageError],
        [f"{SIZE + 1} rows", "give the split sizes"],
        lambda: dist.all_to_all_single(torch.ones(SIZE + 1), torch.ones(SIZE + 1)),
    )
    dist.barrier()


def test_the_group_is_usable_after_wrong_use():
    tensor = torch.ones(2)
    fails([UsageError], ["band"], lambda: dist.all_reduce(tensor, op=OP.BAND))
    dist.all_reduce(tensor)
    assert torch.equal(tensor, torch.full((2,), float(SIZE))), tensor


def in_child(results):
    try:
        dist.all_reduce(torch.ones(2))
        results.put("nothing was raised")
    except UsageError as error:
        results.put(str(error))


def test_forked_children_cannot_use_the_group():
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=in_child, args=(results,))
    child.start()
    text = results.get()
    child.join()
    assert child.exitcode == 0, child.exitcode
    assert "forked from rank" in text and "'spawn'" in text, text
    dist.barrier()


def test_forked_children_leave_the_group_alone():
    if RANK == LAST:  # in rank 0, the server of PyTorch's store would keep the child
        child = os.fork()
        if child == 0:
            raise ValueError("ends the child, with all that Python does at its end")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    dist.all_reduce(torch.ones(2))
    dist.barrier()


def test_options():
    def group(options):
        return lambda: dist.new_group(list(range(SIZE)), pg_options=options)

    fails([UsageError], ["unknown backend 'smoke'", "shm"], group(Options(backend="smoke")))
    fails([UsageError], ["reduction must be 'tree' or 'fast'"], group(Options(reduction="quick")))
    fails([TypeError], ["lockstep.torch.Options", "int"], group(3))
    tensor = torch.ones(2)
    dist.all_reduce(tensor, group=group(Options("shm", "fast"))())
    assert torch.equal(tensor, torch.full((2,), float(SIZE))), tensor


run([test for name, test in list(globals().items()) if name.startswith("test_")], RANK)
