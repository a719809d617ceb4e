#!/bin/sh
# world.sh FOLDER ROOT HOSTNAME COMMAND...: what 'ship run' does inside its own mount namespace: FOLDER becomes a
# file system in memory with FOLDER/root, ROOT with all changes kept in that memory, and FOLDER/fstab; then
# COMMAND takes over.
set -eu
trap 'exit 125' EXIT # only when something here fails

folder=$1 lower=$2 hostname=$3
shift 3
mount -t tmpfs -o mode=755 ship-run "$folder"
cd "$folder"
mkdir lower upper work root
# By relative names: a colon or a comma in a path has a meaning to overlay.
mount --bind -- "$lower" lower
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay root
printf '%s\n' "$hostname" >hostname
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 %s\n' "$hostname" >hosts
{
	printf 'tmpfs /run tmpfs nosuid,nodev,noexec,mode=755,size=64m 0 0\n'
	printf '%s %s none bind,ro,x-mount.mkdir 0 0\n' "$folder/hostname" /etc/hostname "$folder/hosts" /etc/hosts
} >fstab
exec "$@"
