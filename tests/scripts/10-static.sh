#!/bin/sh
# The tools as users get them: one file each, in need of nothing.
. "${0%/*}/lib.sh"

for tool in unshare nsenter netns cgset mkrootfs; do
	mkdir "$T/$tool"
	cp -- "$SLIPWAY_BIN/$tool" "$T/$tool/$tool"
	check "$tool says its help in an empty root" chroot "$T/$tool" "/$tool" --help
	said 'all of it' "Usage: $tool"
	check_fails any "$tool refuses an unknown option there" chroot "$T/$tool" "/$tool" --no-such-option
	said 'by its name' '--no-such-option'
	same 'and leaves the root as it was' "$(ls -A "$T/$tool")" "$tool"
done

check 'unshare becomes a program there' chroot "$T/unshare" /unshare --uts -- /unshare --version
said 'which speaks' slipway
check_fails 127 'unshare finds no other program there' chroot "$T/unshare" /unshare --uts -- /bin/true

finish
