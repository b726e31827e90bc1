package svc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/pool"
)

// service makes a Service of type LoadBalancer in both families, with port 80.
func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: "1"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.5", ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			Ports:      []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { setAnnotation(s, key, value) }
}

func asking(addrs string) func(*corev1.Service) { return annotated(AddressesAnnotation, addrs) }

func class(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func dualStack(p corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &p }
}

func families(list ...corev1.IPFamily) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.IPFamilies = list }
}

func TestOurs(t *testing.T) {
	legacy := Rules{Class: "kube-vip.io/kube-vip-class"}
	only, strict := legacy, legacy
	only.ClassOnly, strict.Strict = true, true
	for _, tc := range []struct {
		name  string
		rules Rules
		s     *corev1.Service
		why   string // part of the reason; empty when it is ours
	}{
		{"no class", legacy, service("a"), ""},
		{"our class", legacy, service("a", class(legacy.Class)), ""},
		{"another class", legacy, service("a", class("metallb")), "loadBalancerClass is metallb, not kube-vip.io/kube-vip-class"},
		{"no class, and one is wanted", only, service("a"), "lb_class_only"},
		{"our class is wanted", only, service("a", class(legacy.Class)), ""},
		{"no class, strictly", strict, service("a"), "lb_class_legacy_handling"},
		{"our class, strictly", strict, service("a", class(legacy.Class)), ""},
		{"no class is our class", Rules{Strict: true}, service("a"), ""},
		{"a class, and ours is none", Rules{Strict: true}, service("a", class("x")), "is x, not none"},
		{"ignored", legacy, service("a", annotated(IgnoreAnnotation, "true")), IgnoreAnnotation},
		{"not ignored", legacy, service("a", annotated(IgnoreAnnotation, "false")), ""},
		{"ignored, written otherwise", legacy, service("a", annotated(IgnoreAnnotation, " True")), IgnoreAnnotation},
		{"ignored, maybe", legacy, service("a", annotated(IgnoreAnnotation, "yes")), ""},
		{"another type", legacy, service("a", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }), "NodePort"},
		{"another namespace", Rules{Namespace: "web"}, service("a"), "svc_namespace"},
		{"the namespace", Rules{Namespace: "shop"}, service("a"), ""},
		{"on its way out", legacy, service("a", func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} }), "deleted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ok, why := tc.rules.Ours(tc.s)
			if ok != (tc.why == "") || !strings.Contains(why, tc.why) {
				t.Errorf("ours is %t: %q; want a reason with %q", ok, why, tc.why)
			}
		})
	}
}

func ported(number int32, protocol corev1.Protocol) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: number, Protocol: protocol}} }
}

func TestPlan(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	cluster := clusterOf([]*corev1.Node{{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: "n1"}}},
	}}, []*networkingv1.ServiceCIDR{{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd00:96::/112"}}}})
	everywhere := Endpoints{known: true, best: ready, nodes: map[string]readiness{"n1": ready, "n2": ready}}
	elsewhere := Endpoints{known: true, best: ready, nodes: map[string]readiness{"n1": terminating, "n2": ready}}
	nowhere := Endpoints{known: true}
	allowed := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}

	for _, tc := range []struct {
		name      string
		s         *corev1.Service
		endpoints *Endpoints // everywhere if nil
		allowed   []netip.Prefix
		unfit     string
		holds     bool
		clash     string
		addrs     string
		refused   string
		announced bool
		candidate bool
		reason    string // part of it
	}{
		{name: "the annotation", s: service("a", asking("10.0.0.10")), addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "both families, in order, once each", s: service("a", asking(" fd00::10 ,10.0.0.10, fd00::10")), addrs: "fd00::10, 10.0.0.10", announced: true, candidate: true},
		{name: "spec.loadBalancerIP", s: service("a", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.0.0.11" }), addrs: "10.0.0.11", announced: true, candidate: true},
		{name: "the annotation counts more", s: service("a", asking("10.0.0.10"), func(s *corev1.Service) { s.Spec.LoadBalancerIP = "10.0.0.11" }),
			addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "a foreign status is no request", s: service("a", func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.12"}}
		}), reason: "asks for no address"},
		{name: "a node's address", s: service("a", asking("10.0.0.1")), refused: "10.0.0.1: it is an address of node n1", reason: "refused 10.0.0.1: it is an address of node n1"},
		{name: "a pod's address", s: service("a", asking("10.244.1.7,10.0.0.10")), addrs: "10.0.0.10", announced: true, candidate: true,
			refused: "10.244.1.7: it is in 10.244.1.0/24, the pods' network on node n1 (spec.podCIDRs)"},
		{name: "a cluster IP", s: service("a", asking("fd00:96::1")), refused: "fd00:96::1: it is in fd00:96::/112, the cluster IPs' network (ServiceCIDR kubernetes)", reason: "refused"},
		{name: "outside the allowed ranges", s: service("a", asking("10.0.1.10")), allowed: allowed, refused: "10.0.1.10: it is in none of the allowed ranges 10.0.0.0/24 (vip_allowed_ranges)", reason: "refused"},
		{name: "inside the allowed ranges", s: service("a", asking("10.0.0.10")), allowed: allowed, addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "a port that is taken", s: service("a", asking("10.0.0.10")), clash: "10.0.0.10", refused: "10.0.0.10: taken", reason: "refused 10.0.0.10: taken"},
		{name: "the API servers' port on the control plane's VIP", s: service("a", asking("10.0.0.9"), ported(6443, corev1.ProtocolTCP)), refused: "10.0.0.9: the control plane has 6443/TCP on 10.0.0.9 already", reason: "refused"},
		{name: "the same by UDP", s: service("a", asking("10.0.0.9"), ported(6443, corev1.ProtocolUDP)), addrs: "10.0.0.9", announced: true, candidate: true},
		{name: "another port there", s: service("a", asking("10.0.0.9"), ported(443, corev1.ProtocolTCP)), addrs: "10.0.0.9", announced: true, candidate: true},
		{name: "the API servers' port elsewhere", s: service("a", asking("10.0.0.10"), ported(6443, "")), addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "a typing error", s: service("a", asking("10.0.0.300")), refused: "10.0.0.300: it is neither an IP address nor a DNS name", reason: "refused"},
		{name: "DHCP", s: service("a", asking("0.0.0.0")), refused: "0.0.0.0: addresses from DHCP are not supported by this version", reason: "refused"},
		{name: "loopback", s: service("a", asking("127.0.0.1")), refused: "127.0.0.1: it is not a unicast address that a network could reach", reason: "refused"},
		{name: "multicast", s: service("a", asking("ff02::1")), refused: "ff02::1: it is not a unicast address that a network could reach", reason: "refused"},
		{name: "the other family", s: service("a", asking("fd00::10"), families(v4)), refused: "fd00::10: the Service has only IPv4 (spec.ipFamilies)", reason: "refused"},
		{name: "an empty list", s: service("a", asking(" , ,")), reason: "the annotation kube-vip.io/loadbalancerIPs names no address"},
		{name: "dual stack required, and had", s: service("a", asking("fd00::10,10.0.0.10"), families(v6, v4), dualStack(corev1.IPFamilyPolicyRequireDualStack)),
			addrs: "fd00::10, 10.0.0.10", announced: true, candidate: true},
		{name: "dual stack required, and not had", s: service("a", asking("10.0.0.10"), dualStack(corev1.IPFamilyPolicyRequireDualStack)), addrs: "10.0.0.10",
			reason: "it has no IPv6 address, and ipFamilyPolicy is RequireDualStack"},
		{name: "dual stack required, and one family held already", s: service("a", asking("10.0.0.10"), announced("10.0.0.10"), dualStack(corev1.IPFamilyPolicyRequireDualStack)),
			addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "dual stack required, and another address held", s: service("a", asking("10.0.0.10"), announced("10.0.0.11"), dualStack(corev1.IPFamilyPolicyRequireDualStack)),
			addrs: "10.0.0.10", reason: "it has no IPv6 address, and ipFamilyPolicy is RequireDualStack"},
		{name: "single stack again", s: service("a", asking("10.0.0.10,fd00::10"), announced("10.0.0.10 fd00::10"), families(v4)), addrs: "10.0.0.10", announced: true, candidate: true,
			refused: "fd00::10: the Service has only IPv4 (spec.ipFamilies)"},
		{name: "dual stack preferred, and not had", s: service("a", asking("10.0.0.10"), dualStack(corev1.IPFamilyPolicyPreferDualStack)), addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "no endpoint", s: service("a", asking("10.0.0.10")), endpoints: &nowhere, addrs: "10.0.0.10", reason: "it has no ready endpoint"},
		{name: "no endpoint, and none needed", s: service("a", asking("10.0.0.10"), annotated(EndpointlessAnnotation, "true")), endpoints: &nowhere, addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "endpoints that nobody may see", s: service("a", asking("10.0.0.10")), endpoints: &Endpoints{}, addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "Local, an endpoint here", s: service("a", asking("10.0.0.10"), local), addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "Local, a better one elsewhere", s: service("a", asking("10.0.0.10"), local), endpoints: &elsewhere, addrs: "10.0.0.10", announced: true, reason: "node n1 has no ready endpoint"},
		{name: "Local, a better one elsewhere, and held here", s: service("a", asking("10.0.0.10"), local), holds: true, endpoints: &elsewhere, addrs: "10.0.0.10", announced: true, candidate: true},
		{name: "Local, no endpoint", s: service("a", asking("10.0.0.10"), local, annotated(EndpointlessAnnotation, "true")), endpoints: &nowhere, addrs: "10.0.0.10", reason: "no node has a ready endpoint"},
		{name: "a node that may not", s: service("a", asking("10.0.0.10")), unfit: "excluded", addrs: "10.0.0.10", announced: true, reason: "excluded"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := Facts{Endpoints: everywhere, Cluster: cluster, Node: "n1", Holds: tc.holds, Unfit: tc.unfit,
				Clash: func(a netip.Addr) string {
					if a.String() == tc.clash {
						return "taken"
					}
					return ""
				}}
			if tc.endpoints != nil {
				f.Endpoints = *tc.endpoints
			}
			p := plan(tc.s, Options{Allowed: tc.allowed, Also: []pool.Port{{Number: 6443, Protocol: "TCP"}}, Elsewhere: func(a netip.Addr) (string, bool) {
				return "plane", a == netip.MustParseAddr("10.0.0.9")
			}}, f)
			if !p.Ours {
				t.Fatalf("not ours: %s", p.Reason)
			}
			if join(p.Addrs) != tc.addrs || p.refusals() != tc.refused || p.Announced != tc.announced || p.Candidate != tc.candidate {
				t.Errorf("addresses %s, refused %s, announced %t, candidate %t; want %s, %s, %t, %t",
					join(p.Addrs), p.refusals(), p.Announced, p.Candidate, tc.addrs, tc.refused, tc.announced, tc.candidate)
			}
			if !strings.Contains(p.Reason, tc.reason) || p.Reason != "" && tc.reason == "" {
				t.Errorf("the reason is %q, want one with %q", p.Reason, tc.reason)
			}
		})
	}
}

// TestPlanLease: which Leases a Service may have held its addresses under, and that one without any keeps them.
func TestPlanLease(t *testing.T) {
	const name = "the annotation kube-vip.io/leaseName "
	in := func(namespace string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Namespace = namespace }
	}
	called := func(name string) func(*corev1.Service) { return func(s *corev1.Service) { s.Name = name } }
	long := strings.Repeat("a", 254)
	for _, tc := range []struct {
		name   string
		lease  string // the annotation
		change []func(*corev1.Service)
		only   string // svc_namespace
		shared bool   // it belongs to the group: the annotation does nothing
		want   string
		no     string // part of what it is refused for
	}{
		{name: "none", want: "shop/kubevip-a"},
		{name: "a name", lease: " together ", want: "shop/together"},
		{name: "a name with dots", lease: "web.example.com", want: "shop/web.example.com"},
		{name: "in another namespace", lease: "web/together", want: "web/together"},
		{name: "another Service's", lease: "web/kubevip-b", want: "web/kubevip-b"},
		{name: "no name", lease: "Bad_Name", no: "Bad_Name: " + name + "is no Lease's name: write name or namespace/name, in lower-case letters, digits, dots and hyphens"},
		{name: "too long a name", lease: long, no: long + ": " + name + "is no Lease's name"},
		{name: "as long as can be", lease: long[1:], want: "shop/" + long[1:]},
		{name: "three parts", lease: "a/b/c", no: "a/b/c: " + name + "is no Lease's name"},
		{name: "an empty namespace", lease: "/together", no: "/together: " + name + "is no Lease's name"},
		{name: "an empty name", lease: "shop/", no: "shop/: " + name + "is no Lease's name"},
		{name: "no namespace", lease: "my.shop/together", no: "my.shop/together: " + name + "is no Lease's name"},
		{name: "the group's", lease: "kube-system/plndr-svcs-lock", no: "kube-system/plndr-svcs-lock: kube-vip uses that Lease itself: name another by " + name[:len(name)-1]},
		{name: "the group's, from its namespace", lease: "plndr-svcs-lock", change: []func(*corev1.Service){in("kube-system")}, no: "plndr-svcs-lock: kube-vip uses that Lease itself"},
		{name: "the group's name elsewhere", lease: "plndr-svcs-lock", want: "shop/plndr-svcs-lock"},
		{name: "the control plane's", lease: "kube-system/plndr-cp-lock", no: "kube-system/plndr-cp-lock: kube-vip uses that Lease itself"},
		{name: "a member's", lease: "kube-system/kubevip-member-n1", no: "kube-system/kubevip-member-n1: kube-vip uses that Lease itself"},
		{name: "a member's, by the Service's name", change: []func(*corev1.Service){in("kube-system"), called("member-n1")}, no: "kubevip-member-n1: kube-vip uses that Lease itself"},
		{name: "like a member's, and elsewhere", change: []func(*corev1.Service){called("member-n1")}, want: "shop/kubevip-member-n1"},
		{name: "the scheduler's", lease: "kube-system/kube-scheduler", no: "kube-system/kube-scheduler: " + name + "may not name a Lease in kube-system, where Kubernetes has its own: write a name alone, for one in shop"},
		{name: "a node's", lease: "kube-node-lease/n1", no: "kube-node-lease/n1: " + name + "may not name a Lease in kube-node-lease"},
		{name: "a public one", lease: "kube-public/x", no: "kube-public/x: " + name + "may not name a Lease in kube-public"},
		{name: "one of Kubernetes' namespace, from there", lease: "together", change: []func(*corev1.Service){in("kube-system")}, want: "kube-system/together"},
		{name: "another of Kubernetes' namespaces", lease: "kube-node-lease/n1", change: []func(*corev1.Service){in("kube-system")}, no: "kube-node-lease/n1: " + name + "may not name a Lease in kube-node-lease"},
		{name: "in the only namespace", lease: "shop/together", only: "shop", want: "shop/together"},
		{name: "outside the only namespace", lease: "web/together", only: "shop", no: "web/together: " + name + "may name only a Lease in shop, for others are not watched (svc_namespace): write a name alone"},
		{name: "a Service of the group's", lease: "Bad_Name", shared: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := service("a", append([]func(*corev1.Service){asking("10.0.0.10"), annotated(LeaseAnnotation, tc.lease)}, tc.change...)...)
			p := plan(s, Options{PerService: !tc.shared, Rules: Rules{Namespace: tc.only}, Reserved: testReserved}, Facts{Node: "n1", Clash: func(netip.Addr) string { return "" }})
			if got := strings.TrimPrefix(p.Lease.String(), "/"); got != tc.want || join(p.Addrs) != "10.0.0.10" {
				t.Errorf("the Lease is %q and the addresses %s, want %q and 10.0.0.10", got, join(p.Addrs), tc.want)
			}
			refused := tc.no != ""
			if p.Announced == refused || p.Candidate == refused || refused != (p.state() == StateRefused) || refused != (fmt.Sprint(p.codes()) == "[lease]") {
				t.Errorf("announced %t, candidate %t, state %s, codes %v", p.Announced, p.Candidate, p.state(), p.codes())
			}
			if refused && !strings.HasPrefix(p.Reason, "refused "+tc.no) || !refused && p.Reason != "" {
				t.Errorf("the reason is %q, want refused %s", p.Reason, tc.no)
			}
		})
	}
}

// testReserved are the Leases that are used otherwise where the others are as usual.
func testReserved(namespace, name string) bool {
	return namespace == "kube-system" && (name == groupLock.Name || name == planeLock.Name || strings.HasPrefix(name, ha.MemberPrefix))
}

func TestEndpoints(t *testing.T) {
	yes, no, n1, n2 := true, false, "n1", "n2"
	ep := func(node *string, ready, serving, terminating *bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: node, Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}}
	}
	slice := func(list ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{Endpoints: list}
	}
	for _, tc := range []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		any    bool
		on     string // the nodes on which an endpoint counts
		here   string // those on which one answers
	}{
		{name: "none"},
		{name: "an empty slice", slices: []*discoveryv1.EndpointSlice{slice()}},
		{name: "no conditions", slices: []*discoveryv1.EndpointSlice{slice(ep(&n1, nil, nil, nil))}, any: true, on: "n1", here: "n1"},
		{name: "one not ready", slices: []*discoveryv1.EndpointSlice{slice(ep(&n1, &no, &no, &no))}},
		{name: "two slices", slices: []*discoveryv1.EndpointSlice{slice(ep(&n1, &yes, nil, nil)), slice(ep(&n2, &yes, nil, nil))}, any: true, on: "n1 n2", here: "n1 n2"},
		{name: "one ready, one terminating", slices: []*discoveryv1.EndpointSlice{slice(ep(&n1, &yes, &yes, &no), ep(&n2, &no, &yes, &yes))}, any: true, on: "n1", here: "n1 n2"},
		{name: "only terminating ones", slices: []*discoveryv1.EndpointSlice{slice(ep(&n2, &no, &yes, &yes))}, any: true, on: "n2", here: "n2"},
		{name: "terminating and not serving", slices: []*discoveryv1.EndpointSlice{slice(ep(&n2, &no, &no, &yes))}},
		{name: "serving, not ready and not terminating", slices: []*discoveryv1.EndpointSlice{slice(ep(&n2, &no, &yes, &no))}},
		{name: "on no node", slices: []*discoveryv1.EndpointSlice{slice(ep(nil, &yes, nil, nil))}, any: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := fromSlices(tc.slices)
			var on, here []string
			for _, n := range []string{n1, n2} {
				if e.on(n) {
					on = append(on, n)
				}
				if e.here(n) {
					here = append(here, n)
				}
			}
			if e.any() != tc.any || strings.Join(on, " ") != tc.on || strings.Join(here, " ") != tc.here {
				t.Errorf("any %t, on %v, here %v", e.any(), on, here)
			}
		})
	}
	// Those with addresses in both families are in the slices of both, and are no more by that.
	both := slice(ep(&n1, &yes, nil, nil), ep(&n1, &yes, nil, nil), ep(&n1, &no, nil, nil), ep(&n2, &yes, nil, nil), ep(nil, &yes, nil, nil))
	six := both.DeepCopy()
	both.AddressType, six.AddressType = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	if e := fromSlices([]*discoveryv1.EndpointSlice{both, six}); e.count[n1] != 2 || e.count[n2] != 1 {
		t.Errorf("ready endpoints by node: %v", e.count)
	}
	if e := (Endpoints{}); !e.any() || !e.on(n1) {
		t.Error("endpoints that nobody may see count as none")
	}
}

func TestBook(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.11")
	with := func(name string, ports ...corev1.ServicePort) pool.Service {
		return tenant(service(name, func(s *corev1.Service) { s.Spec.Ports = ports }))
	}
	http, quic := corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolUDP}
	older := corev1.ServicePort{Port: 80} // TCP is the default
	k := newBook()
	k.set(with("x", http), []netip.Addr{a, b})
	check := func(s pool.Service, addr netip.Addr, want string) {
		t.Helper()
		if got := k.clash(s, addr); got != want {
			t.Errorf("%s on %s: %q, want %q", s.Name, addr, got, want)
		}
	}
	check(with("x", http), a, "")
	check(with("y", quic), a, "")
	check(with("y", older), a, "Service shop/x has 80/TCP on 10.0.0.10 already")
	if free := k.set(with("x", http), []netip.Addr{a, b}); free != nil {
		t.Errorf("nothing changed and %v are free", free)
	}
	if free := k.set(with("x", http), []netip.Addr{b}); !cmp.Equal(free, []string{"shop/y"}) {
		t.Errorf("the one that waits is not told: %v", free)
	}
	check(with("y", older), a, "")
	k.set(with("y", older), []netip.Addr{a})
	check(with("x", http), a, "Service shop/y has 80/TCP on 10.0.0.10 already")
	if free := k.set(with("y", quic), []netip.Addr{a}); !cmp.Equal(free, []string{"shop/x"}) {
		t.Errorf("the one that waits for a port is not told: %v", free)
	}
	k.hungry["shop/z"] = struct{}{}
	if free := k.forget("shop/y"); !cmp.Equal(slices.Sorted(slices.Values(free)), []string{"shop/x", "shop/z"}) {
		t.Errorf("those who wait are not told: %v", free)
	}
	k.forget("shop/x")
	k.forget("shop/z")
	if n := fmt.Sprint(len(k.holds), len(k.shares), len(k.waiting), len(k.waits), len(k.hungry), k.Addrs("shop/x"), k.Addrs("shop/y")); n != "0 0 0 0 0 [] []" {
		t.Errorf("something is left: %s: %+v", n, k)
	}
}
