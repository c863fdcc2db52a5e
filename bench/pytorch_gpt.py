"""The model of configs/bench_gpt.yaml in PyTorch. scripts/compare_pytorch compares it with ours.

Prints one JSON line: step_ms (median), tokens_per_s of all ranks, peak_mem_mb of rank 0. For
several ranks, start a process for each, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
DistributedDataParallel averages the gradients over Gloo. With --fsdp, FSDP2 shards the model
(PyTorch 2.6 or newer).

--device cuda computes on one GPU, with AdamW's fused kernels: scripts/gpu_check compares it with
configs/gpt2_124m.yaml. --compile compiles the model first; first_step_s tells how long the first
step took, compilation included.
"""
import argparse
import json
import os
import resource
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, time_, dim = x.shape
        q, k, v = (t.view(batch, time_, self.heads, -1).transpose(1, 2)
                   for t in self.qkv(x).chunk(3, dim=2))
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:  # PyTorch 1.13
            scores = (q @ k.transpose(2, 3)) * (dim // self.heads) ** -0.5
            y = scores.masked_fill(torch.ones(time_, time_, dtype=torch.bool).triu(1),
                                   float("-inf")).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, time_, dim))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim)
        self.fc, self.out = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class Gpt(nn.Module):
    def __init__(self, layers, heads, dim, block, vocab):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, dim), nn.Embedding(block, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.lnf = nn.LayerNorm(dim)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, ids, targets):
        x = self.blocks(self.wte(ids) + self.wpe.weight[: ids.shape[1]])
        logits = F.linear(self.lnf(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def shard(model):
    """FSDP2, one unit a block. bf16 is autocast, as for DDP: MixedPrecisionPolicy needs an
    all_gather of bf16, which Gloo lacks."""
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for module in [*model.blocks, model]:
        fully_shard(module, mesh=mesh)
    return model


def parse():
    parser = argparse.ArgumentParser()
    for name, default in dict(layers=6, heads=6, dim=384, block=256, vocab=256, batch=4,
                              steps=12, warmup=3, threads=1).items():
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--fsdp", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    a = parse()
    torch.set_num_threads(a.threads)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and a.device == "cuda":
        raise SystemExit("--device cuda takes one rank")
    begin = time.perf_counter()
    model = net = Gpt(a.layers, a.heads, a.dim, a.block, a.vocab).to(a.device)
    if world > 1:
        dist.init_process_group("gloo")
        net = shard(model) if a.fsdp else nn.parallel.DistributedDataParallel(model)
    if a.compile:
        net = torch.compile(net)
    fused = {"fused": True} if a.device == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                  **fused)
    times = []
    for step in range(a.warmup + a.steps):
        ids = torch.randint(a.vocab, (a.batch, a.block + 1)).to(a.device)
        synchronize(a.device)
        start = time.perf_counter()
        with torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.bf16):
            loss = net(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronize(a.device)
        times.append(time.perf_counter() - start)
        if step == 0:
            first = time.perf_counter() - begin
    if int(os.environ.get("RANK", "0")) == 0:
        step = statistics.median(times[a.warmup :])
        print(json.dumps({"torch": torch.__version__, "ranks": world, "bf16": a.bf16,
                          "fsdp": a.fsdp, "compiled": a.compile, "device": a.device,
                          "step_ms": round(step * 1e3, 1),
                          "tokens_per_s": round(world * a.batch * a.block / step),
                          "peak_mem_mb": round(peak_bytes(a.device) / 1e6),
                          "first_step_s": round(first, 1)}))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
