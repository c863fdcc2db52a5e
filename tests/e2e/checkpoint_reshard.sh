#!/usr/bin/env bash
# A run is saved with FSDP on 4 ranks, resumed with DDP on 2, then alone, then with FSDP on 8. It
# ends with the bits of a run that never stopped.
source "$(dirname "$0")/lib.sh"
make_text
export OMP_NUM_THREADS=1  # the bits do not depend on it; many ranks share this machine
train straight -n 1 || fail "$(cat straight.err)"

# up_to STEP: removes what the run saved later, as if it had stopped there.
up_to() {
  for folder in runs/a/checkpoints/step-*; do
    [ "$((10#${folder##*step-}))" -le "$1" ] || rm -r "$folder"
  done
}
fsdp=(--set parallel.strategy=fsdp)
ddp=(--set parallel.strategy=ddp)
saves=(--set checkpoint.every=15 --set checkpoint.keep=0)
train a -n 4 "${fsdp[@]}" "${saves[@]}" --set checkpoint.async=true || fail "$(cat a.err)"
same_weights straight a
"$lockstep" checkpoint verify runs/a > verify.out || fail "$(cat verify.out)"
up_to 15
train a -n 2 "${ddp[@]}" "${saves[@]}" --resume auto || fail "$(cat a.err)"
contains a.out "resumed after step 15"
same_weights straight a
up_to 30
train a -n 1 "${saves[@]}" --resume auto || fail "$(cat a.err)"
contains a.out "resumed after step 30"
same_weights straight a
up_to 45
train a -n 8 "${fsdp[@]}" "${saves[@]}" --resume auto || fail "$(cat a.err)"
contains a.out "resumed after step 45"
same_weights straight a
