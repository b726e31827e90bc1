package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kube-vip.io/kube-vip/test/lab"
)

// TestDaemonSet runs `manifest daemonset --inCluster --taint` with the rights of `manifest rbac` and no others, as on
// k3s: nothing may be forbidden, and the VIP moves.
func TestDaemonSet(t *testing.T) {
	l := lab.New(t, lab.Options{})
	rights := generate(t, "manifest", "rbac", "--arp", "--address", l.VIPs[0].String())
	if err := l.Nodes[0].Apply(within(t, patience), rights, false); err != nil {
		t.Fatal(err)
	}
	manifest := generate(t, "manifest", "daemonset", "--arp", "--address", l.VIPs[0].String(), "--inCluster", "--taint")
	c := &cluster{Lab: l, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}
	for _, n := range l.Nodes {
		c.run(t, n, lab.PodOptions{})
	}
	holder := c.settled(t)
	if err := c.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	c.gone(t, holder)
	c.run(t, holder, lab.PodOptions{})
	c.settled(t)
	for n, pod := range c.pods {
		for _, line := range pod.Output() {
			if strings.Contains(line.Text, "forbidden") {
				t.Errorf("%s: %s", n, line.Text)
			}
		}
	}
}

// TestCertificateWithoutVIP: clients that verify the API server will refuse it behind this VIP, and the log says so.
func TestCertificateWithoutVIP(t *testing.T) {
	c := start(t, lab.Options{Nodes: 1, NoVIPInCert: true})
	holder := c.holder(t)
	line, err := c.pods[holder].WaitLog(within(t, patience), "certificate")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{c.VIPs[0].String(), "certSANs"} {
		if !strings.Contains(line.Text, want) {
			t.Errorf("the log does not say %s: %s", want, line.Text)
		}
	}
}

// TestDNSName: the VIP is what the name means, and goes where the name goes.
func TestDNSName(t *testing.T) {
	first, second := netip.MustParseAddr("10.10.0.10"), netip.MustParseAddr("10.10.0.20")
	l := lab.New(t, lab.Options{VIPs: []netip.Addr{first, second}})
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s vip.example.test\n", first)
	for _, n := range l.Nodes {
		if err := os.WriteFile(n.Path("/etc/hosts"), []byte(hosts), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{Lab: l, pods: map[*lab.Node]*lab.Pod{},
		manifest: generate(t, "manifest", "pod", "--arp", "--address", "vip.example.test")}
	for _, n := range l.Nodes {
		c.run(t, n, lab.PodOptions{})
	}
	if _, err := l.WaitHolder(within(t, patience), first); err != nil {
		t.Fatal(err)
	}
	// A container's /etc/hosts is a file of its own, mounted: it is rewritten in place.
	files, err := filepath.Glob(filepath.Join(l.Dir, "*", "pods", "*", "hosts"))
	if err != nil || len(files) != len(l.Nodes) {
		t.Fatalf("%d containers have a hosts file (%v)", len(files), err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte(strings.ReplaceAll(hosts, first.String(), second.String())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.WaitHolder(within(t, patience), second); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitNobody(within(t, patience), first); err != nil {
		t.Fatal(err)
	}
}
