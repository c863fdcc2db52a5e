#!/usr/bin/env bash
# When the system grants no more threads, checkpoints are saved without them, or a message says what
# is lacking. Training continues.
source "$(dirname "$0")/lib.sh"
[ "$patience" = 1 ] || skip "a sanitizer starts threads of its own"
user=61234  # nobody else's: the limit counts all threads of a user
as_user=(setpriv --reuid=$user --regid=$user --clear-groups)
"${as_user[@]}" true 2> /dev/null ||
  skip "needs root (and setpriv): the limit does not hold for root itself"
make_text
chown -R $user "$work"
"${as_user[@]}" test -x "$lockstep" -a -r "$here/small.yaml" ||
  skip "another user may not read $lockstep and $here"
export OMP_NUM_THREADS=1
train reference -n 1 || fail "$(cat reference.err)"

# limited NAME ARGS…: one rank that may start no thread.
limited() {
  local name=$1; shift
  timeout $((100 * patience)) "${as_user[@]}" bash -c 'ulimit -u 1 && exec "$@"' - \
    "$lockstep" train "$here/small.yaml" -n 1 --set run.dir=limited --set run.name="$name" \
      --set checkpoint.every=20 "$@" > "$name.out" 2> "$name.err"
}
"${as_user[@]}" mkdir limited
limited background --set checkpoint.async=true || fail "$(cat background.err)"
cat background.out background.err > background.all
contains background.all "[checkpoint] step 20 is saved while training waits: the system grants no"
contains background.all " thread to save in the background (Resource temporarily"
contains background.all "(ulimit -u, now 1; or the container's)"
[ -d limited/background/checkpoints/step-00000040 ] || fail "not saved: $(cat background.all)"
same_weights reference background

# A save so large that another thread would compute the checksums.
limited large --set model.dim=256 --set train.steps=6 --set checkpoint.every=3 ||
  fail "$(cat large.err)"
"$lockstep" checkpoint verify limited/large > verify.out || fail "$(cat verify.out)"
shard=limited/large/checkpoints/step-00000006/shard-00000-of-00001.safetensors
[ "$(stat -c %s $shard)" -gt 5000000 ] || fail "too small to need a thread"

# The system refuses one of two ranks. Both learn of it, with the rank, and continue.
"${as_user[@]}" "$lockstep" train "$here/small.yaml" -n 2 --set run.dir=limited --set run.name=one \
  --set train.steps=100000 --set train.eval_every=0 \
  --set checkpoint.every=100 > one.out 2> one.err &
wait_for 60 test -d limited/one/checkpoints/step-00000100 || fail "no checkpoint: $(cat one.err)"
for pid in $(processes_of run.name=one); do
  ! tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qx RANK=1 ||
    "${as_user[@]}" prlimit --pid "$pid" --nproc=1:
done
no_thread="was not saved: rank 1: the system grants no thread for this rank's part in a checkpoint"
said() { grep -q "$no_thread" one.out one.err; }
wait_for 60 said || fail "nothing was said of it: $(tail -n 5 one.out one.err)"
saved=$(grep -o 'step [0-9]* was not saved' one.out one.err | head -n 1 | grep -o '[0-9]*')
further() { [ "$(wc -l < limited/one/metrics.jsonl)" -gt $((saved + 50)) ]; }
wait_for 60 further || fail "training did not go on: $(tail -n 5 one.out one.err)"
