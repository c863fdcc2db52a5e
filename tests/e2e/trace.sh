#!/usr/bin/env bash
# The timeline of a run: what it holds, that it changes no bit, and what is left of it when a rank
# dies.
source "$(dirname "$0")/lib.sh"
command -v python3 > /dev/null || skip "python3 is not installed"
make_text
short=(--set train.steps=6 --set train.eval_every=0 --set checkpoint.every=3)

check_trace() {
  python3 "$here/trace_check.py" "$@" || fail "the timeline is wrong"
}

train plain -n 2 "${short[@]}" || fail "$(cat plain.err)"
train traced -n 2 "${short[@]}" --trace traced.json || fail "$(cat traced.err)"
same_weights plain traced
contains traced.out "timeline   traced.json"
check_trace traced.json --ranks 2 --steps 6 --category phase comm wait op forward backward
[ -z "$(find . -name '*.rank-*')" ] || fail "files of single ranks are left: $(ls)"

train sharded -n 2 "${short[@]}" --set parallel.strategy=fsdp --trace sharded.json ||
  fail "$(cat sharded.err)"
same_weights plain sharded
check_trace sharded.json --ranks 2 --steps 6 --category comm wait

# A timeline that reaches its limit ends there, and the run goes on.
train limited -n 2 --set train.steps=40 --set train.eval_every=0 --trace limited.json \
  --trace-mb 1 || fail "$(cat limited.err)"
contains limited.err "the limit of all ranks together"
check_trace limited.json --ranks 2 --most-mb 1

# A killed rank leaves what it has.
"$lockstep" train "$here/small.yaml" -n 2 --set run.name=killed --set train.steps=100000 \
  --set train.eval_every=0 --trace killed.json > killed.out 2> killed.err &
pid=$!
wait_for 60 has_taken killed 5 || fail "the run made no steps: $(cat killed.err)"
kill -9 "$(rank_of run.name=killed 1)"
wait $pid && fail "a run whose rank was killed succeeded"
contains killed.err "timeline   killed.json"
check_trace killed.json --ranks 2 --category phase comm

# A rank that cannot write says so, and the run goes on.
mkdir unwritable.json.rank-1
train unwritable -n 2 "${short[@]}" --trace unwritable.json || fail "$(cat unwritable.err)"
contains unwritable.err "rank 1 records no timeline"
same_weights plain unwritable
check_trace unwritable.json --ranks 1

refused() {
  local text=$1 code=0; shift
  "$lockstep" "$@" > refused.out 2>&1 || code=$?
  [ $code = 2 ] || fail "$* exited with $code instead of 2: $(cat refused.out)"
  contains refused.out "$text"
}
refused "does not exist" train "$here/small.yaml" -n 2 --trace no/such/folder.json
refused "--trace-mb requires --trace" train "$here/small.yaml" --trace-mb 3
refused "give one of them" bench step --config "$here/small.yaml" --trace x.json --profile

refused "need --device" plan "$here/small.yaml" -n 2 --price 3
refused "leave out --nodes" plan "$here/small.yaml" -n 2 --device cpu --nodes 2
refused "do not spread evenly" plan "$here/small.yaml" -n 3 --device h100 --nodes 2
refused "more ranks" bench scale --config "$here/small.yaml" -n 1,9

"$lockstep" bench scale --config "$here/small.yaml" -n 1,2 --steps 2 --json > scale.json
python3 - <<'END' || fail "bench scale is wrong: $(cat scale.json)"
import json
assert [step["ranks"] for step in json.load(open("scale.json"))] == [1, 2]
END
"$lockstep" plan "$here/small.yaml" -n 2 --device cpu > plan.out
contains plan.out "a micro-batch was measured"

"$lockstep" bench step --config "$here/small.yaml" -n 2 --steps 2 --trace bench.json > bench.out
contains bench.out "timeline   bench.json"
check_trace bench.json --ranks 2 --steps 2 --category op comm
"$lockstep" bench step --config "$here/small.yaml" --steps 2 --profile --json > profile.json
python3 - <<'END' || fail "the profile is wrong: $(cat profile.json)"
import json
profile = json.load(open("profile.json"))["profile"]
whole = profile["operations_ms"] + profile["wait_ms"] + profile["other_ms"]
assert abs(whole - profile["step_ms"]) < 1e-6 * whole, whole
assert profile["other_ms"] > 0
names = [row["name"].split(" ")[0] for row in profile["operations"]]
for name in ("gemm", "attention", "layer_norm", "adamw", "cross_entropy"):
    assert name in names, names
END
