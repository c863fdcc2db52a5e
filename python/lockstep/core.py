"""The extension in C++, with what it needs from Python."""

import os as _os

try:
    from ._core import *  # noqa: F403
    from . import _core
except ImportError as error:
    raise ImportError(
        f"lockstep was built without its module for this Python ({error}); "
        "build it with -DLOCKSTEP_PYTHON_MODULE=ON, which says what is missing"
    ) from error

# A fork copies neither the threads of kernels nor those of groups.
_os.register_at_fork(after_in_child=_core.note_fork)


def __getattr__(name):
    return getattr(_core, name)
