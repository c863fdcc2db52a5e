"""Functions of tensors. Each has its shapes in its help()."""

from ..core import (
    causal_attention,
    cross_entropy,
    embedding,
    layer_norm,
    linear,
    rms_norm,
)

__all__ = [
    "causal_attention",
    "cross_entropy",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "mse_loss",
    "relu",
    "rms_norm",
    "silu",
    "softmax",
]


def gelu(input, approximate="none"):
    """x * Phi(x), by erf, or by tanh with approximate='tanh' (GPT-2's)."""
    return input.gelu_tanh() if approximate == "tanh" else input.gelu()


def relu(input):
    """The larger of x and 0."""
    return input.relu()


def silu(input):
    """x * sigmoid(x)."""
    return input.silu()


def softmax(input, dim=-1):
    """exp(x) over its sum along `dim`."""
    return input.softmax(dim)


def log_softmax(input, dim=-1):
    """The logarithm of softmax()."""
    return input.log_softmax(dim)


def mse_loss(input, target):
    """The mean of (input - target) squared."""
    return (input - target).square().mean()
