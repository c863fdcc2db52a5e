"""Times PyTorch's distributed checkpoint (DCP), as `lockstep bench checkpoint` times ours.

This is one rank; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say which. Rank 0 prints one JSON
line: medians over the repetitions, each until the last rank is done. Both programs save the same
state: f32 tensors of 16 MB, and each rank holds its shard of every one.
"""
import argparse, json, os, shutil, statistics, time
import torch, torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

p = argparse.ArgumentParser()
p.add_argument("--mb", type=int, default=128)
p.add_argument("--repetitions", type=int, default=5)
p.add_argument("--dir", required=True)
a = p.parse_args()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (world,))


def state(fill):
    made = {}
    for i in range(max(1, a.mb // 16)):
        whole = torch.arange(4_000_000, dtype=torch.float32) + i if fill else torch.zeros(4_000_000)
        made[f"state.{i}"] = distribute_tensor(whole, mesh, [Shard(0)])
    return made


def timed(body):
    times = []
    for i in range(a.repetitions):
        os.sync()
        dist.barrier()
        begin = time.perf_counter()
        body(i)
        dist.barrier()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def folder(i):
    return os.path.join(a.dir, f"dcp-{i}")


def save(i):
    dcp.save(full, checkpoint_id=folder(i))


def save_async(i):
    pending.append(dcp.async_save(full, checkpoint_id=folder(i)))


full = state(True)
out = {"torch": torch.__version__, "ranks": world,
       "mb": sum(t.numel() * 4 for t in full.values()) / 1e6}
out["save_s"] = timed(save)
into = state(False)
out["load_s"] = timed(lambda i: dcp.load(into, checkpoint_id=folder(0)))
assert all(torch.equal(into[k].to_local(), full[k].to_local()) for k in full)
pending = []
stalls = []
for i in range(a.repetitions):
    dist.barrier()
    begin = time.perf_counter()
    try:
        save_async(100 + i)
    except Exception as e:  # needs a CPU process group of its own in some versions
        out["async"] = str(e).splitlines()[0]
        break
    stalls.append(time.perf_counter() - begin)
    pending.pop().result()
if stalls:
    out["stall_s"] = statistics.median(stalls)
dist.barrier()
if rank == 0:
    shutil.rmtree(a.dir)
    print(json.dumps(out), flush=True)
dist.destroy_process_group()
