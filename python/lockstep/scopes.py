"""Contexts that change what operations of this thread do."""

import functools

from . import core


class _Scope:
    """A context, and a decorator of functions. May be entered again after it has ended."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._entered = []

    def _enter(self, *arguments):
        raise NotImplementedError

    def __enter__(self):
        self._entered.append(self._enter(*self._arguments))
        return self

    def __exit__(self, *error):
        core.leave(self._entered.pop())

    def __call__(self, function):
        @functools.wraps(function)
        def inside(*args, **kwargs):
            with type(self)(*self._arguments):
                return function(*args, **kwargs)

        return inside


class no_grad(_Scope):
    """Operations record nothing, and leaves may be changed in place."""

    def __init__(self):
        super().__init__()

    def _enter(self):
        return core.enter_no_grad()


class enable_grad(_Scope):
    """The opposite of no_grad()."""

    def __init__(self):
        super().__init__()

    def _enter(self):
        return core.enter_enable_grad()


class random_scope(_Scope):
    """Dropout draws from the stream of this seed, step (from 1) and micro-batch (from 0, counted
    over all ranks). So its masks do not depend on the number of ranks."""

    def __init__(self, seed, step, micro_batch=0):
        super().__init__(seed, step, micro_batch)

    def _enter(self, seed, step, micro_batch):
        return core.enter_random(seed, step, micro_batch)


class precision(_Scope):
    """Matrix products, attention and embeddings compute in `dtype` (bfloat16 or float32).
    Parameters stay float32. Open one for a step, around its micro-batches."""

    def __init__(self, dtype):
        super().__init__(dtype)

    def _enter(self, dtype):
        return core.enter_precision(dtype)


class initial_draws(_Scope):
    """Parameters may draw initial values, each name once. Module.initialize() opens one."""

    def __init__(self):
        super().__init__()

    def _enter(self):
        return core.enter_draws()
