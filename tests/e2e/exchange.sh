#!/usr/bin/env bash
# Compares checkpoints with each other, saved by different numbers of ranks.
source "$(dirname "$0")/lib.sh"
make_text

# exits CODE TEXT ARGS…
exits() {
  local code=$1 text=$2; shift 2
  local got=0
  timeout $((60 * patience)) "$lockstep" "$@" > said 2>&1 || got=$?
  [ "$got" = "$code" ] || fail "lockstep $* exited with $got, expected $code: $(tail -n 5 said)"
  contains said "$text"
}

train one -n 1
train three -n 3
train longer -n 2 --set optim.lr=0.0031
train sharded -n 2 --set parallel.strategy=fsdp
exits 0 "equal: " checkpoint diff runs/one runs/three
exits 0 "equal: " checkpoint diff runs/one runs/sharded
exits 0 "equal: " checkpoint diff runs/one/checkpoints/step-00000060 runs/three/checkpoints
exits 1 "elements differ, first at [" checkpoint diff runs/one runs/longer
exits 1 "blocks.0.fc.bias: " checkpoint diff runs/one runs/longer --show 1
exits 2 "no such file or folder" checkpoint diff runs/one runs/none
exits 2 "required" checkpoint diff runs/one

# Exports a model, in one file and in several. An independent reader checks it.
read_exported() {
  /usr/bin/python3 "$here/../exchange/read_exported.py" "$@" > read.out 2>&1 ||
    fail "read_exported $*: $(tail -n 3 read.out)"
}
exits 0 "1 file" checkpoint export runs/three out/gpt2
exits 0 "files" checkpoint export runs/three out/gpt2-shards --max-shard-size 30KB
exits 0 "tensors" checkpoint export runs/three out/own --format safetensors
[ "$(find out/gpt2-shards -name 'model-0*-of-0*.safetensors' | wc -l)" -gt 3 ] ||
  fail "expected several files: $(ls out/gpt2-shards)"
exits 2 "nothing is written over" checkpoint export runs/three out/gpt2
exits 2 "a whole number above 0 of B, KB, MB" checkpoint export runs/three out/x \
  --max-shard-size 5XB
exits 2 "such as 1500MB" checkpoint export runs/three out/x --max-shard-size 1.5MB
exits 0 "equal: " checkpoint diff out/gpt2 out/gpt2-shards
exits 0 "equal: " checkpoint diff runs/three out/own --skip optim.
[ -z "$(find out -name '*.tmp-*')" ] ||
  fail "something half-written is left: $(find out -name '*.tmp-*')"
if /usr/bin/python3 -c 'import numpy' 2> /dev/null; then
  checkpoint=runs/three/checkpoints/step-00000060
  read_exported $checkpoint out/gpt2 hf-gpt2
  read_exported $checkpoint out/gpt2-shards hf-gpt2
  read_exported $checkpoint out/own safetensors
else
  printf 'not checked: the independent reader needs python3-numpy\n'
fi

# A checkpoint of boxes, by whole tensors: listed, verified, compared, exported, trained on.
cp -r runs/three runs/boxes
rm -r runs/boxes/checkpoints/*
"$(dirname "$lockstep")/save_in_boxes" runs/three/checkpoints/step-00000060 runs/boxes/checkpoints \
  2 2 || fail "cannot save in boxes"
contains runs/boxes/checkpoints/step-00000060/manifest.json '"version": 4'
exits 0 "step-00000060" checkpoint ls runs/boxes
exits 0 "step-00000060" checkpoint verify runs/boxes
exits 0 "equal: " checkpoint diff runs/three runs/boxes
exits 0 "tensors" checkpoint export runs/boxes out/boxes --format safetensors
exits 0 "equal: " checkpoint diff out/own out/boxes
if /usr/bin/python3 -c 'import numpy' 2> /dev/null; then
  read_exported runs/boxes/checkpoints/step-00000060 out/own safetensors
fi

# Imports it again. The weights are the same, and the run generates, evaluates and trains on.
exits 0 "imported    28 tensors" checkpoint import out/gpt2-shards runs/back \
  --config "$here/small.yaml" --set train.steps=70
exits 0 "equal: " checkpoint diff runs/three runs/back --skip optim.
exits 2 "holds a run: nothing is written over" checkpoint import out/gpt2 runs/back
"$lockstep" generate runs/three --prompt "12 bottles" --tokens 20 > a
"$lockstep" generate runs/back --prompt "12 bottles" --tokens 20 > b
cmp a b || fail "an imported model writes another text"
"$lockstep" eval runs/three --ids "72,101,108" --logits a.json > a
"$lockstep" eval runs/back --ids "72 101 108" --logits b.json > b
cmp a.json b.json || fail "an imported model has other logits"
exits 0 "loss" eval runs/back --ids a.json --logits c.safetensors
exits 2 "nothing is written over" eval runs/back --ids 1,2 --logits a.json
exits 2 "vocabulary" eval runs/back --ids 1,256
[ "$("$lockstep" eval runs/three --json | sed 's/.*"loss"://; s/[,}].*//')" = \
  "$(tail -n 1 runs/three/metrics.jsonl | sed 's/.*"val_loss"://; s/[,}].*//')" ] ||
  fail "eval and training report another validation loss"
"$lockstep" train runs/back/config.yaml -n 2 --resume auto > back.out 2> back.err ||
  fail "resume of an imported run: $(tail -n 3 back.err)"
[ -d runs/back/checkpoints/step-00000070 ] ||
  fail "an imported run did not train on: $(ls runs/back/checkpoints)"

# The same with the other kind of model.
train llama1 -n 1 --set model.kind=llama --set model.kv_heads=1
train llama2 -n 2 --set model.kind=llama --set model.kv_heads=1
same_weights llama1 llama2
exits 0 "21 tensors" checkpoint export runs/llama2 out/llama --max-shard-size 30KB
exits 0 "imported    21 tensors" checkpoint import out/llama runs/llama-back
exits 0 "equal: " checkpoint diff runs/llama1 runs/llama-back --skip optim.
exits 2 "hf-gpt2" checkpoint export runs/llama1 out/x --format hf-gpt2
