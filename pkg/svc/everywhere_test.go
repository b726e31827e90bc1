package svc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// TestDrain: a node that is cordoned goes on to hold for a while what others are to have.
func TestDrain(t *testing.T) {
	const (
		claimed = "claim 10.1.0.7 for svc/shop/a@every node"
		gone    = "unclaim svc/shop/a@every node"
	)
	synctest.Test(t, func(t *testing.T) {
		var drained []string
		d := &diary{}
		j := newAssessor(t, Options{
			Everywhere: "every node", Placement: vip.Placement{Routed: true, Detached: true}, Drain: 2 * time.Second,
			Drained: func(addrs []netip.Addr, on bool) { drained = append(drained, fmt.Sprint(join(addrs), " ", on)) },
		})
		j.o.Claimer = d
		j.links = []vip.Link{{Index: 1, Name: "lo", Loopback: true, Up: true}}
		j.meet(Peer{Node: "n2"})
		s := service("a", asking("10.1.0.7"), annotated(EndpointlessAnnotation, "true"))
		nodes := func(list ...*corev1.Node) {
			t.Helper()
			for _, n := range list {
				j.have(t, n)
			}
			j.at.members = j.muster()
			j.see(t, s)
		}
		told := func(when string, want ...string) {
			t.Helper()
			if !slices.Equal(drained, want) {
				t.Errorf("%s: it is told %q, want %q", when, drained, want)
			}
			drained = nil
		}
		nodes(node("n1"), node("n2"))
		d.expect(t, claimed)
		told("at the start")

		nodes(node("n1", cordon))
		d.expect(t)
		told("when it is cordoned", "10.1.0.7 true")
		time.Sleep(time.Second)
		nodes()
		d.expect(t)
		time.Sleep(time.Second)
		j.pass(t)
		d.expect(t, gone)
		told("in the meantime, and at its end")

		nodes(node("n1"))
		d.expect(t, claimed)
		told("when it is back", "10.1.0.7 false")

		nodes(node("n1", cordon))
		told("when it is cordoned again", "10.1.0.7 true")
		nodes(node("n1"))
		time.Sleep(time.Minute)
		j.pass(t)
		d.expect(t, claimed, claimed)
		told("when it is not at last", "10.1.0.7 false")

		// It is to have another address meanwhile: the old one is not its own any more.
		nodes(node("n1", cordon))
		told("when it is cordoned once more", "10.1.0.7 true")
		s = service("a", asking("10.1.0.8"), annotated(EndpointlessAnnotation, "true"))
		nodes()
		d.expect(t, gone)
		s = service("a", asking("10.1.0.7"), annotated(EndpointlessAnnotation, "true"))
		nodes(node("n1"))
		d.expect(t, claimed, claimed)
		told("when it is back once more", "10.1.0.7 false")

		// Another Service comes to share it meanwhile.
		nodes(node("n1", cordon))
		j.see(t, service("c", asking("10.1.0.7"), annotated(EndpointlessAnnotation, "true"), ported(82, corev1.ProtocolTCP)))
		d.expect(t, gone)
		told("when it is shared", "10.1.0.7 true", "10.1.0.7 false")
		nodes(node("n1"))
		d.lines, drained = nil, nil

		// One that shares the address may stay.
		other := service("b", asking("10.1.0.7"), annotated(EndpointlessAnnotation, "true"), ported(81, corev1.ProtocolTCP))
		j.see(t, other)
		d.lines = nil
		nodes(node("n1", cordon))
		d.expect(t, gone)
		told("with another Service there")
	})
}
