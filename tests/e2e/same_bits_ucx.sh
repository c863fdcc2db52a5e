#!/usr/bin/env bash
# Over UCX, on TCP as between hosts, ranks train to the bits of one rank.
source "$(dirname "$0")/lib.sh"
ucx_or_skip
make_text
export UCX_TLS=tcp

train one -n 1 || fail "$(cat one.err)"
for strategy in ddp fsdp; do
  train $strategy -n 4 --set parallel.backend=ucx --set parallel.strategy=$strategy ||
    fail "$(cat $strategy.err)"
  same_weights one $strategy
  contains $strategy.out "4 ranks ($strategy"
  contains $strategy.out "ucx"
done
"$lockstep" doctor > doctor.out || true
contains doctor.out "UCX backend: built in, UCX "
timeout $((100 * patience)) "$lockstep" bench comm -n 2 --backend ucx --json > bench.out \
  2> bench.err || fail "$(cat bench.err)"
contains bench.out '"backend":"ucx"'
