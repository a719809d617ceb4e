# shellcheck shell=dash disable=SC2154 # the test sets $packages, joined by '+' in the order of the alphabet
# debian.sh: a test on a real Debian: its root is made with the machine's network and kept in the cache of 'ship
# create'; then the test starts again in a sandbox without that network, with the root in $DEBIAN_ROOT.
if [ -z "${DEBIAN_ROOT:-}" ]; then
	top=$(cd "${0%/*}/../.." && pwd)
	cache=${SLIPWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/slipway}/roots
	export DEBIAN_ROOT="$cache/bookworm-$packages"
	mkdir -p "$cache"
	exec 8>"$DEBIAN_ROOT.lock"
	flock 8
	[ -d "$DEBIAN_ROOT" ] || "${SLIPWAY_BIN:-$top/target/bin}/mkrootfs" \
		--include "$(printf '%s' "$packages" | tr + ,)" bookworm "$DEBIAN_ROOT" || exit 1
	exec 8>&-
	exec "$top/tests/sandbox" sh "$0"
fi
