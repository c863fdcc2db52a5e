"""Compares all_reduce of float32 over lockstep and over Gloo, in turns in one run.

PYTHONPATH=build/release/python lockstep run -n 2 -- python3 bench/compare_gloo.py
"""

import statistics
import sys
import time

import torch
import torch.distributed as dist

import lockstep.torch  # noqa: F401

SIZES = {"4 KiB": 1 << 10, "256 KiB": 1 << 16, "4 MiB": 1 << 20, "25 MiB": 25 << 18}  # elements
ROUNDS = 15


def calls_for(elements):
    return max(1, min(200, (4 << 20) // elements))


def microseconds(tensor, group, calls):
    """Time of one call in a loop of calls. Ranks start together."""
    dist.barrier()
    begin = time.perf_counter()
    for _ in range(calls):
        dist.all_reduce(tensor, group=group)
    return (time.perf_counter() - begin) / calls * 1e6


def main():
    torch.set_num_threads(1)
    dist.init_process_group("lockstep")
    everybody = list(range(dist.get_world_size()))
    groups = {"lockstep": None, "gloo": dist.new_group(everybody, backend="gloo")}
    if dist.get_rank() == 0:
        print(f"PyTorch {torch.__version__}, {len(everybody)} ranks, us a call: median (least)")
    for name, elements in SIZES.items():
        tensor = torch.zeros(elements)
        times = {backend: [] for backend in groups}
        for turn in range(ROUNDS + 1):
            for backend, group in groups.items():
                taken = microseconds(tensor, group, calls_for(elements))
                if turn > 0:  # the first warms up
                    times[backend].append(taken)
        if dist.get_rank() == 0:
            median = {backend: statistics.median(taken) for backend, taken in times.items()}
            shown = ", ".join(f"{b} {median[b]:.0f} ({min(times[b]):.0f})" for b in groups)
            print(f"{name:>8}: {shown}; ratio {median['gloo'] / median['lockstep']:.1f}")
            sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


main()
