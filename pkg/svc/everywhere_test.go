package svc

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Where routers choose, every node that can serve a Service holds its addresses, each by its own judgement.
func TestPlanEverywhere(t *testing.T) {
	o := Options{Rules: Rules{Class: "kube-vip.io/kube-vip-class"}, Everywhere: "every node", Placement: vip.Placement{Routed: true, Detached: true}}
	endpoints := func(nodes ...string) Endpoints {
		e := Endpoints{known: true}
		for _, n := range nodes {
			e.add(n, ready)
		}
		return e
	}
	all := []*corev1.Node{node("n1"), node("n2"), node("n3")}
	for _, tc := range []struct {
		name      string
		s         *corev1.Service
		endpoints Endpoints
		nodes     []*corev1.Node
		want      string // the nodes that hold it, as each of them sees it
		why       string // where nobody does
	}{
		{name: "one endpoint will do", s: service("a", asking("10.1.0.1")), endpoints: endpoints("n2"), want: "n1 n2 n3"},
		{name: "no endpoint", s: service("a", asking("10.1.0.1")), endpoints: endpoints(), why: "it has no ready endpoint"},
		{name: "local", s: service("a", asking("10.1.0.1"), local), endpoints: endpoints("n2", "n3"), want: "n2 n3"},
		{name: "local, and no endpoint", s: service("a", asking("10.1.0.1"), local), endpoints: endpoints(), why: "no node has a ready endpoint"},
		{name: "cordoned", s: service("a", asking("10.1.0.1")), endpoints: endpoints("n2"), nodes: []*corev1.Node{node("n1", cordon), node("n2"), node("n3")}, want: "n2 n3"},
		{name: "all cordoned", s: service("a", asking("10.1.0.1")), endpoints: endpoints("n2"), nodes: []*corev1.Node{node("n1", cordon), node("n2", cordon), node("n3", cordon)}, want: "n1 n2 n3"},
		{name: "excluded", s: service("a", asking("10.1.0.1")), endpoints: endpoints("n2"), nodes: []*corev1.Node{node("n1"), node("n2", excluded), node("n3")}, want: "n1 n3"},
		{name: "local, and cordoned where it is alone", s: service("a", asking("10.1.0.1"), local), endpoints: endpoints("n1"), nodes: []*corev1.Node{node("n1", cordon), node("n2"), node("n3")}, want: "n1"},
		{name: "a selector", s: service("a", asking("10.1.0.1"), annotated(SelectorAnnotation, "zone=a")), endpoints: endpoints("n2"),
			nodes: []*corev1.Node{node("n1", label("zone", "a")), node("n2"), node("n3", label("zone", "a"))}, want: "n1 n3"},
		{name: "a Lease that may not be is asked for in vain", s: service("a", asking("10.1.0.1"), annotated(LeaseAnnotation, "kube-system/x")), endpoints: endpoints("n2"), want: "n1 n2 n3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes := tc.nodes
			if nodes == nil {
				nodes = all
			}
			var holds []string
			for i, n := range nodes {
				members := []Member{memberOf(n.Name, n, true)}
				for j, other := range nodes {
					if j != i {
						members = append(members, memberOf(other.Name, other, true))
					}
				}
				p := plan(tc.s, o, Facts{Endpoints: tc.endpoints, Node: n.Name, Members: members, Links: []vip.Link{{Name: "lo", Loopback: true, Up: true}},
					Clash: func(netip.Addr) string { return "" }})
				if p.Own || p.Lease.Name != "" {
					t.Errorf("%s would stand for the Lease %s", n.Name, p.Lease)
				}
				if p.Candidate {
					holds = append(holds, n.Name)
				}
				if got := strings.Join(p.Nodes, " "); got != tc.want {
					t.Errorf("%s thinks that %q hold it, want %q", n.Name, got, tc.want)
				}
				if tc.why != "" && (p.Announced || !strings.Contains(p.Reason, tc.why)) {
					t.Errorf("%s: announced %t, since %q; want %q", n.Name, p.Announced, p.Reason, tc.why)
				}
			}
			if got := strings.Join(holds, " "); got != tc.want {
				t.Errorf("%q hold it, want %q", got, tc.want)
			}
		})
	}
}

func TestTraits(t *testing.T) {
	s := service("a", annotated(TraitsPrefix+"med", "5"), annotated(TraitsPrefix+"communities", "x"), asking("10.1.0.1"))
	if got := fmt.Sprint(traits(s)); got != "map[communities:x med:5]" {
		t.Errorf("got %s", got)
	}
	if got := traits(service("a")); got != nil {
		t.Errorf("of none there are %v", got)
	}
}
