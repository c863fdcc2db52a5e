#!/usr/bin/env bash
# torchrun's job lines as they stand in documentation and in batch scripts run here, unchanged but
# for the name of the launcher: `lockstep run` in place of `torchrun`.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh" "$1"
command -v python3 > /dev/null || skip 'python3 is missing'

# What a training script does first. It may not be executed.
cat > train.py << 'PY'
import os, sys
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
missing = [name for name in names if name not in os.environ]
assert not missing, missing
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], "args", *sys.argv[1:])
print("errors of", os.environ["RANK"], file=sys.stderr)
PY
mkdir package && cp train.py package/entry.py && touch package/__init__.py
printf '#!/bin/sh\necho "rank $RANK of $WORLD_SIZE args $*"\n' > program && chmod +x program
port=$(free_port)

# line RANKS [NAME=VALUE]... LINE: runs the words after `torchrun`.
line() {
  local ranks=$1 rank; shift
  timeout $((60 * patience)) env "$@" > out 2> err || fail "'$*' ended with $?: $(cat err)"
  for ((rank = 0; rank < ranks; ++rank)); do
    contains out "rank $rank of $ranks args"
  done
}
run="$lockstep run"

# PyTorch's documentation of torchrun, and its tutorials.
line 2 $run --standalone --nnodes=1 --nproc-per-node=2 train.py --lr 0.1
contains out 'args --lr 0.1'
line 2 $run --nnodes=1 --nproc-per-node=2 --max-restarts=3 --rdzv-id=job7 --rdzv-backend=c10d \
  --rdzv-endpoint=localhost:"$port" train.py
line 2 $run --nproc_per_node=2 --nnodes=1 --node_rank=0 --master_addr=127.0.0.1 \
  --master_port="$port" train.py
line 1 $run train.py
line 2 $run --standalone --nproc-per-node 2 -m package.entry 50 10
contains out 'args 50 10'
line 2 $run --standalone --nproc-per-node=2 --no-python ./program 50 10
# Batch scripts.
line 2 PET_NPROC_PER_NODE=2 PET_STANDALONE=1 $run train.py
line 2 $run --nnode=1 --nproc_per=2 --master_port="$port" train.py
line 2 $run --nnodes 1 --nproc_per_node 2 --rdzv_id 4711 --rdzv_backend c10d --rdzv_endpoint \
  "localhost:$port" --role trainer --tee 3 --local-ranks-filter 0,1 --start-method spawn train.py
line 2 $run --nnodes=1:1 --nproc_per_node=2 --rdzv_conf=timeout=60 --rdzv_endpoint=localhost:0 \
  --rdzv_id=a --monitor_interval=5 --local_addr=127.0.0.1 --event_log_handler=null \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2 --shutdown-timeout=10 --use_env train.py
line 2 $run --standalone --nproc-per-node=2 --run-path "$work/train.py"
line 2 PYTHON_EXEC="$(command -v python3)" $run --standalone --nproc-per-node=2 train.py

# An executable script without an interpreter line is run by Python as well.
chmod +x train.py
line 2 $run --standalone --nproc-per-node=2 train.py
chmod -x train.py

# Two nodes, one line each, as torchrun's static rendezvous has it: without --rdzv-id.
static() {
  timeout $((60 * patience)) $run --nproc_per_node=1 --nnodes=2 --node_rank="$1" \
    --master_addr=127.0.0.1 --master_port="$port" train.py > "out$1" 2> "err$1"
}
static 1 & other=$!
static 0 || fail "node 0: $(cat err0)"
wait $other || fail "node 1: $(cat err1)"
contains out0 'rank 0 of 2'
contains out1 'rank 1 of 2'

# Two pods of an indexed Job or a JobSet of Kubernetes.
pod() {
  JOB_COMPLETION_INDEX=$1 timeout $((60 * patience)) $run --nnodes=2 --nproc_per_node=1 \
    --rdzv-id job --rdzv-endpoint "127.0.0.1:$port" train.py > "out$1" 2> "err$1"
}
pod 1 & other=$!
pod 0 || fail "pod 0: $(cat err0)"
wait $other || fail "pod 1: $(cat err1)"
contains out0 'rank 0 of 2'
contains out1 'rank 1 of 2'

# Files of the ranks. --redirects takes them from the screen, --tee brings them back.
line 0 $run --standalone --nproc_per_node=2 --log_dir=logs --rdzv_id=x -r 0:0,1:3 -t 1:2 \
  --duplicate-stdout-filters 'rank 1,,,of 9' train.py
contains out '[rank 0] rank 0 of 2'
grep -q 'rank 1 of' out && fail 'rank 1 is shown although its output is redirected'
contains err '[rank 1] errors of 1'
tree=$(echo logs/*_*/attempt_0)
for rank in 0 1; do
  contains "$tree/$rank/stdout.log" "rank $rank of 2"
  contains "$tree/$rank/stderr.log" "errors of $rank"
done
[ ! -s "$tree/filtered_stdout.log" ] || fail 'a line with another word was copied'
line 2 $run --standalone --nproc_per_node=2 --log-dir logs2 --duplicate-stdout-filters 'x,rank 1' \
  train.py
[ "$(cat logs2/*/attempt_0/filtered_stdout.log)" = '[rank 1] rank 1 of 2 args' ] ||
  fail "copied lines: $(cat logs2/*/attempt_0/filtered_stdout.log)"

# Without a folder, what is taken from the screen is kept in a temporary one, which the log names.
mkdir temporary
line 0 TMPDIR="$work/temporary" $run --standalone --nproc_per_node=2 -r 3 train.py
[ ! -s out ] || fail "shown: $(cat out)"
contains err "$work/temporary/lockstep_"
contains "$(echo temporary/*/attempt_0/1/stdout.log)" 'rank 1 of 2'

# What a rank reports is in its folder, and a restart has files of its own.
cat > failing.py << 'PY'
import os, sys
with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
    file.write('{"message": {"message": "out of luck"}}')
sys.exit(9)
PY
code=0
timeout $((60 * patience)) $run --standalone --max-restarts=1 --log_dir=failed failing.py \
  > out 2> err || code=$?
[ $code = 9 ] || fail "exit code $code: $(cat err)"
contains err 'out of luck'
for attempt in 0 1; do
  contains "$(echo failed/*/attempt_$attempt/0/error.json)" 'out of luck'
done

# Each rank as the only one with a device.
printf '#!/bin/sh\necho "rank $RANK of $WORLD_SIZE args $LOCAL_RANK sees $CUDA_VISIBLE_DEVICES"\n' \
  > program
line 2 CUDA_VISIBLE_DEVICES=4,6 $run --standalone --nproc_per_node=2 --virtual-local-rank ./program
contains out 'rank 0 of 2 args 0 sees 4'
contains out 'rank 1 of 2 args 0 sees 6'

# What cannot mean anything here is refused, and the message says why.
refused() {
  local text=$1 code=0; shift
  timeout $((60 * patience)) env "$@" > out 2> err || code=$?
  [ $code = 2 ] || fail "'$*' ended with $code instead of 2"
  contains err "$text"
}
refused 'plug-ins are classes of Python' $run --logs-specs mine train.py
refused 'handlers are objects of Python' $run --event-log-handler console train.py
refused 'numactl' $run --numa-binding node train.py
refused "'SIGNONE' is no signal" $run --signals-to-handle SIGNONE train.py
refused 'contradict each other' $run --no-python -m package.entry
refused 'has 1 for 2 ranks' CUDA_VISIBLE_DEVICES=3 $run -n 2 --virtual-local-rank train.py
refused 'JOB_COMPLETION_INDEX is 5' JOB_COMPLETION_INDEX=5 $run --nnodes=2 --rdzv-id a \
  --rdzv-endpoint localhost:1 train.py
refused "did you mean --nnodes" $run --nnods=1 train.py
