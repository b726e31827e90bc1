package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/svc"
)

// speakingWorld is goldenWorld by BGP: cp1 has a session and a peer that lacks something, cp2 has none, cp3 has stopped, and w1
// has no peers.
func speakingWorld(t *testing.T) svc.World {
	t.Helper()
	w := goldenWorld()
	one := func(name string, state bgp.State, why, bfd string) peering {
		return peering{bgp.Status{Name: name, AS: 65001, State: state, Since: goldenNow.Add(-time.Hour), Error: why}, bfd}
	}
	up := one("192.0.2.1", bgp.StateEstablished, "", "Up (detection 900ms)")
	up.Routes, up.Lacks, up.Flaps = 3, "mpbgp_nexthop auto_sourceif: eth0 has no IPv6 address", 1
	of := map[string][]peering{
		"cp1": {up, one("192.0.2.2", bgp.StateActive, "connection refused", "")},
		"cp2": {one("192.0.2.1", bgp.StateIdle, "BFD: Control Detection Time Expired", "Down: Control Detection Time Expired")},
		"cp3": {up},
	}
	for _, l := range w.Leases {
		if list, is := of[strings.TrimPrefix(l.Name, ha.MemberPrefix)]; is {
			text, err := asJSON(list)
			if err != nil {
				t.Fatal(err)
			}
			l.Annotations[peersNote] = string(text)
		}
	}
	none := &coordinationv1.Lease{}
	for _, l := range w.Leases {
		if l.Name == ha.MemberPrefix+"cp1" {
			l.DeepCopyInto(none)
			none.Name, none.Spec.HolderIdentity, none.Annotations[peersNote] = ha.MemberPrefix+"w1", new("w1"), "[]"
		}
	}
	w.Leases = append(w.Leases, none)
	return w
}

func TestStatusBGPGolden(t *testing.T) {
	w := speakingWorld(t)
	report := speakers(w.Leases, w.Now)
	compareGolden(t, "bgp.txt", report.render(goldenNow))
	out, err := asJSON(report)
	if err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "bgp.json", string(out))
	compareGolden(t, "bgp-nothing.txt", speakers(nil, w.Now).render(goldenNow))
}

// TestExplainBGPGolden: a node that is to announce a Service and has no session is told of.
func TestExplainBGPGolden(t *testing.T) {
	_, o, l := goldenOutlook(t)
	o.Everywhere = everywhere
	w := speakingWorld(t)
	w.NotKnown["endpoints"] = errors.New("forbidden")
	x, err := svc.Explain(o, l, w, types.NamespacedName{Namespace: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	report := explained{Explanation: x, Wire: []onWire{}}.withSessions(speakers(w.Leases, w.Now))
	compareGolden(t, "web-bgp.txt", report.render(goldenNow))
}
