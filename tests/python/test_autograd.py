"""Gradients, hooks, functions in Python, and values that change in between."""

import numpy as np
import pytest

import lockstep as ls
from lockstep.autograd import Function, grad, recompute


def test_gradients_of_a_small_graph():
    x = ls.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x * x + 2 * x).sum().backward()
    assert x.grad.tolist() == [4, 6, 8]
    x.square().sum().backward()
    assert x.grad.tolist() == [6, 10, 14]
    x.grad = None
    assert x.grad is None


def test_a_second_backward_names_the_operation():
    y = ls.ones(2, requires_grad=True).exp().sum()
    y.backward()
    with pytest.raises(ls.UsageError, match="sum"):
        y.backward()


def test_no_grad_nests_and_decorates():
    x = ls.ones(1, requires_grad=True)
    with ls.no_grad():
        assert not (x * 2).requires_grad
        with ls.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad

    @ls.no_grad()
    def double(value):
        return value * 2

    assert not double(x).requires_grad and (x * 2).requires_grad


def test_scopes_that_generators_leave_open():
    def opens():
        with ls.no_grad():
            yield 1
            yield 2

    generator = opens()
    with ls.random_scope(0, 1, 0):
        next(generator)
    assert ls.is_grad_enabled()
    with pytest.raises(ls.UsageError, match="ended already"):
        next(generator), next(generator)
    assert ls.is_grad_enabled()


def test_values_that_changed_are_refused():
    x = ls.ones(3, requires_grad=True)
    y = (x * x).sum()
    with ls.no_grad():
        x.fill_(2)
    with pytest.raises(ls.UsageError, match="fill_"):
        y.backward()


def test_changes_in_place_of_recorded_tensors():
    x = ls.ones(3, requires_grad=True)
    for change in (lambda: x.zero_(), lambda: x.copy_(ls.ones(3)), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(ls.UsageError, match="no_grad"):
            change()


def test_hooks_run_once_and_can_be_removed():
    x = ls.ones(2, requires_grad=True)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.tolist()))
    (x * 3 + x).sum().backward()
    assert seen == [[4, 4]]
    handle.remove()
    x.sum().backward()
    assert len(seen) == 1


def test_exceptions_of_hooks_arrive_as_they_are():
    x = ls.ones(2, requires_grad=True)

    class Mine(Exception):
        pass

    def hook(_):
        raise Mine("here")

    x.register_post_accumulate_grad_hook(hook)
    with pytest.raises(Mine, match="here"):
        x.sum().backward()
    assert x.grad is None


class Scale(Function):
    @staticmethod
    def forward(ctx, x, y, factor):
        ctx.save_for_backward(x, y)
        ctx.factor = factor
        return x * y * factor

    @staticmethod
    def backward(ctx, gradient):
        x, y = ctx.saved_tensors
        return gradient * y * ctx.factor, gradient * x * ctx.factor


def test_functions_in_python():
    x, y = ls.tensor([2.0], requires_grad=True), ls.tensor([5.0], requires_grad=True)
    Scale.apply(x, y, 3).sum().backward()
    assert x.grad.tolist() == [15] and y.grad.tolist() == [6]


def test_functions_notice_changed_values():
    x, y = ls.tensor([2.0], requires_grad=True), ls.tensor([5.0], requires_grad=True)
    z = Scale.apply(x, y, 3).sum()
    with ls.no_grad():
        y.zero_()
    with pytest.raises(ls.UsageError, match="Scale"):
        z.backward()


@pytest.mark.parametrize("returned", [None, ls.ones(3), 1.0, (ls.ones(1), ls.ones(1))])
def test_wrong_gradients_of_functions(returned):
    class Wrong(Function):
        forward = staticmethod(lambda ctx, x: x * 1)
        backward = staticmethod(lambda ctx, gradient: returned)

    x = ls.ones(1, requires_grad=True)
    y = Wrong.apply(x).sum()
    if returned is None:
        y.backward()
        assert x.grad is None
    else:
        with pytest.raises((ls.UsageError, TypeError)):
            y.backward()


def test_grad_leaves_grad_alone():
    x = ls.ones(2, requires_grad=True)
    x.sum().backward()
    assert grad((x * 5).sum(), x)[0].tolist() == [5, 5]
    assert x.grad.tolist() == [1, 1]
    other = ls.ones(2, requires_grad=True)
    with pytest.raises(ls.UsageError, match="takes part"):
        grad((x * other).sum(), [x])


def test_recompute_gives_the_same_bits():
    values = np.random.default_rng(0).normal(size=(4, 4)).astype("f4")
    results = []
    for again in (False, True):
        x = ls.tensor(values, requires_grad=True)
        body = lambda t: (t @ t).tanh()  # noqa: E731
        y = recompute(body, x) if again else body(x)
        y.sum().backward()
        results.append(x.grad.numpy().tobytes())
    assert results[0] == results[1]
