#!/usr/bin/env bash
# SIGUSR1 stops a run under mpirun: mpirun passes it on, the ranks save, and mpirun ends with their
# exit code. On SIGTERM mpirun would kill them, so the job's script turns it into SIGUSR1
# (docs/mpi.md).
source "$(dirname "$0")/lib.sh"
mpirun_or_skip
make_text

# begin NAME COMMAND…: starts a run below that command, and waits until it trains. $pid is the
# command.
begin() {
  local name=$1; shift
  "$@" "${mpi[@]}" -np 2 "$lockstep" train "$here/small.yaml" --set run.name="$name" \
    --set train.steps=1000000 \
    --set train.eval_every=0 --set parallel.backend=mpi > "$name.out" 2> "$name.err" &
  pid=$!
  wait_for 60 has_taken "$name" 1 || fail "$name takes no step: $(cat "$name.err")"
}
# saved NAME: expects the run to end with 3 and to have saved what it trained.
saved() {
  local code=0; wait $pid || code=$?
  [ $code = 3 ] || fail "$1: expected exit code 3, got $code: $(tail -n 20 "$1.out" "$1.err")"
  contains "$1.out" "stopped after step"
  "$lockstep" checkpoint verify "runs/$1" > verify.out || fail "$1: $(cat verify.out)"
}

begin direct env
kill -USR1 $pid
saved direct

cat > job.sh << 'END'
"$@" &
trap 'kill -USR1 $!' TERM INT
wait $!
wait $!  # the first one ends with the signal
END
begin script bash job.sh
kill -TERM $pid
saved script
