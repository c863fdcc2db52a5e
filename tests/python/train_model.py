"""Trains a model of models.py on the ranks that started this, with the arguments MODEL CONFIG
STRATEGY STEPS [KEY=VALUE …]. Rank 0 prints the digest of the weights as `lockstep train` does."""

import sys

import lockstep
from lockstep import distributed
from models import train


def wrap(strategy):
    def ddp(module, spec):
        return lockstep.DistributedDataParallel(module, micro_batches=spec["micro_batches"])

    def fsdp(module, spec):
        return lockstep.fully_shard(module, micro_batches=spec["micro_batches"])

    return {"ddp": ddp, "fsdp": fsdp}[strategy]


name, config, strategy, steps, *overrides = sys.argv[1:]
group = distributed.init_process_group()
model, _ = train(name, config, wrap(strategy), int(steps), overrides)
digest = model.weights_sha256()
if group.rank == 0:
    print(f"weights sha256:{digest}")
