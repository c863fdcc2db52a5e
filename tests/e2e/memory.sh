#!/usr/bin/env bash
# A model that no rank can hold trains when it is sharded. Otherwise every rank says that it ran out
# of memory. A step takes the memory that was stated before.
source "$(dirname "$0")/lib.sh"
limit=$((200 * patience))
config="$here/../../configs/larger_than_a_rank.yaml"

# 172 MB of state, 56 MB a rank.
timeout $limit "$lockstep" train "$config" -n 4 > sharded.out 2> sharded.err ||
  fail "fsdp: $(tail -n 5 sharded.err)"
[ -n "$(weights sharded)" ] || fail "fsdp printed no weights: $(cat sharded.out)"

if timeout $limit "$lockstep" train "$config" -n 4 --set parallel.strategy=ddp \
  --set run.name=whole > whole.out 2> whole.err; then
  fail "ddp kept to a limit that its state exceeds"
fi
contains whole.err "out of memory"
contains whole.err "of a limit of 56000000"
grep -qE "rank [0-3]" whole.err || fail "no rank is named: $(tail -n 5 whole.err)"
! grep -qE "\[rank [0-3]\] \[rank" whole.err ||
  fail "a rank is named twice a line: $(tail -n 5 whole.err)"

# Without the limit ddp ends with the same bits.
timeout $limit "$lockstep" train "$config" -n 2 --set parallel.strategy=ddp \
  --set train.memory_limit_mb=0 --set run.name=free > free.out 2> free.err
same_weights free sharded

# The peak is within 5 % of the bound, and `lockstep plan` stated that bound before: in each
# category, what `bench step` states once the model exists. The plan is of the rank that needs most
# by the plan. The bench is of the rank whose peak was highest. Ranks differ by the padding of their
# slices, which is far below 1 %.
for ranks in 1 2 4 8; do
  settings=(-n $ranks --set train.memory_limit_mb=0 --set train.global_batch=8)
  "$lockstep" plan "$config" "${settings[@]}" --json > plan.json 2> plan.err ||
    fail "plan for $ranks ranks: $(cat plan.err)"
  timeout $limit "$lockstep" bench step --config "$config" "${settings[@]}" --warmup 2 --steps 2 \
    --json > bench.json 2> bench.err ||
    fail "bench with $ranks ranks: $(tail -n 5 bench.err)"
  share=$(grep -oE '"of_bound":[0-9.]+' bench.json | cut -d: -f2)
  awk -v s="$share" 'BEGIN { exit !(s > 0.95 && s < 1.05) }' ||
    fail "$ranks ranks used $share of the stated bound: $(cat bench.json)"
  python3 - << 'PY' || fail "plan and bench step with $ranks ranks state different memory"
import json, sys
plan = json.load(open("plan.json"))["memory_mb"]
categories = json.load(open("bench.json"))["memory"]["categories"]
bench = {name: c["bound_mb"] for name, c in categories.items() if c["planned"]}
print("plan", plan, "bench", bench)
sys.exit(plan.keys() != bench.keys()
         or any(abs(plan[name] - bench[name]) > 0.01 * bench[name] for name in plan))
PY
done
