package kubeadm

import (
	"fmt"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// benchmarksEnv names the page that the figures go to.
const benchmarksEnv = "KUBE_VIP_BENCHMARKS"

// benchmark is the command that has this test write its section.
const benchmark = "make bench-kubeadm"

// A report is the figures of a run.
type report struct {
	begin   time.Time
	machine measure.Machine
	table   measure.Table
}

// add notes a figure.
func (r *report) add(cluster, what, bound, seen string) {
	if r.table == nil {
		r.table.Add("cluster", "what happens", "bound", "seen")
	}
	r.table.Add(cluster, what, bound, seen)
}

// requests notes what a client saw.
func (r *report) requests(cluster, what, bound string, seen lab.GapResult) {
	r.add(cluster, what, bound, fmt.Sprintf("%s; %s of %s requests failed",
		measure.Span(seen.Longest), measure.Thousands(seen.Failed), measure.Thousands(len(seen.Attempts))))
}

// write puts the figures into their section of the page.
func (r *report) write(page string) error {
	var b strings.Builder
	fmt.Fprintf(&b, `## kubeadm

Measured by `+"`%s`"+` on %s, in %d minutes. It needs root and Debian or Ubuntu, and installs the packages that are missing.

| | |
|---|---|
| machine | %s |
| kube-vip | %s, built with %s; ARP, lease duration, renew deadline and retry period 5, 3 and 1 s (the defaults) |
| clusters | three machines each with a kubelet, containerd and runc in namespaces of their own, made by kubeadm |
| client | GET /version at the VIP by a new TLS connection, 20 times a second: the longest time between two answers, and how many requests failed |

`, benchmark, r.begin.Format(time.DateOnly), int(time.Since(r.begin).Minutes()+0.5), r.machine, r.machine.Version, r.machine.Golang)
	b.WriteString(r.table.String())
	return measure.Write(page, benchmark, b.String())
}
