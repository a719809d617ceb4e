#!/bin/sh
# shellcheck shell=dash disable=SC2016,SC2154
# The options that --help, the manual and the completion of ship and shipmn name are the same.
. "${0%/*}/lib.sh"

# options - the long ones in a text.
options() { grep -oE -e '(^|[^a-z-])--[a-z][a-z-]*' | sed 's/^[^-]*//' | sort -u; }

for command in ship shipmn; do
	# shellcheck disable=SC2154 # lib.sh sets it
	scripts=$top/scripts
	help=$("$scripts/$command" --help)
	same "$command: --help is at most 80 columns wide" "$(printf '%s\n' "$help" | grep -E '^.{81}')" ''
	help=$(printf '%s\n' "$help" | options)
	same "$command: manual" "$(sed 's/Fl Fl /--/g' "$scripts/$command.8" | grep -v '^\.Nm cgset' | options)" "$help"
	same "$command: completion" "$(options <"$scripts/completion/$command")" "$help"
	if command -v mandoc >/dev/null; then
		check "$command: mandoc finds no fault" mandoc -Tlint -W warning "$scripts/$command.8"
	else
		skip "$command: mandoc finds no fault" 'no mandoc'
	fi
done
for verb in create start status con exec run stop delete; do
	check "--help has $verb" sh -c '"$0" --help | grep -q "^  $1 "' "$scripts/ship" "$verb"
	check "so has the manual" grep -q "^.It Cm $verb" "$scripts/ship.8"
done
finish
