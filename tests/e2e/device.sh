#!/usr/bin/env bash
# Runs on a CUDA device: the same bits for any number of ranks and devices, close to those of a CPU,
# and the same checkpoints. The device is a simulated one.
source "$(dirname "$0")/lib.sh"
"$lockstep" --version | grep -q 'CUDA simulated' ||
  skip "this build has no simulated device (LOCKSTEP_CUDA=SIM)"
make_text
# A simulated device is slow.
short=(--set train.steps=6 --set train.eval_every=3 --set train.eval_batches=3
  --set checkpoint.every=3 --set optim.schedule.kind=constant --set optim.schedule.warmup=2
  --set train.global_batch=8 --set model.layers=1 --set model.dim=16 --set model.block=8)
on_device() {
  train "$1" "${short[@]}" --set device=cuda "${@:2}" || fail "$1: $(cat "$1.err")"
}
losses() { sed -E 's/.*"step":([0-9]+),"loss":([^,]*),.*/\1 \2/' "runs/$1/metrics.jsonl"; }
# close A B: whether two texts hold the same numbers but for the last digits.
close() {
  python3 - "$1" "$2" << 'END'
import math, sys
a, b = ([float(word) for word in text.split()] for text in sys.argv[1:])
same = all(math.isclose(x, y, rel_tol=1e-4) for x, y in zip(a, b))
assert len(a) == len(b) > 0 and same, (a, b)
END
}

train cpu "${short[@]}" || fail "$(cat cpu.err)"
contains cpu.out ", on cpu ("
on_device one
contains one.out "fp32, on 1 x simulated GPU"
close "$(losses cpu)" "$(losses one)" || fail "the losses on a device are not those of the CPU"
contains runs/one/config.yaml "device: cuda"
contains runs/cpu/config.yaml "device: cpu"
contains runs/one/metrics.jsonl '"mfu":null'
contains runs/one/metrics.jsonl '"memory_mb":{"parameters":'
! grep -q memory_mb runs/cpu/metrics.jsonl || fail "a CPU has no memory by category in its metrics"
contains runs/one/checkpoints/step-00000006/manifest.json '"devices": "1 x simulated GPU"'
contains runs/one/checkpoints/step-00000006/manifest.json '"cuda": "simulated"'
contains runs/one/checkpoints/step-00000006/manifest.json '"algorithms": "product of f32'

# The order in which queues run does not matter, nor do ranks and devices.
for seed in 2 3; do LOCKSTEP_SIM_SEED=$seed on_device seed$seed; same_weights one seed$seed; done
# Nor does whether a step is recorded.
on_device queued --set train.capture=off; same_weights one queued
! grep -q train.capture one.out queued.out || fail "it says: $(cat one.out queued.out)"
on_device two -n 2; same_weights one two
contains two.out "train.capture: each step is queued anew, because of several ranks, whose"
contains two.out "on 1 x simulated GPU, shared by 2 ranks"
LOCKSTEP_SIM_DEVICES=2 on_device four -n 4; same_weights one four
contains four.out "on 2 x simulated GPU, shared by 4 ranks"
on_device sharded -n 2 --set parallel.strategy=fsdp; same_weights one sharded
on_device again -n 2 --set train.recompute=blocks; same_weights one again
diff <(losses one) <(losses four) || fail "losses of 1 and 4 ranks differ"
on_device half --set train.precision=bf16
on_device half2 -n 2 --set train.precision=bf16; same_weights half half2

# Ranks that have a device each use NCCL, and others say why they do not.
contains two.err "goes through pinned memory: [nccl] ranks 0 and 1 share the card simulated-0"
for name in nccl nccl_fsdp nccl_seed; do
  more=()
  [ $name = nccl_fsdp ] && more=(--set parallel.strategy=fsdp)
  [ $name = nccl_seed ] && export LOCKSTEP_SIM_SEED=5
  LOCKSTEP_SIM_DEVICES=4 on_device $name -n 4 "${more[@]}"
  unset LOCKSTEP_SIM_SEED
  same_weights one $name
  contains $name.out ", nccl, reduction tree"
  contains $name.out "on 4 x simulated GPU"
done
LOCKSTEP_SIM_DEVICES=2 on_device fast -n 2 --set parallel.backend=nccl \
  --set parallel.reduction=fast
close "$(losses one)" "$(losses fast)" || fail "the losses with NCCL's own sums are others"
train crowded "${short[@]}" -n 2 --set device=cuda --set parallel.backend=nccl && fail "NCCL shares"
contains crowded.err "share the card simulated-0, which NCCL does not allow"
train nccl_cpu "${short[@]}" -n 2 --set device=cpu --set parallel.backend=nccl && fail "on CPUs"
contains nccl_cpu.err "parallel.backend nccl is for CUDA devices"

on_device fp16 --set train.precision=fp16
on_device fp16b -n 2 --set train.precision=fp16; same_weights fp16 fp16b
on_device fp16c -n 2 --set train.precision=fp16 --set parallel.strategy=fsdp
same_weights fp16 fp16c
on_device fp16d --set train.precision=fp16 --set train.steps=3
on_device fp16d --set train.precision=fp16 --resume auto -n 2; same_weights fp16 fp16d
! train fp16e "${short[@]}" --set train.precision=fp16 --set device=cpu || fail "a CPU has no fp16"
contains fp16e.err "train.precision fp16 is for CUDA devices"
"$lockstep" eval runs/fp16 --set device=cpu --json > fp16_eval.out 2> fp16_eval.err ||
  fail "$(cat fp16_eval.err)"
contains fp16_eval.err "it runs in fp32"
"$lockstep" generate runs/fp16 --prompt one --tokens 2 --device cpu > fp16.txt 2> fp16.err ||
  fail "$(cat fp16.err)"
! train fp16d "${short[@]}" --set device=cuda --set train.precision=bf16 --set train.steps=9 \
  --resume auto || fail "a run of fp16 goes on in bf16"
contains fp16d.err "resume with train.precision fp16"

# A run continues where it stopped, also on the other kind of device.
on_device part --set train.steps=3; on_device part --resume auto -n 2; same_weights one part
! grep -q warning part.err || fail "nothing differs, but it says: $(cat part.err)"
on_device moved --set train.steps=3
train moved "${short[@]}" --set device=cpu --resume auto || fail "$(cat moved.err)"
contains moved.err "resuming with device = cpu instead of cuda"
train back "${short[@]}" --set train.steps=3 || fail "$(cat back.err)"
on_device back --resume auto
contains back.err "resuming with device = cuda instead of cpu"
for name in moved back; do
  close "$(losses cpu)" "$(losses $name)" || fail "the losses of $name are not those of the CPU"
done
on_device replicas -n 2 --set checkpoint.replica_every=2 --max-restarts 1
same_weights one replicas
on_device async --set checkpoint.async=true; same_weights one async

# What a saved model computes.
"$lockstep" eval runs/one --json > eval.out
value() { sed -E "s/.*\"$1\":([^,}]*).*/\1/"; }
[ "$(value loss < eval.out)" = "$(tail -n 1 runs/one/metrics.jsonl | value val_loss)" ] ||
  fail "eval differs from val_loss: $(cat eval.out)"
"$lockstep" eval runs/one --set device=cpu --json > eval_cpu.out
close "$(value loss < eval.out)" "$(value loss < eval_cpu.out)" ||
  fail "$(cat eval.out eval_cpu.out)"
"$lockstep" eval runs/cpu --set device=cuda --ids 1,2,3 --logits logits.json > eval.out ||
  fail "$(cat eval.out)"
for device in cpu cuda; do
  "$lockstep" generate runs/one --prompt one --tokens 8 --temperature 0 --device $device \
    > $device.txt
done
diff cpu.txt cuda.txt || fail "the likeliest text differs"
LOCKSTEP_SIM_DEVICES=0 "$lockstep" generate runs/one --prompt one --tokens 2 > none.txt 2> none.err
contains none.err "trained on a CUDA device, but this process has none"
"$lockstep" checkpoint verify runs/one > verify.out || fail "$(cat verify.out)"

# Other commands.
"$lockstep" bench step --config "$here/small.yaml" "${short[@]}" --steps 2 --warmup 1 \
  --set device=cuda --json > bench.out || fail "$(cat bench.out)"
contains bench.out '"devices":"1 x simulated GPU"'
contains bench.out '"mfu":null'
[ "$(value pinned_mb < bench.out)" != 0.0 ] || fail "no pinned memory: $(cat bench.out)"
"$lockstep" plan "$here/small.yaml" "${short[@]}" --set device=cuda -n 2 > plan.out ||
  fail "$(cat plan.out)"
contains plan.out "device         cuda"
LOCKSTEP_SIM_DEVICES=2 "$lockstep" doctor > doctor.out || true
contains doctor.out "cuda:1: simulated GPU, compute capability 9.0, 16.4 GB"
contains doctor.out "NCCL: 2.28.9 (simulated)"

# Wrong use.
code=0
timeout 60 "$lockstep" run -n 2 -- bash -c "exec '$lockstep' train '$here/small.yaml' \
  --set run.name=mixed --set device=\$([ \$RANK = 0 ] && echo cuda || echo cpu)" > mixed.out \
  2> mixed.err || code=$?
[ $code = 2 ] || fail "ranks on different devices end with 2, got $code: $(cat mixed.err)"
contains mixed.err ": set device to cpu or cuda for all ranks"
if command -v mpirun > /dev/null; then
  mpirun_or_skip
  mpi_of() { echo -np 1 "$lockstep" train "$here/small.yaml" --set run.name=mpi --set device=$1; }
  # shellcheck disable=SC2046
  ! timeout 60 "${mpi[@]}" $(mpi_of cuda) : $(mpi_of cpu) > mpi.out 2> mpi.err ||
    fail "mpirun takes ranks on different devices"
  contains mpi.err "creates 'world/host', but rank"
fi
train offload "${short[@]}" --set device=cuda --set parallel.offload=true && fail "it offloads"
contains offload.err "parallel.offload keeps state in files, which a CUDA device cannot read"
! "$lockstep" eval runs/one --ids 1,999 > ids.out 2>&1 || fail "a model knows token 999"
contains ids.out "token 999 is outside of the vocabulary of 256"
LOCKSTEP_SIM_MEMORY_MB=1 train full "${short[@]}" --set device=cuda && fail "1 MB is enough"
contains full.err "cuda:0"
