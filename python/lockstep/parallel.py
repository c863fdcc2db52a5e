"""Data parallelism: every rank holds the whole model (DistributedDataParallel), or a shard of it
(fully_shard)."""

import contextlib
import fnmatch

from . import core, distributed
from .errors import UsageError
from .nn.module import Module

__all__ = ["DistributedDataParallel", "FullyShardedDataParallel", "fully_shard"]


class _Wrapper:
    """What both have in common. A step is

        for micro_batch in model.leaves():
            model.backward(loss of that micro-batch)
        model.finish()
        optimizer.step()
    """

    def __call__(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def leaves(self):
        """The step's micro-batches that this rank computes, counted over all ranks."""
        return self._wrapper.leaves()

    def backward(self, loss, micro_batch=None):
        """Differentiates one micro-batch's mean loss, weighted by 1 / micro_batches: of the next
        one of leaves(), or of the one that is named. Communication runs meanwhile."""
        self._wrapper.backward(loss, micro_batch)

    def finish(self):
        """After the last backward() of a step: waits for the sums. Then parameters() have the mean
        gradients over all micro-batches of all ranks."""
        self._wrapper.finish()

    def active_ranks(self, have_input):
        """Uneven inputs, for one micro-batch a rank and step: how many ranks have input."""
        return self._wrapper.active_ranks(have_input)

    def skip(self):
        """Instead of forward and backward, on a rank without input."""
        self._wrapper.skip()

    def exposed_communication(self):
        """Seconds of the last step in which nothing hid communication."""
        return self._wrapper.exposed_communication()

    def train(self, mode=True):
        self.module.train(mode)
        return self

    def eval(self):
        return self.train(False)


class DistributedDataParallel(_Wrapper):
    """Every rank holds the whole model. Collective: takes rank 0's values.

    micro_batches           of one step, over all ranks; 0: one a rank
    bucket_mb               gradients that are reduced together
    find_unused_parameters  a zero gradient for parameters that take no part, instead of an error

    Gradients have the same bits for every number of ranks if micro_batches is the same.
    """

    def __init__(
        self,
        module,
        group=None,
        micro_batches=0,
        bucket_mb=25.0,
        find_unused_parameters=False,
    ):
        _check_module("DistributedDataParallel", module)
        for parameter in module.parameters():
            core.materialize(parameter)
        self.module = module
        self._wrapper = core.Ddp(
            module.parameters(),
            list(module.named_buffers()),
            group or distributed.world(),
            micro_batches,
            bucket_mb,
            find_unused_parameters,
        )

    @contextlib.contextmanager
    def no_sync(self):
        """backward() only accumulates."""
        guard = core.NoSync(self._wrapper)
        try:
            yield
        finally:
            guard.end()

    def parameters(self):
        """Those that are trained."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def grad_norm(self):
        """The 2-norm of all gradients, after finish(). The same on every rank."""
        return core.grad_norm(self.module.parameters())

    def state_dict(self):
        return self.module.state_dict()

    def load_state_dict(self, state, strict=True):
        return self.module.load_state_dict(state, strict)

    def entries(self):
        """What a checkpoint holds of the model."""
        return [core.Entry(name, tensor) for name, tensor in self.state_dict().items()]

    def weights_sha256(self):
        return self.module.weights_sha256()


class FullyShardedDataParallel(_Wrapper):
    """A sharded model; fully_shard() makes it."""

    def __init__(self, module, mesh, options):
        self.module = module
        try:
            self._wrapper = core.Fsdp(_build_node(module, {}), mesh, options)
        except BaseException:
            for part in module.modules():
                object.__setattr__(part, "_node", None)
            raise

    def parameters(self):
        """This rank's flat slices of the trained parameters, under their full names. They have
        gradients after finish()."""
        return self._wrapper.parameters()

    def begin_micro_batch(self):
        """Everything from here on belongs to this rank's next micro-batch."""
        self._wrapper.begin_micro_batch()

    def values_changed(self):
        """After slices were written within a step: on all ranks."""
        self._wrapper.values_changed()

    def units(self):
        """(name, parameters) of what is gathered as one, the root first."""
        return self._wrapper.units()

    def grad_norm(self):
        """Collective. The 2-norm of all gradients, after finish()."""
        return self._wrapper.grad_norm(self.module.parameters())

    def state_dict(self, rank0_only=False):
        """Collective. The whole values by name, a copy; with `rank0_only` elsewhere {}."""
        state = {}
        take = not rank0_only or distributed.get_rank() == 0
        self._wrapper.for_each_whole(state.__setitem__ if take else None)
        if take:
            state.update(self.module.named_buffers())
        return state

    def entries(self):
        """What a checkpoint holds of this rank's part of the model."""
        buffers = [core.Entry(name, tensor) for name, tensor in self.module.named_buffers()]
        return self._wrapper.entries() + buffers

    def weights_sha256(self):
        """Collective. The digest of all parameters, whatever the number of ranks."""
        return self._wrapper.weights_sha256()

    def close(self):
        """Frees the shards. The module becomes unusable."""
        self._wrapper.close()


def fully_shard(
    module,
    mesh=None,
    micro_batches=0,
    reshard_after_forward=True,
    accumulate_in_shards=True,
    units="blocks",
    units_in_flight=2,
    nearby=0,
    find_unused_parameters=False,
):
    """Collective. Every rank keeps a shard of the parameters, their gradients and the optimizer's
    states, and gathers one unit of the model at a time. Takes rank 0's values.

    module                 the root; initialize(seed, materialize=False) keeps it small until here
    mesh                   a group, or a DeviceMesh of "shard", or of "replicate" and "shard"; None:
                           all ranks
    micro_batches          of one step, over all ranks; 0: one a rank
    reshard_after_forward  False: units stay whole until the end of the step (ZeRO-2)
    accumulate_in_shards   False: each rank sums its own gradients whole (ZeRO-1)
    units                  "blocks": children of a module whose children all have one type; "none";
                           or paths such as ["blocks.*", "head"]
    units_in_flight        whole units at a time, beside the root
    nearby                 ranks that gather a unit again for backward; 0: all
    """
    _check_module("fully_shard", module)
    if module.path:
        raise UsageError(f"[fully_shard] expected the root of a model, got '{module.path}' of one")
    if mesh is None:
        mesh = distributed.world()
    if isinstance(mesh, core.ProcessGroup):
        mesh = core.DeviceMesh(mesh, [("shard", mesh.size)])
    options = {
        "micro_batches": micro_batches,
        "reshard_after_forward": bool(reshard_after_forward),
        "accumulate_in_shards": bool(accumulate_in_shards),
        "units": _unit_paths(module, units),
        "units_in_flight": units_in_flight,
        "nearby": nearby,
        "find_unused_parameters": bool(find_unused_parameters),
    }
    return FullyShardedDataParallel(module, mesh, options)


def _check_module(who, module):
    if not isinstance(module, Module):
        raise UsageError(f"[{who}] expected a module, got {type(module).__name__}")
    if any(part._node is not None for part in module.modules()):
        raise UsageError(f"[{who}] the model is sharded already")


def _unit_paths(root, units):
    if units == "none":
        return set()
    if units == "blocks":
        return set(_blocks(root))
    patterns = [units] if isinstance(units, str) else list(units)
    paths = [module.path for module in root.modules() if module is not root]
    chosen = set()
    for pattern in patterns:
        matching = {path for path in paths if _matches(path, pattern)}
        if not matching:
            raise UsageError(f"[fully_shard] no module has the path '{pattern}'")
        chosen |= matching
    return chosen


def _matches(path, pattern):
    names, wanted = path.split("."), pattern.split(".")
    return len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))


# As the library's own rule, by the classes of Python.
def _blocks(module):
    children = list(module.children())
    if len(children) >= 2 and all(type(child) is type(children[0]) for child in children):
        return [child.path for child in children]
    return [path for child in children for path in _blocks(child)]


def _build_node(module, known):
    if id(module) in known:
        return known[id(module)]
    node = core.Node()
    known[id(module)] = node
    for name, parameter in module._parameters.items():
        node.add_parameter(name, parameter)
    for name, tensor in module._buffers.items():
        node.add_buffer(name, tensor)
    for name, child in module._modules.items():
        node.add_child(name, _build_node(child, known))
    object.__setattr__(module, "_node", node)
    return node
