#!/usr/bin/env bash
# Saves in the background under mpirun, where their exchanges and training's collectives share one
# MPI. The bits are the same, also when a rank was killed during a save. A run continues when the
# disk is full.
source "$(dirname "$0")/lib.sh"
mpirun_or_skip
"$lockstep" --version | grep -q 'Open MPI none' && skip "built without the mpi backend"
make_text
export OMP_NUM_THREADS=1  # the bits do not depend on it

long=(--set train.steps=200 --set train.eval_every=0)

# mpi_train NAME [ARGS…]: like train(), by mpirun. It saves at every second step, so a save is
# nearly always under way.
mpi_train() {
  local name=$1; shift
  timeout $((100 * patience)) "${mpi[@]}" -np 2 "$lockstep" train "$here/small.yaml" \
    --set run.name="$name" --set parallel.backend=mpi --set checkpoint.async=true \
    --set checkpoint.every=2 --set checkpoint.keep=4 "${long[@]}" "$@" \
    > "$name.out" 2> "$name.err"
}
train one -n 1 "${long[@]}" || fail "$(cat one.err)"
mpi_train whole || fail "$(tail -n 20 whole.err)"
contains whole.out "2 ranks (ddp, mpi"
same_weights one whole
"$lockstep" checkpoint verify runs/whole > verify.out || fail "$(cat verify.out)"
[ "$(grep -c 'every byte verified' verify.out)" = 4 ] ||
  fail "expected four checkpoints: $(cat verify.out)"

# A rank dies during a save. mpirun ends the other one, and every checkpoint is good.
mpi_train killed &
run=$!
steps_done() { [ "$(cat runs/killed/metrics.jsonl 2> /dev/null | wc -l)" -ge 50 ]; }
wait_for 60 steps_done || fail "no progress: $(tail -n 5 killed.err)"
rank=$(processes_of "^$lockstep train .*run.name=killed " | tail -n 1)
[ -n "$rank" ] || fail "no rank to kill: $(tail -n 5 killed.err)"
kill -KILL "$rank"
! wait $run || fail "a killed rank went unnoticed"
"$lockstep" checkpoint verify runs/killed > verify.out || fail "$(cat verify.out)"
mpi_train killed --resume auto || fail "$(tail -n 20 killed.err)"
contains killed.out "resumed after step"
same_weights one killed

# Each save fails (a mount of this test alone), which is reported once. Training continues up to the
# last save, which must not fail.
mkdir -p runs/full/checkpoints
unshare -m true 2> /dev/null || { echo "skipped, needs root: a full disk"; exit 0; }
code=0
export lockstep here patience work
unshare -m bash -c "mount -t tmpfs -o size=128k none runs/full/checkpoints
  $(declare -p mpi long)
  $(declare -f mpi_train)
  mpi_train full --set train.steps=20" || code=$?
[ $code = 1 ] || fail "a run whose last save fails exits with 1, got $code: $(tail -n 20 full.err)"
contains full.out "step 2 was not saved: rank 0: 'runs/full/checkpoints' has 1"
[ "$(grep -c '^warning: .* was not saved' full.out)" = 1 ] ||
  fail "one kind of failure is said once: $(cat full.out)"
[ "$(wc -l < runs/full/metrics.jsonl)" = 20 ] || fail "training did not go on"
