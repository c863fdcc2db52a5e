#!/usr/bin/env bash
# Text from a checkpoint is repeatable by seed. Checkpoints can be listed and verified. bench, plan
# and config print what they promise.
source "$(dirname "$0")/lib.sh"
make_text
train text -n 2 --set train.steps=150 --set optim.lr=0.01
"$lockstep" generate runs/text --prompt "12 bottles" --tokens 40 --seed 3 > a
"$lockstep" generate runs/text --prompt "12 bottles" --tokens 40 --seed 3 > b
"$lockstep" generate runs/text --prompt "12 bottles" --tokens 40 --seed 4 > c
cmp a b || fail "equal seeds gave different text"
! cmp -s a c || fail "the seed made no difference"
[ "$(wc -c < a)" = 51 ] ||
  fail "expected the prompt, 40 characters and a line feed, got $(wc -c < a) bytes"
"$lockstep" checkpoint ls runs/text | grep -q step-00000150 ||
  fail "ls does not show the last checkpoint"
"$lockstep" checkpoint verify runs/text | grep -q "every byte verified" || fail "verify"

"$lockstep" bench step --config "$here/small.yaml" -n 2 --steps 3 --json > bench.json
for key in step_ms tokens_per_s mfu peak_mem_mb comm_exposed_ms; do
  grep -q "\"$key\":" bench.json || fail "bench step lacks $key"
done
"$lockstep" bench comm -n 2 --json | grep -q '"all_reduce"' || fail "bench comm"
"$lockstep" plan "$here/small.yaml" -n 3 | grep -q "rank 2" || fail "plan"

# Output for people names the strategy first, writes counts and sizes as people do, and has no
# blanks at the ends of lines.
contains text.out "2 ranks (ddp, shm, reduction tree); 8 micro-batches of 2 samples a step"
small=("$here/small.yaml" -n 2 --set train.micro_batch=1 --set parallel.strategy=fsdp
  --set parallel.shard=grad)
"$lockstep" plan "${small[@]}" > plan.out
contains plan.out "fsdp, shard grad, 2 ranks"
contains plan.out "16 micro-batches of 1 sample,"
grep -qE "^traffic a rank all_gather [0-9.]+ KB, reduce_scatter [0-9.]+ [KM]B; sent" plan.out ||
  fail "plan states no traffic: $(cat plan.out)"
"$lockstep" checkpoint export runs/text exported > export.out
grep -qE "^written    28 tensors, [0-9.]+ KB, 1 file$" export.out ||
  fail "export: $(cat export.out)"
"$lockstep" bench checkpoint -n 2 --mb 16 --repetitions 1 > checkpoint.out
contains checkpoint.out "16.0 MB on 2 ranks"
"$lockstep" bench step --config "${small[@]}" --steps 2 > step.out
contains step.out "2 ranks x 1 thread, fsdp, shard grad, shm, fp32"
contains step.out ", on cpu ("
for file in text.out plan.out export.out checkpoint.out step.out; do
  ! grep -n ' $' $file || fail "blanks at the end of a line of $file"
done
"$lockstep" config show "$here/small.yaml" --set train.steps=9 | grep -q "steps: 9" ||
  fail "config show"
