#!/usr/bin/env bash
# The weights do not depend on the number of ranks, the backend, the number of threads or the
# launcher.
source "$(dirname "$0")/lib.sh"
make_text

train one -n 1 || fail "$(cat one.err)"
for ranks in 2 3 4 8; do
  train "shm$ranks" -n $ranks || fail "$(cat shm$ranks.err)"
  same_weights one shm$ranks
done
OMP_NUM_THREADS=3 train threads -n 1; same_weights one threads
# In shared memory the backend's own order is the tree.
train fast -n 3 --set parallel.reduction=fast; same_weights one fast
train buckets -n 2 --set parallel.bucket_mb=0.01; same_weights one buckets
# They do not depend on what is kept, computed again or put into files.
train again -n 2 --set train.recompute=blocks; same_weights one again
train files -n 2 --set train.recompute=blocks --set train.recompute_every=2 \
  --set parallel.offload=true
same_weights one files
[ "$(ls runs | grep -c offload)" = 0 ] || fail "offloading left files behind"

# The logged losses agree too, to the last digit.
losses() { sed -E 's/.*"step":([0-9]+),"loss":([^,]*),.*/\1 \2/' "runs/$1/metrics.jsonl"; }
diff <(losses one) <(losses shm4) || fail "losses of 1 and 4 ranks differ"
grep -o '"val_loss":[^,}]*' runs/one/metrics.jsonl > a
grep -o '"val_loss":[^,}]*' runs/shm8/metrics.jsonl > b
diff a b || fail "validation losses of 1 and 8 ranks differ"

train half -n 1 --set train.precision=bf16
train half2 -n 4 --set train.precision=bf16
same_weights half half2
[ "$(weights half)" != "$(weights one)" ] || fail "bf16 made no difference"
train other -n 1 --set run.seed=8
[ "$(weights other)" != "$(weights one)" ] || fail "the seed made no difference"
