#!/usr/bin/env bash
# Kills a run again and again during saves, and resumes it each time with another number of ranks.
# Every folder with a checkpoint's name is complete, and the run ends with the bits of one that
# never stopped.
source "$(dirname "$0")/lib.sh"
make_text
export OMP_NUM_THREADS=1  # the bits do not depend on it; many ranks share this machine
long=(--set train.steps=400 --set train.eval_every=0)
train straight -n 1 "${long[@]}" || fail "$(cat straight.err)"

steps_done() { [ "$(cat runs/k/metrics.jsonl 2> /dev/null | wc -l)" -ge "$1" ]; }
round=0
for ranks in 2 4 1 2; do
  round=$((round + 1))
  "$lockstep" train "$here/small.yaml" --set run.name=k --set checkpoint.async=true \
    --set checkpoint.every=2 --set checkpoint.keep=3 \
    "${long[@]}" -n "$ranks" --resume auto > k.out 2> k.err &
  pid=$!
  wait_for 60 steps_done $((round * 80)) || fail "no progress: $(tail -n 5 k.err)"
  kill -9 $pid 2> /dev/null || true
  wait $pid 2> /dev/null || true
  wait_for 30 none_left "run.name=k --set" ||
    fail "ranks are left: $(processes_of "run.name=k --set")"
  "$lockstep" checkpoint verify runs/k > verify.out || fail "after kill $round: $(cat verify.out)"
done
train k --set checkpoint.async=true -n 4 "${long[@]}" --resume auto || fail "$(cat k.err)"
contains k.out "resumed after step"
same_weights straight k
[ "$(wc -l < runs/k/metrics.jsonl)" = 400 ] || fail "metrics.jsonl should have one line a step"
[ -z "$(ls runs/k/checkpoints | grep tmp || true)" ] ||
  fail "half-written folders are left: $(ls runs/k/checkpoints)"
