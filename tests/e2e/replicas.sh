#!/usr/bin/env bash
# Ranks that are killed are started again and go on from replicas in memory: no checkpoint on disk, the bits of a run that never stopped.
source "$(dirname "$0")/lib.sh"
make_text
long=(--set train.steps=600 --set train.eval_every=0 --set checkpoint.every=0)
train straight -n 2 "${long[@]}" || fail "$(cat straight.err)"

lines_of() { [ "$(wc -l 2> /dev/null < "$1")" -ge "$2" ]; }
# killed NAME RANK STEP: kills that rank of the run once the run has taken the step.
killed() {
  wait_for 60 lines_of "runs/$1/metrics.jsonl" "$3" || fail "no step $3: $(cat "$1.err")"
  local victim; victim=$(rank_of "run.name=$1" "$2")
  [ -n "$victim" ] || fail "found no process of rank $2"
  kill -KILL "$victim"
}

named_memory > shm.before
for strategy in ddp fsdp; do
  for ranks in 1 2 4; do
    [ $strategy$ranks != fsdp1 ] || continue
    name=$strategy$ranks
    "$lockstep" train "$here/small.yaml" --set run.name=$name -n $ranks --max-restarts 2 "${long[@]}" --set checkpoint.replica_every=1 \
      --set parallel.strategy=$strategy > $name.out 2> $name.err &
    agent=$!
    killed $name $((ranks - 1)) 50
    wait_for 60 grep -q "resumed after step" $name.out || fail "not resumed: $(cat $name.err)"
    killed $name 0 200
    code=0; wait $agent || code=$?
    [ $code = 0 ] || fail "$name: expected exit code 0, got $code: $(tail -n 20 $name.err)"
    [ "$(grep -c 'from replicas in memory (none on disk)' $name.out)" = 2 ] || fail "$name: not resumed twice from memory: $(cat $name.out $name.err)"
    # A step counts as taken once it is in metrics.jsonl; the ranks may be in the next one, and its replicas under way.
    ! grep 'to be done again' $name.out | grep -v '; 1 step to be done again' || fail "$name: more than one step was lost"
    [ "$(ls runs/$name/checkpoints)" = step-00000600 ] || fail "$name wrote checkpoints: $(ls runs/$name/checkpoints)"
    [ "$(wc -l < runs/$name/metrics.jsonl)" = 600 ] || fail "$name: metrics.jsonl should have one line a step"
    same_weights straight $name
  done
done
none_left run.name= || fail "processes were left over: $(processes_of run.name=)"
named_memory | diff shm.before - || fail "shared memory was left over"

# A newer checkpoint on disk comes first; with none and no replicas the run begins anew.
for every in 60 0; do
  name=disk$every
  "$lockstep" train "$here/small.yaml" --set run.name=$name -n 2 --max-restarts 1 "${long[@]}" --set checkpoint.replica_every=50 \
    --set checkpoint.every=$every > $name.out 2> $name.err &
  agent=$!
  killed $name 1 $((every == 0 ? 20 : 70))
  code=0; wait $agent || code=$?
  [ $code = 0 ] || fail "$name: expected exit code 0, got $code: $(tail -n 20 $name.err)"
  same_weights straight $name
done
contains disk60.out "resumed after step 60 from runs/disk60/checkpoints/step-00000060"
contains disk0.err "no replicas in memory to resume from: no rank holds a copy"

# Where nothing would keep them, replicas are refused.
code=0; train refused -n 2 "${long[@]}" --set checkpoint.replica_every=1 || code=$?
[ $code = 2 ] || fail "replicas without restarts: expected exit code 2, got $code"
contains refused.err "checkpoint.replica_every needs memory that outlives the ranks"
contains refused.err "--max-restarts"
[ ! -e runs/refused ] || fail "a refused run left a folder"
