"""Ways in which a rank can end: ends.py CASE. check_ends.py looks at what becomes of the others."""

import os
import signal
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import lockstep.torch  # noqa: F401

dist.init_process_group("lockstep", timeout=timedelta(seconds=60))
RANK = dist.get_rank()
CASE = sys.argv[1]
if RANK != 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to hear what it says before it is ended
dist.barrier()


class OfTheModel(Exception):
    pass


if CASE == "killed":
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(10))
elif CASE == "raises":
    if RANK == 1:
        raise OfTheModel("the loss is not finite")
    dist.all_reduce(torch.ones(10))
elif CASE == "raises in backward":
    # The reducer of DDP meets the failure, and PyTorch passes it on as a RuntimeError.
    ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    ddp(torch.ones(2, 4)).sum().backward()
    if RANK == 1:
        raise OfTheModel("the loss is not finite")
    ddp(torch.ones(2, 4)).sum().backward()
elif CASE == "exits":
    # Nobody waits for this future; it ends with the group.
    if RANK == 1:
        sys.exit(7)
    future = dist.all_reduce(torch.ones(10), async_op=True).get_future()
    future.wait()
elif CASE == "pending":
    # A message on its way when the sender's script ends arrives.
    strided = torch.arange(2_000_000.0)[::2]
    if RANK == 0:
        dist.isend(strided, 1)
    if RANK == 1:
        received = torch.empty(1_000_000)
        dist.recv(received, 0)
        assert torch.equal(received, strided)
