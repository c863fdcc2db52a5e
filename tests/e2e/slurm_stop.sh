#!/usr/bin/env bash
# Under real Slurm, the ordinary ways to stop a job lose nothing: scancel, a signal to all of its
# processes, and the time limit.
source "$(dirname "$0")/lib.sh"
source "$here/../support/slurm.sh"
slurm_or_skip
make_text
endless=(--set train.steps=1000000 --set train.eval_every=0)

# begin NAME SRUN_ARGS… -- TRAIN_ARGS…: starts a job that trains. $pid is the srun.
begin() {
  local name=$1 job=(); shift
  while [ "$1" != -- ]; do job+=("$1"); shift; done
  shift
  srun -J "$name" "${job[@]}" "$lockstep" train "$here/small.yaml" --set run.name="$name" \
    "${endless[@]}" "$@" \
    > "$name.out" 2> "$name.err" &
  pid=$!
  took_a_step() { test -s "runs/$name/metrics.jsonl"; }
  wait_for 60 took_a_step || fail "no step: $(cat "$name.err"; tail -n 3 "$slurm/slurmctld.log")"
}
# saved NAME PID: expects the job to have ended, and what it trained to be saved.
saved() {
  wait "$2" || true  # srun has a code of its own for a cancelled job
  contains "$1.out" "stopped after step"
  "$lockstep" checkpoint verify "runs/$1" > verify.out || fail "$1: $(cat verify.out "$1.err")"
}

# Limits are whole minutes, but the end of a job can be moved. Slurm looks for it every half minute,
# so the other jobs run meanwhile.
begin limited -n 1 -t 1 -- -n 2
limited=$pid
scontrol update JobId="$(slurm_job limited)" EndTime=now
begin cancelled -n 1 -- -n 2
scancel "$(slurm_job cancelled)"
saved cancelled $pid
begin warned -n 1 -- -n 2
scancel --signal=USR1 "$(slurm_job warned)"
saved warned $pid
# Ranks that Slurm started itself, without an agent of ours.
begin tasks -n 2 --
scancel "$(slurm_job tasks)"
saved tasks $pid
saved limited $limited
contains limited.err "DUE TO TIME LIMIT"
