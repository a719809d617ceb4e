# shellcheck shell=dash disable=SC2034,SC2154,SC2015 # settings are shared by all of ship.d; C of A && B || C may run
# delete.sh: ship delete. The conf goes last: until then the same command can be given again.

delete_ship() {
	local aside reserved="$config_folder/.$1.conf.new"
	load_state "$1" "$reserved" # which is what a create that was killed has left
	aside=$farm_folder/.$name.gone
	lock_ship
	! ship_runs || fail 1 "'$name' runs" "ship stop $name"
	wipe_ship || fail 1 "cannot clear away what is left of '$name'"
	unmounted "$root" || exit 1
	# Renamed first: no start can meet half a root.
	remove_tree "$aside" "$farm_folder/.$name.new"
	# Without a word of ours a folder of that name is somebody else's.
	[ ! -e "$root" ] || { [ ! -e "$conf" ] && [ ! -e "$reserved" ]; } || mv -- "$root" "$aside"
	remove_tree "$aside"
	rm -f -- "$config_folder/$name.fstab" "$reserved" "$conf"
	refresh_hosts
}
