#!/bin/sh
# shellcheck shell=dash disable=SC2016 # words for the shell inside
# Every system call that unshare and nsenter make is made to fail, each in a run of its own. Then either the
# program runs in exactly the world that was asked for, or it does not run at all, and status and message tell.
# FULL=1 takes all calls, and ENOSYS after ENOMEM; else of those that come again and again some.
. "${0%/*}/lib.sh"

# Failures that may go unseen, as patterns of strace's lines: nothing of what was asked for hangs on them.
cat >harmless <<'END'
# memory: there is more; or the end comes later and by a signal
(brk|mmap|munmap|mprotect|madvise)\(
# what the C library and the runtime do at their start, around fork and in open
(poll|sigaltstack|arch_prctl)\(
fcntl\(.*, F_[GS]ETFD
rt_sigaction\((SIGSEGV,|SIGBUS,|SIGPIPE, NULL,)
# another way is taken: by the bounding set itself, one by one, step by step
cap_last_cap
close_range\(
openat2\(
# an old kernel: no keyrings, so none to share; other calls for the same
(keyctl|open_tree|move_mount|mount_setattr|prlimit64)\(.* ENOSYS
# whether a sealed copy is needed: then there is one
(capget|uname)\(
/proc/[0-9]*/status
# a line that has ended well
recvfrom\(
# the gap of a moment in --kill-child, as it is on kernels without it
pidfd_open\(
# tried twice, of which one must do: the world is compared
(setns|setgroups)\(
# how large a file is, for the size of a buffer
(fstat|lseek)\([0-9]+</proc/[0-9a-z]*/
END
sed -i '/^#/d' harmless

mkdir -p root/bin root/work root/proc root/sys root/dev
cp "$(command -v busybox)" root/bin/busybox
for name in sh ls sleep; do ln -s busybox "root/bin/$name"; done

# All that a program can see of its world, its namespaces only by whether they are the host's. Hardly a fork: a
# thousand runs come here.
cat >root/bin/probe <<'END'
#!/bin/sh
while read -r name rest; do
	case $name in Cap* | NoNewPrivs: | Seccomp: | Sig[BIC]* | Groups: | Uid: | Gid:) echo "$name $rest" ;; esac
done </proc/self/status
for word in $(ls -l /proc/self/ns); do
	case $word in *:*[]]) case $HOST in *"$word"*) echo "the host's: $word" ;; esac ;; esac
done
while read -r id parent device from point options rest; do
	case $rest in *shared:*) rest=shared ;; *master:*) rest=slave ;; *) rest= ;; esac
	echo "$point $options $rest"
done </proc/self/mountinfo
for file in sys/kernel/hostname self/uid_map self/gid_map self/setgroups self/oom_score_adj self/timens_offsets self/cgroup self/net/if_inet6; do
	[ ! -e "/proc/$file" ] || while read -r line; do echo "$file $line"; done <"/proc/$file"
done
echo /proc/self/fd/*
read -r pid name state parent group session _ _ _ _ _ _ _ _ _ _ _ priority nice rest </proc/self/stat
echo "nice $nice, session $((session == pid))"
ulimit -a
pwd
unset HOST word _ SHLVL OLDPWD PPID id parent device from point options rest line file pid name state group session
export -p
END
chmod 755 root/bin/probe
HOST=$(ls -l /proc/self/ns)
export HOST

# traced OPTIONS COMMAND... - run it under strace until the program begins; what they say is in seen and said.
traced() {
	local options=$1
	shift
	rm -f seen said trace
	# shellcheck disable=SC2086 # options
	timeout -s KILL 20 strace -y -f -b execve -o trace $options "$@" >seen 2>said
}

# calls - 'CALL NUMBER' for each call in the trace that is to fail.
calls() {
	awk -v full="${FULL:-}" '
		/^[0-9]+ +[a-z_0-9]+\(/ {
			call = $2; sub(/\(.*/, "", call)
			n = ++count[$1, call]
			if (n > most[call]) most[call] = n
		}
		END {
			# These cannot fail, nor do C libraries look; execve is the program itself.
			split("execve exit_group close rt_sigprocmask rt_sigtimedwait wait4 sched_yield umask geteuid getegid getpid gettid getppid " \
				"set_tid_address", cannot)
			for (i in cannot) delete most[cannot[i]]
			for (call in most) for (n = 1; n <= most[call]; n++)
				if (full || n < 5 || n % 8 == 0 || n == most[call])
					print call, n
		}' trace | sort
}

# survives NAME COMMAND... - whatever fails, no program runs in another world.
survives() {
	local name=$1 call nth errno status runs=0
	shift
	traced '' "$@" || : # what it makes in the tree is there for all that follow
	traced '' "$@" || { result 1 "$name: runs" && cat said && return; }
	mv seen world
	grep -q ^CapBnd world || { result 1 "$name: the probe tells" && cat said && return; }
	calls >points
	for errno in ENOMEM ${FULL:+ENOSYS}; do
		while read -r call nth; do
			runs=$((runs + 1)) status=0
			traced "-e inject=$call:error=$errno:when=$nth" "$@" || status=$?
			if ! [ -s seen ]; then
				[ "$status" -eq 1 ] || [ "$status" -ge 125 ] || fault "$name" "status $status"
				[ -s said ] || fault "$name" "not a word"
			elif ! cmp -s seen world; then
				fault "$name" "another world"
			elif injected | grep -qvE -f harmless; then
				fault "$name" "unseen"
			fi
		done <points
	done
	result 0 "$name: $runs failures"
}

# injected - the calls that were made to fail, those that strace cuts in two with their beginning.
injected() { awk '/ <unfinished / { begun[$1] = $0 } /INJECTED/ { print / resumed>/ ? begun[$1] : $0 }' trace; }

fault() {
	result 1 "$1: $2 when $call:$nth fails with $errno"
	{
		diff world seen
		cat said
		injected
	} | sed 's/^/# /' | head -n 20
}

# The three that must hold: what scripts use, what a ship is made by, and how one is entered.
survives 'plain' unshare -m --mount-proc -R root probe
survives 'classic' unshare -m -u -i -n -p -C -f --mount-proc --propagation slave --kill-child -R root -w /work probe
survives 'jail' unshare --jail -n --pivot-root root /bin/probe

: >fstab
printf '%s\n' 'tmpfs /work tmpfs size=1m' "$T/root/bin /work/bin none bind,ro,x-mount.mkdir" >fstab
survives 'what a ship has' unshare -m -u -i -p -C -f --kill-child --forward-signals --close-fds --mount-proc --mount-sys \
	--mount-dev --mask-paths --new-keyring --caps default --seccomp default --hostname ship --pivot-root root \
	--fstab fstab --new-session --pid-file pid probe
survives 'ids' unshare -m --mount-proc -f -R root --nice 3 --rlimit nofile=64:65 --caps chown,kill --no-new-privs \
	--seccomp default -S 7 -G 8 --whitelist-env HOST,PATH --forward-signals=all --new-session probe
survives 'a user namespace' unshare -m -p -f --mount-proc --map-users 0:1000:10 --map-groups 0:1000:10 --keep-caps \
	-S 1 -G 1 -R root probe
survives 'root of its own' unshare -r -m -n -T --boottime 100 --monotonic -5 --loopback -p -f --mount-proc -R root probe
survives 'an owner' unshare --owner 7:8 --map-users all --map-groups all --setgroups allow -m -p -f --mount-proc \
	-R root probe
rm -f pid
unshare --jail -n --pid-file pid --pivot-root root /bin/sleep 1000 &
jail=$!
check 'a jail to enter' within 10 test -s pid
pid=$(cat pid)
survives 'nsenter' nsenter -t "$pid" -a -r -w --caps=target --close-fds --kill-child /bin/probe
survives 'nsenter by file' nsenter "--uts=/proc/$pid/ns/uts" "--mount=/proc/$pid/ns/mnt" "--pid=/proc/$pid/ns/pid" \
	-S 7 -G 8 -W /work --env -t "$pid" /bin/probe
survives 'nsenter without a fork' nsenter -t "$pid" -u -i -n -C -W / "$T/root/bin/probe"
kill -KILL "$jail"
wait "$jail" 2>/dev/null || :

# Last, as each run leaves its mounts.
touch uts net
survives 'kept namespaces' unshare --uts=uts --net=net -m -p -f --mount-proc -R root probe
awk -v t="$T" 'index($5, t "/") == 1 { print $5 }' /proc/self/mountinfo | xargs umount
finish
