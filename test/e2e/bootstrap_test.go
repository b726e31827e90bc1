package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/lab"
)

// TestWithoutRights runs the manifest on three nodes whose admin.conf has no rights yet, as while `kubeadm init` works: one
// of them holds the VIP all the same, never two, and goes on to do so when the rights come.
func TestWithoutRights(t *testing.T) {
	for _, family := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run(string(family), func(t *testing.T) {
			l := lab.New(t, lab.Options{Family: family, NoClusterAdmins: true, Endpoint: "127.0.0.1:6443"})
			v := l.VIPs[0]
			var watches []*lab.AddressWatch
			for _, n := range l.Nodes {
				w, err := n.WatchAddresses()
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				watches = append(watches, w)
			}
			c := &cluster{Lab: l, manifest: generate(t, "manifest", "pod", "--address", v.String(), "--arp"), pods: map[*lab.Node]*lab.Pod{}}
			for _, n := range l.Nodes {
				c.run(t, n, lab.PodOptions{})
			}
			holder := soleHolder(t, l, v)
			t.Logf("%s holds the VIP without rights", holder)
			gap, err := l.Client.StartGap(within(t, patience), lab.GapOptions{Target: netip.AddrPortFrom(v, apiPort), TLS: true})
			if err != nil {
				t.Fatal(err)
			}
			wait(t, 5*time.Second) // others look several times
			if err := l.BindClusterAdmins(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the Lease is that node's", func() (bool, error) {
				lease, err := c.leases(t).Get(within(t, patience), lockName, metav1.GetOptions{})
				if err != nil {
					return false, nil // nobody has made it yet
				}
				return lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == holder.Name, nil
			})
			wait(t, 2*time.Second)
			if result := gap.Stop(); result.Failed > 0 {
				t.Errorf("%s: %v", result, result.Causes())
			}
			if n := soleHolder(t, l, v); n != holder {
				t.Errorf("the VIP has moved to %s", n)
			}
			if at := overlap(t, watches, v); at != "" {
				t.Errorf("two nodes had the VIP: %s", at)
			}
		})
	}
}

// soleHolder waits until a node has the VIP.
func soleHolder(t *testing.T, l *lab.Lab, v netip.Addr) (holder *lab.Node) {
	t.Helper()
	eventually(t, "a node has the VIP", func() (bool, error) {
		for _, n := range l.Nodes {
			if has, err := n.Has(v); has || err != nil {
				holder = n
				return has, err
			}
		}
		return false, nil
	})
	return holder
}

// overlap says when two nodes had the VIP at the same time; empty when they never had.
func overlap(t *testing.T, watches []*lab.AddressWatch, v netip.Addr) string {
	t.Helper()
	type change struct {
		lab.AddressEvent
		node int
	}
	var all []change
	for i, w := range watches {
		if err := w.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range w.Events() {
			if e.Addr == v {
				all = append(all, change{e, i})
			}
		}
	}
	slices.SortFunc(all, func(a, b change) int { return a.Time.Compare(b.Time) })
	has := map[int]bool{}
	for _, c := range all {
		if has[c.node] = true; !c.Present {
			delete(has, c.node)
		}
		if len(has) > 1 {
			return c.Time.Format(time.StampMilli)
		}
	}
	return ""
}
