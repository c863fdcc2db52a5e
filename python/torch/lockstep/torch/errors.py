"""The errors of lockstep, which the whole package shares."""

from lockstep.errors import (
    EnvironmentError,
    LockstepError,
    TimeoutError,
    UnsupportedType,
    UsageError,
)

__all__ = ["EnvironmentError", "LockstepError", "TimeoutError", "UnsupportedType", "UsageError"]
