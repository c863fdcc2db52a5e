"""Checkpoints: saved by any number of ranks, read by any other number."""

import json

from . import core, distributed
from .core import Entry
from .errors import EnvironmentError, UsageError

__all__ = ["Entry", "Saver", "load", "load_latest", "save"]

_STEPS = "lockstep.optimizer.steps"
_UPDATES = "lockstep.optimizer.updates_out_of_step"


def _group(group):
    if group is None and distributed.is_initialized():
        return distributed.world()
    return group


def _entries(model, optimizer):
    if hasattr(model, "entries"):
        entries = list(model.entries())
    else:
        entries = [core.Entry(name, tensor) for name, tensor in dict(_state(model)).items()]
    if optimizer is not None:
        entries += core.optimizer_entries(optimizer._optimizer)
    return entries


def _state(model):
    return model.state_dict() if hasattr(model, "state_dict") else model


def _metadata(metadata, optimizer):
    metadata = dict(metadata or {})
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError(
                f"[checkpoint] expected metadata of str to str, got {key!r}: {value!r}"
            )
    if optimizer is not None:
        state = optimizer.state_dict()
        metadata[_STEPS] = str(state["steps"])
        metadata[_UPDATES] = json.dumps(state["updates_out_of_step"])
    return metadata


def save(dir, step, model, optimizer=None, metadata=None, keep=0, group=None):
    """Collective. Saves to dir/step-NNNNNNNN and returns that folder once it is complete and on
    disk. Until then the name does not exist.

    model     a module, DistributedDataParallel, a sharded model, or tensors by name
    metadata  str to str; rank 0's counts
    keep      how many of the newest to keep, this one included; 0: all
    """
    return core.save_checkpoint(
        str(dir),
        step,
        _entries(model, optimizer),
        _metadata(metadata, optimizer),
        keep,
        _group(group),
    )


def load_latest(dir, model, optimizer=None, group=None):
    """Collective. Fills model and optimizer from the newest checkpoint that every rank can read,
    whatever the number of ranks that saved it. Returns {"folder", "step", "metadata", "skipped"},
    or None if there is none."""
    _give_memory(model)
    found = core.load_latest(str(dir), _entries(model, optimizer), _group(group))
    return None if found is None else _loaded(found, model, optimizer)


def load(folder, model, optimizer=None):
    """The same from one folder. Every rank calls it."""
    _give_memory(model)
    return _loaded(core.load_folder(str(folder), _entries(model, optimizer)), model, optimizer)


def _give_memory(model):
    if hasattr(model, "materialize_for_load"):
        model.materialize_for_load()


def _loaded(found, model, optimizer):
    folder, step, metadata, skipped = found
    if hasattr(model, "values_changed"):
        model.values_changed()
    if optimizer is not None:
        if _STEPS not in metadata:
            raise EnvironmentError(f"[checkpoint] '{folder}' has no optimizer's count of steps")
        optimizer._optimizer.set_steps(int(metadata[_STEPS]), json.loads(metadata[_UPDATES]))
    return {"folder": folder, "step": step, "metadata": metadata, "skipped": skipped}


class Saver:
    """Saves in the background: start() copies the state, and threads write the copy.

        saver = Saver("runs/mine", keep=3)
        saver.start(step, model, optimizer)
        if ended := saver.poll(): ...
        last = saver.wait()

    Collective, like start() and close(). poll() and wait() return None, or what became of a save:
    {"step", "folder", "error", "seconds"}. `folder` is empty if it failed.
    """

    def __init__(self, dir, keep=0, group=None):
        self._saver = core.Saver(str(dir), keep, _group(group))

    def start(self, step, model, optimizer=None, metadata=None):
        self._saver.start(step, _entries(model, optimizer), _metadata(metadata, optimizer))

    def busy(self):
        return self._saver.busy()

    def poll(self):
        return _outcome(self._saver.poll())

    def wait(self):
        return _outcome(self._saver.wait())

    def close(self):
        """Waits for the save under way."""
        self._saver.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _outcome(ended):
    return None if ended is None else dict(zip(("step", "folder", "error", "seconds"), ended))
