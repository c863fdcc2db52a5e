#!/usr/bin/env bash
# Jobs whose number of ranks changes: each ends with the bits of one rank.
source "$(dirname "$0")/lib.sh"
make_text
# `long`: long enough that a rank can be killed and a node can join meanwhile.
long=(--set train.steps=400 --set train.eval_every=0 --set checkpoint.every=40)
train straight -n 1 "${long[@]}" || fail "$(cat straight.err)"

# killed NAME RANK STEP: kills that rank once the run has taken the step.
killed() {
  wait_for 60 has_taken "$1" 1 || fail "no step 1: $(cat "$1".*)"
  local victim; victim=$(rank_of "run.name=$1" "$2")
  [ -n "$victim" ] || fail "found no process of rank $2"
  wait_for 60 has_taken "$1" "$3" || fail "no step $3: $(cat "$1".*)"
  kill -KILL "$victim"
}
# ended NAME PID: the process ends well.
ended() {
  local code=0; wait "$2" || code=$?
  [ $code = 0 ] || fail "$1 ended with $code: $(tail -n 20 "$1".*)"
}

# A rank dies, no restart is left: the job goes on with three.
"$lockstep" train "$here/small.yaml" --set run.name=fewer -n 3:4 "${long[@]}" > fewer.out \
  2> fewer.err & agent=$!
killed fewer 3 60
ended fewer $agent
contains fewer.out "3 ranks (ddp"
contains fewer.out "resumed after step"
contains fewer.err "the job goes on if fewer ranks or nodes will do"
same_weights straight fewer

# With fewer than the least number, it ends.
"$lockstep" train "$here/small.yaml" --set run.name=least -n 2:2 "${long[@]}" > least.out \
  2> least.err & agent=$!
killed least 1 20
code=0; wait $agent || code=$?
[ $code = 1 ] || fail "expected exit code 1, got $code: $(cat least.err)"

# node NAME PORT N SPARES: an agent of a job of one or two nodes, as node N.
node() {
  "$lockstep" run --nnodes 1:2 --node-rank "$3" --rdzv-endpoint "127.0.0.1:$2" --rdzv-id "$1" -n 2 \
    --spare-timeout "$4" -- "$lockstep" train "$here/small.yaml" --resume auto \
    --set run.name="$1" "${long[@]}" > "$1.node$3" 2>&1 &
  agents[$3]=$!
}
shown() { sed -n 's/^\[rank 0\] //p' "$1.node0" > "$1.out"; }

# A node is lost, and no spare comes.
port=$(free_port)
node lost $port 0 5
node lost $port 1 5
wait_for 60 has_taken lost 60 || fail "no step 60: $(cat lost.node*)"
kill -KILL "${agents[1]}"
ended lost "${agents[0]}"
shown lost
contains lost.out "4 ranks (ddp"
contains lost.out "2 ranks (ddp"
same_weights straight lost

# A node joins late.
port=$(free_port)
node grown $port 0 0.2
wait_for 60 has_taken grown 60 || fail "no step 60: $(cat grown.node*)"
node grown $port 1 0.2
ended grown "${agents[0]}"
ended grown "${agents[1]}"
shown grown
contains grown.out "2 ranks (ddp"
contains grown.out "4 ranks (ddp"
contains grown.node0 "another node has joined"
same_weights straight grown
none_left run.name= || fail "processes were left over: $(processes_of run.name=)"

# The same command under the same name again: epochs of its earlier start are none of this one's.
again() {
  "$lockstep" run -n 1 --rdzv-id again --max-restarts 2 -- "$lockstep" train "$here/small.yaml" \
    --resume auto --set run.name=again "${long[@]}" --set train.steps="$1" > again.out 2> again.err
}
again 400 & agent=$!
killed again 0 60
ended again $agent
again 420 || fail "$(tail -n 20 again.err)"
contains again.out "resumed after step 400"
