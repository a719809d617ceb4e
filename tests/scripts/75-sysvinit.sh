#!/bin/sh
# shellcheck shell=dash disable=SC2034,SC2016,SC2154 # words for a shell inside; names of the files read here
# A Debian with sysvinit: that is process 1 of its ship, and stops as it would shut down.
# sandbox: network
packages=nginx-light+sysvinit-core
. "${0%/*}/debian.sh"
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

sed -i "s|^base_folder=.*|base_folder=${DEBIAN_ROOT%/*}|; s|^stop_timeout=.*|stop_timeout=40|" ship.cfg
check 'create' ship create web --include sysvinit-core,nginx-light
check 'start' ship start web
same 'process 1 is its own init' "$(ship exec web cat /proc/1/comm)" init
check 'in runlevel 2' ship exec web -- sh -c 'test "$(runlevel)" = "N 2"'
check 'with nginx' within 10 bash -c 'exec 3<>/dev/tcp/10.10.10.2/80'
check 'stop' ship stop web
same 'in time, not by force' "$(cat "$output")" ''
same 'nothing is left' "$(left)" ''
check 'delete' ship delete web
finish
