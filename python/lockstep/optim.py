"""Optimizers and learning rates."""

from . import core
from .errors import UsageError

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "Schedule", "clip_scale", "grad_norm"]


class Schedule:
    """The learning rate of a step, counted from 1.

    kind    "constant", "linear" or "cosine": how it falls from `lr` to `min_lr` at the last step
    warmup  steps over which it rises first: step s has lr * s / warmup
    steps   of the whole run; later steps keep min_lr
    """

    def __init__(self, kind="constant", lr=1e-3, min_lr=0.0, warmup=0, steps=0):
        self._arguments = (kind, lr, min_lr, warmup, steps)
        self(1)

    def __call__(self, step):
        return core.lr_at(*self._arguments, step)


class Optimizer:
    """Updates parameters that have a gradient. Others, and their states, stay as they are.

    lr      a number or a Schedule, which is asked for each step of this optimizer
    decay   which parameters weight_decay applies to: "all" (as in PyTorch), "matrices" (those of
            two dimensions or more), or a function of the parameter. FSDP's parameters are flat:
            such a function must look at global_shape.
    """

    def __init__(self, optimizer, lr):
        self._optimizer = optimizer
        self.lr = lr
        self._rate(1)

    def _rate(self, step):
        rate = self.lr(step) if callable(self.lr) else self.lr
        if not isinstance(rate, (int, float)) or isinstance(rate, bool):
            raise UsageError(f"[optim] expected a number or a Schedule as lr, got {rate!r}")
        return rate

    def step(self, lr=None, grad_scale=1.0):
        """Updates all parameters. Gradients are multiplied by `grad_scale` as they are read:
        clip_scale() makes it. UsageError, and no change, for numbers that are not finite."""
        rate = self._rate(self.steps + 1) if lr is None else lr
        self._optimizer.step(rate, grad_scale)

    def zero_grad(self):
        self._optimizer.zero_grad()

    @property
    def steps(self):
        """How many steps were made."""
        return self._optimizer.steps()

    @property
    def parameters(self):
        return self._optimizer.parameters()

    def state_dict(self):
        """{"steps": int, "updates_out_of_step": by name, "state": tensors by name}."""
        return {
            "steps": self.steps,
            "updates_out_of_step": self._optimizer.updates_out_of_step(),
            "state": self._optimizer.state(),
        }

    def load_state_dict(self, state):
        own = self._optimizer.state()
        if set(own) != set(state["state"]):
            raise UsageError("[optim] expected the states of the same parameters")
        for name, tensor in own.items():
            tensor.copy_(state["state"][name])
        self._optimizer.set_steps(state["steps"], state["updates_out_of_step"])


def _list(parameters):
    parameters = list(parameters)
    for parameter in parameters:
        if not isinstance(parameter, core.Parameter):
            raise UsageError(
                f"[optim] expected parameters of a module, got {type(parameter).__name__}"
            )
    return [parameter for parameter in parameters if parameter.requires_grad]


class SGD(Optimizer):
    """weight_decay is added to the gradient."""

    def __init__(
        self, params, lr=1e-3, momentum=0.0, weight_decay=0.0, nesterov=False, decay="all"
    ):
        super().__init__(core.sgd(_list(params), momentum, weight_decay, nesterov, decay), lr)


class Adam(Optimizer):
    """weight_decay is added to the gradient."""

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decay="all"
    ):
        super().__init__(core.adam(_list(params), *betas, eps, weight_decay, decay, False), lr)


class AdamW(Optimizer):
    """weight_decay is decoupled from the gradient."""

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, decay="all"
    ):
        super().__init__(core.adam(_list(params), *betas, eps, weight_decay, decay, True), lr)


def grad_norm(parameters):
    """The 2-norm of all gradients, in one fixed order. For FSDP use the wrapper's grad_norm()."""
    return core.grad_norm(list(parameters))


def clip_scale(norm, max_norm):
    """The factor for gradients of this norm so that it does not exceed `max_norm` (0: none). NaN if
    the norm is not finite: Optimizer.step() refuses it, so skip such a step."""
    return core.clip_scale(norm, max_norm)
