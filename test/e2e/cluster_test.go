// Package e2e runs the program as its users do - the manifest that it writes, on nodes with a real etcd and
// kube-apiserver each - and breaks things around it.
package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"kube-vip.io/kube-vip/pkg/vip"
	"kube-vip.io/kube-vip/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

const (
	// patience bounds every wait: a test that comes near it has failed already.
	patience = 60 * time.Second
	// leaseDuration is the default that the generated manifests carry.
	leaseDuration = 5 * time.Second
	apiPort       = 6443
	metricsURL    = "http://127.0.0.1:2112/metrics" // on the node
	readyURL      = "http://127.0.0.1:29112/readyz" // likewise
	lockNamespace = "kube-system"
	lockName      = "plndr-cp-lock"
)

// cluster is a lab whose nodes run the generated manifest.
type cluster struct {
	*lab.Lab
	manifest []byte
	pods     map[*lab.Node]*lab.Pod
	// others are addresses of ours that are not the control plane's: they are not looked at.
	others func(netip.Addr) bool
}

// generate runs the program as a user would and returns what it printed.
func generate(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(lab.Binary(t), args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kube-vip %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// start makes a lab and runs `kube-vip manifest pod` with these further flags on each of its nodes.
func start(t *testing.T, o lab.Options, flags ...string) *cluster {
	t.Helper()
	l := lab.New(t, o)
	var addresses []string
	for _, v := range l.VIPs {
		addresses = append(addresses, v.String())
	}
	manifest := generate(t, append([]string{"manifest", "pod", "--arp", "--address", strings.Join(addresses, ",")}, flags...)...)
	c := &cluster{Lab: l, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}
	for _, n := range l.Nodes {
		c.run(t, n, lab.PodOptions{})
	}
	return c
}

// run runs the manifest on a node, for the first time or again.
func (c *cluster) run(t *testing.T, n *lab.Node, o lab.PodOptions) {
	t.Helper()
	pod, err := n.RunManifest(c.manifest, lab.Binary(t), o)
	if err != nil {
		t.Fatalf("run the manifest on %s: %v", n, err)
	}
	c.pods[n] = pod
}

// holder waits until exactly one node has every VIP, and returns it.
func (c *cluster) holder(t *testing.T) *lab.Node {
	t.Helper()
	ctx := within(t, patience)
	var holder *lab.Node
	for _, v := range c.VIPs {
		n, err := c.WaitHolder(ctx, v)
		if err != nil {
			t.Fatal(err)
		}
		if holder != nil && n != holder {
			t.Fatalf("%s is on %s and another VIP on %s", v, n, holder)
		}
		holder = n
	}
	return holder
}

// follower is a node that does not hold.
func (c *cluster) follower(t *testing.T) *lab.Node {
	t.Helper()
	holder := c.holder(t)
	for _, n := range c.Nodes {
		if n != holder {
			return n
		}
	}
	t.Fatal("there is no follower")
	return nil
}

// settled waits until what a scenario began with is there again: all API servers and instances are well, one node
// holds every VIP and nobody else has one, and the API answers through each.
func (c *cluster) settled(t *testing.T) *lab.Node {
	t.Helper()
	ctx := within(t, 2*patience)
	for _, n := range c.Nodes {
		if err := n.API.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.pods[n].WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	// A node that fell more than once rises late, and an unhealthy holder gives way to the first that does.
	for _, n := range c.Nodes {
		eventually(t, n.Name+" is healthy", func() (bool, error) { return healthy(ctx, c.pods[n]) })
	}
	for _, v := range c.VIPs {
		gap, err := c.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(v, apiPort), TLS: true})
		if err != nil {
			t.Fatalf("GET /version through %s: %v", v, err)
		}
		gap.Stop()
	}
	holder := c.holder(t)
	c.clean(t, holder)
	return holder
}

// healthy is what an instance says of its node's API server and links.
func healthy(ctx context.Context, pod *lab.Pod) (bool, error) {
	const gauge = "kube_vip_control_plane_healthy"
	samples, err := pod.Metrics(ctx, metricsURL)
	if err != nil {
		return false, err
	}
	value, ok := samples[gauge]
	if !ok {
		return false, fmt.Errorf("%s has no %s", metricsURL, gauge)
	}
	return value == 1, nil
}

// clean checks that no node but the holder has an address of ours or any VIP, and that the holder has them as they
// should be.
func (c *cluster) clean(t *testing.T, holder *lab.Node) {
	t.Helper()
	for _, n := range c.Nodes {
		if n.Crashed() {
			continue
		}
		addrs, err := n.Addresses()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if c.others != nil && c.others(a.Prefix.Addr()) {
				continue
			}
			isVIP := slices.Contains(c.VIPs, a.Prefix.Addr())
			if a.Protocol == vip.AddressProtocol != isVIP {
				t.Errorf("%s has %s with protocol %d", n, a.Prefix, a.Protocol)
			}
			switch {
			case !isVIP:
			case n != holder:
				t.Errorf("%s has %s, and %s holds it", n, a.Prefix, holder)
			case a.Valid == lab.Forever || a.Valid > leaseDuration:
				t.Errorf("%s on %s is valid for %s: the dead-man needs a lifetime below the lease duration", a.Prefix, n, a.Valid)
			case a.Preferred != 0:
				t.Errorf("%s on %s is preferred for %s: it could become a source address", a.Prefix, n, a.Preferred)
			case !a.Prefix.IsSingleIP():
				t.Errorf("%s on %s is not a host address", a.Prefix, n)
			}
		}
	}
}

// measure asks for connections to every VIP while do works, until after returns, and until the VIPs have answered
// for a second after it. It returns what the client saw of the worst VIP.
func (c *cluster) measure(t *testing.T, do func()) lab.GapResult {
	t.Helper()
	ctx := within(t, 2*patience)
	var gaps []*lab.Gap
	for _, v := range c.VIPs {
		gap, err := c.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(v, apiPort)})
		if err != nil {
			t.Fatal(err)
		}
		gaps = append(gaps, gap)
	}
	do()
	var worst lab.GapResult
	for i, gap := range gaps {
		if err := gap.WaitFor(ctx, time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		result := gap.Stop()
		t.Logf("%s: %s", c.VIPs[i], result)
		if result.Longest > worst.Longest {
			worst = result
		}
	}
	return worst
}

// answers watches who answers for the VIPs until the returned function is called, which fails the test if two
// nodes answered for longer than overlap allows.
func (c *cluster) answers(t *testing.T, overlap time.Duration) (stop func()) {
	t.Helper()
	var watches []*lab.AnswerWatch
	for _, v := range c.VIPs {
		w, err := c.WatchAnswers(v, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		watches = append(watches, w)
	}
	return func() {
		t.Helper()
		for i, w := range watches {
			a := w.Stop()
			t.Logf("%s: answered by %v in turn, silent for %s at most", c.VIPs[i], a.Owners, a.Silence.Round(time.Millisecond))
			if a.Max == 0 {
				t.Errorf("nobody ever answered for %s", c.VIPs[i])
			}
			if a.Max > 1 && a.Overlap >= overlap {
				t.Errorf("%d nodes answered for %s at once, for %s (at most %s is allowed)", a.Max, c.VIPs[i], a.Overlap, overlap)
			}
		}
	}
}

func (c *cluster) leases(t *testing.T) coordinationclient.LeaseInterface {
	t.Helper()
	client, err := c.Kube()
	if err != nil {
		t.Fatal(err)
	}
	return client.CoordinationV1().Leases(lockNamespace)
}

// lockHolder is the holder that the Lease names.
func (c *cluster) lockHolder(t *testing.T) string {
	t.Helper()
	lease, err := c.leases(t).Get(within(t, patience), lockName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// within is a context for one wait of the test.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() (bool, error)) {
	t.Helper()
	if err := lab.Wait(within(t, patience), what, cond); err != nil {
		t.Fatal(err)
	}
}
