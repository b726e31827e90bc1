package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/pkg/vip"
)

// fakeWire answers a Probe from a table of addresses.
type fakeWire struct {
	macs map[string]string
	err  error
}

func (f fakeWire) Probe(_ context.Context, _ string, addr netip.Addr) (net.HardwareAddr, error) {
	if f.err != nil || f.macs[addr.String()] == "" {
		return nil, f.err
	}
	return net.ParseMAC(f.macs[addr.String()])
}

// TestAsk is what a machine finds out about 10.0.0.10, which n1 is to hold.
func TestAsk(t *testing.T) {
	const mac1, mac2, mac9 = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:09"
	homes := map[string][]netip.Addr{"n1": {netip.MustParseAddr("10.0.0.1")}, "n2": {netip.MustParseAddr("10.0.0.2")}}
	links := func(addrs ...string) []vip.Link {
		l := vip.Link{Index: 2, Name: "eth0", Up: true, DefaultRoute4: true}
		for _, a := range addrs {
			l.Addrs = append(l.Addrs, netip.MustParsePrefix(a))
		}
		return []vip.Link{{Index: 1, Name: "lo", Loopback: true, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}, l}
	}
	has := func(link string, ours bool) []vip.Address {
		return []vip.Address{{Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: link, Ours: ours}}
	}
	nodes := map[string]string{"10.0.0.1": mac1, "10.0.0.2": mac2}
	with := func(mac string) map[string]string {
		m := map[string]string{"10.0.0.10": mac}
		for a, v := range nodes {
			m[a] = v
		}
		return m
	}
	for _, tc := range []struct {
		name   string
		here   earshot
		at     vip.Placement
		holder string
		text   string
		but    string
	}{
		{name: "the holder answers", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: with(mac1)}}, holder: "n1", text: "n1 answers (02:00:00:00:00:01) on eth0"},
		{name: "on the holder", here: earshot{links: links("10.0.0.1/24"), addresses: has("eth0", true), prober: fakeWire{macs: nodes}}, holder: "n1",
			text: "this machine has it on eth0; nobody else answers on eth0"},
		{name: "another node answers", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: with(mac2)}}, holder: "n1",
			text: "n2 answers (02:00:00:00:00:02) on eth0", but: "n2 (02:00:00:00:00:02) answers for 10.0.0.10, and n1 should have it"},
		{name: "a stranger answers", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: with(mac9)}}, holder: "n1",
			text: "02:00:00:00:00:09 answers on eth0, and is no node's that is known",
			but:  "02:00:00:00:00:09 answers for 10.0.0.10; no node answers by that for its own address: another interface of n1, or a stranger"},
		{name: "two answer", here: earshot{links: links("10.0.0.1/24"), addresses: has("eth0", true), prober: fakeWire{macs: with(mac2)}}, holder: "n1",
			text: "this machine has it on eth0; n2 answers (02:00:00:00:00:02) on eth0", but: "10.0.0.10 is on this node, n1, and n2 (02:00:00:00:00:02) answers, too"},
		{name: "nobody answers", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: nodes}}, holder: "n1",
			text: "nobody answers on eth0", but: "nobody answers for 10.0.0.10, and n1 should have it"},
		{name: "nobody answers, and nobody should", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: nodes}}, text: "nobody answers on eth0"},
		{name: "somebody answers, and nobody should", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{macs: with(mac9)}},
			text: "02:00:00:00:00:09 answers on eth0, and is no node's that is known", but: "02:00:00:00:00:09 answers for 10.0.0.10, and nobody should"},
		{name: "here, and another should have it", here: earshot{links: links("10.0.0.2/24"), addresses: has("eth0", true), prober: fakeWire{macs: nodes}}, holder: "n1",
			text: "this machine has it on eth0; nobody else answers on eth0", but: "10.0.0.10 is on this node, n2, and n1 should have it"},
		{name: "not here, and it should be", here: earshot{links: links("10.0.0.1/24"), prober: fakeWire{macs: nodes}}, holder: "n1",
			text: "nobody answers on eth0", but: "this node, n1, should have 10.0.0.10 and has not"},
		{name: "IPVS has it everywhere", here: earshot{links: links("10.0.0.2/24"), addresses: has("kube-ipvs0", false), prober: fakeWire{macs: with(mac1)}}, holder: "n1",
			text: "n1 answers (02:00:00:00:00:01) on eth0"},
		{name: "another network", here: earshot{links: links("192.168.0.3/24"), prober: fakeWire{macs: with(mac1)}}, holder: "n1",
			text: "not asked: no interface of this machine is in its subnet"},
		{name: "an interface that is pinned, and not here", here: earshot{links: links("192.168.0.3/24"), prober: fakeWire{macs: with(mac1)}}, at: vip.Placement{Interface: "eth7"}, holder: "n1",
			text: `not asked: vip_interface: this node has no interface "eth7"; it has lo, eth0`},
		{name: "an interface that is pinned, outside of its subnet", here: earshot{links: links("192.168.0.3/24"), prober: fakeWire{macs: map[string]string{"10.0.0.10": mac9}}}, at: vip.Placement{Interface: "eth0"},
			holder: "n1", text: "02:00:00:00:00:09 answers on eth0, and is no node's that is known",
			but: "02:00:00:00:00:09 answers for 10.0.0.10; no node answers by that for its own address: another interface of n1, or a stranger"},
		{name: "without the capability", here: earshot{links: links("10.0.0.3/24"), prober: fakeWire{err: errors.New("the capability NET_RAW is needed")}}, holder: "n1",
			text: "not asked: the capability NET_RAW is needed"},
		{name: "without the kernel", here: earshot{deaf: errors.New("open netlink: no")}, holder: "n1", text: "not asked: open netlink: no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := tc.here.ask(t.Context(), netip.MustParseAddr("10.0.0.10"), tc.at, tc.holder, homes)
			if diff := cmp.Diff([]string{tc.text, tc.but}, []string{got.String(), got.But}); diff != "" {
				t.Errorf("what it says, and what is wrong (-want +got):\n%s", diff)
			}
		})
	}
}

// goldenNow is when the golden files look at the world.
var goldenNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// goldenWorld has kube-vip on cp1 to cp3, of which cp3 has stopped, and ten workers without; cp2 leads.
func goldenWorld() svc.World {
	ago := func(d time.Duration) time.Time { return goldenNow.Add(-d) }
	lease := func(namespace, name, holder string, since, renewed time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder,
			LeaseDurationSeconds: new(int32(5)), AcquireTime: new(metav1.NewMicroTime(ago(since))), RenewTime: new(metav1.NewMicroTime(ago(renewed)))}}
	}
	member := func(node, holder, health, reason string, heard time.Duration) *coordinationv1.Lease {
		l := lease("kube-system", ha.MemberPrefix+node, holder, 48*time.Hour, heard)
		l.Labels = map[string]string{ha.MemberLabel: "true", ha.GroupLabelPrefix + "plndr-cp-lock": "", ha.GroupLabelPrefix + "plndr-svcs-lock": ""}
		l.Annotations = map[string]string{ha.HealthAnnotation: health, ha.ReasonAnnotation: reason, ha.VersionAnnotation: "v1.0.0"}
		return l
	}
	node := func(name, addr string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}}}
	}
	service := func(name, addrs string, policy corev1.ServiceExternalTrafficPolicy, condition metav1.Condition, host string, ingress ...string) *corev1.Service {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(ago(72 * time.Hour)), Annotations: map[string]string{svc.AddressesAnnotation: addrs}},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.5", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
				ExternalTrafficPolicy: policy, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		if host != "" {
			s.Annotations[svc.HostAnnotation] = host
		}
		condition.Type, condition.LastTransitionTime = svc.ConditionAnnounced, metav1.NewTime(ago(10*time.Minute))
		s.Status.Conditions = []metav1.Condition{condition}
		for _, a := range ingress {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		return s
	}
	w := svc.World{Now: goldenNow, NotKnown: map[string]error{}, Services: []*corev1.Service{
		service("web", "10.0.0.101,10.0.0.11", corev1.ServiceExternalTrafficPolicyCluster, metav1.Condition{Status: "True", Reason: svc.ReasonRefused,
			Message: "node cp2 holds 10.0.0.101; refused 10.0.0.11: it is an address of node cp1"}, "cp2", "10.0.0.101"),
		service("local", "10.0.0.102", corev1.ServiceExternalTrafficPolicyLocal, metav1.Condition{Status: "True", Reason: svc.ReasonAnnounced, Message: "node cp3 holds 10.0.0.102"}, "cp3", "10.0.0.102"),
		service("refused", "10.0.0.12", corev1.ServiceExternalTrafficPolicyCluster, metav1.Condition{Status: "False", Reason: svc.ReasonRefused, Message: "refused 10.0.0.12: it is an address of node cp2"}, ""),
	}}
	w.Leases = []*coordinationv1.Lease{
		lease("kube-system", "plndr-cp-lock", "cp1", 26*time.Hour, 400*time.Millisecond),
		lease("kube-system", "plndr-svcs-lock", "cp2", 10*time.Minute, 700*time.Millisecond),
		lease("shop", "kubevip-local", "cp3", time.Hour, 10*time.Second),
		member("cp1", "cp1", "healthy", "", 3*time.Second),
		member("cp2", "cp2", "unhealthy", "GET https://127.0.0.1:6443/livez: connection refused", 4*time.Second),
		member("cp3", "", "unable", "stopped", 10*time.Second),
	}
	w.Nodes = []*corev1.Node{node("cp1", "10.0.0.11"), node("cp2", "10.0.0.12"), node("cp3", "10.0.0.13")}
	for _, n := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"} {
		w.Nodes = append(w.Nodes, node("worker"+n, "10.0.0.2"+n))
	}
	return w
}

// goldenOutlook is with the settings of the world's instances.
func goldenOutlook(t *testing.T, args ...string) (config.Config, svc.Options, svc.Locks) {
	t.Helper()
	loaded, err := config.Load(nil, append([]string{"address=10.0.0.10", "cp_enable=true", "svc_enable=true", "vip_arp=true"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	l := locks(loaded.Config)
	return loaded.Config, svc.Options{Mandate: l.Group.Name, Exclude: true, Rules: svc.Rules{Class: loaded.Config.Services.Class.Name}}, l
}

// compareGolden compares text with testdata/explain/name, which -update writes.
func compareGolden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", "explain", name)
	if *update {
		writeFile(t, file, text)
		return
	}
	if diff := cmp.Diff(readFile(t, file), text); diff != "" {
		t.Errorf("%s; go test ./cmd/kube-vip -update writes it (-want +got):\n%s", file, diff)
	}
}

func TestExplainGolden(t *testing.T) {
	wire := fakeWire{macs: map[string]string{"10.0.0.101": "02:00:00:00:00:0c", "10.0.0.12": "02:00:00:00:00:0c"}}
	here := earshot{prober: wire, links: []vip.Link{{Index: 2, Name: "eth0", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.11/24")}}}}
	for _, name := range []string{"web", "local", "refused"} {
		t.Run(name, func(t *testing.T) {
			_, o, l := goldenOutlook(t)
			w := goldenWorld()
			w.NotKnown["servicecidrs"] = errors.New("forbidden")
			w.NotKnown["endpoints"] = errors.New("forbidden")
			x, err := svc.Explain(o, l, w, types.NamespacedName{Namespace: "shop", Name: name})
			if err != nil {
				t.Fatal(err)
			}
			report := withWire(t.Context(), x, here, homes(w))
			compareGolden(t, name+".txt", report.render(goldenNow))
			out, err := asJSON(report)
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, name+".json", string(out))
		})
	}
}

func TestStatusGolden(t *testing.T) {
	c, o, l := goldenOutlook(t)
	report := overview(c, o, l, goldenWorld())
	compareGolden(t, "status.txt", report.render(goldenNow))
	out, err := asJSON(report)
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "status.json", string(out))

	compareGolden(t, "status-nothing.txt", overview(c, o, l, svc.World{Now: goldenNow}).render(goldenNow))
	// Whoever does not give the settings of the instances is told that the address is not known.
	c.ControlPlane.Enable = false
	later := goldenWorld()
	later.Now = goldenNow.Add(time.Hour)
	later.NotKnown["services"] = errors.New(`services is forbidden: User "x" cannot list resource "services" in API group "" at the cluster scope`)
	later.Services = nil
	compareGolden(t, "status-later.txt", overview(c, o, l, later).render(later.Now))
}

// TestOutlookWithoutAPI: one clear error, and nothing on stdout.
func TestOutlookWithoutAPI(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, nowhere, "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n"+
		"contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\nusers: [{name: a, user: {token: x}}]\n")
	for _, tc := range []struct{ args, want string }{
		{"status", "error: list leases: reach the API server: 127.0.0.1:1: connection refused\n"},
		{"explain service shop/web --services", "error: read Service shop/web: reach the API server: 127.0.0.1:1: connection refused\n"},
	} {
		got := kubeVIP(t, nil, append(strings.Fields(tc.args), "--k8sConfigPath", nowhere, "--kubernetesAddr", "127.0.0.1:1")...)
		if diff := cmp.Diff(result{Code: 1, Stderr: tc.want}, got); diff != "" {
			t.Errorf("kube-vip %s (-want +got):\n%s", tc.args, diff)
		}
	}
}
