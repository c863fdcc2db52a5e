#!/usr/bin/env bash
# A rank that dies ends the run at once and is named. Nothing is left behind, and the run can resume
# from its last checkpoint.
source "$(dirname "$0")/lib.sh"
make_text
endless=(--set train.steps=100000 --set train.eval_every=0 --set run.name=killed)
train straight -n 1 --set train.steps=80 --set train.eval_every=0

named_memory > shm.before
"$lockstep" train "$here/small.yaml" -n 3 "${endless[@]}" > killed.out 2> killed.err &
agent=$!
wait_for 60 test -d runs/killed/checkpoints/step-00000025 || fail "no checkpoint: $(cat killed.err)"
victim=$(rank_of run.name=killed 1)
[ -n "$victim" ] || fail "found no process of rank 1"
kill -KILL "$victim"
code=0; wait $agent || code=$?
[ $code = 1 ] || fail "a killed rank must fail the run with exit code 1, got $code"
cat killed.out killed.err > killed.all
grep -q '┌ rank 1 on host' killed.all ||
  fail "the report does not blame rank 1: $(tail -n 30 killed.all)"
grep -q 'SIGKILL' killed.all || fail "the report does not name the signal: $(tail -n 30 killed.all)"
none_left run.name=killed || fail "processes were left over: $(processes_of run.name=killed)"
named_memory | diff shm.before - || fail "shared memory was left over"
train killed -n 2 --set train.steps=80 --set train.eval_every=0 --resume auto ||
  fail "$(cat killed.err)"

# A rank stands still until the others give up waiting. It is to blame, not they.
"$lockstep" train "$here/small.yaml" -n 3 "${endless[@]}" --set run.name=still \
  --set parallel.timeout_s=3 > still.out 2> still.err &
agent=$!
wait_for 60 test -s runs/still/metrics.jsonl || fail "no step: $(cat still.err)"
victim=$(rank_of run.name=still 1)
[ -n "$victim" ] || fail "found no process of rank 1"
kill -STOP "$victim"
code=0; wait $agent || code=$?
[ $code = 1 ] || fail "a rank that stands still must fail the run with exit code 1, got $code"
contains still.err "(pid $victim): stood still until the others gave up waiting for it"
contains still.err "'kill -CONT $victim' before that would have resumed it"
grep -q '┌ rank 1 on host' still.err ||
  fail "the report does not blame rank 1: $(tail -n 30 still.err)"

# When the agent dies, its ranks end too.
"$lockstep" train "$here/small.yaml" -n 2 "${endless[@]}" --set run.name=orphans > orphans.out \
  2> orphans.err &
agent=$!
wait_for 60 test -s runs/orphans/metrics.jsonl || fail "no step: $(cat orphans.err)"
kill -KILL $agent
wait_for 20 none_left run.name=orphans ||
  fail "ranks outlived their agent: $(processes_of run.name=orphans)"
named_memory | diff shm.before - || fail "shared memory was left over"
