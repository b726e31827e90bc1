#!/bin/bash
# Process 1 of a machine: mounts its disk, starts containerd and the kubelet, starts them again when they end, and reaps.
# Arguments: the machine's folder, its name, and where these scripts are.
set -euo pipefail
folder=$1 name=$2 scripts=$3

mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"

# The disk: what the machine writes is in its folder. The real /etc has been moved aside by who started this.
for d in etc opt root usr var; do
	lower=/$d
	if [ $d = etc ]; then lower=$folder/../etc; fi
	mkdir -p "$folder/disk/$d" "$folder/work/$d"
	mount -t overlay overlay -o "lowerdir=$lower,upperdir=$folder/disk/$d,workdir=$folder/work/$d" "/$d"
done
for d in etc/kubernetes var/lib/containerd var/lib/kubelet var/lib/etcd var/log; do
	mkdir -p "$folder/fs/$d" "/$d"
	mount --bind "$folder/fs/$d" "/$d"
done
cp "$folder/fs/etc/hosts" /etc/hosts
echo "$name" >/etc/hostname
install -D "$scripts/systemctl.sh" /usr/local/bin/systemctl

# What is gone with the power.
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/units /run/lock
mount -t tmpfs cgroup /sys/fs/cgroup
groups=$(cat /proc/self/cgroup)
while IFS=: read -r _ names _; do
	[ -n "$names" ] || continue # cgroup2
	mkdir "/sys/fs/cgroup/${names#name=}"
	mount -t cgroup -o "${names/#name=/none,name=}" cgroup "/sys/fs/cgroup/${names#name=}"
done <<<"$groups"
mount --make-rshared /

# Kernel settings that a kubelet insists on and that belong to all machines on this kernel: they are shown to be so already.
while read -r setting value; do
	[ -e "/proc/sys/$setting" ] || continue
	file=/run/sysctl-${setting//\//.}
	echo "$value" >"$file"
	mount --bind "$file" "/proc/sys/$setting"
done <<'SETTINGS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

run_containerd() { exec containerd --config /etc/containerd/config.toml; }

# run_kubelet is what the unit of the Kubernetes packages says.
run_kubelet() {
	local KUBELET_KUBEADM_ARGS='' KUBELET_EXTRA_ARGS=''
	if [ -r /var/lib/kubelet/kubeadm-flags.env ]; then . /var/lib/kubelet/kubeadm-flags.env; fi
	if [ -r /etc/default/kubelet ]; then . /etc/default/kubelet; fi
	exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
		--config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
}

# A unit is to run while /run/units/UNIT.wanted is there; one that ended is started again after a while.
declare -A pid=() since=()
touch /run/units/{containerd,kubelet}.wanted
while :; do
	for unit in containerd kubelet; do
		if [ -n "${pid[$unit]:-}" ] && kill -0 "${pid[$unit]}" 2>/dev/null; then continue; fi
		rm -f "/run/units/$unit.pid"
		[ -e "/run/units/$unit.wanted" ] || continue
		if [ -e "/run/units/$unit.now" ]; then rm -f "/run/units/$unit.now"; else
			((SECONDS >= ${since[$unit]:-0})) || continue
		fi
		"run_$unit" >>"$folder/$unit.log" 2>&1 </dev/null &
		pid[$unit]=$!
		since[$unit]=$((SECONDS + 5))
		echo "${pid[$unit]}" >"/run/units/$unit.pid"
	done
	sleep 0.2
done
