"""A backend of torch.distributed: `import lockstep.torch` and use the backend "lockstep".

    import torch.distributed as dist
    import lockstep.torch

    dist.init_process_group("lockstep")

Start the script with `lockstep run -n 2 -- python3 script.py`, with torchrun, or with mpirun.
docs/torch.md says what it does and what not.
"""

import atexit
import os

import torch.distributed as _dist

from . import _C, failures
from .errors import EnvironmentError, LockstepError, TimeoutError, UnsupportedType, UsageError

__all__ = [
    "EnvironmentError",
    "LockstepError",
    "Options",
    "TimeoutError",
    "UnsupportedType",
    "UsageError",
]

# torch.distributed's name for what Open MPI tells its processes.
_OPEN_MPI = {
    "RANK": "OMPI_COMM_WORLD_RANK",
    "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
    "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
}


class Options:
    """How a group works; pass it as `pg_options`.

    backend    "auto", "shm" (processes of one host), "ucx" (of any hosts) or "mpi" (those
               that mpirun started)
    reduction  "tree": one fixed order of sums, the same bits on every backend;
               "fast": the backend's own order
    """

    def __init__(self, backend="auto", reduction="tree"):
        self.backend = backend
        self.reduction = reduction


def _create(options, pg_options):
    if pg_options is None:
        pg_options = Options()
    if not isinstance(pg_options, Options):
        raise UnsupportedType(
            "[torch] pg_options must be a lockstep.torch.Options, got " + type(pg_options).__name__
        )
    return _C.create(options, _C.Settings(pg_options.backend, pg_options.reduction))


def _take_ranks_of_open_mpi():
    if "RANK" in os.environ:
        return
    for name, open_mpi in _OPEN_MPI.items():
        if open_mpi in os.environ:
            os.environ.setdefault(name, os.environ[open_mpi])


_C.set_exceptions(UsageError, UnsupportedType, EnvironmentError, TimeoutError)
_take_ranks_of_open_mpi()
_dist.Backend.register_backend("lockstep", _create, extended_api=True)
failures.install()
atexit.register(_C.close_all)
