#!/bin/bash
# Boots a machine: puts itself and all that comes of it into a control group of its own in each hierarchy, so that the
# machine has a root there that it can do with as it likes, and starts the machine's process 1 in namespaces of its own.
# The network is the one that it is started in. Arguments: the machine's folder, its control group's name, and those of init.sh.
set -euo pipefail
folder=$1 group=$2 name=$3
here=$(dirname "$0")

scratch=$folder/boot
mkdir -p "$scratch"
mount -t tmpfs boot "$scratch"
groups=$(cat /proc/self/cgroup) # as a whole: it changes below
while IFS=: read -r _ names path; do
	[ -n "$names" ] || continue # cgroup2
	at=$scratch/${names#name=}
	mkdir "$at"
	mount -t cgroup -o "${names/#name=/none,name=}" cgroup "$at"
	mkdir -p "$at$path/$group"
	if [ "$names" = cpuset ]; then # a new one is empty
		echo 1 >"$at$path/$group/cgroup.clone_children"
		for what in cpus mems; do cat "$at$path/cpuset.$what" >"$at$path/$group/cpuset.$what"; done
	fi
	echo $$ >"$at$path/$group/cgroup.procs"
done <<<"$groups"
umount -R "$scratch"

exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child=KILL bash "$here/init.sh" "$folder" "$name" "$here"
