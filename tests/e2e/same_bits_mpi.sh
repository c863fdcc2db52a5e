#!/usr/bin/env bash
# The same under mpirun: backend mpi in tree order, and shm with its store over MPI.
source "$(dirname "$0")/lib.sh"
limit=$((100 * patience))
mpirun_or_skip
"$lockstep" --version | grep -q 'Open MPI none' && skip "built without the mpi backend"
make_text

train one -n 1
mpi_train() {
  local name=$1; shift
  timeout $limit "${mpi[@]}" -np 2 "$lockstep" train "$here/small.yaml" \
    --set run.name="$name" "$@" > "$name.out" 2> "$name.err" || fail "$(tail -n 20 "$name.err")"
}
mpi_train mpi2; same_weights one mpi2; contains mpi2.out "2 ranks (ddp, mpi"
! grep -q $'\033' mpi2.out || fail "control characters in a file: $(head -n 5 mpi2.out)"
code=0
"${mpi[@]}" -np 2 "$lockstep" train "$here/small.yaml" --set run.name=contradiction -n 4 > out \
  2> err || code=$?
[ $code = 2 ] || fail "-n 4 under mpirun -np 2 must be refused, got exit code $code"
contains err "-n 4 contradicts the launcher (Open MPI), which started 2 ranks"
mpi_train mpishm --set parallel.backend=shm
same_weights one mpishm
contains mpishm.out "2 ranks (ddp, shm"
mpi_train fast --set parallel.reduction=fast
[ -n "$(weights fast)" ] || fail "reduction fast did not finish"

# mpirun passes SIGUSR1 on at once. The ranks save, and mpirun ends with their exit code.
"${mpi[@]}" -np 2 "$lockstep" train "$here/small.yaml" --set run.name=stopped \
  --set train.steps=100000 --set train.eval_every=0 > stopped.out 2> stopped.err &
run=$!
wait_for 60 test -s runs/stopped/metrics.jsonl || fail "no step: $(cat stopped.err)"
kill -USR1 $run
code=0; wait $run || code=$?
[ $code = 3 ] ||
  fail "stopped by SIGUSR1, mpirun must end with 3, got $code: $(tail -n 5 stopped.err)"
contains stopped.out "to continue, as the command of each rank:"

# Ranks that are not bound to cores start at most as many threads together as there are cores.
threads=$(env -u OMP_NUM_THREADS timeout $limit "${mpi[@]}" -np 2 "$lockstep" bench step \
  --config "$here/small.yaml" --warmup 0 --steps 1 --json |
  sed -n 's/.*"threads":\([0-9]*\).*/\1/p')
[ "$threads" -ge 1 ] && { [ "$threads" = 1 ] || [ $((2 * threads)) -le "$(nproc)" ]; } ||
  fail "2 ranks with $threads threads each on $(nproc) cores"
