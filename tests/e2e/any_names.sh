#!/usr/bin/env bash
# A run is saved, resumed, evaluated and restarted under any name that the system allows, also under
# names that are not UTF-8.
source "$(dirname "$0")/lib.sh"
make_text
name=$'caf\xe9 \n"x"\\xE9' data=$'t\xebxt.txt' dir=$'d\xefr'
cp text.txt "$data" 2> /dev/null || skip "the file system takes UTF-8 alone"
any=(--set run.dir="$dir" --set data.path="$data")
train straight -n 2 || fail "$(cat straight.err)"

# train() of lib.sh would name its logs after the run.
run() {
  local log=$1; shift
  timeout $((100 * patience)) "$lockstep" train "$here/small.yaml" --set run.name="$name" \
    "${any[@]}" "$@" > "$log.out" 2> "$log.err"
}
run half -n 2 --set train.steps=60 --set checkpoint.every=25 || fail "$(cat half.err)"
same_weights straight half
iconv -f UTF-8 -t UTF-8 "$dir/$name/config.yaml" > /dev/null || fail "config.yaml is not UTF-8"
rm -r "$dir/$name/checkpoints/step-00000060"
run whole -n 3 --resume auto || fail "$(cat whole.err)"
contains whole.out "resumed after step 50"
same_weights straight whole

# The saved config leads to the data again. The answer for programs names the folder.
"$lockstep" eval "$dir/$name" --json > eval.json 2> eval.err || fail "$(cat eval.err)"
contains eval.json '{"batches":5,"checkpoint":"d\\xEFr/caf\\xE9 \n\"x\"\\x5CxE9/checkpoints/step-'
"$lockstep" train "$dir/$name/config.yaml" --resume auto -n 1 > own.out 2> own.err ||
  fail "$(cat own.err)"
same_weights straight own

# Restarted ranks find the run too.
name=$'r\xe9started'
run restarted -n 2 --max-restarts 1 --set train.steps=800 --set train.eval_every=0 \
  --set checkpoint.replica_every=1 &
agent=$!
wait_for 60 test -s "$dir/$name/metrics.jsonl" || fail "no step: $(cat restarted.err)"
victim=$(rank_of "train.steps=800" 1)
[ -n "$victim" ] || fail "found no process of rank 1"
kill -KILL "$victim"
code=0; wait $agent || code=$?
[ $code = 0 ] || fail "expected exit code 0, got $code: $(tail -n 20 restarted.err)"
contains restarted.out "from replicas in memory"
