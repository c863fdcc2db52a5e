# shellcheck shell=bash
# The scripts of this folder source this file. It sets strict mode, changes to the repository's
# root, and defines how they print.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() {
  local on='' off=''
  if [[ -t 2 ]]; then on=$'\033[1m' off=$'\033[0m'; fi
  printf '%s== %s%s\n' "$on" "$*" "$off" >&2
}
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# build PRESET [TARGET…]: configures and builds the targets, or everything.
build() {
  local preset=$1
  shift
  say "build/$preset: ${*:-everything}"
  cmake --preset "$preset" >"$(log_of "$preset")" 2>&1 ||
    { cat "$(log_of "$preset")" >&2; die "cmake --preset $preset failed"; }
  cmake --build --preset "$preset" ${1:+--target "$@"}
}
log_of() {
  mkdir -p "build/$1"
  echo "build/$1/configure.log"
}
