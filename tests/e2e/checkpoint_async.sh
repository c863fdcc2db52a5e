#!/usr/bin/env bash
# Saves in the background change no bits, leave checkpoints that verify, and let a run continue when
# the disk is full.
source "$(dirname "$0")/lib.sh"
make_text
export OMP_NUM_THREADS=1  # the bits do not depend on it; many ranks share this machine
train waiting -n 2 || fail "$(cat waiting.err)"
train background -n 2 --set checkpoint.async=true --set checkpoint.every=5 \
  --set checkpoint.keep=3 || fail "$(cat background.err)"
same_weights waiting background
"$lockstep" checkpoint verify runs/background > verify.out || fail "$(cat verify.out)"
[ "$(grep -c 'every byte verified' verify.out)" = 3 ] ||
  fail "expected three checkpoints: $(cat verify.out)"
for key in config_digest data_position random_state epoch; do
  grep -q "\"$key\"" "$(ls -d runs/background/checkpoints/step-* | tail -n 1)/manifest.json" ||
    fail "the manifest lacks $key"
done
# Both runs saved the same values, in the middle and at the end.
cmp <(sed -n '/"entries"/,/"files"/p' runs/waiting/checkpoints/step-00000060/manifest.json) \
    <(sed -n '/"entries"/,/"files"/p' runs/background/checkpoints/step-00000060/manifest.json) ||
    fail "other bytes"

# Resumes from a save in the background, with another number of ranks.
rm -r runs/background/checkpoints/step-00000060
train background -n 4 --set checkpoint.async=true --set checkpoint.every=5 --resume auto ||
  fail "$(cat background.err)"
contains background.out "resumed after step 55"
same_weights waiting background

# The disk is too small (a mount of this test alone). Each save fails, which is reported once.
# Training continues up to the last save, which must not fail.
mkdir -p runs/full/checkpoints
unshare -m true 2> /dev/null || { echo "skipped, needs root: a full disk"; exit 0; }
code=0
export lockstep here
export -f train
unshare -m bash -c '
  mount -t tmpfs -o size=128k none runs/full/checkpoints &&
    train full -n 2 --set checkpoint.async=true --set checkpoint.every=20' || code=$?
[ $code = 1 ] || fail "a run whose last save fails exits with 1, got $code: $(cat full.err)"
contains full.out "step 20 was not saved: rank 0: 'runs/full/checkpoints' has 1"
contains full.out " free, and the checkpoint needs"
[ "$(grep -c '^warning: .* was not saved' full.out)" = 1 ] ||
  fail "one kind of failure is said once: $(cat full.out)"
[ "$(wc -l < runs/full/metrics.jsonl)" = 60 ] || fail "training did not go on"
