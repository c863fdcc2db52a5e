#!/usr/bin/env bash
# Two agents on this host act as two nodes. One is killed with its ranks and its memory, and a new
# one replaces it. The buddies on the other node give back what was lost, without a checkpoint on
# disk. The run ends with the bits of one that never stopped.
source "$(dirname "$0")/lib.sh"
make_text
train_straight 500

# agent LOG RUN NODE PORT [ARGS…]
agent() {
  local log=$1 run=$2 node=$3 port=$4; shift 4
  exec "$lockstep" run --nnodes 2 --node-rank "$node" --rdzv-endpoint 127.0.0.1:"$port" \
    --rdzv-id "$run" -n 2 --max-restarts 2 -- \
    "$lockstep" train "$here/small.yaml" --resume auto --set run.name="$run" "${long[@]}" \
    --set checkpoint.replica_every=1 "$@" > "$log" 2>&1
}

port=$((20000 + $$ % 20000))
for strategy in ddp fsdp; do
  run=nodes_$strategy port=$((port + 1))
  agent $run.out $run 0 $port --set parallel.strategy=$strategy & first=$!
  agent second.out $run 1 $port --set parallel.strategy=$strategy & second=$!
  wait_for 60 has_taken $run 50 || fail "no step 50: $(cat $run.out second.out)"
  kill -KILL $second
  agent third.out $run 1 $port --set parallel.strategy=$strategy & third=$!
  code=0; wait $first || code=$?
  [ $code = 0 ] || fail "expected exit code 0, got $code: $(tail -n 30 $run.out third.out)"
  code=0; wait $third || code=$?
  [ $code = 0 ] ||
    fail "the agent that took the place: expected exit code 0, got $code: $(tail -n 30 third.out)"
  contains $run.out "waiting for another one in its place"
  contains $run.out \
    "from replicas in memory (none on disk; from other ranks the parts of rank 2, 3)"
  sed -n 's/^\[rank 0\] \(weights sha256:\)/\1/p' $run.out > plain.out
  same_weights straight plain
  none_left run.name=$run || fail "processes were left over: $(processes_of run.name=$run)"
done
