#!/bin/bash
# What kubeadm and its users ask of systemctl, for the two units that init.sh runs.
set -euo pipefail
args=()
now=''
for a in "$@"; do case $a in --now) now=1 ;; -*) ;; *) args+=("${a%.service}") ;; esac; done
verb=${args[0]:-} unit=${args[1]:-}
units=/run/units

case $unit in
'' | containerd | kubelet) ;;
*)
	echo "Unit $unit.service could not be found." >&2
	exit 4
	;;
esac

running() { [ -e "$units/$unit.pid" ] && kill -0 "$(<"$units/$unit.pid")" 2>/dev/null; }

stop() {
	rm -f "$units/$unit.wanted"
	local of
	of=$(cat "$units/$unit.pid" 2>/dev/null) || return 0
	kill "$of" 2>/dev/null || return 0
	for _ in {1..100}; do
		kill -0 "$of" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -9 "$of"
}

start() {
	if running; then return; fi
	touch "$units/$unit.now" "$units/$unit.wanted"
	for _ in {1..50}; do
		if running; then return; fi
		sleep 0.1
	done
	echo "Job for $unit.service failed." >&2
	exit 1
}

case $verb in
daemon-reload) ;;
enable) if [ -n "$now" ]; then start; fi ;;
disable) if [ -n "$now" ]; then stop; fi ;;
start) start ;;
stop) stop ;;
restart)
	stop
	start
	;;
is-enabled) echo enabled ;;
is-active)
	if running; then
		echo active
	elif [ -e "$units/$unit.wanted" ]; then
		echo activating
		exit 3
	else
		echo inactive
		exit 3
	fi
	;;
status | cat) echo "Loaded: loaded ($unit)" ;;
*)
	echo "Unknown command verb '$verb'." >&2
	exit 1
	;;
esac
