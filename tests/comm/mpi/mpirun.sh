#!/bin/sh
# mpirun.sh RANKS PROGRAM [ARG]...: starts a program on ranks of this host with Open MPI, as tests
# need it: more ranks than cores, in containers, as root, and with a limit (LOCKSTEP_MPIRUN_TIMEOUT
# seconds, 60 by default). Lines come out as "[1,RANK]<stdout>:text". Exit code 77 if mpirun is
# missing: ctest then skips the test.
set -eu
ranks=$1
shift
if ! command -v mpirun >/dev/null; then
  echo "SKIPPED: mpirun is missing; install openmpi-bin to run this test" >&2
  exit 77
fi
root=
[ "$(id -u)" -ne 0 ] || root=--allow-run-as-root
# Open MPI keeps memory until the end. That is no leak of ours.
export LSAN_OPTIONS="${LSAN_OPTIONS:+$LSAN_OPTIONS:}detect_leaks=0"
# One process reads another's memory by a system call that containers often forbid.
exec mpirun $root --oversubscribe --bind-to none --tag-output \
  --timeout "${LOCKSTEP_MPIRUN_TIMEOUT:-60}" \
  --mca mpi_yield_when_idle 1 --mca btl_vader_single_copy_mechanism none -np "$ranks" "$@"
