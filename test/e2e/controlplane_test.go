package e2e

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/lab"
)

// moved is the longest that a failover without the Lease's expiry may take here: ten times and more what it takes.
const moved = 4 * time.Second

// expired is the longest for one that waits for the Lease to expire.
const expired = 3 * leaseDuration

// scenarios are what may happen to a control plane. Each begins and ends with a settled cluster.
var scenarios = []struct {
	name string
	run  func(t *testing.T, c *cluster, holder *lab.Node)
}{
	{"the first holder", theFirstHolder},
	{"SIGTERM to the holder", terminated},
	{"SIGKILL to the holder, and the kubelet starts it again", killedAndRestarted},
	{"SIGKILL to the holder, for good", killedForGood},
	{"SIGSTOP to the holder, and SIGCONT", stoppedAndContinued},
	{"the holder vanishes, and comes back", vanished},
	{"the holder is cut off, and comes back", cutOff},
	{"the holder's API server is killed", apiKilled},
	{"the holder's API server hangs", apiHangs},
	{"the Lease is deleted", leaseDeleted},
	{"the Lease is emptied", leaseEmptied},
	{"the Lease is stolen", leaseStolen},
	{"the VIP is removed by hand", removedByHand},
	{"the holder's interface is deleted and made again", linkRemade},
	{"the holder's carrier is lost", carrierLost},
	{"etcd pauses for a moment", etcdPauses},
	{"the API is away from a follower", apiAwayFromFollower},
	{"the API is away from everybody for 30 s", apiAwayFromAll},
}

func TestControlPlane(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6, lab.Dual} {
		t.Run(string(family), func(t *testing.T) {
			c := start(t, lab.Options{Family: family})
			for _, s := range scenarios {
				if !t.Run(s.name, func(t *testing.T) {
					holder := c.settled(t)
					s.run(t, c, holder)
					c.settled(t)
				}) && t.Context().Err() != nil {
					return
				}
			}
		})
	}
}

// bounded checks a gap against the most that it may be on a busy machine.
func bounded(t *testing.T, r lab.GapResult, most time.Duration) {
	t.Helper()
	if r.Longest > most {
		t.Errorf("no connection for %s; at most %s is expected\n%s", r.Longest, most, r.Timeline(100))
	}
}

// unbroken checks that nothing was interrupted. A client that the machine kept waiting itself has seen nothing.
func unbroken(t *testing.T, r lab.GapResult) {
	t.Helper()
	if r.Longest > 500*time.Millisecond+2*r.Lag {
		t.Errorf("no connection for %s, and %d of %d attempts failed: %v\n%s", r.Longest, r.Failed, len(r.Attempts), r.Causes(), r.Timeline(100))
	}
}

// theFirstHolder looks at what the start has left behind: one holder, named by the Lease, who told the network.
func theFirstHolder(t *testing.T, c *cluster, holder *lab.Node) {
	if got := c.lockHolder(t); got != holder.Name {
		t.Errorf("the Lease names %q and %s has the VIP", got, holder)
	}
	for _, want := range []string{"Starting kube-vip.io [", "namespace [kube-system], Mode: [ARP], Features(s): Control Plane:[true]",
		"Beginning cluster membership", "lock=plndr-cp-lock", "id=" + holder.Name, "new leader elected: " + holder.Name, "VIP added"} {
		if _, err := c.pods[holder].WaitLog(within(t, patience), want); err != nil {
			t.Error(err)
		}
	}
	capture, err := c.Watcher.Capture(c.Watcher.Link)
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	stop := time.Now()
	if err := c.pods[holder].Stop(); err != nil {
		t.Error(err)
	}
	next := c.holder(t)
	for _, v := range c.VIPs {
		kinds := []lab.FrameKind{lab.ARPRequest, lab.ARPReply}
		if v.Is6() {
			kinds = []lab.FrameKind{lab.NA}
		}
		for _, kind := range kinds {
			f, err := capture.Wait(within(t, patience), string(kind)+" for "+v.String(), func(f lab.Frame) bool {
				return f.Kind == kind && f.Announces(v) && bytes.Equal(f.Src, next.MAC) && f.Time.After(stop)
			})
			if err != nil {
				t.Error(err)
				continue
			}
			checkAnnouncement(t, f, v, next)
		}
	}
	c.run(t, holder, lab.PodOptions{})
}

// checkAnnouncement compares a frame with RFC 5227 section 3 and RFC 4861 section 7.2.6.
func checkAnnouncement(t *testing.T, f lab.Frame, v netip.Addr, n *lab.Node) {
	t.Helper()
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	switch f.Kind {
	case lab.NA:
		if !f.Override || f.Solicited || f.HopLimit != 255 || !f.ChecksumOK || f.To != netip.MustParseAddr("ff02::1") ||
			!bytes.Equal(f.SenderMAC, n.MAC) || !bytes.Equal(f.Dst, []byte{0x33, 0x33, 0, 0, 0, 1}) {
			t.Errorf("the advertisement for %s is not as it should be: %s", v, f)
		}
	default:
		if !bytes.Equal(f.Dst, broadcast) || !bytes.Equal(f.SenderMAC, n.MAC) || f.Sender != v || f.Target != v {
			t.Errorf("the announcement of %s is not as it should be: %s", v, f)
		}
	}
}

func terminated(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 50*time.Millisecond)
	gap := c.measure(t, func() {
		began := time.Now()
		if err := c.pods[holder].Stop(); err != nil {
			t.Error(err)
		}
		t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
		c.holder(t)
	})
	stop()
	bounded(t, gap, moved)
	if code := c.pods[holder].ExitCode(); code != 0 {
		t.Errorf("the exit code after SIGTERM is %d", code)
	}
	next := c.holder(t)
	if next == holder {
		t.Errorf("%s was told to stop and holds the VIP", holder)
	}
	c.clean(t, next)
	c.run(t, holder, lab.PodOptions{})
}

// killedAndRestarted: the address outlives the process for a moment, and the new process finds the Lease its own.
func killedAndRestarted(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 0)
	restarts := c.pods[holder].Restarts()
	gap := c.measure(t, func() {
		if err := c.pods[holder].Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.pods[holder].WaitRunning(within(t, patience), restarts+1); err != nil {
			t.Fatal(err)
		}
		if err := c.pods[holder].WaitReady(within(t, patience)); err != nil {
			t.Fatal(err)
		}
	})
	stop()
	unbroken(t, gap)
	if now := c.holder(t); now != holder {
		t.Errorf("the VIP went from %s to %s although its process was back in time", holder, now)
	}
}

// killedForGood: nobody is there to take the address off but the kernel.
func killedForGood(t *testing.T, c *cluster, holder *lab.Node) {
	if err := c.pods[holder].Stop(); err != nil {
		t.Fatal(err)
	}
	c.run(t, holder, lab.PodOptions{NoRestart: true})
	// The one that is not started again has to hold: the others give way.
	for _, n := range c.Nodes {
		if n != holder {
			if err := c.pods[n].Stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if now := c.holder(t); now != holder {
		t.Fatalf("%s holds", now)
	}
	for _, n := range c.Nodes {
		if n != holder {
			c.run(t, n, lab.PodOptions{})
		}
	}
	c.settled(t)

	stop := c.answers(t, 0)
	gap := c.measure(t, func() {
		if err := c.pods[holder].Kill(); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
	})
	stop()
	bounded(t, gap, expired)
	if err := c.pods[holder].Stop(); err != nil {
		t.Logf("stop what was killed: %v", err)
	}
	c.run(t, holder, lab.PodOptions{})
}

func stoppedAndContinued(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 0)
	gap := c.measure(t, func() {
		if err := c.pods[holder].Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
		if err := c.pods[holder].Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	})
	stop()
	bounded(t, gap, expired)
	if now := c.holder(t); now == holder {
		t.Errorf("%s took the VIP back after it was continued", holder)
	}
}

func vanished(t *testing.T, c *cluster, holder *lab.Node) {
	gap := c.measure(t, func() {
		if err := holder.Crash(); err != nil {
			t.Fatal(err)
		}
		c.holder(t)
	})
	bounded(t, gap, expired)
	if err := holder.Boot(within(t, patience)); err != nil {
		t.Fatal(err)
	}
}

func cutOff(t *testing.T, c *cluster, holder *lab.Node) {
	gap := c.measure(t, func() {
		if err := holder.Cut(); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
	})
	bounded(t, gap, expired)
	stop := c.answers(t, 0)
	if err := holder.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := holder.API.WaitReady(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	stop()
}

func apiKilled(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 50*time.Millisecond)
	gap := c.measure(t, func() {
		if err := holder.API.Kill(); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
	})
	stop()
	bounded(t, gap, moved)
	if err := holder.API.Start(); err != nil {
		t.Fatal(err)
	}
}

func apiHangs(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 50*time.Millisecond)
	c.measure(t, func() {
		if err := holder.API.Hang(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.gone(t, holder)
		t.Logf("another node holds after %s", time.Since(began).Round(time.Millisecond))
	})
	stop()
	if err := holder.API.Continue(); err != nil {
		t.Fatal(err)
	}
}

// gone waits until a node other than this one holds.
func (c *cluster) gone(t *testing.T, holder *lab.Node) {
	t.Helper()
	for _, v := range c.VIPs {
		eventually(t, "another node holds "+v.String(), func() (bool, error) {
			holders, err := c.Holders(v)
			return len(holders) == 1 && holders[0] != holder, err
		})
	}
}

// leaseDeleted: the holder makes it again and nobody moves.
func leaseDeleted(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 0)
	before, err := c.leases(t).Get(within(t, patience), lockName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gap := c.measure(t, func() {
		if err := c.leases(t).Delete(within(t, patience), lockName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the Lease is there again", func() (bool, error) {
			lease, err := c.leases(t).Get(within(t, patience), lockName, metav1.GetOptions{})
			return err == nil && lease.UID != before.UID, nil
		})
	})
	stop()
	unbroken(t, gap)
	if now := c.holder(t); now != holder {
		t.Errorf("the VIP went from %s to %s", holder, now)
	}
}

func (c *cluster) rewrite(t *testing.T, patch string) {
	t.Helper()
	_, err := c.leases(t).Patch(within(t, patience), lockName, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func leaseEmptied(t *testing.T, c *cluster, _ *lab.Node) {
	stop := c.answers(t, 500*time.Millisecond)
	gap := c.measure(t, func() {
		c.rewrite(t, `{"spec":{"holderIdentity":""}}`)
		eventually(t, "the Lease has a holder", func() (bool, error) { return c.lockHolder(t) != "", nil })
		c.holder(t)
	})
	stop()
	bounded(t, gap, moved)
}

// leaseStolen: a stranger's Lease is honoured, for as long as it says.
func leaseStolen(t *testing.T, c *cluster, holder *lab.Node) {
	stop := c.answers(t, 0)
	gap := c.measure(t, func() {
		c.rewrite(t, `{"spec":{"holderIdentity":"stranger","leaseDurationSeconds":2}}`)
		if err := c.WaitNobody(within(t, patience), c.VIPs[0]); err != nil {
			t.Fatal(err)
		}
		if got := c.lockHolder(t); got != "stranger" {
			t.Errorf("the Lease was taken from the stranger by %s before it expired", got)
		}
		c.holder(t)
	})
	stop()
	bounded(t, gap, expired)
	if _, err := c.pods[holder].WaitLog(within(t, patience), "new leader elected: stranger"); err != nil {
		t.Error(err)
	}
}

func removedByHand(t *testing.T, c *cluster, holder *lab.Node) {
	for _, v := range c.VIPs {
		gap := c.measure(t, func() {
			if err := holder.RemoveAddress(holder.Link, netip.PrefixFrom(v, v.BitLen())); err != nil {
				t.Fatal(err)
			}
			if now := c.holder(t); now != holder {
				t.Errorf("%s went from %s to %s", v, holder, now)
			}
		})
		bounded(t, gap, time.Second)
	}
}

// linkRemade: without its interface the holder can not hold; another does, and the first can stand again later.
func linkRemade(t *testing.T, c *cluster, holder *lab.Node) {
	gap := c.measure(t, func() {
		if err := holder.DeleteLink(); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
	})
	bounded(t, gap, expired)
	if err := holder.CreateLink(); err != nil {
		t.Fatal(err)
	}
}

func carrierLost(t *testing.T, c *cluster, holder *lab.Node) {
	gap := c.measure(t, func() {
		if err := holder.CarrierDown(); err != nil {
			t.Fatal(err)
		}
		c.gone(t, holder)
	})
	bounded(t, gap, expired)
	if err := holder.CarrierUp(); err != nil {
		t.Fatal(err)
	}
}

// etcdPauses: every API server is sick at once, and nobody could take over. Afterwards one holds, in the same processes.
func etcdPauses(t *testing.T, c *cluster, _ *lab.Node) {
	restarts := c.restarts()
	stop := c.answers(t, 0)
	gap := c.measure(t, func() {
		for _, n := range c.Nodes {
			if err := n.Etcd.Hang(); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, 2200*time.Millisecond) // two probes time out, and the mandate lasts for three seconds
		for _, n := range c.Nodes {
			if err := n.Etcd.Continue(); err != nil {
				t.Fatal(err)
			}
		}
		c.holder(t)
	})
	stop()
	bounded(t, gap, expired)
	if now := c.restarts(); now != restarts {
		t.Errorf("instances were started %d times during the pause", now-restarts)
	}
}

func apiAwayFromFollower(t *testing.T, c *cluster, holder *lab.Node) {
	follower := c.follower(t)
	gap := c.measure(t, func() {
		if err := follower.APIAway(within(t, patience), lab.AllAPIs); err != nil {
			t.Fatal(err)
		}
		// It may have been unhealthy before: after a pause of etcd it rises late.
		eventually(t, follower.Name+" says that it is not healthy", func() (bool, error) {
			well, err := healthy(within(t, patience), c.pods[follower])
			return !well, err
		})
		wait(t, leaseDuration)
	})
	if err := follower.APIBack(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	unbroken(t, gap)
	if now := c.holder(t); now != holder {
		t.Errorf("the VIP went from %s to %s", holder, now)
	}
}

// apiAwayFromAll: nobody can renew, so nobody holds; afterwards one does, in the same processes, and nothing leaked.
func apiAwayFromAll(t *testing.T, c *cluster, _ *lab.Node) {
	before := c.goroutines(t)
	restarts := c.restarts()
	stop := c.answers(t, 0)
	ctx := within(t, 3*patience)
	for _, n := range c.Nodes {
		if err := n.APIAway(ctx, lab.AllAPIs); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, 30*time.Second)
	for _, v := range c.VIPs {
		if holders, err := c.Holders(v); err != nil || len(holders) > 0 {
			t.Errorf("without the API %v hold %s (%v)", holders, v, err)
		}
	}
	back := time.Now()
	for _, n := range c.Nodes {
		if err := n.APIBack(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.holder(t)
	t.Logf("held again %s after the API was back", time.Since(back).Round(10*time.Millisecond))
	stop()
	c.settled(t)
	if now := c.restarts(); now != restarts {
		t.Errorf("instances were started %d times during the outage", now-restarts)
	}
	eventually(t, "the goroutines are as many as before", func() (bool, error) {
		after := c.goroutines(t)
		for n := range after {
			if after[n] > before[n]+10 {
				return false, nil
			}
		}
		return true, nil
	})
}

func (c *cluster) goroutines(t *testing.T) map[*lab.Node]int {
	t.Helper()
	counts := map[*lab.Node]int{}
	for n, pod := range c.pods {
		count, err := pod.Goroutines(within(t, patience), metricsURL)
		if err != nil {
			t.Fatal(err)
		}
		counts[n] = count
	}
	return counts
}

func (c *cluster) restarts() int {
	sum := 0
	for _, pod := range c.pods {
		sum += pod.Restarts()
	}
	return sum
}

// wait lets time pass: for what must not happen in it.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(context.Cause(t.Context()))
	}
}

// TestBadInput: what the manager refuses on a real node, in words that name the setting.
func TestBadInput(t *testing.T) {
	l := lab.New(t, lab.Options{Nodes: 1, NoCluster: true})
	node := l.Nodes[0]
	kubeconfig := node.Path("/etc/kubernetes/admin.conf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(kubeconfig), 0o755), os.WriteFile(kubeconfig, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		flags []string
		want  string
		exits bool
	}{
		{"the node's own address", []string{"--address", node.Addr().String()}, "address: " + node.Addr().String() + " is this node's own address on eth0", true},
		{"an unreadable kubeconfig", []string{"--address", l.VIPs[0].String()}, "read kubeconfig /etc/kubernetes/admin.conf (k8s_config_file): it is empty", false},
		{"an unknown interface", []string{"--address", l.VIPs[0].String(), "--interface", "eth9"}, "vip_interface: this node has no interface", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			manifest := generate(t, append([]string{"manifest", "pod", "--arp"}, tc.flags...)...)
			pod, err := node.RunManifest(manifest, lab.Binary(t), lab.PodOptions{NoRestart: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pod.WaitLog(within(t, patience), tc.want); err != nil {
				t.Error(err)
			}
			if tc.exits {
				eventually(t, "it ends", func() (bool, error) { return !pod.Running(), nil })
				if pod.ExitCode() != 1 {
					t.Errorf("the exit code is %d", pod.ExitCode())
				}
			}
			if err := pod.Stop(); err != nil && !strings.Contains(err.Error(), "exit") {
				t.Log(err)
			}
		})
	}
}
