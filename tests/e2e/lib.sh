# Shared by the end-to-end tests. Each is a bash script that gets the `lockstep` program as $1,
# works in a folder of its own, and exits with 0 (passed), 77 (skipped, with the reason) or another
# code (failed).
set -euo pipefail

lockstep=$(realpath "$1")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(realpath "$(mktemp -d)")
trap 'jobs -p | xargs -r kill -9 2> /dev/null; rm -rf "$work"' EXIT
cd "$work"

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf 'skipped: %s\n' "$*"; exit 77; }

# Limits of waits are for a program of ordinary speed. A slower build sets a factor.
patience=${LOCKSTEP_TEST_PATIENCE:-1}

# A text that is the same everywhere.
make_text() {
  seq 1 4000 | sed 's/$/ bottles of water stand on the wall, and one falls./' > text.txt
}

# train NAME [ARGS…]: a run of the small config; output goes to NAME.out, errors to NAME.err.
train() {
  local name=$1; shift
  timeout $((100 * patience)) "$lockstep" train "$here/small.yaml" --set run.name="$name" "$@" \
    > "$name.out" 2> "$name.err"
}

# train_straight STEPS: a run that nothing stops, to compare with. Sets `long` to the options of
# runs of that many steps that keep nothing on disk.
train_straight() {
  long=(--set train.steps="$1" --set train.eval_every=0 --set checkpoint.every=0)
  train straight -n 2 "${long[@]}" || fail "$(cat straight.err)"
}

# has_taken NAME STEPS: whether a run has taken that many steps.
has_taken() { [ "$(wc -l 2> /dev/null < "runs/$1/metrics.jsonl")" -ge "$2" ]; }

# The line that every run ends with.
weights() { sed -n 's/^weights sha256://p' "$1.out" | tail -n 1; }

# same_weights REFERENCE NAME
same_weights() {
  local want got; want=$(weights "$1"); got=$(weights "$2")
  [ -n "$want" ] || fail "$1 printed no weights: $(tail -n 3 "$1.out" "$1.err")"
  [ "$want" = "$got" ] ||
    fail "weights of $2 differ from $1: $got instead of $want; $(tail -n 3 "$2.out" "$2.err")"
}

# contains FILE TEXT: fails if the text is missing. If NAME.out lacks it, shows NAME.err too.
contains() {
  if grep -qF -- "$2" "$1"; then return; fi
  local errors=''
  if [[ $1 == *.out && -e ${1%.out}.err ]]; then errors=$(tail -n 15 "${1%.out}.err"); fi
  fail "$1 lacks '$2'; it says: $(tail -n 15 "$1"); $errors"
}

# free_port: a free port of loopback whose next port is free too.
free_port() {
  python3 -c 'import socket
while True:
  with socket.socket() as a, socket.socket() as b:
    a.bind(("127.0.0.1", 0))
    try: b.bind(("127.0.0.1", a.getsockname()[1] + 1))
    except (OSError, OverflowError): continue
    print(a.getsockname()[1])
    break'
}

# wait_for SECONDS COMMAND…: until the command succeeds.
wait_for() {
  local limit=$(( $(date +%s) + $1 * patience )); shift
  until "$@" > /dev/null 2>&1; do
    [ "$(date +%s)" -lt "$limit" ] || return 1
    read -rt 0.05 < <(:) || true
  done
}

# processes_of TEXT: the processes of this test whose command line has the text. Other tests on this
# machine have none of them.
processes_of() {
  local pid
  for pid in $(pgrep -f -- "$1"); do
    [ "$(readlink "/proc/$pid/cwd")" != "$work" ] || echo "$pid"
  done
}
none_left() { [ -z "$(processes_of "$1")" ]; }
# rank_of TEXT RANK: the process of that rank among those whose command line has the text.
rank_of() {
  local pid
  for pid in $(processes_of "$1"); do
    ! tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qx "RANK=$2" || echo "$pid"
  done
}
# Names that lockstep has in shared memory, from any run.
named_memory() { find /dev/shm -name '*lockstep*' | sort; }

ucx_or_skip() {
  "$lockstep" --version | grep -q 'UCX none' && skip "built without the ucx backend"
  # LeakSanitizer itself crashes at the end of such a rank ("Tracer caught signal 11"). The
  # conformance suite's processes, which use UCX as well, are searched for leaks.
  export LSAN_OPTIONS="${LSAN_OPTIONS:+$LSAN_OPTIONS:}detect_leaks=0"
}
mpirun_or_skip() {
  command -v mpirun > /dev/null || skip "mpirun is not installed (openmpi-bin)"
  # Open MPI keeps memory until the end. That is no leak of ours.
  export LSAN_OPTIONS="${LSAN_OPTIONS:+$LSAN_OPTIONS:}detect_leaks=0"
  # mpirun's session folder. In /tmp all mpiruns share one, and each tries to remove it at its end.
  export TMPDIR=$work
  mpi=(mpirun --allow-run-as-root --oversubscribe --bind-to none
    --mca btl_vader_single_copy_mechanism none)
}
