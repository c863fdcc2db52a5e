"""Functions that make tensors."""

from . import core
from .errors import UsageError

_float32 = core.DType.float32


def _shape(size):
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def zeros(*size, dtype=_float32, device="cpu", requires_grad=False):
    """A tensor of this shape (numbers or one tuple) of zeros."""
    return core.full(_shape(size), 0, dtype, device, requires_grad)


def ones(*size, dtype=_float32, device="cpu", requires_grad=False):
    """A tensor of this shape (numbers or one tuple) of ones."""
    return core.full(_shape(size), 1, dtype, device, requires_grad)


def empty(*size, dtype=_float32, device="cpu", requires_grad=False):
    """As zeros(): memory is never handed out with what others left there."""
    return core.full(_shape(size), 0, dtype, device, requires_grad)


def arange(start, end=None, step=1, dtype=core.DType.int64, device="cpu"):
    """The whole numbers from `start` (0 if it is alone) to below `end`, [n]."""
    if end is None:
        start, end = 0, start
    if not all(isinstance(number, int) for number in (start, end, step)) or step == 0:
        raise UsageError(
            f"[arange] expected whole numbers and a step other than 0, got {start}, {end}, {step}"
        )
    if len(range(start, end, step)) > 1 << 32:
        raise UsageError("[arange] expected at most 2^32 numbers")
    return core.tensor(list(range(start, end, step)) or [], dtype, device)


def cat(tensors, dim=0):
    """The tensors one after another along a dimension; the others must be equal."""
    return core.concat(list(tensors), dim)


def stack(tensors, dim=0):
    """The tensors, of one shape, side by side along a new dimension."""
    return core.concat([tensor.unsqueeze(dim) for tensor in tensors], dim)
