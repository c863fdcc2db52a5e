#!/usr/bin/env bash
# Several copies of a stop signal are one request: the run saves, and ends with 3.
source "$(dirname "$0")/lib.sh"
make_text
endless=(--set train.steps=1000000 --set train.eval_every=0)

# begin NAME ARGS…: starts a run in the background; $pid is its first process.
begin() {
  local name=$1; shift
  "$@" "$lockstep" train "$here/small.yaml" --set run.name="$name" "${endless[@]}" $ranks \
    > "$name.out" 2> "$name.err" &
  pid=$!
}
# saved NAME: expects the run to end with 3 and to have saved what it trained.
saved() {
  local name=$1 code=0; wait $pid || code=$?
  [ $code = 3 ] ||
    fail "$name: expected exit code 3, got $code: $(tail -n 20 "$name.out" "$name.err")"
  grep -Eq 'stopped after step [0-9]+ of 1000000, saved in [0-9.]+ s; to continue' "$name.out" ||
    fail "$name: $(cat "$name.out")"
  [ -n "$(ls runs/"$name"/checkpoints)" ] || fail "$name saved nothing"
}
# handles_term PID: whether its child is the program and catches SIGTERM, by the mask in /proc.
# Until it is the program, it has the handlers of `timeout`.
handles_term() {
  local child; child=/proc/$(children_of "$1" | tr -d ' ')
  [ "$(readlink "$child/exe")" = "$(readlink -f "$lockstep")" ] &&
    grep -q 'SigCgt:.*[4-7c-f]...$' "$child/status"
}
took_a_step() { test -s "runs/$1/metrics.jsonl"; }
children_of() { cat /proc/"$1"/task/*/children; }

for ranks in "-n 1" "-n 2"; do
  tag=${ranks// /}
  # Signals every process of the job at once, as a scheduler or systemd signals a control group.
  # systemd adds SIGCONT and SIGHUP.
  begin all$tag env
  wait_for 60 took_a_step all$tag || fail "no step: $(cat all$tag.err)"
  kill -TERM $pid $(children_of $pid)
  for signal in CONT HUP TERM INT USR1; do kill -$signal $pid $(children_of $pid) 2> /dev/null ||
    break; done
  saved all$tag

  # A warning comes first, then the end of the allotted time.
  begin warned$tag env
  wait_for 60 took_a_step warned$tag || fail "no step: $(cat warned$tag.err)"
  kill -USR1 $pid
  kill -TERM $pid
  saved warned$tag

  # `timeout` signals its child and then its whole process group. Here it does so at once: before
  # there can be a handler or ranks.
  for try in 1 2 3; do
    begin early$tag$try timeout --preserve-status 100
    wait_for 60 handles_term $pid || fail "no handler of SIGTERM was installed"
    kill -TERM $pid
    saved early$tag$try
  done
done

# The terminal's Ctrl-C reaches the whole process group, also while ranks are being forked.
ranks="-n 4"
for try in 1 2 3; do
  begin group$try setsid
  wait_for 60 test -e runs/group$try/logs/rank-$try.log ||
    fail "no rank was started: $(cat group$try.err)"
  kill -INT -- -$pid
  saved group$try
done

# What the process inherits does no harm.
ranks="-n 2"
begin inherited env --ignore-signal=CHLD --block-signal=TERM,INT,HUP,USR1
wait_for 60 took_a_step inherited || fail "no step: $(cat inherited.err)"
kill -TERM $pid
saved inherited
contains inherited.err "asking the ranks to save and stop within 120 s"

# A rank of an agent is never imcalm itself: its agent gets these signals as well and decides.
# The other rank holds the run up, since a second signal within a second is never impatience.
begin calm env
wait_for 60 took_a_step calm || fail "no step: $(cat calm.err)"
asked=$(rank_of run.name=calm 0) other=$(rank_of run.name=calm 1)
kill -STOP "$other"
kill -TERM "$asked"
sleep 1.2
kill -TERM "$asked"
kill -CONT "$other"
saved calm

# The agent gives ranks the time that the config says they need.
endless+=(--set checkpoint.stop_budget_s=300)
begin patient env
wait_for 60 took_a_step patient || fail "no step: $(cat patient.err)"
kill -TERM $pid
saved patient
contains patient.err "asking the ranks to save and stop within 305 s"
env --ignore-signal=CHLD "$lockstep" run -n 2 -- true || fail "children cannot be waited for"
