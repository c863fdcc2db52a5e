#!/usr/bin/env bash
# SIGTERM stops a run half-way. Resumed with another number of ranks, it ends with the bits of one
# that never stopped.
source "$(dirname "$0")/lib.sh"
make_text
long=(--set train.steps=400 --set train.eval_every=0)
train straight -n 2 "${long[@]}" || fail "$(cat straight.err)"

# stopped RANKS: starts a run, stops it after a step, and expects it to save and to print the
# command that resumes.
stop_half_way() {
  local name=$1 ranks=$2 code=0
  "$lockstep" train "$here/small.yaml" --set run.name="$name" -n "$ranks" "${long[@]}" \
    > "$name.out" 2> "$name.err" &
  local pid=$!
  wait_for 60 test -s "runs/$name/metrics.jsonl" || fail "no step was taken: $(cat "$name.err")"
  kill -TERM $pid
  wait $pid || code=$?
  [ $code = 3 ] ||
    fail "a stopped run of $ranks exits with 3, got $code: $(tail -n 20 "$name.out" "$name.err")"
  contains "$name.out" "--resume auto"
}
stop_half_way a 2
train a -n 4 "${long[@]}" --resume auto || fail "$(cat a.err)"
contains a.out "resumed after step"
same_weights straight a
stop_half_way b 1
train b -n 3 "${long[@]}" --resume auto || fail "$(cat b.err)"
same_weights straight b
[ "$(wc -l < runs/b/metrics.jsonl)" = 400 ] || fail "metrics.jsonl should have one line a step"

# A request to stop comes while the ranks are starting. They take a step, save and print the command
# that resumes; none of them just dies.
for try in 1 2 3 4 5; do
  code=0
  "$lockstep" train "$here/small.yaml" --set run.name=early$try -n 3 "${long[@]}" > early.out \
    2> early.err &
  pid=$!
  wait_for 60 test -e runs/early$try/logs/rank-2.log || fail "no rank was started: $(cat early.err)"
  kill -TERM $pid
  wait $pid || code=$?
  [ $code = 3 ] ||
    fail "stopped at its start a run exits with 3, got $code: $(tail -n 20 early.out early.err)"
  contains early.out "stopped after step"
done

# A run that was resumed from a named folder is stopped again. The printed command takes the last
# save, not that folder again.
code=0
"$lockstep" train "$here/small.yaml" --set run.name=c -n 1 "${long[@]}" \
  --resume "$(ls -d runs/b/checkpoints/step-* | head -n 1)" > c.out 2> c.err &
pid=$!
wait_for 60 test -s runs/c/metrics.jsonl || fail "no step was taken: $(cat c.err)"
kill -TERM $pid
wait $pid || code=$?
[ $code = 3 ] || fail "expected exit code 3, got $code: $(tail -n 20 c.out c.err)"
command=$(grep -A1 'to continue:' c.out | tail -n 1)
[[ $command == *"--resume auto"* && $command != *runs/b* ]] ||
  fail "this would begin at the old checkpoint again: $command"
bash -c "$command" > c.out 2> c.err || fail "$(cat c.err)"
same_weights straight c

# A run whose rank was killed prints the command too.
code=0
"$lockstep" train "$here/small.yaml" --set run.name=d -n 2 "${long[@]}" --set checkpoint.every=20 \
  > d.out 2> d.err &
pid=$!
wait_for 60 has_taken d 40 || fail "no steps were taken: $(cat d.err)"
kill -9 "$(rank_of "run.name=d" 1)"
wait $pid || code=$?
[ $code = 1 ] || fail "expected exit code 1, got $code: $(tail -n 20 d.out d.err)"
contains d.err "newest checkpoint: runs/d/checkpoints/step-"
command=$(grep -A1 'to continue:' d.err | tail -n 1)
bash -c "$command" > d.out 2> d.err || fail "$command: $(cat d.err)"
contains d.out "resumed after step"
same_weights straight d

# Resuming a finished run changes nothing and says so.
train b -n 1 "${long[@]}" --resume auto; same_weights straight b
contains b.out "all 400 steps are done"
# If the newest checkpoint is damaged, the run continues from the one before, with the same bits.
newest=$(ls -d runs/b/checkpoints/step-* | tail -n 1)
printf 'x' | dd of="$(ls "$newest"/*.safetensors | head -n 1)" bs=1 seek=4000 conv=notrunc \
  status=none
train b -n 2 "${long[@]}" --resume auto || fail "$(cat b.err)"
contains b.err "skipped a damaged checkpoint"
same_weights straight b

# Resuming behind a later checkpoint of the same run is refused: the next --resume auto would return
# to it. Another run may branch off.
train later -n 2 "${long[@]}" --set checkpoint.every=100 || fail "$(cat later.err)"
code=0; train later -n 2 "${long[@]}" --resume runs/later/checkpoints/step-00000300 || code=$?
[ $code = 2 ] || fail "resuming behind a later checkpoint exits with 2, got $code"
contains later.err "choose another run.name to branch off, or remove all later ones"
train branch -n 2 "${long[@]}" --resume runs/later/checkpoints/step-00000300 ||
  fail "$(cat branch.err)"
same_weights straight branch

# A longer run than planned differs only if the rate falls towards the end. All other changed keys
# are named.
flat=(-n 1 --set optim.schedule.kind=constant --set train.eval_every=0)
train flat120 "${flat[@]}" --set train.steps=120 || fail "$(cat flat120.err)"
train flat "${flat[@]}" || fail "$(cat flat.err)"
train flat "${flat[@]}" --set train.steps=120 --resume auto || fail "$(cat flat.err)"
same_weights flat120 flat
! grep -q warning flat.err ||
  fail "the bits are those of a run that never stopped, but it says: $(cat flat.err)"
train flat "${flat[@]}" --set train.steps=125 --set optim.lr=0.001 --set run.seed=8 --resume auto ||
  fail "$(cat flat.err)"
changed="optim.lr = 0.001 instead of 0.003, run.seed = 8 instead of 7"
contains flat.err "resuming with $changed: the final bits will differ"
train later -n 1 "${long[@]}" --set train.steps=420 --resume auto || fail "$(cat later.err)"
contains later.err \
  "resuming with train.steps = 420 instead of 400: the final bits will differ"

# A checkpoint under another name is read and verified like the others. Messages use the name that
# was given.
cp -r runs/branch/checkpoints/step-00000400 best
"$lockstep" checkpoint verify best/ > verify.out || fail "$(cat verify.out)"
grep -q '^best  *step  *400  .*every byte verified$' verify.out || fail "$(cat verify.out)"
mv best/manifest.json aside.json
code=0; "$lockstep" checkpoint diff best runs/branch > verify.out 2>&1 || code=$?
[ $code = 1 ] && grep -q manifest.json verify.out ||
  fail "shards without a manifest were compared unverified, exit code $code: $(cat verify.out)"
mv aside.json best/manifest.json
rm best/*.safetensors
! "$lockstep" checkpoint ls best > verify.out || fail "nothing is missing? $(cat verify.out)"

# If no checkpoint is good, the run does not begin anew over what is left of it.
for shard in runs/b/checkpoints/step-*/*.safetensors; do
  printf 'x' | dd of="$shard" bs=1 seek=4000 conv=notrunc status=none
done
cp runs/b/metrics.jsonl metrics.before
code=0; train b -n 2 "${long[@]}" --resume auto || code=$?
[ $code = 1 ] || fail "a run without a good checkpoint must not go on, exit code $code"
contains b.err "none of the 2 checkpoints in 'runs/b/checkpoints' can be used"
! grep -q "; to continue" b.err || fail "it is told to go on from what is damaged: $(cat b.err)"
cmp metrics.before runs/b/metrics.jsonl || fail "the metrics of the old run were changed"
# No other command uses what is left either. This is no wrong use, and each reason is given.
for command in "generate runs/b --prompt x" "checkpoint diff runs/b runs/later" \
  "checkpoint export runs/b exported"; do
  code=0; "$lockstep" $command > b.out 2> b.err || code=$?
  [ $code = 1 ] ||
    fail "$command with damaged checkpoints alone: expected exit code 1, got $code: $(cat b.err)"
  contains b.err "can be used"
  [ "$(grep -c 'skipped a damaged checkpoint: ' b.err)" = 2 ] ||
    fail "both should be named: $(cat b.err)"
done
