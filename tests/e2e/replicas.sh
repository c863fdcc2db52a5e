#!/usr/bin/env bash
# Killed ranks are restarted and resume from replicas in memory, without a checkpoint on disk. The
# run ends with the bits of one that never stopped.
source "$(dirname "$0")/lib.sh"
make_text
train_straight 600

# killed NAME RANK STEP: kills that rank of the run once the run has taken the step.
killed() {
  # The process is looked for before the step: looking takes time, in which the run could end.
  wait_for 60 has_taken "$1" 1 || fail "no step 1: $(cat "$1.err")"
  local victim; victim=$(rank_of "run.name=$1" "$2")
  [ -n "$victim" ] || fail "found no process of rank $2"
  wait_for 60 has_taken "$1" "$3" || fail "no step $3: $(cat "$1.err")"
  kill -KILL "$victim"
}

named_memory > shm.before
for name in ddp1 ddp4 fsdp2 fsdp4; do
  strategy=${name%?} ranks=${name: -1}
  "$lockstep" train "$here/small.yaml" --set run.name=$name -n $ranks --max-restarts 2 \
    "${long[@]}" --set checkpoint.replica_every=1 \
    --set parallel.strategy=$strategy > $name.out 2> $name.err &
  agent=$!
  killed $name $((ranks - 1)) 50
  wait_for 60 grep -q "resumed after step" $name.out || fail "not resumed: $(cat $name.err)"
  killed $name 0 200
  code=0; wait $agent || code=$?
  [ $code = 0 ] || fail "$name: expected exit code 0, got $code: $(tail -n 20 $name.err)"
  [ "$(grep -c 'from replicas in memory (none on disk)' $name.out)" = 2 ] ||
    fail "$name: not resumed twice from memory: $(cat $name.out $name.err)"
  # A step counts as taken once it is in metrics.jsonl. The ranks may be in the next step, with
  # replicas under way.
  ! grep 'to be done again' $name.out | grep -v '; 1 step to be done again' ||
    fail "$name: more than one step was lost"
  [ "$(ls runs/$name/checkpoints)" = step-00000600 ] ||
    fail "$name wrote checkpoints: $(ls runs/$name/checkpoints)"
  [ "$(wc -l < runs/$name/metrics.jsonl)" = 600 ] ||
    fail "$name: metrics.jsonl should have one line a step"
  same_weights straight $name
done
none_left run.name= || fail "processes were left over: $(processes_of run.name=)"
named_memory | diff shm.before - || fail "shared memory was left over"

# restarted NAME STEP ARGS…: kills rank 1 after that step, and expects the run to end well.
restarted() {
  local name=$1 step=$2 code=0; shift 2
  "$lockstep" train "$here/small.yaml" --set run.name=$name -n 2 --max-restarts 1 "${long[@]}" \
    "$@" > $name.out 2> $name.err &
  agent=$!
  killed $name 1 $step
  wait $agent || code=$?
  [ $code = 0 ] || fail "$name: expected exit code 0, got $code: $(tail -n 20 $name.err)"
  same_weights straight $name
}
# The newer of the two is taken. The moment of the kill decides which one that is.
restarted newest 70 --set checkpoint.replica_every=50 --set checkpoint.every=60
resumed=$(grep 'resumed after step' newest.out)
step=$(sed 's/.*after step \([0-9]*\).*/\1/' <<< "$resumed")
case $resumed in
  *"from runs/newest/checkpoints/"*)
    [ $((step % 60)) = 0 ] && [ $((step / 50 * 50)) -lt "$step" ]
    ;;
  # Within a step replicas come first: its checkpoint may not be there yet.
  *"from replicas in memory (newest checkpoint on disk: step $((step / 60 * 60)))"* | \
    *"from replicas in memory (newest checkpoint on disk: step $(((step - 1) / 60 * 60)))"*)
      [ $((step % 50)) = 0 ]
      ;;
  *) false ;;
esac || fail "not resumed from the newest: $resumed"
# With neither, the run starts anew.
restarted nothing 20 --set checkpoint.replica_every=100000
contains nothing.err "no replicas in memory to resume from: no rank holds a copy"
grep -q 'found nothing to resume from: the run starts anew; [0-9]* steps to be done again' \
  nothing.out || fail "not told: $(cat nothing.out)"

# Replicas are refused if nothing would keep them.
code=0; train refused -n 2 "${long[@]}" --set checkpoint.replica_every=1 || code=$?
[ $code = 2 ] || fail "replicas without restarts: expected exit code 2, got $code"
contains refused.err "checkpoint.replica_every needs memory that outlives the ranks"
contains refused.err "--max-restarts"
[ ! -e runs/refused ] || fail "a refused run left a folder"

# launched NAME COMMAND…: another launcher starts the ranks, which must refuse the options.
launched() {
  local name=$1 code=0; shift
  timeout $((60 * patience)) "$@" --set run.name=$name "${long[@]}" > $name.out 2> $name.err ||
    code=$?
  [ $code = 2 ] || fail "$name: expected exit code 2, got $code: $(tail -n 5 $name.err)"
  [ ! -e runs/$name ] || fail "a refused run left a folder"
}
launched ignored "$lockstep" run -n 2 -- "$lockstep" train "$here/small.yaml" --max-restarts 2
contains ignored.err "--max-restarts is for ranks that this command starts itself (-n), but these"
contains ignored.err "were started by another launcher"
launched anew "$lockstep" run -n 2 --max-restarts 1 -- "$lockstep" train "$here/small.yaml" \
  --set checkpoint.replica_every=1
contains anew.err 'checkpoint.replica_every under `lockstep run` needs --resume auto'
# Otherwise the restart would continue the run that the first attempt must not touch.
launched both "$lockstep" run -n 2 --max-restarts 1 -- "$lockstep" train "$here/small.yaml" \
  --max-restarts 1
contains both.err "--max-restarts is for ranks that this command starts itself (-n)"
