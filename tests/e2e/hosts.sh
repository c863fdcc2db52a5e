#!/usr/bin/env bash
# `lockstep run --hosts` starts an agent on each host through ssh, and ends all of them. The ssh
# here is a program that does what sshd does: it gives the command to a shell that knows nothing of
# this folder or environment.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh" "$1"

cat > ssh << SH
#!/bin/bash
printf '%s\n' "\$@" > "$work/ssh-\$\$.words"
while [ "\$1" = -o ]; do shift 2; done
[ "\$1" = -- ] || exit 99
host=\$2 command=\$3
echo "\$command" > "$work/\$host.command"
[ "\$host" = broken ] && { echo "ssh: no route to broken" >&2; exit 255; }
cd / && exec env -i PATH="\$PATH" HOME=/ REMOTE="\$host" /bin/sh -c "\$command"
SH
chmod +x ssh
folder="$work/a folder with 'quotes' and \$signs"
mkdir "$folder"
port=$(free_port)
become_hosts() {
  cd "$folder" && exec timeout $((60 * patience)) "$lockstep" run --ssh "$work/ssh" \
    --rdzv-endpoint "127.0.0.1:$port" "$@"
}
hosts() { (become_hosts "$@"); }

# Words reach the program as they are, and it runs in this folder.
odd="it's; echo \$HOME \`id\` \"x\"  two	tabs
and a line *"
cat > show << 'SH'
#!/bin/sh
printf '%s on %s at %s of %s: <%s>\n' "$RANK" "$REMOTE" "$GROUP_RANK" "$WORLD_SIZE" "$1"
echo "$RANK has a token: $(cat "$LOCKSTEP_JOB_TOKEN_FILE" | wc -c)"
pwd
SH
chmod +x show
hosts --hosts 'host[1-2]' -n 2 --role train "$work/show" "$odd" > out 2> err || fail "$(cat err)"
for rank in 0 1 2 3; do
  contains out "[rank $rank] $rank on host$((rank / 2 + 1)) at $((rank / 2)) of 4: <it's; echo"
done
contains out "echo \$HOME \`id\` \"x\"  two	tabs"
contains out 'and a line *>'
contains out "$folder"
contains host1.command "--role=train"
cat ssh-*.words > words
contains words 'BatchMode=yes'
contains words 'ServerAliveInterval=5'
# The job has a token, although nobody made one. It is in no command line.
for rank in 0 1 2 3; do contains out "$rank has a token: 64"; done
! grep -qE '[0-9a-f]{64}' words || fail "a token is in ssh's arguments"

# A rank's failure ends all, with its exit code.
code=0
hosts --hosts host1,host2 -- sh -c 'if [ "$RANK" = 1 ]; then exit 7; fi; exec sleep 1000' \
  > out 2> err || code=$?
[ $code = 7 ] || fail "exit code $code: $(cat err)"
contains err 'rank 1'

# A host that ssh does not reach ends the others, which would wait for it.
code=0
hosts --hosts host1,broken -- sleep 1000 > out 2> err || code=$?
[ $code = 1 ] || fail "exit code $code: $(cat err)"
contains err "ssh to 'broken' failed (exit code 255)"
contains err 'no route to broken'

# The same as early as it can be.
for try in 1 2 3; do
  code=0
  hosts --hosts host1,broken --join-timeout 1000 -- sleep 1000 > out 2> err || code=$?
  [ $code = 1 ] || fail "exit code $code: $(cat err)"
done

# A request to stop reaches the ranks of all hosts, which may save.
cat > saves << 'SH'
#!/bin/sh
trap 'echo "{\"saved\": true}" > $LOCKSTEP_ERROR_FILE; echo "rank $RANK saved"; exit 3' TERM
echo "rank $RANK is ready"
while :; do sleep 0.05; done
SH
chmod +x saves
mkfifo lines
become_hosts --hosts host1,host2 "$work/saves" > lines 2> err & job=$!
exec 5< lines
ready=0
while [ $ready -lt 2 ] && read -r -t $((60 * patience)) text <&5; do
  case $text in *'is ready') ready=$((ready + 1)) ;; esac
done
[ $ready = 2 ] || fail "the ranks did not start: $(cat err)"
kill -TERM $job  # timeout passes it on
cat <&5 > rest
code=0; wait $job || code=$?
[ $code = 3 ] || fail "exit code $code after a stop: $(cat err rest)"
for rank in 0 1; do contains rest "rank $rank saved"; done

# The launcher is gone without a word: so are the ranks.
cat > waits << 'SH'
#!/bin/sh
echo "rank $RANK is pid $$"
exec sleep 1000
SH
chmod +x waits
become_hosts --hosts host1 "$work/waits" > lines 2> err & job=$!
exec 5< lines
read -r -t $((60 * patience)) text <&5 || fail "no rank: $(cat err)"
rank=${text##* }
pkill -KILL -P $job
timeout $((60 * patience)) tail --pid="$rank" -f /dev/null ||
  fail "rank $rank outlives its launcher"

refuse() {
  local text=$1 code=0; shift
  hosts "$@" > out 2> err || code=$?
  [ $code = 2 ] || fail "'$*' ended with $code"
  contains err "$text"
}
refuse "'host1' comes twice" --hosts host1,host1 true
refuse 'leave --nnodes' --hosts host1 --nnodes 2 true
mv ssh nossh
refuse "/ssh'" --hosts host1 true
