#!/usr/bin/env bash
# Restarted ranks keep the config that the job began with, also if its file was changed meanwhile.
source "$(dirname "$0")/lib.sh"
make_text
train_straight 800

# edited NAME RANKS COMMAND…: edits the config of a run that has taken steps, then kills a rank.
edited() {
  local name=$1 code=0; shift
  cp "$here/small.yaml" "$name.yaml"
  "$@" "$name.yaml" --set run.name="$name" "${long[@]}" --set checkpoint.replica_every=1 \
    > "$name.out" 2> "$name.err" &
  agent=$!
  wait_for 60 has_taken "$name" 20 || fail "no step 20: $(cat "$name.err")"
  sed -i 's/lr: 0.003/lr: 0.03/; s/dir: runs/dir: elsewhere/' "$name.yaml"
  local victim; victim=$(rank_of "run.name=$name" 1)
  [ -n "$victim" ] || fail "found no process of rank 1"
  kill -KILL "$victim"
  wait $agent || code=$?
  [ $code = 0 ] || fail "$name: expected exit code 0, got $code: $(tail -n 20 "$name.err")"
  grep -q "resumed after step .* from replicas in memory" "$name.out" ||
    fail "$name did not go on: $(cat "$name.out")"
  changed="optim.lr = 0.03 instead of 0.003, run.dir = elsewhere instead of runs"
  grep -q "the config was changed since this job began ($changed)" "$name.err" ||
    fail "$name does not say that its config was changed: $(cat "$name.err")"
  [ ! -e elsewhere ] || fail "$name went on in another folder"
  grep -q 'lr: 0.003' "runs/$name/config.yaml" ||
    fail "$name wrote another config: $(cat "runs/$name/config.yaml")"
  sed -n 's/^\(\[rank 0\] \)\?\(weights sha256:\)/\2/p' "$name.out" > plain.out
  same_weights straight plain
}
edited own "$lockstep" train -n 2 --max-restarts 1
edited launched "$lockstep" run -n 2 --max-restarts 1 -- "$lockstep" train --resume auto

# The config is edited after `train -n` has read it and before its ranks do. They begin with the
# text that was read. `train -n` waits a second between the two while another process holds the
# run's folder.
mkdir -p runs/early
waits() { ls -l "/proc/$agent/fd" | grep -q "runs/early$"; }
for try in 1 2 3 4 5; do
  cp "$here/small.yaml" early.yaml
  exec 9< runs/early; flock 9
  "$lockstep" train -n 2 --max-restarts 1 early.yaml --set run.name=early "${long[@]}" > early.out \
    2> early.err 9<&- &
  agent=$!
  wait_for 60 waits || fail "it did not look at its folder: $(cat early.err)"
  sed -i 's/lr: 0.003/lr: 0.03/' early.yaml
  exec 9<&-
  code=0; wait $agent || code=$?
  grep -q "another process is training" early.err || break
done
[ $code = 0 ] || fail "early: expected exit code 0, got $code: $(cat early.err)"
contains early.err "the config was changed since this job began (optim.lr = 0.03 instead of 0.003)"
same_weights straight early
