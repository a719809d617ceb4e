#!/bin/sh
# scripts/install: what it puts where, what it leaves alone, and that it takes all of it away again.
. "${0%/*}/lib.sh"
install=$top/scripts/install
from="--from $SLIPWAY_BIN"

check_fails 1 'no tools, no installation' "$install" --from "$T/none" "$T/dest"
said 'and a hint' 'hint: scripts/build'
check_fails 2 'an unknown option' "$install" --no-such-option
check_fails 2 'a prefix that is not absolute' "$install" --prefix usr "$T/dest"
same 'nothing was made' "$(ls -A "$T")" ''

# shellcheck disable=SC2086 # two words
check 'installs below a folder' "$install" $from "$T/dest"
for name in ship netns mkrootfs; do
	check "$name is a command" "$T/dest/usr/local/bin/$name" --help
done
for name in unshare nsenter cgset; do
	check_fails any "the system's $name is not shadowed" test -e "$T/dest/usr/local/bin/$name"
	check "$name is there for the scripts" "$T/dest/usr/local/lib/slipway/bin/$name" --help
done
check_fails any 'what works on the source is not installed' test -e "$T/dest/usr/local/bin/check"
SLIPWAY_BIN='' check_fails any 'ship works from there' "$T/dest/usr/local/bin/ship" status no-such-ship
said 'and knows that there is no such ship' no-such-ship

# shellcheck disable=SC2086
check 'with links to all' "$install" $from --prefix /usr --shadow "$T/dest2"
check 'unshare is a command then' "$T/dest2/usr/bin/unshare" --version
check 'again, over itself' "$install" --from "$SLIPWAY_BIN" --prefix /usr "$T/dest2"
check_fails any 'links of the time before are gone' test -e "$T/dest2/usr/bin/unshare"

: >"$T/dest/usr/local/bin/other"
check 'removes itself' "$install" --remove "$T/dest"
same "but nobody else's file" "$(find "$T/dest" ! -type d)" "$T/dest/usr/local/bin/other"
check_fails 1 'once' "$install" --remove "$T/dest"

finish
