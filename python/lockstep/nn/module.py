"""Module: a named tree of parameters, buffers and modules."""

from .. import core
from ..errors import UsageError
from ..scopes import initial_draws, no_grad
from .calls import flatten, rebuild


class Handle:
    """Names one hook of a list."""

    def __init__(self, hooks, hook):
        self._hooks, self._hook = hooks, hook

    def remove(self):
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


class Module:
    """The base of models and layers. Override forward().

    Attributes that are a Parameter or a Module belong to the tree. Call super().__init__() first.
    """

    def __init__(self):
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, name, {})
        object.__setattr__(self, "_owned", set())
        object.__setattr__(self, "_pre_hooks", [])
        object.__setattr__(self, "_hooks", [])
        object.__setattr__(self, "_node", None)
        object.__setattr__(self, "_recompute", False)
        object.__setattr__(self, "path", "")
        self.training = True

    def forward(self, *args, **kwargs):
        raise UsageError(f"[module] {type(self).__name__} does not override forward()")

    # ---- the tree ----

    def __setattr__(self, name, value):
        registries = self.__dict__
        if "_modules" not in registries:
            raise UsageError(
                f"[module] {type(self).__name__} sets '{name}' before super().__init__()"
            )
        if isinstance(value, core.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self.add_module(name, value)
        elif name in self._buffers and (value is None or isinstance(value, core.Tensor)):
            self.register_buffer(name, value)
        else:
            if name in self._parameters or name in self._modules or name in self._buffers:
                if value is not None:
                    raise UsageError(
                        f"[module] '{self._full(name)}' is registered: expected a parameter, "
                        f"buffer or module, or None, got {type(value).__name__}"
                    )
                self._forget(name)
            object.__setattr__(self, name, value)

    def __getattr__(self, name):
        for registry in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(registry, {})
            if name in found:
                return found[name]
        raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")

    def __delattr__(self, name):
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name):
        self._check_not_sharded(name)
        self._owned.discard(name)
        registries = (self._parameters, self._buffers, self._modules)
        found = [registry for registry in registries if name in registry]
        for registry in found:
            del registry[name]
        return bool(found)

    def _full(self, name):
        return f"{self.path}.{name}" if self.path else name

    def _check_not_sharded(self, name):
        if self._node is not None:
            raise UsageError(
                f"[module] '{self._full(name)}' cannot change: the model is sharded already"
            )

    def _take_name(self, name):
        if not isinstance(name, str) or not name or "." in name or "\n" in name:
            raise UsageError(f"[module] expected a name without '.', got {name!r}")
        self._check_not_sharded(name)
        self.__dict__.pop(name, None)
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                self._owned.discard(name)

    def register_parameter(self, name, parameter):
        """Adds a parameter. A parameter that has a name is another module's, and is shared."""
        if not isinstance(parameter, core.Parameter):
            raise UsageError(
                f"[module] expected a Parameter for '{name}', got {type(parameter).__name__}"
            )
        self._take_name(name)
        self._parameters[name] = parameter
        if not parameter.name:
            self._owned.add(name)
            parameter.name = self._full(name)

    def register_buffer(self, name, tensor):
        """Adds a tensor that belongs to the state but is not trained."""
        if tensor is None:
            self._forget(name)
            object.__setattr__(self, name, None)
            return
        if not isinstance(tensor, core.Tensor) or tensor.requires_grad:
            raise UsageError(f"[module] expected a tensor without gradient for buffer '{name}'")
        self._take_name(name)
        self._buffers[name] = tensor

    def add_module(self, name, module):
        """Adds a module under a name."""
        if not isinstance(module, Module) or "_modules" not in module.__dict__:
            raise UsageError(
                f"[module] expected a module for '{name}' whose __init__() ran, "
                f"got {type(module).__name__}"
            )
        if any(part is self for part in module.modules()):
            raise UsageError(f"[module] '{name}' holds the module that it would belong to")
        self._take_name(name)
        self._modules[name] = module
        module._set_path(self._full(name))

    def _set_path(self, path):
        self._check_not_sharded(path)
        object.__setattr__(self, "path", path)
        for name in self._owned:
            self._parameters[name].name = self._full(name)
        for name, child in self._modules.items():
            child._set_path(self._full(name))

    # ---- walks, in order of registration ----

    def named_modules(self, prefix=""):
        """(name, module) of this module, "", and of all below, each once."""
        seen = set()

        def visit(module, name):
            if id(module) in seen:
                return
            seen.add(id(module))
            yield name, module
            for local, child in module._modules.items():
                yield from visit(child, f"{name}.{local}" if name else local)

        yield from visit(self, prefix)

    def modules(self):
        return (module for _, module in self.named_modules())

    def named_children(self):
        return iter(list(self._modules.items()))

    def children(self):
        return iter(list(self._modules.values()))

    def named_parameters(self, prefix="", recurse=True):
        """(name, parameter), each parameter once, depth first."""
        seen = set()
        places = self.named_modules(prefix) if recurse else [(prefix, self)]
        for path, module in places:
            for name, parameter in module._parameters.items():
                if hash(parameter) not in seen:
                    seen.add(hash(parameter))
                    yield (f"{path}.{name}" if path else name), parameter

    def parameters(self, recurse=True):
        return [parameter for _, parameter in self.named_parameters(recurse=recurse)]

    def named_buffers(self, prefix=""):
        for path, module in self.named_modules(prefix):
            for name, tensor in module._buffers.items():
                yield (f"{path}.{name}" if path else name), tensor

    def buffers(self):
        return [tensor for _, tensor in self.named_buffers()]

    # ---- state ----

    def initialize(self, seed, materialize=True):
        """Draws initial values for all parameters below, each from a stream keyed by `seed` and its
        full name. Call it on the root, once the tree is complete. Without `materialize`,
        parameters that have no memory yet only learn how they start: fully_shard() then draws each
        rank's part. Returns the module."""
        with initial_draws():
            self._reset(seed)
        if materialize:
            for parameter in self.parameters():
                core.materialize(parameter)
        return self

    def _reset(self, seed):
        for child in self._modules.values():
            child._reset(seed)
        self.reset_parameters(seed)

    def reset_parameters(self, seed):
        """Sets initial values with lockstep.nn.init, after the modules below have set theirs."""

    def state_dict(self):
        """The values of parameters and buffers by name, sharing their memory."""
        state = {name: parameter.detach() for name, parameter in self.named_parameters()}
        state.update(self.named_buffers())
        return state

    def load_state_dict(self, state, strict=True):
        """Copies values in. UsageError names what is missing, unexpected or of another shape, and
        nothing is copied. With strict=False, returns both lists of names."""
        own = dict(self.named_parameters())
        own.update(self.named_buffers())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        if strict and (missing or unexpected):
            raise UsageError(
                f"[load_state_dict] missing: {missing or 'none'}; "
                f"unexpected: {unexpected or 'none'}"
            )
        for name, tensor in own.items():
            if name not in state:
                continue
            if not isinstance(state[name], core.Tensor):
                raise UsageError(f"[load_state_dict] expected a tensor for '{name}'")
            if state[name].shape != tensor.shape:
                raise UsageError(
                    f"[load_state_dict] '{name}': expected the shape {tensor.shape}, "
                    f"got {state[name].shape}"
                )
        with no_grad():
            for name, tensor in own.items():
                if name in state:
                    if isinstance(tensor, core.Parameter):
                        core.materialize(tensor, False)
                    tensor.copy_(state[name])
        return missing, unexpected

    def train(self, mode=True):
        """Turns dropout on or off, in this module and below."""
        self.training = bool(mode)
        for child in self._modules.values():
            child.train(mode)
        return self

    def eval(self):
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self):
        for parameter in self.parameters():
            parameter.zero_grad()

    def apply(self, function):
        for child in self._modules.values():
            child.apply(function)
        function(self)
        return self

    def materialize_for_load(self):
        """Gives memory to parameters that have none, and are about to be filled."""
        for parameter in self.parameters():
            core.materialize(parameter, False)

    def weights_sha256(self):
        """The digest of all parameters, which `lockstep train` prints for the same values."""
        return core.weights_sha256([(p.name, p.detach()) for p in self.parameters()])

    def set_recompute(self, on=True):
        """Whether backward() runs forward() again instead of keeping its activations. The same
        bits, less memory, a second forward pass."""
        object.__setattr__(self, "_recompute", bool(on))
        return self

    # ---- calls ----

    def register_forward_pre_hook(self, hook):
        """hook(module, args) before forward(); may return other args."""
        self._pre_hooks.append(hook)
        return Handle(self._pre_hooks, hook)

    def register_forward_hook(self, hook):
        """hook(module, args, output) after forward(); may return another output."""
        self._hooks.append(hook)
        return Handle(self._hooks, hook)

    def __call__(self, *args, **kwargs):
        if self._node is None and not self._recompute:
            return self._run(args, kwargs)
        return self._run_watched(args, kwargs)

    def _run(self, args, kwargs):
        for hook in list(self._pre_hooks):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in list(self._hooks):
            changed = hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    # The library sees tensors alone: what else there is stays here.
    def _run_watched(self, args, kwargs):
        tensors, plan = flatten((args, kwargs))
        plans = []

        def forward(values):
            now_args, now_kwargs = rebuild(plan, values)
            outputs, output_plan = flatten(self._run(now_args, now_kwargs))
            plans.append(output_plan)
            return outputs

        def body(values):
            return core.recompute(values, forward) if self._recompute else forward(values)

        outputs = body(tensors) if self._node is None else self._node.run(tensors, body)
        return rebuild(plans[0], outputs)

    def extra_repr(self):
        return ""

    def __repr__(self):
        lines = [
            f"  ({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self._modules.items()
        ]
        head = f"{type(self).__name__}({self.extra_repr()}"
        return head + ("\n" + "\n".join(lines) + "\n" if lines else "") + ")"

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: pickle how to build it, and save its "
            "state with lockstep.checkpoint"
        )
