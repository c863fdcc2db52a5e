"""Computes with PyTorch what parity_test.cpp computes with lockstep.

reference.py operations|optimizers|gpt DIR: reads inputs from DIR as .npy files and writes the
results beside them.
"""
import math
import os
import sys

try:
    import torch
except ImportError:
    sys.exit(77)  # the test skips, loudly
import numpy as np
import torch.nn.functional as F


def load(folder, name):
    return torch.from_numpy(np.load(os.path.join(folder, name + ".npy")))


def save(folder, name, tensor):
    np.save(os.path.join(folder, name + ".npy"),
            np.ascontiguousarray(tensor.detach().float().numpy()))


def attention(qkv, heads, kv_heads=None):
    b, t, width = qkv.shape
    kv_heads = kv_heads or heads
    counts = [heads, kv_heads, kv_heads]
    parts = qkv.view(b, t, sum(counts), -1).transpose(1, 2).split(counts, 1)
    q, k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in parts)
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1)


def norm(x, w, b):
    return F.layer_norm(x, x.shape[-1:], w, b)


def rms(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


OPERATIONS = {
    "add": lambda a, b: a + b,
    "add_broadcast": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "scalars": lambda x: (x * 2.5 + 1.5) / 3.0,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "abs": torch.abs,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sum": torch.sum,
    "mean": torch.mean,
    "sum_axis": lambda x: x.sum(1),
    "mean_keepdim": lambda x: x.mean(0, keepdim=True),
    "max": lambda x: x.amax(2),
    "softmax": lambda x: x.softmax(-1),
    "softmax_axis": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "reshape_transpose": lambda x: x.reshape(2, -1).t().reshape(x.shape),
    "narrow_concat": lambda a, b: torch.cat([a[:, 1:3], b], 1),
    "matmul": torch.matmul,
    "matmul_transposed": lambda a, b: a.transpose(-2, -1) @ b.transpose(-2, -1),
    "matmul_batched": torch.matmul,
    "matmul_broadcast": torch.matmul,
    "linear": F.linear,
    "linear_no_bias": F.linear,
    "layer_norm": norm,
    "rms_norm": rms,
    "gelu_linear": lambda x, w, b: F.linear(F.gelu(x), w, b),
    "layer_norm_linear": lambda x, g, c, w, b: F.linear(norm(x, g, c), w, b),
    "rms_norm_linear": lambda x, g, w: F.linear(rms(x, g), w),
    "embedding": lambda ids, table: F.embedding(ids.long(), table),
    "attention": lambda qkv: attention(qkv, 3),
    "attention_long": lambda qkv: attention(qkv, 2),
    "attention_of_groups": lambda qkv: attention(qkv, 6, 2),
    "cross_entropy": lambda x, t: F.cross_entropy(x.reshape(-1, x.shape[-1]), t.long().reshape(-1)),
    "cross_entropy_ignored": lambda x, t: F.cross_entropy(x, t.long(), ignore_index=-1),
}


def operations(folder):
    for line in open(os.path.join(folder, "cases.txt")):
        name, count = line.split()
        inputs = [load(folder, f"{name}.{i}") for i in range(int(count))]
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
        y = OPERATIONS[name](*inputs)
        y.backward(load(folder, f"{name}.seed"))
        save(folder, f"{name}.out", y)
        for i, x in enumerate(inputs):
            if x.grad is not None:
                save(folder, f"{name}.grad.{i}", x.grad)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
}


def optimizers(folder):
    for name, make in OPTIMIZERS.items():
        parameters = [load(folder, f"value.{i}").requires_grad_() for i in range(2)]
        optimizer = make(parameters)
        for step in range(4):
            for i, p in enumerate(parameters):
                p.grad = load(folder, f"gradient.{step}.{i}")
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        save(folder, f"{name}.norm", norm.reshape(1))
        for i, p in enumerate(parameters):
            save(folder, f"{name}.{i}", p)


def gpt(folder):
    layers, heads = 2, 3
    names = [line.strip() for line in open(os.path.join(folder, "names.txt"))]
    p = {name: load(folder, "start." + name).requires_grad_() for name in names}
    tokens, targets = load(folder, "tokens").long(), load(folder, "targets").long()

    def linear(x, name):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    def ln(x, name):
        return norm(x, p[name + ".weight"], p[name + ".bias"])

    def loss():
        x = p["wte.weight"][tokens] + p["wpe.weight"][: tokens.shape[1]]
        for i in range(layers):
            b = f"blocks.{i}."
            x = x + linear(attention(linear(ln(x, b + "ln1"), b + "qkv"), heads), b + "proj")
            x = x + linear(F.gelu(linear(ln(x, b + "ln2"), b + "fc")), b + "out")
        logits = ln(x, "lnf") @ p["wte.weight"].T
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    matrices = [p[n] for n in names if p[n].dim() >= 2]
    vectors = [p[n] for n in names if p[n].dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": vectors, "weight_decay": 0.0}],
                                  lr=1e-2, betas=(0.9, 0.95), eps=1e-4)
    losses = []
    for step in range(3):
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        losses.append(value.detach())
        if step == 0:
            for name in names:
                save(folder, "grad." + name, p[name].grad)
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        optimizer.step()
    save(folder, "losses", torch.stack(losses))
    for name in names:
        save(folder, "end." + name, p[name])


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"operations": operations, "optimizers": optimizers, "gpt": gpt}[sys.argv[1]](sys.argv[2])
