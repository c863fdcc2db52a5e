"""For the tests of lockstep.torch: every rank computes what all ranks contribute, and so what each
collective must give."""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import lockstep.torch

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
COMPLEX = [torch.complex64, torch.complex128]
EVERY_TYPE = FLOATS + INTEGERS + [torch.bool] + COMPLEX


def join(backend="lockstep", seconds=60, **options):
    """This rank and the number of ranks."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds), **options)
    return dist.get_rank(), dist.get_world_size()


def values(rank, shape, dtype, salt=0):
    """Small whole numbers, of which sums and products are exact in every type."""
    count = torch.Size(shape).numel()
    numbers = torch.arange(count) * 7 + rank * 5 + salt * 3
    if dtype == torch.bool:
        return (numbers % 3 == 0).reshape(shape)
    numbers = (numbers % 3 + 1).reshape(shape)
    if dtype in COMPLEX:
        return torch.complex(numbers.double(), -2 * numbers.double()).to(dtype)
    return numbers.to(dtype)


def layouts(shape, dtype):
    """(name, empty tensor) for each layout that a tensor of this shape can have."""
    yield "contiguous", torch.empty(shape, dtype=dtype)
    every_other = tuple(slice(None, None, 2) for _ in shape)
    yield "strided", torch.empty([2 * n for n in shape], dtype=dtype)[every_other]
    backwards = range(len(shape))[::-1]
    yield "transposed", torch.empty(shape[::-1], dtype=dtype).permute(*backwards)


def equal(got, want, what):
    if got.dtype != want.dtype or got.shape != want.shape or not torch.equal(got, want):
        raise AssertionError(f"{what}: expected {want}, got {got}")


def fails(kinds, words, call):
    """The call must raise an error of every kind whose text has every word."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        for kind in kinds:
            assert isinstance(error, kind), f"expected a {kind.__name__}, got {error!r}"
        for word in words:
            assert word in str(error), f"'{word}' is not in: {error}"
        return str(error)
    raise AssertionError(f"nothing was raised; expected {kinds} with {words}")


def run(tests, rank):
    """Every test on every rank, in order; the first that fails ends all ranks."""
    only = os.environ.get("LOCKSTEP_TEST")
    for test in tests:
        if not only or only in test.__name__:
            test()
            if rank == 0:
                print("passed", test.__name__, flush=True)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
