package svc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/ha"
)

// now is when tests look at the world.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) *metav1.MicroTime { return new(metav1.NewMicroTime(now.Add(-d))) }

// lease is one that was renewed that long ago.
func lease(namespace, name, holder string, renewed time.Duration, change ...func(*coordinationv1.Lease)) *coordinationv1.Lease {
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: new(int32(5)), AcquireTime: ago(time.Hour), RenewTime: ago(renewed)}}
	for _, f := range change {
		f(l)
	}
	return l
}

// member is an instance's Lease.
func member(node string, heard time.Duration, groups ...string) *coordinationv1.Lease {
	return lease("kube-system", ha.MemberPrefix+node, node, heard, func(l *coordinationv1.Lease) {
		l.Labels = map[string]string{ha.MemberLabel: "true"}
		for _, g := range groups {
			l.Labels[ha.GroupLabelPrefix+g] = ""
		}
		l.Annotations = map[string]string{ha.HealthAnnotation: "healthy", ha.VersionAnnotation: "v1.0.0"}
	})
}

func addressed(name, addr string, labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}}}
	for _, l := range labels {
		n.Labels[l] = ""
	}
	return n
}

// backends are endpoints on nodes; a name with ~ before it is of one that terminates and still serves.
func backends(nodes ...string) []*discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{}
	for _, n := range nodes {
		name, ends := strings.CutPrefix(n, "~")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: &name,
			Conditions: discoveryv1.EndpointConditions{Ready: new(!ends), Serving: new(true), Terminating: &ends}})
	}
	return []*discoveryv1.EndpointSlice{s}
}

// held gives a Service the status that it has while host holds addrs.
func held(host, addrs string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		w := shown{ours: true, host: host, announced: true, reason: ReasonAnnounced, message: "node " + host + " holds " + addrs}
		for a := range strings.SplitSeq(addrs, ", ") {
			w.addrs = append(w.addrs, netip.MustParseAddr(a))
		}
		*s = *apply(s, w, nil, now.Add(-time.Minute))
	}
}

// withheld gives it the status of a Service that has nothing.
func withheld(reason, message string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		*s = *apply(s, shown{ours: true, reason: reason, message: message}, nil, now.Add(-time.Minute))
	}
}

var (
	groupLock = types.NamespacedName{Namespace: "kube-system", Name: "plndr-svcs-lock"}
	planeLock = types.NamespacedName{Namespace: "kube-system", Name: "plndr-cp-lock"}
	testLocks = Locks{Group: groupLock, ControlPlane: planeLock, Duration: 5 * time.Second}
)

// world has kube-vip on n1 to n3, n1 being the leader, and a node w1 without.
func world(change func(*World), services ...*corev1.Service) World {
	w := World{
		Now: now, Services: services, NotKnown: map[string]error{}, Slices: backends("n1", "n2"),
		Nodes: []*corev1.Node{addressed("n1", "10.0.0.1"), addressed("n2", "10.0.0.2"), addressed("n3", "10.0.0.3"), addressed("w1", "10.0.0.4")},
		CIDRs: []*networkingv1.ServiceCIDR{{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}},
		Leases: []*coordinationv1.Lease{
			lease("kube-system", "plndr-svcs-lock", "n1", time.Second), lease("kube-system", "plndr-cp-lock", "n2", time.Second),
			member("n1", 3*time.Second, "plndr-cp-lock", "plndr-svcs-lock"), member("n2", 4*time.Second, "plndr-cp-lock", "plndr-svcs-lock"), member("n3", 5*time.Second, "plndr-cp-lock", "plndr-svcs-lock"),
		},
	}
	if change != nil {
		change(&w)
	}
	return w
}

// replace puts Leases in the place of those with their names.
func replace(leases ...*coordinationv1.Lease) func(*World) {
	return func(w *World) {
		for _, l := range leases {
			for i, o := range w.Leases {
				if o.Name == l.Name && o.Namespace == l.Namespace {
					w.Leases = append(w.Leases[:i:i], w.Leases[i+1:]...)
					break
				}
			}
			w.Leases = append(w.Leases, l)
		}
	}
}

func both(list ...func(*World)) func(*World) {
	return func(w *World) {
		for _, f := range list {
			f(w)
		}
	}
}

// digest is an Explanation in few lines.
func digest(x Explanation) string {
	var b strings.Builder
	fmt.Fprintln(&b, x.Verdict)
	for _, h := range x.Holdings {
		fmt.Fprintf(&b, "%s %s: %s\n", join(h.Addresses), h.Lease, h.For)
		for _, c := range h.Candidates {
			fmt.Fprintf(&b, "  %s", c.Node)
			if c.Holds {
				fmt.Fprint(&b, " holds")
			}
			if c.May {
				fmt.Fprint(&b, " may")
			}
			if c.Rank != nil {
				fmt.Fprintf(&b, " rank %d", *c.Rank)
			}
			if c.Why != "" {
				fmt.Fprintf(&b, ": %s", c.Why)
			}
			fmt.Fprintln(&b)
		}
		for _, s := range h.IfDied {
			fmt.Fprintf(&b, "  without %s: %v in turn %t after %g s", s.Node, s.Next, s.InTurn, s.Takeover)
			if s.Then != "" {
				fmt.Fprintf(&b, "; then %s", s.Then)
			}
			fmt.Fprintln(&b)
		}
	}
	for _, but := range x.But {
		fmt.Fprintf(&b, "but %s\n", but)
	}
	for _, u := range x.NotKnown {
		fmt.Fprintf(&b, "not known %s\n", u)
	}
	return b.String()
}

const (
	allMay  = "  n1 holds may\n  n2 may\n  n3 may\n  w1: no kube-vip runs there\n  without n1: [n2 n3] in turn false after 5.25 s\n"
	byGroup = " kube-system/plndr-svcs-lock: one for all Services: its holder is the leader\n"
)

func TestExplain(t *testing.T) {
	pools := func(data ...string) func(*World) {
		return func(w *World) {
			w.Pools = &corev1.ConfigMap{Data: map[string]string{}}
			for i := 0; i < len(data); i += 2 {
				w.Pools.Data[data[i]] = data[i+1]
			}
		}
	}
	on := func(nodes ...string) func(*World) { return func(w *World) { w.Slices = backends(nodes...) } }
	older := func(list ...*corev1.Service) func(*World) {
		return func(w *World) {
			for _, s := range list {
				s.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
			}
			w.Services = append(w.Services, list...)
		}
	}
	for _, tc := range []struct {
		name   string
		s      *corev1.Service
		o      Options
		change func(*World)
		want   string
	}{
		{name: "announced", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			want: "n1 holds 10.0.0.10\n10.0.0.10" + byGroup + allMay},
		{name: "not ours", s: service("a", asking("10.0.0.10"), class("metallb")),
			want: "kube-vip leaves it alone: its loadBalancerClass is metallb, not none\n"},
		{name: "annotations that do nothing", s: service("a", annotated("kube-vip.io/loadbalancerIP", "10.0.0.2"), annotated("kube-vip.io/egress", "true"), annotated("example.com/egress", "true"), withheld(ReasonNoAddress, "x")),
			want: "it is not announced: there is no pool for namespace shop: none of the keys cidr-shop, range-shop, cidr-global and range-global is there\n" +
				"but the annotation kube-vip.io/egress is none that this version reads\nbut the annotation kube-vip.io/loadbalancerIP is none that this version reads\n"},
		{name: "a node's address", s: service("a", asking("10.0.0.2"), withheld(ReasonRefused, "refused 10.0.0.2: it is an address of node n2")),
			want: "it is not announced: refused 10.0.0.2: it is an address of node n2\n"},
		{name: "one of two refused", s: service("a", asking("10.0.0.10,10.96.0.1"), held("n1", "10.0.0.10")),
			want: "n1 holds 10.0.0.10; refused 10.96.0.1: it is in 10.96.0.0/16, the cluster IPs' network (ServiceCIDR kubernetes)\n10.0.0.10" + byGroup + allMay},
		{name: "an excluded node, and one of the control plane", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")), o: Options{Exclude: true},
			change: func(w *World) {
				w.Nodes[1] = addressed("n2", "10.0.0.2", corev1.LabelNodeExcludeBalancers)
				w.Nodes[2] = addressed("n3", "10.0.0.3", corev1.LabelNodeExcludeBalancers, controlPlaneLabels[0])
			},
			want: "n1 holds 10.0.0.10\n10.0.0.10" + byGroup + "  n1 holds may\n  n3 may\n  n2: node n2 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)\n" +
				"  w1: no kube-vip runs there\n  without n1: [n3] in turn false after 5.25 s\n"},
		{name: "Local, an endpoint on one node", s: service("a", asking("10.0.0.10"), local, held("n2", "10.0.0.10")),
			change: both(on("n2", "w1"), replace(lease("shop", "kubevip-a", "n2", time.Second))),
			want: "n2 holds 10.0.0.10\n10.0.0.10 shop/kubevip-a: its own, for externalTrafficPolicy is Local\n  n2 holds may rank 0\n" +
				"  n1: node n1 has no ready endpoint, and externalTrafficPolicy is Local\n  n3: node n3 has no ready endpoint, and externalTrafficPolicy is Local\n" +
				"  w1: no kube-vip runs there\n  without n2: [] in turn true after 5.25 s\n"},
		{name: "Local, the holder's ends, a better one elsewhere", s: service("a", asking("10.0.0.10"), local, held("n2", "10.0.0.10")),
			change: both(on("~n2", "n1"), replace(lease("shop", "kubevip-a", "n2", time.Second))),
			want: "n2 holds 10.0.0.10\n10.0.0.10 shop/kubevip-a: its own, for externalTrafficPolicy is Local\n  n1 may rank 0\n" +
				"  n2 holds may rank 1\n  n3: node n3 has no ready endpoint, and externalTrafficPolicy is Local\n" +
				"  w1: no kube-vip runs there\n  without n2: [n1] in turn true after 5.25 s\n"},
		{name: "a Lease each, all endpoints on the holder", s: service("a", asking("10.0.0.10"), held("n3", "10.0.0.10")), o: Options{PerService: true},
			change: both(on("n3"), replace(lease("shop", "kubevip-a", "n3", time.Second))),
			want: "n3 holds 10.0.0.10\n10.0.0.10 shop/kubevip-a: its own: each Service has one (svc_placement)\n  n1 may rank 0\n  n2 may rank 1\n  n3 holds may rank 2\n" +
				"  w1: no kube-vip runs there\n  without n3: [n1 n2] in turn true after 5.25 s; " +
				"then it has no ready endpoint; the annotation kube-vip.io/allow-reconcile-without-endpoints: \"true\" would keep its addresses all the same\n"},
		{name: "a Lease that several name", s: service("a", asking("10.0.0.10"), annotated(LeaseAnnotation, "web"), held("n3", "10.0.0.10")), o: Options{PerService: true},
			change: replace(lease("shop", "web", "n3", time.Second)),
			want: "n3 holds 10.0.0.10\n10.0.0.10 shop/web: annotation kube-vip.io/leaseName\n  n3 holds may rank 0\n  n2 may rank 1\n  n1 may rank 2\n" +
				"  w1: no kube-vip runs there\n  without n3: [n2 n1] in turn true after 5.25 s\n"},
		{name: "kube-vip's own Lease", s: service("a", asking("10.0.0.10"), annotated(LeaseAnnotation, "kube-system/plndr-svcs-lock"), held("n1", "10.0.0.10")), o: Options{PerService: true},
			want: "it is not announced: refused kube-system/plndr-svcs-lock: kube-vip uses that Lease itself: name another by the annotation kube-vip.io/leaseName\n" +
				"but its condition still says: node n1 holds 10.0.0.10\nbut its status lists 10.0.0.10, and it is to have none\n"},
		{name: "no Lease's name", s: service("a", asking("10.0.0.10"), annotated(LeaseAnnotation, "Bad_Name"), withheld(ReasonRefused, "x")), o: Options{PerService: true},
			want: "it is not announced: refused Bad_Name: the annotation kube-vip.io/leaseName is no Lease's name: write name or namespace/name, in lower-case letters, digits, dots and hyphens\n"},
		{name: "the scheduler's Lease, and an older Service has the address as well", s: service("a", asking("10.0.0.10"), annotated(LeaseAnnotation, "kube-system/kube-scheduler"), withheld(ReasonRefused, "x")), o: Options{PerService: true},
			change: older(service("b", asking("10.0.0.10"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })),
			want:   "it is not announced: refused kube-system/kube-scheduler: the annotation kube-vip.io/leaseName may not name a Lease in kube-system, where Kubernetes has its own: write a name alone, for one in shop\n"},
		{name: "an older Service with the address is refused its Lease", s: service("a", asking("10.0.0.10"), held("n3", "10.0.0.10")), o: Options{PerService: true},
			change: both(older(service("b", asking("10.0.0.10"), annotated(LeaseAnnotation, "Bad_Name"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })), replace(lease("shop", "kubevip-a", "n3", time.Second))),
			want: "n3 holds 10.0.0.10\n10.0.0.10 shop/kubevip-a: that of the oldest of the Services that share the address\n  n1 may rank 0\n  n2 may rank 1\n  n3 holds may rank 2\n" +
				"  w1: no kube-vip runs there\n  without n3: [n1 n2] in turn true after 5.25 s\n"},
		{name: "shared with a Local one", s: service("a", asking("10.0.0.10"), local, held("n1", "10.0.0.10")),
			change: older(service("b", asking("10.0.0.10"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })),
			want: "n1 holds 10.0.0.10\n10.0.0.10 kube-system/plndr-svcs-lock: it shares its address with a Service of the leader's\n  n1 holds may\n  n2 may\n" +
				"  n3: node n3 has no ready endpoint, and externalTrafficPolicy is Local\n  w1: no kube-vip runs there\n  without n1: [n2] in turn false after 5.25 s\n"},
		{name: "a port that is taken", s: service("a", asking("10.0.0.10"), withheld(ReasonRefused, "x")), change: older(service("b", asking("10.0.0.10"))),
			want: "it is not announced: refused 10.0.0.10: Service shop/b has 80/TCP on 10.0.0.10 already\n"},
		{name: "the control plane's VIP", s: service("a", asking("10.0.0.100"), held("n2", "10.0.0.100")),
			change: func(w *World) {
				w.Leases[2].Annotations[ha.HealthAnnotation], w.Leases[2].Annotations[ha.ReasonAnnotation] = "unhealthy", "no answer"
				w.Leases[4].Annotations[ha.HealthAnnotation], w.Leases[4].Annotations[ha.ReasonAnnotation] = "unable", "eth1 is gone"
			},
			want: "n2 holds 10.0.0.100\n10.0.0.100 kube-system/plndr-cp-lock: the address is the control plane's, too\n  n1 may: it is unhealthy: no answer; it holds only while no other is healthy\n" +
				"  n2 holds may\n  n3: it is unable: eth1 is gone\n  w1: no kube-vip runs there\n  without n2: [n1] in turn false after 5.25 s\n"},
		{name: "no endpoint", s: service("a", asking("10.0.0.10"), withheld(ReasonWithdrawn, "x")), change: on(),
			want: "it is not announced: it has no ready endpoint; the annotation kube-vip.io/allow-reconcile-without-endpoints: \"true\" would keep its addresses all the same\n"},
		{name: "endpoints that may not be read", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			change: func(w *World) { w.Slices, w.NotKnown["endpoints"] = nil, errors.New("forbidden") },
			want:   "n1 holds 10.0.0.10\n10.0.0.10" + byGroup + allMay + "not known whether it has endpoints, and where: read endpoints: forbidden\n"},
		{name: "Leases that may not be read", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			change: func(w *World) { w.Leases, w.NotKnown["leases"] = nil, errors.New("forbidden") },
			want: "it is not known who holds 10.0.0.10: Leases could not be read\n10.0.0.10" + byGroup + "  n1: not known: Leases could not be read\n  n2: not known: Leases could not be read\n" +
				"  n3: not known: Leases could not be read\n  w1: not known: Leases could not be read\nnot known who holds, and where kube-vip runs: read leases: forbidden\n"},
		{name: "the holder is gone, and its Lease has run out", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			change: replace(lease("kube-system", "plndr-svcs-lock", "n1", 7*time.Second), member("n1", time.Minute, "plndr-svcs-lock")),
			want: "nobody holds 10.0.0.10: n1 has not renewed the Lease kube-system/plndr-svcs-lock for 7s\n10.0.0.10" + byGroup +
				"  n2 may\n  n3 may\n  n1: kube-vip there was last heard of 1m0s ago\n  w1: no kube-vip runs there\nbut its condition still says: node n1 holds 10.0.0.10\n"},
		{name: "nothing runs", s: service("a", asking("10.0.0.10")), change: func(w *World) { w.Leases, w.Nodes = nil, w.Nodes[3:] },
			want: "nobody holds 10.0.0.10: no node may, see the candidates; there is no Lease kube-system/plndr-svcs-lock\n10.0.0.10" + byGroup + "  w1: no kube-vip runs there\n" +
				"but its status has no condition kube-vip.io/Announced: nobody has written one yet; the log of the holder says why, if this stays\n"},
		{name: "stopped, and for the control plane alone", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			change: replace(lease("kube-system", ha.MemberPrefix+"n2", "", time.Second, func(l *coordinationv1.Lease) { l.Labels = map[string]string{ha.MemberLabel: "true"} }), member("n3", time.Second, "plndr-cp-lock")),
			want: "n1 holds 10.0.0.10\n10.0.0.10" + byGroup + "  n1 holds may\n  n3: kube-vip there does not care for Services\n  n2: kube-vip has stopped there\n" +
				"  w1: no kube-vip runs there\n  without n1: [] in turn false after 5.25 s\n"},
		{name: "no node is left", s: service("a", asking("10.0.0.10"), withheld(ReasonNoneLeft, "no node is left")), o: Options{Exclude: true},
			change: both(replace(lease("kube-system", "plndr-svcs-lock", "", time.Second)), func(w *World) {
				for i, n := range w.Nodes[:3] {
					w.Nodes[i] = addressed(n.Name, n.Status.Addresses[0].Address, corev1.LabelNodeExcludeBalancers)
				}
			}),
			want: "nobody holds 10.0.0.10: no node may, see the candidates; the Lease kube-system/plndr-svcs-lock names nobody\n10.0.0.10" + byGroup +
				"  n1: node n1 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)\n" +
				"  n2: node n2 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)\n" +
				"  n3: node n3 has the label node.kubernetes.io/exclude-from-external-load-balancers (svc_exclude_label)\n  w1: no kube-vip runs there\n"},
		{name: "a stranger has the Lease, and the status names another", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.10")),
			change: replace(lease("kube-system", "plndr-svcs-lock", "stranger", time.Second)),
			want: "stranger holds 10.0.0.10\n10.0.0.10" + byGroup + "  n1 may\n  n2 may\n  n3 may\n  w1: no kube-vip runs there\n  without stranger: [n1 n2 n3] in turn false after 5.25 s\n" +
				"but stranger holds the Lease kube-system/plndr-svcs-lock, and no such instance is known: another program, or an older kube-vip\n" +
				"but the Lease names stranger, and the annotation kube-vip.io/vipHost n1\n"},
		{name: "the status lists something else", s: service("a", asking("10.0.0.10"), held("n1", "10.0.0.11")),
			want: "n1 holds 10.0.0.10\n10.0.0.10" + byGroup + allMay + "but its status lists 10.0.0.11, and it is to have 10.0.0.10\n"},
		{name: "the holder has no link for it", s: service("a", asking("10.0.0.10"), withheld(ReasonNotPlaced, "node n1: interface eth1 of 10.0.0.10 is not up")),
			want: "n1 holds the Lease, and 10.0.0.10 is not announced: node n1: interface eth1 of 10.0.0.10 is not up\n10.0.0.10" + byGroup + allMay +
				"but its condition says NoNode: node n1: interface eth1 of 10.0.0.10 is not up\n"},
		{name: "no pool", s: service("a", withheld(ReasonNoAddress, "x")),
			want: "it is not announced: there is no pool for namespace shop: none of the keys cidr-shop, range-shop, cidr-global and range-global is there\n"},
		{name: "out of a pool, what is the cluster's own left out", s: service("a", withheld(ReasonNoAddress, "x")), change: pools("range-global", "10.0.0.3-10.0.0.9"),
			want: "it is not announced: it asks for no address (annotation kube-vip.io/loadbalancerIPs or spec.loadBalancerIP), and no pool has given it one; " +
				"the leader gives it 10.0.0.5 of range-global next, or another if somebody on the network has that\n"},
		{name: "a pool that is used up", s: service("a", withheld(ReasonExhausted, "x")), change: both(pools("range-shop", "10.0.0.10"), older(service("b", asking("10.0.0.10")))),
			want: "it is not announced: pool range-shop has no IPv4 address left: Services have 1 of its 1\n"},
		{name: "pools are off", s: service("a", withheld(ReasonNoAddress, "x")), o: Options{Pools: PoolsOff}, change: pools("range-shop", "10.0.0.10"),
			want: "it is not announced: it asks for no address (annotation kube-vip.io/loadbalancerIPs or spec.loadBalancerIP), and no pool has given it one: pools are off (svc_pools)\n"},
		{name: "a cloud provider gives", s: service("a", withheld(ReasonNoAddress, "x")), o: Options{Pools: PoolsAuto}, change: replace(lease("kube-system", providerLease, "x", 30*time.Second)),
			want: "it is not announced: it asks for no address (annotation kube-vip.io/loadbalancerIPs or spec.loadBalancerIP), and no pool has given it one: " +
				"a cloud provider gives addresses out (Lease kube-system/kube-vip-cloud-controller)\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.o.Mandate, tc.o.Reserved = groupLock.Name, testReserved
			tc.o.Elsewhere = func(a netip.Addr) (string, bool) { return planeLock.Name, a == netip.MustParseAddr("10.0.0.100") }
			tc.s.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute))
			w := world(tc.change, tc.s)
			x, err := Explain(tc.o, testLocks, w, types.NamespacedName{Namespace: "shop", Name: "a"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, digest(x)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, a := range x.Addresses {
				if leaseless := tc.s.Annotations[LeaseAnnotation] != "" && !x.Announced; leaseless != (a.Lease == "") {
					t.Errorf("%s is held under the Lease %q", a.Address, a.Lease)
				}
			}
		})
	}
	if _, err := Explain(Options{}, testLocks, world(nil), types.NamespacedName{Namespace: "shop", Name: "a"}); err == nil {
		t.Error("a Service that is not there is explained")
	}
}

func TestSurvey(t *testing.T) {
	plane := func(s *corev1.Service) { s.Namespace = "apps" }
	services := []*corev1.Service{
		service("held", asking("10.0.0.10"), held("n1", "10.0.0.10")),
		service("other-host", asking("10.0.0.11"), held("n2", "10.0.0.11")),
		service("partly", asking("10.0.0.12,10.0.0.2"), held("n1", "10.0.0.12")),
		service("none", withheld(ReasonExhausted, "pool range-shop has no IPv4 address left")),
		service("silent", asking("10.0.0.13")),
		service("withdrawn", asking("10.0.0.14"), withheld(ReasonWithdrawn, "it has no ready endpoint")),
		service("local", asking("10.0.0.15"), local, held("n2", "10.0.0.15")),
		service("lease", asking("10.0.0.17"), local, annotated(LeaseAnnotation, "Bad_Name"), withheld(ReasonRefused, "x")),
		service("not-ours", asking("10.0.0.16"), class("metallb")),
		service("plane", asking("10.0.0.100"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 80 }, plane, held("n2", "10.0.0.100")),
	}
	o := Options{Mandate: groupLock.Name, Elsewhere: func(a netip.Addr) (string, bool) { return planeLock.Name, a == netip.MustParseAddr("10.0.0.100") }}
	var got []string
	for _, r := range Survey(o, testLocks, world(replace(lease("shop", "kubevip-local", "n2", 8*time.Second)), services...)) {
		holder := "-"
		if r.Lock != nil {
			holder = r.Lock.Lease + " " + r.Lock.Holder
		}
		got = append(got, fmt.Sprintf("%s %s %s %t %s", r.Service, r.VIP, holder, r.Held, r.State))
	}
	want := []string{
		"apps/plane 10.0.0.100 kube-system/plndr-cp-lock n2 true announced",
		"shop/held 10.0.0.10 kube-system/plndr-svcs-lock n1 true announced",
		"shop/lease 10.0.0.17 - false refused Bad_Name: the annotation kube-vip.io/leaseName is no Lease's name: write name or namespace/name, in lower-case letters, digits, dots and hyphens",
		"shop/local 10.0.0.15 shop/kubevip-local n2 false nobody holds it: n2 has not renewed the Lease shop/kubevip-local for 8s",
		"shop/none  - false pool range-shop has no IPv4 address left",
		"shop/other-host 10.0.0.11 kube-system/plndr-svcs-lock n1 false the Lease names n1, and the status n2",
		"shop/partly 10.0.0.12 kube-system/plndr-svcs-lock n1 true announced",
		"shop/partly 10.0.0.2 - false refused: it is an address of node n2",
		"shop/silent 10.0.0.13 kube-system/plndr-svcs-lock n1 false its status says nothing yet",
		"shop/withdrawn 10.0.0.14 kube-system/plndr-svcs-lock n1 false it has no ready endpoint",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestExplainRank: each candidate that may hold has a rank of its own, the one with which a Controller stands that has
// no other Lease to spread.
func TestExplainRank(t *testing.T) {
	s := service("a", asking("10.0.0.10"), held("n1", "10.0.0.10"))
	x, err := Explain(Options{Mandate: groupLock.Name, PerService: true}, testLocks, world(nil, s), types.NamespacedName{Namespace: "shop", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var may []Member
	for _, c := range x.Holdings[0].Candidates {
		if c.May {
			may = append(may, Member{Name: c.Node, Weight: defaultWeight})
		}
	}
	if len(may) < 2 {
		t.Fatalf("%d may hold, want some: %+v", len(may), x.Holdings[0].Candidates)
	}
	for place, c := range x.Holdings[0].Candidates {
		if c.May != (c.Rank != nil) {
			t.Errorf("%s may hold: %t, and has the rank %v", c.Node, c.May, c.Rank)
		}
		if !c.May {
			continue
		}
		rivals := slices.DeleteFunc(slices.Clone(may), func(m Member) bool { return m.Name == c.Node })
		if want := newRanking().rank("shop/kubevip-a", Member{Name: c.Node, Weight: defaultWeight}, rivals, ""); *c.Rank != want || want != place {
			t.Errorf("%s has the rank %d and place %d, and stands with %d", c.Node, *c.Rank, place, want)
		}
	}
}

// BenchmarkSurvey is the work of `kube-vip status` with ten thousand Services, the API's part left out.
func BenchmarkSurvey(b *testing.B) {
	var services []*corev1.Service
	for i := range 10000 {
		addr := fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)
		services = append(services, service(fmt.Sprintf("s%d", i), asking(addr), held("n1", addr)))
	}
	w := world(nil, services...)
	for b.Loop() {
		if rows := Survey(Options{Mandate: groupLock.Name, PerService: true}, testLocks, w); len(rows) != len(services) {
			b.Fatalf("%d rows", len(rows))
		}
	}
}
