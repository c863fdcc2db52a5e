# A Slurm cluster of one node on loopback, for tests. Source it after lib.sh and call
# `slurm_or_skip`: it starts munged, slurmctld and slurmd below $work, or skips with the reason.
# However the test ends, these and all that they started end with it. Sets SLURM_CONF, so that srun,
# sbatch, scancel and squeue find the cluster.

# slurm_port: a port of loopback that nobody has.
slurm_port() {
  python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])'
}

# The configuration. The node claims more CPUs than it may have, so that no job waits for another
# one. KillWait is Slurm's default.
slurm_conf() {
  cat << END
ClusterName=lockstep
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(slurm_port)
SlurmdPort=$(slurm_port)
AuthType=auth/munge
AuthInfo=socket=$slurm/munge.socket
CredType=cred/munge
StateSaveLocation=$slurm/state
SlurmdSpoolDir=$slurm/spool
SlurmctldPidFile=$slurm/slurmctld.pid
SlurmdPidFile=$slurm/slurmd.pid
SlurmctldLogFile=$slurm/slurmctld.log
SlurmdLogFile=$slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
KillWait=30
MinJobAge=300
ReturnToService=2
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=16
SlurmdParameters=config_overrides
PartitionName=all Nodes=localhost Default=YES OverSubscribe=YES MaxTime=INFINITE State=UP
END
}

# slurm_kill FOLDER: ends every process that works in that folder. A slurmstepd outlives its slurmd,
# and holds on to its job.
slurm_kill() {
  local round found
  cd /
  for round in $(seq 50); do
    found=$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1*" -printf '%h\n' 2> /dev/null |
      cut -d / -f 3) || true
    [ -n "$found" ] || return 0
    kill -9 $found 2> /dev/null || true
    sleep 0.1
  done
}

slurm_or_skip() {
  local tool
  for tool in munged slurmctld slurmd srun; do
    PATH=$PATH:/usr/sbin command -v $tool > /dev/null ||
      skip "$tool is not installed (slurm-wlm, munge)"
  done
  [ "$(id -u)" = 0 ] || skip "slurmd needs root"
  export PATH=$PATH:/usr/sbin
  slurm=$work/slurm
  mkdir -p "$slurm/state" "$slurm/spool"
  chmod 755 "$work" "$slurm"
  head -c 1024 /dev/urandom > "$slurm/munge.key"
  chmod 600 "$slurm/munge.key"
  slurm_conf > "$slurm/slurm.conf"
  trap 'slurm_kill "$work"; rm -rf "$work"' EXIT
  # The same where the test is killed, which runs no trap.
  setsid bash -c 'cd /; tail --pid="$1" -f /dev/null; source "$2"; slurm_kill "$3"; rm -rf "$3"' \
    guard $$ "${BASH_SOURCE[0]}" "$work" \
    < /dev/null > /dev/null 2>&1 &
  export SLURM_CONF=$slurm/slurm.conf
  munged --foreground --force --key-file="$slurm/munge.key" --socket="$slurm/munge.socket" \
    --pid-file="$slurm/munged.pid" \
    --seed-file="$slurm/munged.seed" --log-file="$slurm/munged.log" > "$slurm/munged.out" 2>&1 &
  wait_for 20 test -S "$slurm/munge.socket" ||
    skip "munged does not start here: $(tail -n 3 "$slurm/munged.out" "$slurm/munged.log")"
  slurmctld -D -i > "$slurm/slurmctld.out" 2>&1 &
  slurmd -D -N localhost > "$slurm/slurmd.out" 2>&1 &
  slurm_idle() { [ "$(sinfo -h -o %T)" = idle ]; }
  wait_for 40 slurm_idle ||
    skip "Slurm does not start here: $(tail -n 3 "$slurm/slurmctld.log" "$slurm/slurmd.log")"
}

# slurm_job NAME: the job of that name that is running or pending.
slurm_job() { squeue -h -n "$1" -o %i; }
