#!/usr/bin/env bash
# What can happen to the folder of a run, and to the terminal that it was started from.
source "$(dirname "$0")/lib.sh"
most=$((60 * patience))
make_text
long=(--set train.steps=100000 --set train.eval_every=0)

# start NAME [ARGS…]: starts an endless run in the background, and waits until it has taken a step.
start() {
  local name=$1; shift
  "$@" "$lockstep" train "$here/small.yaml" "${long[@]}" --set run.name="$name" "${ranks[@]}" \
    > "$name.out" 2> "$name.err" &
  pid=$!
  wait_for 60 test -s "runs/$name/metrics.jsonl" || fail "no step was taken: $(cat "$name.err")"
}
stopped() {
  local code=0
  wait "$pid" || code=$?
  [ $code = 3 ] || fail "$1: expected exit code 3, got $code: $(tail -n 20 "$1.out" "$1.err")"
  contains "$1.out" "--resume auto"
}

# Two runs never write to one folder, in whatever way the second one is started.
ranks=(-n 2); start first env
for more in "-n 2" "-n 1" "-n 1 --resume auto"; do
  code=0; train second --set run.name=first $more || code=$?
  [ $code = 2 ] ||
    fail "a second run with $more: expected exit code 2, got $code: $(cat second.err)"
  contains second.err "another process is training into 'runs/first'"
done
kill -HUP $pid; stopped first
# Afterwards the folder is free again, and its content is whole.
train first -n 1 --set train.steps="$(($(wc -l < runs/first/metrics.jsonl) + 5))" \
  --set train.eval_every=0 --resume auto || fail "$(cat first.err)"

# A run that began from another run's checkpoint was stopped. The printed command resumes from its
# own checkpoint.
ranks=(-n 1 --resume runs/first); start branch env
kill -TERM $pid; stopped branch
contains branch.out "run.name=branch -n 1 --resume auto"

# A lost terminal saves and stops, also without an agent. Under nohup it does nothing.
ranks=(-n 1); start alone env
kill -HUP $pid; stopped alone
start nohup nohup
kill -HUP $pid
lines=$(wc -l < runs/nohup/metrics.jsonl)
goes_on() { [ "$(wc -l < runs/nohup/metrics.jsonl)" -gt "$lines" ]; }
wait_for 60 goes_on || fail "nohup did not keep the run alive: $(tail -n 5 nohup.err)"
kill -TERM $pid; stopped nohup

# A reader of the output may leave. The run continues to its end, with one rank and with several.
for ranks in 1 2; do
  train left -n $ranks --set run.name=left$ranks --set train.log_every=1 || fail "$(cat left.err)"
  { "$lockstep" train "$here/small.yaml" --set run.name=piped$ranks --set train.log_every=1 \
    -n $ranks 2> piped.err; echo $? > piped.code; } | head -n 1 > piped.out
  [ "$(cat piped.code)" = 0 ] ||
    fail "a run of $ranks whose output nobody reads any more exits with $(cat piped.code):" \
      "$(cat piped.err)"
  cmp <(cut -d, -f1,2 runs/left$ranks/metrics.jsonl) \
    <(cut -d, -f1,2 runs/piped$ranks/metrics.jsonl) || fail "it took other steps"
done
# A command whose answer cannot be written has failed, and says why. This holds if the first part of
# a long answer met the full disk, if the command would have ended with 1 anyway, and for the help
# of a command whose own output does not matter.
"$lockstep" checkpoint diff runs/left1/checkpoints/step-00000050 runs/left1 --show 1000 \
  > long.out || [ $? = 1 ] || fail "diff"
[ "$(wc -c < long.out)" -gt 4096 ] || fail "not long enough for a second part: $(cat long.out)"
while read -r command; do
  code=0; "$lockstep" $command > /dev/full 2> err || code=$?
  [ $code = 1 ] || fail "$command into a full disk exits with $code"
  contains err "cannot write to standard output: No space left on device"
done << END
config show $here/small.yaml
config keys
checkpoint diff runs/left1/checkpoints/step-00000050 runs/left1 --show 1000
checkpoint ls runs/left1
doctor
--version
--help
train --help
run --help
END

# If standard streams are closed, no file or pipe of the program may take their numbers: printed
# text would go there.
"$lockstep" run -n 1 -- sh -c 'readlink /proc/$PPID/fd/0 /proc/$PPID/fd/1 /proc/$PPID/fd/2 > seen' \
  <&- >&- 2>&- || fail "run without streams"
[ "$(grep -cx /dev/null seen)" = 3 ] || fail "standard streams became $(tr '\n' ' ' < seen)"

# The disk is full for the metrics. The run ends with its weights, says what is missing, and writes
# no half line.
mkdir disk
if mount -t tmpfs -o size=8k tmpfs disk 2> /dev/null; then
  trap 'umount -l "$work/disk"; jobs -p | xargs -r kill -9 2> /dev/null; rm -rf "$work"' EXIT
  train straight -n 2
  mkdir -p runs/full && ln -s "$work/disk/metrics.jsonl" runs/full/metrics.jsonl
  train full -n 2 || fail "$(cat full.err)"
  same_weights straight full
  [ "$(grep -c 'are missing: write' full.out)" = 1 ] ||
    fail "expected one warning about the metrics: $(cat full.out)"
  ! grep -vq '^{.*}$' disk/metrics.jsonl || fail "a torn line: $(tail -n 1 disk/metrics.jsonl)"
  # A disk that is too small for a checkpoint is reported before the first step.
  rm disk/metrics.jsonl
  mkdir -p runs/small disk/small && ln -s "$work/disk/small" runs/small/checkpoints
  code=0; train small -n 2 || code=$?
  [ $code = 1 ] || fail "a run that could not save exits with 1, got $code"
  needs='checkpoints. has .* free, and the checkpoint needs .*this run will save nothing'
  said=$(grep -n "$needs" small.out | head -n 1 | cut -d: -f1)
  [ -n "$said" ] && [ "$said" -lt "$(grep -n '^step 1/' small.out | cut -d: -f1)" ] ||
    fail "not said before the first step: $(cat small.out)"
  # So is one that is too small for the checkpoints that stay while another one is written.
  rm -r disk/small
  train one -n 1 --set train.steps=6
  mount -o remount,size=$((3 * $(du -sk runs/one/checkpoints | cut -f1)))k disk
  mkdir disk/kept runs/kept && ln -s "$work/disk/kept" runs/kept/checkpoints
  train kept -n 2 --set checkpoint.every=1 --set checkpoint.keep=3 && fail "everything was saved" ||
    [ $? = 1 ] || fail "$(cat kept.err)"
  enough='enough for [12] of 60 saves, of which 3 stay while the next one is written; '
  said=$(grep -n "$enough.*later saves will fail" kept.out | cut -d: -f1)
  [ -n "$said" ] && [ "$said" -lt "$(grep -n '^step 1/' kept.out | cut -d: -f1)" ] ||
    fail "not said before the first step: $(cat kept.out)"
  [ "$(grep -c 'was not saved' kept.out)" = 1 ] || fail "said more than once: $(cat kept.out)"
  rm -r disk/kept
  mkdir disk/small
  mount -o remount,size=8k disk
  # A file that could not be written whole is not there.
  rm -r disk/small
  for file in logits.json logits.safetensors; do
    code=0
    "$lockstep" eval runs/left1 --ids 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20 \
      --logits disk/$file > eval.out 2> eval.err || code=$?
    [ $code = 1 ] || fail "logits into a full disk: expected exit code 1, got $code"
    contains eval.err "No space left on device"
    [ -z "$(ls -A disk)" ] || fail "half of the logits stayed: $(ls -lA disk)"
  done
else
  echo "not tried: a full disk (no right to mount a tmpfs)"
fi

# A limit of file sizes that is too low for a checkpoint is reported before the first step. A soft
# limit is raised.
(ulimit -S -f 16; train soft -n 2) || fail "$(cat soft.err)"
code=0; (ulimit -f 16; train hard -n 1) || code=$?
[ $code = 1 ] || fail "a run that may not write its checkpoint exits with 1, got $code"
limit='warning: rank 0: its files may have .* at most (ulimit -f), and '
said=$(grep -n "$limit.*will save nothing unless you raise the limit" hard.out | cut -d: -f1)
[ -n "$said" ] && [ "$said" -lt "$(grep -n '^step 1/' hard.out | cut -d: -f1)" ] ||
  fail "not said before the first step: $(cat hard.out hard.err)"
[ "$(ulimit -S -f 16; "$lockstep" run -n 1 -- bash -c 'ulimit -f')" = "[rank 0] 16" ] ||
  fail "the limit of a program that run starts was changed"

# A run's own config, used from another folder or after a move, does not begin another run of that
# name.
mkdir elsewhere; mkdir elsewhere/runs
code=0
(cd elsewhere && timeout $most "$lockstep" train ../runs/first/config.yaml --resume auto \
  > away.out 2> away.err) || code=$?
[ $code = 2 ] ||
  fail "a config of another folder: expected exit code 2, got $code:" \
    "$(tail -n 3 elsewhere/away.out elsewhere/away.err)"
contains elsewhere/away.err \
  "'../runs/first/config.yaml' is the config of the run in '$work/runs/first', but"
contains elsewhere/away.err "add --set run.dir=$work/runs --set run.name=first"
[ -z "$(ls elsewhere/runs)" ] || fail "another run was begun"
steps=$(($(wc -l < runs/first/metrics.jsonl) + 3))
timeout $most "$lockstep" train runs/first/config.yaml --resume auto --set train.steps=$steps \
  > near.out 2> near.err || fail "$(cat near.err)"
(cd elsewhere && timeout $most "$lockstep" train ../runs/first/config.yaml --resume auto \
  --set data.path=../text.txt --set run.dir=../runs \
  --set train.steps=$((steps + 1)) > away.out 2> away.err) || fail "$(cat elsewhere/away.err)"
[ -d "runs/first/checkpoints/step-$(printf %08d $((steps + 1)))" ] ||
  fail "the run was not continued: $(ls runs/first/checkpoints)"
(cd elsewhere && timeout $most "$lockstep" train ../runs/first/config.yaml --resume auto \
  --set data.path=../text.txt --set run.name=anew \
  --set train.steps=6 > anew.out 2> anew.err) ||
  fail "a new run after that config: $(cat elsewhere/anew.err)"

# Names that a shell, YAML or a list of paths could take for something else.
for name in $'two\nlines' '[x]' '{a: 1}' '- x' '# x' "it's" '~' 'null' ' x ' $'\t' '=' 'a=b' \
  '$(x)'; do
  train named -n 1 --set run.name="$name" --set train.steps=6 ||
    fail "run.name '$name': $(cat named.err)"
  timeout $most "$lockstep" train "runs/$name/config.yaml" --resume auto --set train.steps=8 \
    > named.out 2> named.err ||
    fail "resume of run.name '$name': $(cat named.err)"
  [ -d "runs/$name/checkpoints/step-00000008" ] ||
    fail "run.name '$name' was not continued: $(ls "runs/$name")"
done
