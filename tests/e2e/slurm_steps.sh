#!/usr/bin/env bash
# Steps of one Slurm allocation are separate jobs. The shell that salloc gives is no rank.
source "$(dirname "$0")/lib.sh"
source "$here/../support/slurm.sh"
slurm_or_skip
make_text
train first -n 1
train second -n 1 --set run.seed=7

# Two steps at the same time.
cat > steps.sh << END
srun -n2 --overlap "$lockstep" train "$here/small.yaml" \
  --set run.name=step-first > step-first.out 2> step-first.err &
one=\$!
srun -n2 --overlap "$lockstep" train "$here/small.yaml" --set run.seed=7 \
  --set run.name=step-second > step-second.out 2> step-second.err &
wait \$one; a=\$?
wait \$!; b=\$?
echo "ended with \$a and \$b"
END
timeout $((120 * patience)) salloc -Q -n2 bash steps.sh > steps.out 2> steps.err ||
  fail "salloc: $(tail -n 3 steps.err)"
contains steps.out "ended with 0 and 0"
same_weights first step-first
same_weights second step-second

# A step whose ranks get another step's address is refused by name.
port=$(slurm_port)
cat > mixed.sh << END
export MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
srun -n2 --overlap "$lockstep" train "$here/small.yaml" \
  --set run.name=mixed-a > mixed-a.out 2> mixed-a.err &
srun -n2 --overlap "$lockstep" train "$here/small.yaml" --set run.seed=7 \
  --set run.name=mixed-b > mixed-b.out 2> mixed-b.err &
wait
END
timeout $((120 * patience)) salloc -Q -n2 bash mixed.sh > mixed.out 2> mixed.err ||
  fail "salloc: $(tail -n 3 mixed.err)"
cat mixed-a.err mixed-b.err > mixed.err
contains mixed.err "but the store at this address is of Slurm step"
for run in a b; do
  [ -z "$(weights mixed-$run)" ] ||
    same_weights "$([ $run = a ] && echo first || echo second)" mixed-$run
done

# Where the site runs salloc's shell on the first node, the shell is a step of one process in an
# allocation of more tasks.
timeout $((120 * patience)) salloc -Q -n2 srun --interactive --preserve-env -n1 --overlap bash -c \
  "echo step \$SLURM_STEP_ID of \$SLURM_NTASKS tasks
   exec '$lockstep' train '$here/small.yaml' --set run.name=shell -n 2" \
  > shell.out 2> shell.err || fail "a shell of salloc: $(tail -n 3 shell.out shell.err)"
contains shell.out "step 42949672"  # one of the numbers that srun gives to no step of tasks
same_weights first shell

# One srun that starts an agent for each task needs no --rdzv-id.
timeout $((120 * patience)) srun -n2 "$lockstep" run --nnodes 2 \
  --rdzv-endpoint 127.0.0.1:"$(slurm_port)" -n 1 -- \
  "$lockstep" train "$here/small.yaml" --set run.name=agents > agents.out 2> agents.err ||
  fail "agents: $(tail -n 3 agents.out agents.err)"
sed -i 's/^\[rank 0\] //' agents.out
same_weights first agents
