"""Initial values, for reset_parameters(seed). Each parameter draws from a stream of its own, keyed
by the seed and its full name."""

from ..core import init_constant as constant_
from ..core import init_normal, init_uniform

__all__ = ["constant_", "normal_", "ones_", "uniform_", "zeros_"]


def uniform_(parameter, low, high, seed):
    """Uniform from `low` to `high`."""
    init_uniform(parameter, low, high, seed)


def normal_(parameter, mean, std, seed):
    """Normal with this mean and standard deviation."""
    init_normal(parameter, mean, std, seed)


def zeros_(parameter):
    constant_(parameter, 0.0)


def ones_(parameter):
    constant_(parameter, 1.0)
