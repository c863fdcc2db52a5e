"""The built-in models of `lockstep train`, written in Python, and its loop."""

import lockstep
from lockstep import data, nn, optim
from lockstep.nn import functional as F


class Mlp(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        pairs = zip(widths, widths[1:])
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairs))

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else F.gelu(x))
        return x


class Block(nn.Module):
    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.ln2 = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.out = nn.Linear(4 * dim, dim)
        self.drop1 = nn.Dropout(dropout)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x):
        attended = F.causal_attention(self.qkv(self.ln1(x)), self.heads)
        x = x + self.drop1(self.proj(attended))
        return x + self.drop2(self.out(self.act(self.fc(self.ln2(x)))))


class Gpt(nn.Module):
    def __init__(self, layers, heads, dim, block, vocab, dropout):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.wpe = nn.Embedding(block, dim)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dim, heads, dropout) for _ in range(layers)))
        self.lnf = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens):
        places = lockstep.arange(tokens.shape[1], dtype=lockstep.int32)
        x = self.drop(self.wte(tokens) + self.wpe(places))
        return self.head(self.lnf(self.blocks(x)))

    def reset_parameters(self, seed):
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02, seed)
            elif parameter.name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)


MODELS = {
    "tiny_mlp": dict(
        model=lambda: Mlp(8, 32, 4),
        micro_batches=8,
        seed=1337,
        max_norm=1.0,
        optimizer=lambda params: optim.SGD(params, lr=0.1, momentum=0.9, decay="matrices"),
    ),
    "tiny_gpt": dict(
        model=lambda: Gpt(layers=2, heads=2, dim=16, block=16, vocab=256, dropout=0.1),
        micro_batches=8,
        seed=1337,
        max_norm=1.0,
        optimizer=lambda params: optim.AdamW(params, lr=1e-3, decay="matrices"),
    ),
}


def train(name, config, wrap, steps, overrides=()):
    """The loop of `lockstep train`: returns the wrapped model and its optimizer."""
    spec = MODELS[name]
    batches = data.Data(config, list(overrides))
    model = wrap(spec["model"]().initialize(spec["seed"], materialize=False), spec)
    optimizer = spec["optimizer"](model.parameters())
    for step in range(1, steps + 1):
        for micro in model.leaves():
            with lockstep.random_scope(spec["seed"], step, micro):
                inputs, targets = batches.get(step, micro)
                model.backward(F.cross_entropy(model(inputs), targets))
        model.finish()
        optimizer.step(grad_scale=optim.clip_scale(model.grad_norm(), spec["max_norm"]))
        optimizer.zero_grad()
    return model, optimizer
