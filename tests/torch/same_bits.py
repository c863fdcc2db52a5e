"""A fixed global batch ends with the same bits on any number of ranks, if a script sums as
docs/torch.md says. Prints the hash of the weights.

lockstep run -n 1, 2 or 4 -- python3 same_bits.py
"""

import hashlib

import torch
import torch.distributed as dist
from ranks import join
from torch.nn.parallel import DistributedDataParallel

MICRO_BATCHES = 4  # of a step, over all ranks

RANK, SIZE = join()


def gradients(ddp, step, number):
    """Of one micro-batch, whose contents depend on its number alone. Waits for no other rank."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    inputs = torch.randn(8, 12, generator=generator)
    with ddp.no_sync():
        loss = torch.nn.functional.mse_loss(ddp(inputs), inputs[:, :3].sin())
        return torch.autograd.grad(loss, list(ddp.parameters()))


def pairwise(terms):
    """(a + b) + (c + d): the order in which lockstep sums ranks."""
    while len(terms) > 1:
        terms = [[x + y for x, y in zip(a, b)] for a, b in zip(terms[::2], terms[1::2])]
    return terms[0]


torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3))
ddp = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(ddp.parameters(), lr=0.01)
mine = range(RANK * MICRO_BATCHES // SIZE, (RANK + 1) * MICRO_BATCHES // SIZE)
for step in range(10):
    sums = pairwise([gradients(ddp, step, number) for number in mine])
    for parameter, total in zip(ddp.parameters(), sums):
        dist.all_reduce(total)
        parameter.grad = total / MICRO_BATCHES
    optimizer.step()
if RANK == 0:
    weights = torch.cat([p.detach().flatten() for p in ddp.parameters()])
    print("weights sha256:" + hashlib.sha256(weights.numpy().tobytes()).hexdigest())
dist.destroy_process_group()
