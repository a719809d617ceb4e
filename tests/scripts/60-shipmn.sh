#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154,SC2317 # words for a shell inside; names of lib.sh; called by name
# shipmn: SHIP's verbs and words, over the same farm as ship.
. "${0%/*}/lib.sh"
. "${0%/*}/ships.sh"

# As SHIP wrote its ship.cfg; create takes the cached root of the suite.
cat >ship.cfg <<END
# SHIP
farm_folder: '$T/farm/'
config_folder: '$T/conf/'
pid_folder: "$T/run/"
base_folder=base
group_prefix=$group_prefix
END
little_root base/bookworm

check 'create' shipmn create web01 10.10.10.30
check_fails 2 'an address that is none' shipmn create web 10.10.10.300
said "in SHIP's words" 'IP not valid or already exist'
check_fails 2 'an address that is taken' shipmn create web 10.10.10.30
said 'in the same words' 'IP not valid or already exist'
check 'create' shipmn create web 10.10.10.31
same 'status' "$(shipmn status)" 'Status all
Ship: web - STOPED
Ship: web01 - STOPED'
check 'start' shipmn start web01
same 'status tells names apart that begin alike' "$(shipmn status)" 'Status all
Ship: web - STOPED
Ship: web01 - STARTED'
check 'start again' shipmn start web01
said "in SHIP's words" 'Nothing to do!!'
check 'start all' shipmn start all
same 'con' "$(echo hostname | shipmn con web)" web
check 'stop' shipmn stop web
said 'tells the pid' 'Shutdown: web Pid: '
check_fails 1 'con when stopped' shipmn con web
said "in SHIP's words" 'Ship not started'
check 'stop all' shipmn stop all
same 'nothing is left' "$(left)" ''
check_fails 2 'another word' shipmn fly web
said 'is told the usage' 'Usage: shipmn'
check_fails 2 'create without an address' shipmn create web
check_fails 2 'a name with a slash' shipmn start ../web
finish
