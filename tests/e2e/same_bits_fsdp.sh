#!/usr/bin/env bash
# FSDP ends with the bits of DDP: in every mode, on any number of ranks, in fp32 and bf16, and after
# a stop and resume.
source "$(dirname "$0")/lib.sh"
make_text
fsdp=(--set parallel.strategy=fsdp)

train ddp -n 1 || fail "$(cat ddp.err)"
for ranks in 1 2 3 4 8; do
  train "full$ranks" -n $ranks "${fsdp[@]}" || fail "$(cat full$ranks.err)"
  same_weights ddp full$ranks
done
for shard in grad optim 2 1; do
  train "shard_$shard" -n 4 "${fsdp[@]}" --set parallel.shard=$shard ||
    fail "$(cat shard_$shard.err)"
  same_weights ddp shard_$shard
done
for mesh in 2,2 1,4 4,1; do
  train "mesh_$mesh" -n 4 "${fsdp[@]}" --set parallel.shard=hybrid --set parallel.mesh="[$mesh]" ||
    fail "$(cat mesh_$mesh.err)"
  same_weights ddp mesh_$mesh
done
for wrap in none blocks.0; do
  train "wrap_$wrap" -n 2 "${fsdp[@]}" --set "parallel.wrap=$wrap" || fail "$(cat "wrap_$wrap.err")"
  same_weights ddp "wrap_$wrap"
done
# The block around this unit reads its weights. The unit's own forward() never runs.
for ranks in 1 2; do
  for wrap in blocks.0.qkv wte; do
    train "inner_$wrap$ranks" -n $ranks "${fsdp[@]}" --set "parallel.wrap=$wrap" ||
      fail "$(cat "inner_$wrap$ranks.err")"
    same_weights ddp "inner_$wrap$ranks"
  done
done
rows=(--set parallel.shard=hybrid --set parallel.mesh="[2,1]")
train inner_rows -n 2 "${fsdp[@]}" --set parallel.wrap=blocks.0.qkv "${rows[@]}" ||
  fail "$(cat inner_rows.err)"
same_weights ddp inner_rows
train again -n 4 "${fsdp[@]}" --set train.recompute=blocks --set train.recompute_every=2 \
  --set parallel.offload=true || fail "$(cat again.err)"
same_weights ddp again

# The logged losses agree too, to the last digit.
losses() { sed -E 's/.*"step":([0-9]+),"loss":([^,]*),.*/\1 \2/' "runs/$1/metrics.jsonl"; }
diff <(losses ddp) <(losses full4) || fail "losses of ddp and fsdp differ"
grep -o '"val_loss":[^,}]*' runs/ddp/metrics.jsonl > a
grep -o '"val_loss":[^,}]*' runs/full8/metrics.jsonl > b
diff a b || fail "validation losses of ddp and fsdp differ"

train half -n 1 --set train.precision=bf16
for ranks in 2 4; do
  train "half$ranks" -n $ranks --set train.precision=bf16 "${fsdp[@]}" ||
    fail "$(cat half$ranks.err)"
  same_weights half half$ranks
done

# A checkpoint holds slices. Any strategy on any number of ranks resumes from it.
goes_on() {
  local from=$1 name=$2; shift 2
  train "$name" "$@" --resume "runs/$from/checkpoints/step-00000050" || fail "$(cat "$name.err")"
  contains "$name.out" "resumed after step 50"
  same_weights ddp "$name"
}
goes_on full4 sharded_to_ddp -n 2
goes_on ddp ddp_to_sharded -n 3 "${fsdp[@]}"
goes_on full4 more_ranks -n 8 "${fsdp[@]}"
goes_on full3 fewer_ranks -n 2 "${fsdp[@]}" --set parallel.shard=optim
goes_on mesh_2,2 rows_to_one -n 1
