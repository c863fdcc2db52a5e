"""What happens when a rank ends with an exception: the others learn of it at once, and `lockstep
run` learns which rank is to blame."""

import json
import os
import sys
import time

from . import _C


def install():
    """Puts the hook in front of the present one, which still runs."""
    previous = sys.excepthook
    process = os.getpid()

    def hook(kind, value, traceback):
        # At a prompt, the program goes on after an exception. A forked child is no rank.
        if not hasattr(sys, "ps1") and os.getpid() == process:
            handle(kind, value)
        previous(kind, value, traceback)

    sys.excepthook = hook


def handle(kind, value):
    """Ends this process's groups unless another rank is the cause, and reports to the agent."""
    text = f"{kind.__name__}: {value}"
    by_peer = _C.is_peer_failure(text)
    if not by_peer:
        _C.abort_all(text)
    report(text, by_peer)


def report(text, by_peer):
    """Leaves the first failure of this process where the agent looks (docs/launcher.md)."""
    path = os.environ.get("LOCKSTEP_ERROR_FILE")
    if not path:
        return
    message = {"message": text, "caused_by_peer": by_peer, "monotonic_ns": time.monotonic_ns()}
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "w", encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size == 0:
                json.dump(message, file)
    except OSError:
        pass  # the agent still sees the exit code
