"""DDP on a small model, over any backend: train.py BACKEND [STEPS]. Prints what rank 0 sees of each
way to train; tests compare backends.

buckets  small buckets as views of gradients    hook    a communication hook in float16
join     ranks with different numbers of steps  double  a model in float64
"""

import contextlib
import json
import sys

import torch
import torch.distributed as dist
from ranks import join
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

RANK, SIZE = join(sys.argv[1])


def model(dtype):
    torch.manual_seed(3)
    layers = torch.nn.Sequential(
        torch.nn.Linear(20, 64), torch.nn.BatchNorm1d(64), torch.nn.Tanh(), torch.nn.Linear(64, 5)
    )
    if RANK > 0:  # DDP gives everyone rank 0's values
        for parameter in layers.parameters():
            torch.nn.init.zeros_(parameter)
    return layers.to(dtype)


def train(steps, dtype=torch.float32, hook=None, uneven=False, **options):
    ddp = DistributedDataParallel(model(dtype), **options)
    if hook:
        ddp.register_comm_hook(None, hook)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(100 + RANK)
    losses = []
    with Join([ddp]) if uneven else contextlib.nullcontext():
        for _ in range(steps + (RANK if uneven else 0)):
            inputs = torch.randn(16, 20, generator=generator).to(dtype)
            wanted = inputs[:, :5].sin()
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(ddp(inputs), wanted)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    total = sum(p.detach().double().sum().item() for p in ddp.parameters())
    largest = torch.tensor([total, -total], dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    assert largest[0] == -largest[1], "the ranks ended with different weights"
    return losses


results = {
    "buckets": train(8, bucket_cap_mb=0.005, gradient_as_bucket_view=True),
    "hook": train(8, hook=default_hooks.fp16_compress_hook),
    "join": train(4, uneven=True),
    "double": train(4, dtype=torch.float64),
}
if RANK == 0:
    print(json.dumps(results))
dist.destroy_process_group()
