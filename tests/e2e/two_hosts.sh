#!/usr/bin/env bash
# Two hosts in five minutes (docs/launcher.md), as printed there. The hosts are network namespaces
# with names and process numbers of their own. Ranks of both train to the bits of one rank; a rank
# that dies is named on the other host, and the run resumes.
source "$(dirname "$0")/lib.sh"
ucx_or_skip
id=$$
remove_hosts() { ip netns del "lshost$id-0"; ip netns del "lshost$id-1"; }
trap 'jobs -p | xargs -r kill -9 2> /dev/null; remove_hosts 2> /dev/null; rm -rf "$work"' EXIT
make_hosts() {
  ip netns add "lshost$id-0" && ip netns add "lshost$id-1" &&
    ip link add "ls$id-0" netns "lshost$id-0" type veth peer name "ls$id-1" netns "lshost$id-1" ||
    return 1
  local h
  for h in 0 1; do
    ip -n "lshost$id-$h" addr add "10.112.0.$((h + 1))/24" dev "ls$id-$h" &&
      ip -n "lshost$id-$h" link set "ls$id-$h" up && ip -n "lshost$id-$h" link set lo up || return 1
  done
}
make_hosts 2> make.err || skip "two network namespaces cannot be made: $(tail -n 1 make.err)"
link_is_up() { ip -n "lshost$id-$1" link show dev "ls$id-$1" | grep -q 'state UP'; }
for h in 0 1; do wait_for 20 link_is_up $h || fail "the link of host $h does not come up"; done
make_text

# As step 2 has it. Both hosts share this folder.
"$lockstep" token job.token > token.out
contains token.out "export LOCKSTEP_JOB_TOKEN_FILE=$PWD/job.token"
export LOCKSTEP_JOB_TOKEN_FILE=$PWD/job.token

# on HOST COMMAND…: as if typed on that host.
on() {
  local host=$1; shift
  exec ip netns exec "lshost$id-$host" unshare --uts --pid --fork --kill-child --mount-proc \
    bash -c 'hostname "$0"; mount -t sysfs sysfs /sys; exec "$@"' "node$host" "$@"
}
# job NAME PORT [ARGS…]: the two commands of the walk; `code0` and `code1` are their exit codes.
job() {
  local name=$1 port=$2 node; shift 2
  local lines=(--rdzv-endpoint "10.112.0.1:$port" --rdzv-id "$name" -n 2)
  for node in 0 1; do
    (on $node "$lockstep" run --nnodes 2 --node-rank $node "${lines[@]}" --max-restarts 1 -- \
      "$lockstep" train "$here/small.yaml" --resume auto --set run.name="$name" "$@" \
      > "$name.node$node" 2>&1) &
    nodes[node]=$!
  done
}
end_of_job() {
  code0=0; wait "${nodes[0]}" || code0=$?
  code1=0; wait "${nodes[1]}" || code1=$?
  [ $code0 = 0 ] && [ $code1 = 0 ] ||
    fail "$1 ended with $code0 and $code1: $(tail -n 30 "$1.node0" "$1.node1")"
  sed -n 's/^\[rank 0\] //p' "$1.node0" > "$1.out"
}

train one -n 1 || fail "$(cat one.err)"
for strategy in ddp fsdp; do
  job $strategy 29400 --set parallel.strategy=$strategy
  end_of_job $strategy
  same_weights one $strategy
  contains $strategy.out "4 ranks ($strategy"
  contains $strategy.out "ucx, reduction tree"
done

# A host without the token, or with another one, says so instead of joining.
"$lockstep" token other.token > token.out
start() { on "$1" "$lockstep" run --nnodes 2 --node-rank "$1" --rdzv-endpoint 10.112.0.1:29405 \
  --rdzv-id right -- true; }
(start 0 > right.out 2>&1) &
right=$!
(unset LOCKSTEP_JOB_TOKEN_FILE; start 1) > untold.out 2>&1 && code=0 || code=$?
[ $code = 2 ] || fail "without a token: exit code $code"
contains untold.out "this job has no token: make a token with \`lockstep token FILE\`"
(export LOCKSTEP_JOB_TOKEN_FILE=$PWD/other.token; start 1) > wrong.out 2>&1 && code=0 || code=$?
[ $code = 2 ] || fail "with another token: exit code $code"
contains wrong.out "has another token than this process"
{ kill -KILL $right; wait $right; } 2> /dev/null || true

# A rank of the second host dies: it is named on the first one, and the job goes on from the last
# checkpoint.
train straight -n 1 --set train.steps=200 --set train.eval_every=0 || fail "$(cat straight.err)"
job death 29410 --set train.steps=200 --set train.eval_every=0 --set checkpoint.every=20
wait_for 60 has_taken death 30 || fail "no step 30: $(cat death.node0 death.node1)"
victim=$(rank_of run.name=death 3 | head -n 1)
kill -KILL "$victim"
end_of_job death
same_weights straight death
cat death.node0 death.node1 > death.both
contains death.both "rank 3"
