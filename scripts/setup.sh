# shellcheck shell=dash
# setup.sh: packages and a compiler, for the scripts that must work on a fresh Debian. Sourced, not run.
# Nothing is installed that is there already; apt's own output is shown only when it fails.

readonly RUST_MINOR=85 # rust-version of the workspace is 1.85
: "${SLIPWAY_CACHE:=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/slipway}"

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
	say "$@"
	exit 1
}

# show_help - the block between the two ---help--- lines of the script that runs.
show_help() {
	sed -n '/^#---help---$/,/^#---help---$/{/^#---help---$/d;s/^# \{0,1\}//;p;}' "$0"
}

# missing_packages NAME... - those that dpkg does not have, one a line.
missing_packages() {
	local name
	for name; do
		case $(dpkg-query -W -f='${db:Status-Status}' -- "$name" 2>/dev/null) in
		installed) ;;
		*) printf '%s\n' "$name" ;;
		esac
	done
}

# quiet COMMAND... - its output is kept, and shown only when it fails.
quiet() {
	local log status=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || status=$?
	[ "$status" -eq 0 ] || cat "$log" >&2
	rm -f -- "$log"
	return "$status"
}

# apt_get ARG... - without questions; waits for another apt-get, tries a broken download again.
apt_get() {
	DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600 "$@"
}

# apt_update - refresh the lists, once in a process; old lists serve where the mirror does not answer.
apt_update() {
	[ -z "${apt_updated:-}" ] || return 0
	apt_updated=yes
	quiet apt_get update || say "apt-get update failed; going on with the lists that are there"
}

# need_packages NAME... - install what is missing. Two at a time take turns: apt's own lock over the
# lists has no patience.
need_packages() {
	local names
	names=$(missing_packages "$@")
	[ -n "$names" ] || return 0
	# shellcheck disable=SC2086 # package names, one a line
	set -- $names
	command -v apt-get >/dev/null || die "missing: $* (no apt-get here to install them with)"
	[ "$(id -u)" -eq 0 ] || die "missing packages: $*; hint: as root: apt-get install $*"
	mkdir -p /run/lock # nothing has made it yet in a small container
	exec 8>/run/lock/slipway-apt
	flock 8
	say "installing $*"
	apt_update
	# --no-remove: never at the cost of something that is there.
	quiet apt_get install --no-install-recommends --no-remove -- "$@" 8>&- ||
		die "cannot install $*; hint: apt-get install $* shows why"
	exec 8>&-
}

# candidate NAME - the version of a package that apt would install; empty when none.
candidate() {
	LC_ALL=C apt-cache policy -- "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -vx '(none)'
}

# rust_packages - the names under which this Debian has a new enough compiler: "rustc cargo rust-src", or
# on bookworm the set that is kept new for the web browsers; fails when it has none.
rust_packages() {
	local names
	for names in "rustc cargo rust-src" "rustc-web cargo-web rust-web-src"; do
		if dpkg --compare-versions "$(candidate "${names%% *}")" ge "1.$RUST_MINOR"; then
			printf '%s\n' "$names"
			return 0
		fi
	done
	return 1
}

# new_enough RUSTC - true when that compiler runs and is 1.85 or later.
new_enough() {
	local minor
	minor=$("$1" --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
	[ "${minor:-0}" -ge "$RUST_MINOR" ]
}

# rust_source RUSTC - where the source of that compiler's std lies; fails when it is not installed.
rust_source() {
	local dir
	dir=$("$1" --print sysroot)/lib/rustlib/src/rust/library
	[ -f "$dir/Cargo.lock" ] && printf '%s\n' "$dir"
}

# The three ways to a static binary; each succeeds when everything for it is there.
way_target() {
	local dir
	new_enough rustc && command -v cargo >/dev/null || return 1
	dir=$(rustc --print target-libdir --target "$(uname -m)-unknown-linux-musl" 2>/dev/null) && [ -d "$dir" ]
}
way_debian() {
	new_enough /usr/bin/rustc && [ -x /usr/bin/cargo ] && command -v musl-gcc >/dev/null &&
		rust_source /usr/bin/rustc >/dev/null
}
way_glibc() { new_enough rustc && command -v cargo >/dev/null && command -v cc >/dev/null; }

# need_compiler - install what the best way needs, unless one with musl is open already. The certificates are
# for cargo, which fetches crates by https.
need_compiler() {
	local names
	way_target || way_debian || {
		if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
			rust_packages >/dev/null || apt_update
			# shellcheck disable=SC2086 # names with spaces between them
			if names=$(rust_packages) && (need_packages $names musl-tools ca-certificates); then return 0; fi
		fi
		way_glibc || die "no Rust 1.$RUST_MINOR or newer; hint: apt-get install rustc cargo rust-src musl-tools" \
			"(Debian 13), rustc-web cargo-web rust-web-src musl-tools (Debian 12), or see rustup.rs"
	}
}
