#!/usr/bin/env bash
# One epoch at a time, whatever is cut off or frozen: ranks on two hosts (network namespaces) append
# their epoch to one file, and no line of an old epoch follows the first one of a new epoch.
# LOCKSTEP_PARTITIONS=N: so many runs; LOCKSTEP_SEED: of the first one, which a failure names.
source "$(dirname "$0")/lib.sh"
id=$$
remove_hosts() { ip netns del "lspart$id-0"; ip netns del "lspart$id-1"; }
trap 'jobs -p | xargs -r kill -9 2> /dev/null; remove_hosts 2> /dev/null; rm -rf "$work"' EXIT
make_hosts() {
  ip netns add "lspart$id-0" && ip netns add "lspart$id-1" &&
    ip link add "lp$id-0" netns "lspart$id-0" type veth peer name "lp$id-1" netns "lspart$id-1" ||
    return 1
  local h
  for h in 0 1; do
    ip -n "lspart$id-$h" addr add "10.113.0.$((h + 1))/24" dev "lp$id-$h" &&
      ip -n "lspart$id-$h" link set "lp$id-$h" up && ip -n "lspart$id-$h" link set lo up || return 1
  done
}
make_hosts 2> make.err || skip "two network namespaces cannot be made: $(tail -n 1 make.err)"
"$lockstep" token job.token > token.out || fail "$(cat token.out)"
export LOCKSTEP_JOB_TOKEN_FILE=$work/job.token

# agent HOST NODE: of the job `name`. Its ranks write until there is a file `stop`, and in epoch 2
# only 20 lines.
agent() {
  # shellcheck disable=SC2016
  exec ip netns exec "lspart$id-$1" "$lockstep" run --nnodes 2 --node-rank "$2" \
    --rdzv-endpoint "10.113.0.1:$port" --rdzv-id "$name" --rdzv-conf lease=1 --max-restarts 1 \
    --grace 0.2 -- bash -c 'n=0
      while [ ! -e "$0.stop" ] && { [ "$LOCKSTEP_EPOCH" = 1 ] || [ $((n += 1)) -le 20 ]; }; do
        echo "$LOCKSTEP_EPOCH" "$RANK" >> "$0.lines"; sleep 0.01
      done' "$name"
}
writes() { grep -q "^$2 $3$" "$1.lines"; }
down() { ip -n "lspart$id-1" link set "lp$id-1" "$1"; }
# What host 1 sends is lost; then what is sent to it.
requests() { ip -n "lspart$id-1" route "$1" blackhole 10.113.0.1/32; }
answers() { ip -n "lspart$id-0" route "$1" blackhole 10.113.0.2/32; }

# fault KIND SECONDS: begins, lasts until the second epoch has begun or at most that long.
fault() {
  case $1 in
    both) down down ;;
    frozen) kill -STOP "$second" ;;
    *) "$1" add ;;
  esac
  agent 0 1 > "$name.spare" 2>&1 & spare=$!
  wait_for "$2" writes "$name" 2 0 || true
  case $1 in
    both) down up ;;
    frozen) kill -CONT "$second" ;;
    *) "$1" del ;;
  esac
}

runs=${LOCKSTEP_PARTITIONS:-4} seed=${LOCKSTEP_SEED:-1}
kinds=(both requests answers frozen)
for ((run = seed; run < seed + runs; ++run)); do
  RANDOM=$run name=run$run port=$((20000 + run % 20000))
  kind=${kinds[run % 4]} limit=20
  # After the first four, some faults end before anybody knows what they are.
  ((run <= 4)) || limit=$((RANDOM % 4 + 1))
  agent 0 0 > "$name.first" 2>&1 & first=$!
  agent 1 1 > "$name.second" 2>&1 & second=$!
  wait_for 20 writes "$name" 1 0 && wait_for 20 writes "$name" 1 1 ||
    fail "$name: no lines: $(cat "$name".*)"
  fault "$kind" "$limit"
  [ "$run" -gt 4 ] || writes "$name" 2 0 ||
    fail "$name ($kind): no second epoch: $(cat "$name.first" "$name.second" "$name.spare")"
  # Time in which whoever was cut off could write.
  wait_for 1 false || touch "$name.stop"
  kill "$spare" 2> /dev/null || true
  for pid in $first $second $spare; do
    wait_for 30 eval "! kill -0 $pid" || fail "$name ($kind): an agent hangs: $(cat "$name".*)"
    wait "$pid" 2> /dev/null || true
  done
  awk -v name="$name ($kind)" '$1 < newest { print name ": line " NR " is of epoch " $1 \
      " after one of epoch " newest; bad = 1 } $1 > newest { newest = $1 } END { exit bad }' \
    "$name.lines" || fail "an old epoch wrote after a new one: LOCKSTEP_SEED=$run"
done
