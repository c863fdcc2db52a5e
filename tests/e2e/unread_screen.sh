#!/usr/bin/env bash
# While nobody reads what a rank writes, it trains on, and stops when it is asked to. A reader that
# comes before the end misses nothing.
source "$(dirname "$0")/lib.sh"
make_text
endless=(--set train.steps=1000000 --set train.eval_every=0 --set train.log_every=1)

# full_pipe NAME: makes a pipe that is full, and open for reading as $unread, but never read.
full_pipe() {
  local both
  mkfifo "$1"
  exec {both}<> "$1" {unread}< "$1" {both}>&-
  ! dd if=/dev/zero of="$1" bs=4096 oflag=nonblock status=none 2> /dev/null ||
    fail "a pipe without end"
}
# saved NAME PID: expects the run to end with 3, and its state to be saved and to resume.
saved() {
  local code=0; wait "$2" || code=$?
  [ $code = 3 ] || fail "$1: expected exit code 3, got $code: $(tail -n 20 "$1.err")"
  local steps; steps=$(wc -l < "runs/$1/metrics.jsonl")
  [ -d "runs/$1/checkpoints/step-$(printf %08d "$steps")" ] ||
    fail "$1 took $steps steps and saved $(ls "runs/$1/checkpoints")"
  train "$1.again" -n 1 --set run.name="$1" --resume auto --set train.steps=$((steps + 1)) \
    --set train.eval_every=0 || fail "$(cat "$1.again.err")"
  contains "$1.again.out" "resumed after step $steps from"
}

# Nobody reads the output, from beginning to end.
full_pipe asleep.pipe
"$lockstep" train "$here/small.yaml" -n 1 --set run.name=asleep "${endless[@]}" > asleep.pipe \
  2> asleep.err &
pid=$!
wait_for 60 has_taken asleep 20 ||
  fail "the run does not go on while nobody reads: $(cat asleep.err)"
kill -TERM $pid
saved asleep $pid
exec {unread}<&-

# The reader reads again when the run has been asked to stop.
full_pipe late.pipe
"$lockstep" train "$here/small.yaml" -n 1 --set run.name=late "${endless[@]}" > late.pipe \
  2> late.err &
pid=$!
wait_for 60 has_taken late 20 || fail "the run does not go on while nobody reads: $(cat late.err)"
kill -TERM $pid
tr -d '\0' <&$unread > late.out {unread}<&- &
reader=$!
exec {unread}<&-
saved late $pid
wait $reader
seq "$(sed -n 's/^stopped after step \([0-9]*\) of .*/\1/p' late.out)" > late.steps
sed -n 's/^step \([0-9]*\)\/.*/\1/p' late.out | cmp - late.steps ||
  fail "steps are missing: $(head -n 5 late.out)"
contains late.out "; to continue:"
grep -Eq '^weights sha256:[0-9a-f]{64}$' late.out ||
  fail "the last line is missing: $(tail -n 3 late.out)"

# Nobody reads the error output with its warnings. The process is rank 0 of several, as under mpirun
# or srun.
full_pipe warned.pipe
export MASTER_ADDR=127.0.0.1 MASTER_PORT; MASTER_PORT=$(free_port)
train warned -n 1 --set train.eval_every=0 || fail "$(cat warned.err)"
pids=()
for rank in 0 1; do
  RANK=$rank WORLD_SIZE=2 "$lockstep" train "$here/small.yaml" --set run.name=warned --resume auto \
    --set optim.lr=0.001 "${endless[@]}" \
    > warned.$rank.out 2> warned.pipe &
  pids+=($!)
done
wait_for 60 has_taken warned 80 ||
  fail "the run does not go on while nobody reads its warnings: $(cat warned.0.out)"
kill -TERM "${pids[@]}"
unset MASTER_ADDR MASTER_PORT
code=0; wait "${pids[1]}" || code=$?
[ $code = 3 ] || fail "rank 1: expected exit code 3, got $code: $(tr -d '\0' <&$unread)"
saved warned "${pids[0]}"
exec {unread}<&-

# Nobody can read the error, and yet it ends the run with its exit code.
full_pipe failed.pipe
code=0; timeout $((60 * patience)) "$lockstep" train "$here/small.yaml" -n 1 --set data.path=none \
  2> failed.pipe || code=$?
[ $code = 2 ] || fail "an error that nobody reads: expected exit code 2, got $code"
exec {unread}<&-
