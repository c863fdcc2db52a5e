"""What happens when a rank ends with an exception: the others learn of it at once, and `lockstep
run` learns which rank is to blame."""

import os
import sys

from . import core

_installed = False


def install():
    """Puts the hook in front of the present one, which still runs."""
    global _installed
    if _installed:
        return
    _installed = True
    previous = sys.excepthook
    process = os.getpid()

    def hook(kind, value, traceback):
        # At a prompt, the program goes on after an exception. A forked child is no rank.
        if not hasattr(sys, "ps1") and os.getpid() == process:
            _handle(kind, value)
        previous(kind, value, traceback)

    sys.excepthook = hook


def _handle(kind, value):
    text = f"{kind.__name__}: {value}"
    by_peer = getattr(value, "caused_by_peer", False)
    if not by_peer:
        core.abort_groups(text)
    core.report_failure(text, by_peer)
