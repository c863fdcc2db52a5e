"""Train on any number of ranks, lose any of them, and get the same bits.

    import lockstep
    from lockstep import distributed, nn, optim

    group = distributed.init_process_group()
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1)).initialize(seed=0)
    model = lockstep.fully_shard(model)

docs/python.md says what exists, and what differs from PyTorch.
"""

# What users need is found when it is first used: `import lockstep.torch` must work where the
# extension lockstep._core was not built.
import importlib as _importlib

_SUBMODULES = {
    "autograd",
    "checkpoint",
    "data",
    "distributed",
    "errors",
    "nn",
    "optim",
    "parallel",
    "torch",
}
_FROM = {
    "DType": "_core",
    "Device": "_core",
    "Tensor": "_core",
    "Parameter": "_core",
    "tensor": "_core",
    "from_numpy": "_core",
    "from_dlpack": "_core",
    "full": "_core",
    "cat": "tensors",
    "stack": "tensors",
    "zeros": "tensors",
    "ones": "tensors",
    "empty": "tensors",
    "arange": "tensors",
    "no_grad": "autograd",
    "enable_grad": "autograd",
    "is_grad_enabled": "_core",
    "random_scope": "scopes",
    "precision": "scopes",
    "DistributedDataParallel": "parallel",
    "FullyShardedDataParallel": "parallel",
    "fully_shard": "parallel",
    "LockstepError": "errors",
    "UsageError": "errors",
    "UnsupportedType": "errors",
    "EnvironmentError": "errors",
    "TimeoutError": "errors",
}
_DTYPES = {"float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"}

__all__ = sorted(_SUBMODULES - {"torch"} | set(_FROM) | _DTYPES)


def __getattr__(name):
    if name in _SUBMODULES:
        return _importlib.import_module("lockstep." + name)
    if name in _DTYPES:
        value = getattr(_extension().DType, name)
    elif name in _FROM:
        home = _FROM[name]
        module = _extension() if home == "_core" else _importlib.import_module("lockstep." + home)
        value = getattr(module, name)
    else:
        raise AttributeError(f"module 'lockstep' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))


def _extension():
    from . import core

    return core
