"""The usual layers. Initial values are those of the C++ library, bit for bit."""

from .. import core
from ..errors import UsageError
from . import functional as F
from . import init
from .module import Module


def _width(layer, **sizes):
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
            raise UsageError(f"[{layer}] expected {name} above 0, got {size!r}")


class Linear(Module):
    """x [..., in_features] to x weight^T + bias [..., out_features].

    weight: [out, in]. bias: [out], or None. Both start uniform within 1/sqrt(in)."""

    def __init__(self, in_features, out_features, bias=True, device="cpu"):
        super().__init__()
        _width("Linear", in_features=in_features, out_features=out_features)
        self.weight = core.empty_parameter((out_features, in_features), device)
        self.bias = core.empty_parameter((out_features,), device) if bias else None

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)

    def reset_parameters(self, seed):
        bound = core.uniform_bound(self.weight.shape[1])
        if "weight" in self._owned:
            init.uniform_(self.weight, -bound, bound, seed)
        if self.bias is not None and "bias" in self._owned:
            init.uniform_(self.bias, -bound, bound, seed)

    def extra_repr(self):
        out_features, in_features = self.weight.shape
        bias = self.bias is not None
        return f"in_features={in_features}, out_features={out_features}, bias={bias}"


class Embedding(Module):
    """ids [...] (int32, int64 or uint8) to rows of weight [num_embeddings, embedding_dim]: [...,
    embedding_dim]. Starts normal(0, 1)."""

    def __init__(self, num_embeddings, embedding_dim, device="cpu"):
        super().__init__()
        _width("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = core.empty_parameter((num_embeddings, embedding_dim), device)

    def forward(self, ids):
        return F.embedding(ids, self.weight)

    def reset_parameters(self, seed):
        if "weight" in self._owned:
            init.normal_(self.weight, 0.0, 1.0, seed)

    def extra_repr(self):
        return "num_embeddings={}, embedding_dim={}".format(*self.weight.shape)


class LayerNorm(Module):
    """Over the last dimension, of `width`. weight starts at 1, bias at 0."""

    def __init__(self, width, eps=1e-5, device="cpu"):
        super().__init__()
        _width("LayerNorm", width=width)
        self.eps = eps
        self.weight = core.empty_parameter((width,), device)
        self.bias = core.empty_parameter((width,), device)

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, self.eps)

    def reset_parameters(self, seed):
        init.ones_(self.weight)
        init.zeros_(self.bias)

    def extra_repr(self):
        return f"{self.weight.shape[0]}, eps={self.eps}"


class RMSNorm(Module):
    """Over the last dimension, of `width`. weight starts at 1."""

    def __init__(self, width, eps=1e-6, device="cpu"):
        super().__init__()
        _width("RMSNorm", width=width)
        self.eps = eps
        self.weight = core.empty_parameter((width,), device)

    def forward(self, x):
        return F.rms_norm(x, self.weight, self.eps)

    def reset_parameters(self, seed):
        init.ones_(self.weight)

    def extra_repr(self):
        return f"{self.weight.shape[0]}, eps={self.eps}"


class Dropout(Module):
    """In training, zeroes elements with probability p and scales the rest by 1/(1-p).

    lockstep.random_scope and the module's path name its mask, so the module must belong to a model,
    and a module that is called twice in a micro-batch draws one mask twice."""

    def __init__(self, p=0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(f"[Dropout] expected a probability within [0, 1), got {p}")
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        return core.dropout(x, self.p, self.path, id(self))

    def extra_repr(self):
        return f"p={self.p}"


class GELU(Module):
    """x * Phi(x), by erf, or by tanh with approximate='tanh'."""

    def __init__(self, approximate="none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise UsageError(f"[GELU] expected approximate 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, self.approximate)


class ReLU(Module):
    def forward(self, x):
        return x.relu()


class SiLU(Module):
    def forward(self, x):
        return x.silu()


class Tanh(Module):
    def forward(self, x):
        return x.tanh()


class Sigmoid(Module):
    def forward(self, x):
        return x.sigmoid()


class CausalSelfAttention(Module):
    """x [B, T, width] to [B, T, width]: one projection to queries, keys and values, causal
    attention of `heads` heads, and a projection of the result."""

    def __init__(self, width, heads):
        super().__init__()
        _width("CausalSelfAttention", width=width, heads=heads)
        if width % heads:
            raise UsageError(f"[CausalSelfAttention] {heads} heads do not divide {width}")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x):
        return self.proj(F.causal_attention(self.qkv(x), self.heads))


class Sequential(Module):
    """Runs modules one after another. They are named "0", "1", and so on. Each takes what the one
    before it returned; a tuple becomes several arguments."""

    def __init__(self, *modules):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module):
        self.add_module(str(len(self)), module)
        return self

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        return list(self._modules.values())[index]

    def __iter__(self):
        return self.children()

    def forward(self, *values):
        for module in self._modules.values():
            result = module(*values)
            values = result if isinstance(result, tuple) else (result,)
        return values[0] if len(values) == 1 else values


class ModuleList(Module):
    """A list of modules that belong to the tree. They are named "0", "1", and so on."""

    def __init__(self, modules=()):
        super().__init__()
        self.extend(modules)

    def append(self, module):
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules):
        for module in modules:
            self.append(module)
        return self

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        return list(self._modules.values())[index]

    def __iter__(self):
        return self.children()
