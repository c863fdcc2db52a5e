#!/usr/bin/env bash
# Wrong use: exit code 2, a message that names what is wrong, and nothing written over.
source "$(dirname "$0")/lib.sh"
make_text

# refuses CODE "TEXT|TEXT…" ARGS…
refuses() {
  local code=$1 texts=$2; shift 2
  local got=0
  timeout $((60 * patience)) "$lockstep" "$@" > out 2> err || got=$?
  [ "$got" = "$code" ] || fail "lockstep $* exited with $got, expected $code: $(tail -n 5 out err)"
  cat out err > said
  local text; while IFS= read -r text; do contains said "$text"; done < <(tr '|' '\n' <<< "$texts")
}
small=$here/small.yaml
printf 'train:\n  stesp: 5\n' > unknown.yaml
refuses 2 "unknown.yaml:2|stesp|steps" train unknown.yaml
printf 'train: {steps: 5}\ntrain: {steps: 6}\n' > dup.yaml
refuses 2 "dup.yaml:2|train" train dup.yaml
printf 'train: {steps: many}\n' > type.yaml
refuses 2 "type.yaml:1|steps|many" train type.yaml
refuses 2 "micro_batch|global_batch" train "$small" --set train.micro_batch=3
refuses 2 "9|8" train "$small" -n 9
refuses 2 "error: --ranks: expected a whole number from 1 to 1024, got '0'|--help" train "$small" \
  -n 0
refuses 2 "blocks.0.qvk|parallel.wrap" train "$small" -n 2 --set run.name=wrap \
  --set parallel.strategy=fsdp --set parallel.wrap=blocks.0.qvk
refuses 2 "nowhere.txt" train "$small" --set data.path=nowhere.txt
refuses 2 "nowhere.yaml" train nowhere.yaml
refuses 2 "train.stesp" train "$small" --set train.stesp=1
refuses 2 "unknown command 'nonsense'|train, run, generate" nonsense
refuses 2 "unknown command 'vrify'|ls, verify, diff" checkpoint vrify runs
refuses 2 "no such folder" generate nowhere --prompt x
mkdir empty; refuses 1 "no checkpoints in empty: expected a run's folder" checkpoint verify empty
mkdir -p fresh/checkpoints; refuses 1 "no checkpoints in fresh yet" checkpoint ls fresh
refuses 2 "mpirun" train "$small" -n 2 --set parallel.backend=mpi
LOCKSTEP_ISA=avx1024 refuses 2 "LOCKSTEP_ISA|avx512_bf16|avx1024" train "$small" -n 1 \
  --set run.name=isa
LOCKSTEP_ISA=avx1024 refuses 2 "LOCKSTEP_ISA|avx512_bf16|avx1024" --version
LOCKSTEP_LOG_LEVEL=loud refuses 2 "LOCKSTEP_LOG_LEVEL|debug, info, warn or error|'loud'" train \
  "$small" --set run.name=loud
for name in TORCHELASTIC_RESTART_COUNT GROUP_RANK LOCKSTEP_EPOCH; do
  export "$name=x" LOCKSTEP_STORE=127.0.0.1:1
  refuses 2 "environment variable $name must be a number, got 'x'" train "$small" \
    --set run.name=agent
  unset "$name" LOCKSTEP_STORE
done

refuses 2 "--steps|1073741824" bench step --config "$small" --steps 99999999999999999999
refuses 2 "--warmup" bench step --config "$small" --warmup -1
refuses 2 "--backend|shm" bench comm --backend nonsense
refuses 2 "nowhere|is not a folder" bench checkpoint --dir nowhere
[ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -gt 1000000000 ] ||
  refuses 2 "--mb 1048576 takes 2.1 TB of this host's memory, and |are available" bench checkpoint \
  -n 2 --mb 1048576
refuses 2 "--seed: expected a whole number of at least 0, got '-1'" generate nowhere --prompt x \
  --seed -1
refuses 2 "--seed|got '99999999999999999999'" generate nowhere --prompt x \
  --seed 99999999999999999999
for wrong in -1 inf 1e400 warm; do
  refuses 2 "--temperature: expected a number of at least 0, got '$wrong'" generate nowhere \
    --prompt x --temperature "$wrong"
done
refuses 2 "--show: expected a whole number of at least 0, got '-1'" checkpoint diff nowhere \
  nowhere --show -1

# An empty value, such as an unset variable of a script, is an error and not the default.
while read -r option words; do
  # shellcheck disable=SC2086 # words are several
  refuses 2 "$option: expected a value, got nothing" $words "$option" ''
done << 'END'
--ids eval nowhere
--logits eval nowhere --ids 1
--set eval nowhere
--skip checkpoint diff nowhere nowhere
--max-shard-size checkpoint export nowhere out
--config checkpoint import nowhere out
--dir bench checkpoint
--rdzv-id run --nnodes 2
--log-dir run
--master-addr run --nnodes 2
END
for words in "eval" "train" "checkpoint ls" "checkpoint export nowhere"; do
  # shellcheck disable=SC2086
  refuses 2 ": expected a value, got nothing" $words ''
done
said=$("$lockstep" run --rdzv-endpoint '' --rdzv-conf '' -- bash -c 'printf "[%s]" "$1"' bash '')
[ "$said" = "[rank 0] []" ] ||
  fail "an empty word of the program, or of an option that is empty by default"
refuses 2 "--nnodes 2 needs --rdzv-id NAME" run --nnodes 2 --rdzv-endpoint 127.0.0.1:1 -- true
refuses 2 "--master-addr '127.0.0.1:80': expected a host name or an address without a port" run \
  --master-addr 127.0.0.1:80 -- true
refuses 2 "--master-port 65535|at most 65534" run --nnodes 2 --rdzv-id x --master-addr ::1 \
  --master-port 65535 -- true
! grep -q ' lo$' /proc/net/if_inet6 2> /dev/null ||  # a machine without IPv6
  refuses 1 "2 nodes; 1 of 2 joined" run --nnodes 2 --rdzv-id x --master-addr ::1 \
    --master-port "$(free_port)" --join-timeout 0.1 -- true
refuses 2 "node rank -5" run --node-rank -5 -- true
refuses 2 "master port|65536" run --master-port 65536 -- true
refuses 2 "lease" run --rdzv-conf lease=0 -- true

# A device that is not there is an error before any rank starts.
for words in "train $small --set run.name=device" "train $small --set run.name=device -n 2" \
  "bench step --config $small"; do
  # shellcheck disable=SC2086
  LOCKSTEP_SIM_DEVICES=0 refuses 2 "device is 'cuda', but |. Set device to cpu or auto" $words \
    --set device=cuda
  [ "$(wc -l < said)" = 1 ] || fail "known before any rank starts, and said once: $(cat said)"
done
refuses 2 "key 'device': 'gpu' is not one of auto | cpu | cuda" train "$small" --set device=gpu

# A wrong number of threads is an error. `doctor` says so too, and still looks at the rest.
OMP_NUM_THREADS=0 refuses 2 "OMP_NUM_THREADS|from 1|got '0'" train "$small" -n 1 \
  --set run.name=threads
OMP_NUM_THREADS=two refuses 1 "OMP_NUM_THREADS|got 'two'|open files|host name" doctor

# Contradictions with other launchers.
RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=99999 refuses 2 \
  "MASTER_PORT must be from 1 to 65535, got '99999'" train "$small"
PMI_RANK=1 PMI_SIZE=2 refuses 2 "rank 1 of 2 (MPICH or Intel MPI) has no store|set MASTER_ADDR" \
  train "$small"
PMIX_RANK=1 refuses 2 "a PMIx launcher started this process|set RANK and WORLD_SIZE" train "$small"
refuses 2 "-n 2 contradicts the launcher (RANK/WORLD_SIZE), which started 1 ranks" run -n 1 -- \
  "$lockstep" train "$small" -n 2
FLUX_TASK_RANK=0 FLUX_JOB_SIZE=3 refuses 2 \
  "-n 2 contradicts the launcher (Flux), which started 3 ranks" train "$small" -n 2

# A finished run is not overwritten.
train done -n 1; before=$(find runs/done -type f -exec sha256sum {} + | sort)
refuses 2 "runs/done|--resume auto" train "$small" --set run.name=done
refuses 2 "runs/done|--resume auto" train "$small" --set run.name=done -n 2
[ "$before" = "$(find runs/done -type f -exec sha256sum {} + | sort)" ] ||
  fail "a refused run changed files"

# A world of one process is no launcher. Kubernetes sets this in a pod.
RANK=0 WORLD_SIZE=1 train pod -n 2 || fail "a pod: $(tail -n 3 pod.err)"
same_weights done pod

# Resuming a finished run says that there is nothing to do.
refuses 0 "steps are done: raise train.steps" train "$small" --set run.name=done --resume auto

refuses 2 "temperature" generate runs/done --prompt x --temperature nan
refuses 2 "nothing was compared: --skip leaves out every tensor" checkpoint diff runs/done \
  runs/pod --skip b --skip l --skip o --skip w
refuses 2 "blocks.1|which this model lacks" train "$small" --set run.name=new --set model.layers=1 \
  --resume runs/done
# An error of all ranks is one sentence. Each rank says it, and the report has it as the reason and
# in the last lines.
refuses 2 "all 3 ranks: [checkpoint] 'wte.weight' is f32[256, 32]" train "$small" \
  --set run.name=new --set model.dim=48 --resume runs/done -n 3
[ "$(grep -o "'wte.weight' is" said | wc -l)" -le 5 ] ||
  fail "expected one sentence 5 times at most: $(cat said)"

# A file that the manifest does not name is no damage, but is reported.
shard=$(ls runs/done/checkpoints/step-*/*.safetensors | tail -n 1)
touch "$(dirname "$shard")/stray.txt"
refuses 0 "every byte verified|note: not verified, as its manifest does not name it: 'stray.txt'" \
  checkpoint verify runs/done
rm "$(dirname "$shard")/stray.txt"

# The message about a damaged checkpoint names the file.
printf 'x' | dd of="$shard" bs=1 seek=3000 conv=notrunc status=none
refuses 1 "$(basename "$shard")" checkpoint verify runs/done
refuses 1 "$(basename "$shard")" train "$small" --set run.name=done --resume "$(dirname "$shard")"
truncate -s 3000 "$shard"
refuses 1 "$(basename "$shard")" checkpoint verify runs/done
! grep -qE ' 0 B ' said || fail "a damaged checkpoint has a size: $(cat said)"
refuses 2 "no such folder: nowhere" train "$small" --set run.name=new --resume nowhere
refuses 2 "resume|got nothing" train "$small" --set run.name=new --resume ""
refuses 2 "error: no such folder: nowhere" train "$small" --set run.name=new --resume nowhere -n 2
[ "$(wc -l < said)" = 1 ] || fail "known before any rank starts, and said once: $(cat said)"
# Wrong use costs no restart: it would fail again.
refuses 2 "'wte.weight' is f32[256, 32]" train "$small" --set run.name=new --set model.dim=48 \
  --resume runs/done -n 2 --max-restarts 3
! grep -q "starting all ranks again" said ||
  fail "started again, as if that could help: $(cat said)"

# Ranks compare every key that matters. The message names the difference.
refuses 2 "train.steps" run -n 2 -- bash -c \
  "exec '$lockstep' train '$small' --set run.name=differ --set train.steps=\$((60 + RANK))"
[ ! -e runs/differ/metrics.jsonl ] || fail "ranks with different configs began to train"
