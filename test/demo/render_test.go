package main

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/lab"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares lines with a file in testdata.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	got := strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func addrs(all ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, a := range all {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// noon is when the events of these tests happen.
func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.Local) }

// seen is what a client saw that was answered from a second before noon on, but not between from and to.
func seen(from, to, end time.Duration) lab.GapResult {
	r := lab.GapResult{Begin: noon().Add(-time.Second), End: noon().Add(end), From: noon().Add(from), To: noon().Add(to)}
	for at := r.Begin; at.Before(r.End); at = at.Add(5 * time.Millisecond) {
		a := lab.Attempt{Start: at, End: at}
		if !at.Before(r.From) && at.Before(r.To) {
			a.Err = errors.New("refused")
			r.Failed++
		}
		r.Attempts = append(r.Attempts, a)
	}
	r.Longest = r.To.Sub(r.From)
	return r
}

func outcomes() map[string]outcome {
	one, two := addrs("10.10.0.10"), addrs("10.10.0.10", "fd00:10:10::10")
	short, long := seen(2*time.Millisecond, 47*time.Millisecond, time.Second), seen(60*time.Millisecond, 4830*time.Millisecond, 6*time.Second)
	longer := seen(60*time.Millisecond, 5230*time.Millisecond, 6*time.Second)
	late := seen(0, 40*time.Millisecond, time.Second)
	late.Lag = 30 * time.Millisecond
	return map[string]outcome{
		"short": {name: "it stops", at: noon(), before: "cp1", after: "cp3", vips: one, gaps: []lab.GapResult{short}},
		"long":  {name: "its node vanishes", at: noon(), before: "cp3", after: "cp2", vips: one, gaps: []lab.GapResult{long}},
		"none":  {name: "it is killed and restarted", at: noon(), before: "cp2", after: "cp2", vips: one, gaps: []lab.GapResult{seen(0, 0, time.Second)}},
		"dual":  {name: "two VIPs", at: noon(), before: "cp2", after: "cp1", vips: two, gaps: []lab.GapResult{long, longer}},
		"late":  {name: "a busy machine", at: noon(), before: "cp2", after: "cp1", vips: one, gaps: []lab.GapResult{late}},
	}
}

func TestTimelines(t *testing.T) {
	for name, o := range outcomes() {
		t.Run(name, func(t *testing.T) {
			lines := append(timelines(false, o, 77), verdict(false, o))
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > 77 {
					t.Errorf("a line has %d columns: %s", n, l)
				}
			}
			golden(t, "timeline-"+name, lines)
		})
	}
	t.Run("colours", func(t *testing.T) {
		o := outcomes()["short"]
		golden(t, "timeline-colours", append(timelines(true, o, 40), verdict(true, o)))
	})
	t.Run("no room", func(t *testing.T) {
		if got := timelines(false, outcomes()["dual"], 20); got != nil {
			t.Errorf("got %q", got)
		}
	})
}

func TestCells(t *testing.T) {
	for in, want := range map[string]string{
		"██  ██": "██████",
		"█· ·██": "█···██",
		"██  ··": "██  ··",
		"  ██  ": "  ██  ",
		"":       "",
	} {
		if got := cells(false, []lab.Cell(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestResults(t *testing.T) {
	o := outcomes()
	golden(t, "results", results(false, []outcome{o["short"], o["long"], o["none"], o["dual"]}))
}

func TestPicture(t *testing.T) {
	three := []machine{{"cp1", addrs("10.10.0.11")}, {"cp2", addrs("10.10.0.12")}, {"cp3", addrs("10.10.0.13")}}
	dual := []machine{{"cp1", addrs("10.10.0.11", "fd00:10:10::11")}, {"cp2", addrs("10.10.0.12", "fd00:10:10::12")}, {"cp3", addrs("10.10.0.13", "fd00:10:10::13")}}
	four, six := netip.MustParseAddrPort("10.10.0.10:6443"), netip.MustParseAddrPort("[fd00:10:10::10]:6443")
	var lines []string
	for _, p := range [][]string{
		picture(three, machine{"client", addrs("10.10.0.100")}, []netip.AddrPort{four}),
		picture(dual, machine{"client", addrs("10.10.0.100", "fd00:10:10::100")}, []netip.AddrPort{four, six}),
		picture(three[:1], machine{"client", addrs("10.10.0.100")}, []netip.AddrPort{four}),
		picture(append(three, machine{"cp4", addrs("10.10.0.14")}), machine{"client", addrs("10.10.0.100")}, []netip.AddrPort{four}),
	} {
		lines = append(append(lines, p...), "")
	}
	golden(t, "picture", lines)
}

const manifest = `apiVersion: v1
kind: Pod
metadata:
  name: kube-vip
  namespace: kube-system
spec:
  containers:
  - name: kube-vip
    image: kube-vip
    args: [manager]
    env:
    - {name: vip_nodename, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: address, value: 10.10.0.10}
    - {name: vip_arp, value: "true"}
    - {name: vip_leaderelection, value: "true"}
    securityContext:
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}
    volumeMounts:
    - {name: kubeconfig, mountPath: /etc/kubernetes/admin.conf, readOnly: true}
  hostNetwork: true
`

func TestSummary(t *testing.T) {
	lines, err := summary([]byte(manifest), 60)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "summary", lines)
	for name, bad := range map[string]string{
		"another kind":  strings.Replace(manifest, "kind: Pod", "kind: DaemonSet", 1),
		"unknown field": manifest + "  surprise: 1\n",
		"nothing":       "",
	} {
		if _, err := summary([]byte(bad), 60); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestNodesTable(t *testing.T) {
	node := func(name string, ready corev1.ConditionStatus, ips ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/etcd": "", "x": "y"}}}
		if ready != "" {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
		for _, ip := range ips {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
		return n
	}
	golden(t, "nodes", nodesTable(false, []corev1.Node{
		node("cp1", corev1.ConditionTrue, "10.10.0.11", "fd00:10:10::11"),
		node("cp2", corev1.ConditionFalse, "10.10.0.12"),
		node("cp3", corev1.ConditionUnknown, "10.10.0.13"),
		node("worker", ""),
	}, "cp2"))
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                         "0 ms",
		12345 * time.Microsecond:  "12 ms",
		999 * time.Millisecond:    "999 ms",
		999900 * time.Microsecond: "1.00 s",
		4834 * time.Millisecond:   "4.83 s",
		61 * time.Second:          "61.0 s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestLeader(t *testing.T) {
	for _, tc := range []struct {
		label, end string
		want       string
	}{
		{"Building", "0.1 s", "Building ............... 0.1 s"},
		{"Building", "", "Building .................... "},
		{"Starting everything that there is", "12.3 s", "Starting everythi… .... 12.3 s"},
	} {
		if got := leader(tc.label, tc.end, 30); got != tc.want {
			t.Errorf("leader(%q, %q) = %q, want %q", tc.label, tc.end, got, tc.want)
		}
	}
}
