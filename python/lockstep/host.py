"""What NumPy computes on the host: comparisons, and arithmetic of whole numbers."""

import operator

from . import core
from .errors import UnsupportedType, UsageError

_FUNCTIONS = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}


def _values(op, value):
    if not isinstance(value, core.Tensor):
        return value
    if value.device.type != "cpu":
        raise UsageError(f"[{op}] the host computes this, and the values are on {value.device}")
    if value.requires_grad and op not in _COMPARISONS:
        raise UsageError(f"[{op}] has no gradient: use .detach()")
    value = value.detach()
    return (value.float() if value.dtype == core.DType.bfloat16 else value.clone()).numpy()


def _run(op, a, b):
    import numpy

    with numpy.errstate(all="ignore"):
        try:
            result = numpy.asarray(_FUNCTIONS[op](_values(op, a), _values(op, b)))
        except (TypeError, ValueError, OverflowError) as error:
            raise UnsupportedType(f"[{op}] {error}") from error
    if result.dtype == numpy.float64:
        result = result.astype(numpy.float32)
    if result.dtype == numpy.int16 or result.dtype == numpy.int8:
        result = result.astype(numpy.int32)
    return core.tensor(numpy.ascontiguousarray(result).reshape(result.shape))


def __getattr__(name):
    if name not in _FUNCTIONS:
        raise AttributeError(name)
    return lambda a, b: _run(name, a, b)


def argmax(tensor, dim=-1):
    """The places of the largest values along a dimension, int64; the first of equal ones."""
    return core.tensor(_values("eq", tensor).argmax(dim))
