"""Ranks that work together: process groups, collectives and meshes."""

import atexit

from . import core, failures
from .core import DeviceMesh, ProcessGroup, Work
from .errors import UsageError

__all__ = [
    "DeviceMesh",
    "ProcessGroup",
    "Work",
    "destroy_process_group",
    "get_rank",
    "get_world_size",
    "init_device_mesh",
    "init_process_group",
    "is_initialized",
    "local_rank",
    "world",
]

_world = None


def init_process_group(backend="auto", timeout=None, reduction="tree", device="cpu"):
    """Joins this job's other ranks and returns the group of all of them.

    Whatever started the process tells rank and size: `lockstep run`, torchrun, mpirun, srun, or
    nobody, which makes one rank.

    backend    "auto", "shm" (one host), "ucx" (any hosts), "mpi" (under mpirun) or "nccl"
    timeout    seconds that a call waits for a rank that does not come; None: 30 minutes
    reduction  "tree": one fixed order of sums; "fast": the backend's own
    """
    global _world
    if _world is not None:
        raise UsageError("[init_process_group] this process has its group already: world()")
    _world = core.init_process_group(backend, timeout, reduction, device)
    failures.install()
    return _world


def destroy_process_group():
    """Leaves the group. No effect without one."""
    global _world
    group, _world = _world, None
    if group is not None:
        group.destroy()


def is_initialized():
    return _world is not None


def world():
    """The group of all ranks."""
    if _world is None:
        raise UsageError("[distributed] call init_process_group() first")
    return _world


def get_rank():
    return world().rank


def get_world_size():
    return world().size


def local_rank():
    """This rank's number among those of its host, as its launcher tells."""
    return core.detect_rank()[2]


def init_device_mesh(sizes, names, group=None):
    """Collective. The ranks as a grid: init_device_mesh((2, -1), ("replicate", "shard")). One size
    may be -1."""
    sizes, names = list(sizes), list(names)
    if len(sizes) != len(names):
        raise UsageError(f"[init_device_mesh] {len(sizes)} sizes and {len(names)} names")
    return DeviceMesh(group or world(), list(zip(names, sizes)))


atexit.register(destroy_process_group)
