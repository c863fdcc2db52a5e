"""Gradients: no_grad(), functions of your own, recomputation."""

from . import core
from .errors import UsageError
from .scopes import enable_grad, no_grad

__all__ = ["Function", "backward", "enable_grad", "grad", "no_grad", "recompute"]


class Context:
    """What forward() leaves for backward(). Other attributes may be set freely."""

    def __init__(self, name):
        self._name = name
        self._saved = ()
        self.needs_input_grad = ()

    def save_for_backward(self, *tensors):
        """Keeps tensors. backward() refuses them if they were changed in place meanwhile."""
        self._saved = tuple(
            None if tensor is None else core.SavedTensor(self._name, tensor) for tensor in tensors
        )

    @property
    def saved_tensors(self):
        return tuple(None if saved is None else saved.get() for saved in self._saved)


class Function:
    """An operation with a gradient of its own:

        class Double(Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, gradient):
                return gradient * 2

        y = Double.apply(x)

    forward() returns one tensor. backward() returns a tensor or None for each tensor among
    forward()'s positional arguments, in their shapes and dtypes.
    """

    @staticmethod
    def forward(ctx, *args):
        raise UsageError("[Function] forward() is missing")

    @staticmethod
    def backward(ctx, gradient):
        raise UsageError("[Function] backward() is missing")

    @classmethod
    def apply(cls, *args):
        inputs = [value for value in args if isinstance(value, core.Tensor)]
        context = Context(cls.__name__)
        context.needs_input_grad = tuple(value.requires_grad for value in inputs)
        with no_grad():
            result = cls.forward(context, *args)
        if not isinstance(result, core.Tensor):
            raise UsageError(
                f"[{cls.__name__}] expected forward() to return one tensor, "
                f"got {type(result).__name__}"
            )
        if any(result is value for value in inputs):
            result = result.clone()
        if not core.is_grad_enabled() or not any(context.needs_input_grad):
            return result
        return core.record_function(
            cls.__name__,
            result,
            inputs,
            lambda gradient: cls.backward(context, gradient),
        )


def backward(tensor, gradient=None):
    """As tensor.backward(gradient)."""
    tensor.backward(gradient)


def grad(output, inputs, grad_output=None):
    """The gradients of `output` with respect to leaves, without adding to their .grad: a tuple
    with a tensor, or None where none came. Frees the graph, runs the leaves' hooks, and needs
    all leaves of the graph to be among `inputs`, because it leaves no others untouched."""
    inputs = [inputs] if isinstance(inputs, core.Tensor) else list(inputs)
    for tensor in inputs:
        if not tensor.is_leaf or not tensor.requires_grad:
            raise UsageError("[grad] expected leaves that require a gradient as the inputs")
    known = {hash(tensor) for tensor in inputs}
    for leaf in core.reachable_leaves(output):
        if hash(leaf) not in known:
            raise UsageError(
                f"[grad] '{leaf.name}' {leaf.shape} takes part and is not among the inputs: "
                "add it, or use backward()"
            )
    before = [None if tensor.grad is None else tensor.grad.clone() for tensor in inputs]
    for tensor in inputs:
        tensor.zero_grad()
    try:
        output.backward(grad_output)
        return tuple(None if t.grad is None else t.grad.clone() for t in inputs)
    finally:
        for tensor, gradient in zip(inputs, before):
            tensor.grad = gradient


def recompute(function, *tensors):
    """Runs function(*tensors), tensors or None, which returns a tensor or a tuple of them. Keeps
    only the inputs; backward() runs `function` again. It must compute the same again: random
    numbers only from lockstep.random_scope, no side effects."""
    single = []

    def forward(values):
        result = function(*values)
        single.append(isinstance(result, core.Tensor))
        return [result] if isinstance(result, core.Tensor) else list(result)

    outputs = core.recompute(list(tensors), forward)
    return outputs[0] if single[0] else tuple(outputs)
