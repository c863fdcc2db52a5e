"""The errors of lockstep as Python sees them. Their texts are those of the C++ library."""

import builtins


class LockstepError(RuntimeError):
    """Any error of lockstep."""

    # Whether another rank is the cause.
    caused_by_peer: bool = False


class UsageError(LockstepError, ValueError):
    """The program did something wrong: the text says what was expected and what to do."""


class UnsupportedType(UsageError, TypeError):
    """A type of element or tensor that the call does not take."""


class EnvironmentError(LockstepError):
    """The world did something wrong: the text names the rank, its process and its host."""


class TimeoutError(EnvironmentError, builtins.TimeoutError):
    """A wait reached its limit: the text names the call and the ranks that did not come."""
