package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// patience bounds what takes kube-proxy a second or two.
const patience = 30 * time.Second

// settled and silent are how often in a row an answer, and none, has to come before it is believed: kube-proxy changes
// its rules once a second at most, and until then the old ones may give the answer that is wanted by chance.
const (
	settled = 10
	silent  = 4
)

// askTimeout is how long an unanswered question of these tests takes.
const askTimeout = 200 * time.Millisecond

// wantAnswer asks from a host, by TCP and by UDP, until it is answered as good wants it so many times in a row.
func wantAnswer(t *testing.T, ctx context.Context, h *Host, to netip.AddrPort, times int, good func(Answer) bool) {
	t.Helper()
	wantOutcome(t, ctx, h, to, times, func(a Answer, err error) bool { return err == nil && good(a) })
}

// wantSilence asks from a host, by TCP and by UDP, until nobody answers any more.
func wantSilence(t *testing.T, ctx context.Context, h *Host, to netip.AddrPort) {
	t.Helper()
	wantOutcome(t, ctx, h, to, silent, func(_ Answer, err error) bool { return err != nil })
}

func wantOutcome(t *testing.T, ctx context.Context, h *Host, to netip.AddrPort, times int, good func(Answer, error) bool) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		var last string
		row := 0
		err := Wait(ctx, "it is so", func() (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			a, err := h.Ask(ctx, network, to)
			if row++; !good(a, err) {
				row = 0
			}
			last = fmt.Sprintf("%+v, %v", a, err)
			return row >= times, nil
		})
		if err != nil {
			t.Fatalf("ask %s %s from %s: %v; the last answer: %s", network, to, h.Name, err, last)
		}
	}
}

// client is the client's address of a family.
func client(l *Lab, vip netip.Addr) netip.Addr {
	for _, p := range l.Client.Addrs {
		if p.Addr().Is4() == vip.Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// TestService: a client reaches the backends that the traffic policy allows through an address that was put on a node
// by hand, as kube-proxy has it.
func TestService(t *testing.T) {
	for _, family := range []Family{IPv4, IPv6, Dual} {
		t.Run(string(family), func(t *testing.T) { testService(t, family) })
	}
}

func testService(t *testing.T, family Family) {
	l := New(t, Options{Nodes: 2, Family: family, KubeProxy: true})
	ctx := deadline(t, 2*time.Minute)
	holder, other := l.Nodes[0], l.Nodes[1]
	local, err := holder.RunBackend(ctx, "local")
	must(t, err)
	remote, err := other.RunBackend(ctx, "remote")
	must(t, err)
	svc, err := l.CreateService(ctx, "web", map[string]string{"example.org/a": "b"})
	must(t, err)
	vips := choose(family, netip.MustParseAddr("10.10.0.50"), netip.MustParseAddr("fd00:10:10::50"))
	for _, vip := range vips {
		must(t, holder.AddAddress(holder.Link, netip.PrefixFrom(vip, vip.BitLen())))
	}
	must(t, svc.SetIngress(ctx, vips...))
	each := func(name string, endpoints [][]Endpoint, policy corev1.ServiceExternalTrafficPolicy, check func(t *testing.T, to netip.AddrPort)) {
		t.Helper()
		must(t, svc.SetEndpoints(ctx, endpoints...))
		must(t, svc.Change(ctx, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = policy }))
		for _, vip := range vips {
			t.Run(name+" "+vip.String(), func(t *testing.T) { check(t, netip.AddrPortFrom(vip, ServicePort)) })
		}
	}
	reach := func(b *Backend, preserved bool) func(*testing.T, netip.AddrPort) {
		return func(t *testing.T, to netip.AddrPort) {
			user := client(l, to.Addr())
			wantAnswer(t, deadline(t, patience), l.Client, to, settled, func(a Answer) bool {
				mine, err := holder.Has(a.Client)
				return a.Backend == b.Name && (a.Client == user) == preserved && (preserved || err == nil && mine)
			})
		}
	}
	nobody := func(t *testing.T, to netip.AddrPort) { wantSilence(t, deadline(t, patience), l.Client, to) }

	const cluster, localOnly = corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal
	each("cluster, remote", [][]Endpoint{Ready(remote)}, cluster, reach(remote, false))
	each("local, remote", [][]Endpoint{Ready(remote)}, localOnly, nobody)
	each("local, both in two slices", [][]Endpoint{Ready(remote), Ready(local)}, localOnly, reach(local, true))
	each("local, local not ready", [][]Endpoint{slices.Concat(Ready(remote), NotReady(local))}, localOnly, nobody)
	each("local, local terminating", [][]Endpoint{Ready(remote), nil, Terminating(local)}, localOnly, reach(local, true))
	each("cluster, local terminating", [][]Endpoint{Ready(remote), Terminating(local)}, cluster, reach(remote, false))
	each("cluster, both", [][]Endpoint{Ready(remote, local)}, cluster, func(t *testing.T, to netip.AddrPort) {
		for _, b := range []*Backend{local, remote} {
			wantAnswer(t, ctx, l.Client, to, 1, func(a Answer) bool { return a.Backend == b.Name })
		}
	})
	// Before, there were more.
	if diff := cmp.Diff(choose(family, "web-ipv4-0", "web-ipv6-0"), sliceNames(t, ctx, svc)); diff != "" {
		t.Errorf("endpoint slices (-want +got):\n%s", diff)
	}

	// A Gap asks for connections, and those are the backend's to accept, or for what it has to say.
	must(t, svc.SetEndpoints(ctx, Ready(remote)))
	for _, vip := range vips {
		reach(remote, false)(t, netip.AddrPortFrom(vip, ServicePort))
	}
	var gaps []*Gap
	for _, http := range []bool{false, true} {
		gap, err := l.Client.StartGap(ctx, GapOptions{Target: netip.AddrPortFrom(vips[0], ServicePort), HTTP: http})
		must(t, err)
		gaps = append(gaps, gap)
	}
	must(t, remote.Kill())
	for _, gap := range gaps {
		must(t, Wait(ctx, "an attempt fails", func() (bool, error) { return gap.Result().Failed > 0, nil }))
		t.Log(gap.Stop())
	}

	must(t, svc.Delete(ctx))
	must(t, svc.Delete(ctx))
	if left := sliceNames(t, ctx, svc); len(left) > 0 {
		t.Errorf("endpoint slices %v are left", left)
	}
	for _, n := range l.Nodes {
		u, err := UsageOf(n.Proxy.Pid())
		must(t, err)
		t.Logf("kube-proxy of %s: %d MiB, %v of CPU", n, u.RSS>>20, u.CPU)
	}
}

// sliceNames are those of the Service's EndpointSlices.
func sliceNames(t *testing.T, ctx context.Context, svc *Service) []string {
	t.Helper()
	client, err := svc.lab.Kube()
	must(t, err)
	list, err := client.DiscoveryV1().EndpointSlices(svc.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.Name})
	must(t, err)
	var names []string
	for _, s := range list.Items {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// TestBackendLife: backends come and go with their nodes, and kube-proxy with it; it leaves the machine alone.
func TestBackendLife(t *testing.T) {
	l := New(t, Options{Nodes: 2, Family: Dual, KubeProxy: true})
	ctx := deadline(t, 2*time.Minute)
	near, far := l.Nodes[0], l.Nodes[1]
	one, err := near.RunBackend(ctx, "one")
	must(t, err)
	two, err := near.RunBackend(ctx, "two", 7000, 7001)
	must(t, err)
	three, err := far.RunBackend(ctx, "three")
	must(t, err)
	if _, err := far.RunBackend(ctx, "three"); err == nil {
		t.Error("two backends have one name")
	}

	// Pods see each other, and the nodes, as they are.
	for _, from := range []*Host{near.Host, one.Host, three.Host, far.Host} {
		for i, to := range two.Addrs {
			for _, port := range two.Ports {
				wantAnswer(t, ctx, from, netip.AddrPortFrom(to.Addr(), port), 1, func(a Answer) bool {
					has, err := from.Has(a.Client)
					return a.Backend == "two" && err == nil && has && (from != one.Host || a.Client == one.Addrs[i].Addr())
				})
			}
		}
	}
	// A Service is for pods too, at its cluster address.
	svc, err := l.CreateService(ctx, "web", nil, func(s *corev1.Service) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].TargetPort = intstr.FromInt32(7001)
		}
	})
	must(t, err)
	must(t, svc.SetEndpoints(ctx, Ready(two)))
	got, err := svc.Get(ctx)
	must(t, err)
	clusterIPs := func(check func(netip.AddrPort)) {
		for _, ip := range got.Spec.ClusterIPs {
			check(netip.AddrPortFrom(netip.MustParseAddr(ip), ServicePort))
		}
	}
	if len(got.Spec.ClusterIPs) != 2 {
		t.Errorf("the service has the cluster addresses %v, want two", got.Spec.ClusterIPs)
	}
	byTwo := func(a Answer) bool { return a.Backend == "two" }
	clusterIPs(func(to netip.AddrPort) { wantAnswer(t, ctx, three.Host, to, settled, byTwo) })

	// What kube-proxy could set for the whole machine is as in a namespace that has none.
	limits := func(h *Host) map[string]string {
		found := map[string]string{}
		must(t, h.Do(func() error {
			names, err := filepath.Glob("/proc/sys/net/netfilter/nf_conntrack_*")
			if err != nil {
				return err
			}
			for _, name := range names {
				if strings.HasSuffix(name, "_count") {
					continue
				}
				content, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				found[filepath.Base(name)] = strings.TrimSpace(string(content))
			}
			return nil
		}))
		return found
	}
	without, with := limits(l.Client), limits(near.Host)
	if diff := cmp.Diff(without, with); diff != "" || len(with) < 5 {
		t.Errorf("connection tracking (-without kube-proxy +with) of %d values:\n%s", len(with), diff)
	}

	// A link that was made anew has its routes.
	must(t, near.DeleteLink())
	must(t, near.CreateLink())
	wantAnswer(t, ctx, three.Host, netip.AddrPortFrom(two.Addrs[0].Addr(), 7000), settled, byTwo)

	// A crashed node's backends are silent, and back after a boot; so are the rules.
	must(t, one.Stop())
	must(t, one.Stop())
	must(t, near.Crash())
	if two.process().Running() {
		t.Error("a backend survived its node's crash")
	}
	wantSilence(t, ctx, far.Host, netip.AddrPortFrom(two.Addrs[1].Addr(), 7000))
	if _, err := near.RunBackend(ctx, "four"); err == nil {
		t.Error("a backend runs on a crashed node")
	}
	must(t, near.Boot(ctx))
	// kube-proxy cannot have written any before its node's API server is there.
	if tables, err := near.Run(ctx, "nft", "list", "tables"); err != nil || tables != "" {
		t.Errorf("a booted node has the tables %q, %v", tables, err)
	}
	for _, to := range two.Addrs {
		wantAnswer(t, ctx, three.Host, netip.AddrPortFrom(to.Addr(), 7000), settled, byTwo)
	}
	must(t, near.API.WaitReady(ctx))
	must(t, near.Proxy.WaitReady(ctx))
	clusterIPs(func(to netip.AddrPort) { wantAnswer(t, ctx, near.Host, to, settled, byTwo) })

	// A paused node's too.
	must(t, near.Pause())
	wantSilence(t, ctx, three.Host, netip.AddrPortFrom(two.Addrs[0].Addr(), 7000))
	must(t, near.Resume())
	wantAnswer(t, ctx, three.Host, netip.AddrPortFrom(two.Addrs[0].Addr(), 7000), settled, byTwo)

	// An API server that hangs is not the one that is asked.
	must(t, near.API.Hang())
	must(t, svc.SetIngress(ctx, netip.MustParseAddr("10.10.0.50")))
	must(t, near.API.Continue())
	got, err = svc.Get(ctx)
	must(t, err)
	if in := got.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != "10.10.0.50" {
		t.Errorf("the status has %v, want 10.10.0.50", in)
	}

	links, err := near.Links()
	must(t, err)
	slices.Sort(links)
	if diff := cmp.Diff([]string{"eth0", "lo", "veth3"}, links); diff != "" {
		t.Errorf("links of the node (-want +got):\n%s", diff)
	}
	if l.Host("one") != nil {
		t.Error("a stopped backend is a host of the lab")
	}
	again, err := near.RunBackend(ctx, "one")
	must(t, err)
	if slices.Equal(again.Addrs, one.Addrs) {
		t.Errorf("a new pod has the old one's addresses %v", one.Addrs)
	}
}
