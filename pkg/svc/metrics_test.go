package svc

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// gathered are all values that are not zero, by name and labels.
func gathered(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				got[name] = v
			}
		}
	}
	return got
}

// TestCount: a Service is counted as what it is, once, and no more when it is gone.
func TestCount(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newMetrics(registry)
	want := func(what string, want map[string]float64) {
		t.Helper()
		if diff := cmp.Diff(want, gathered(t, registry)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	some := addresses("10.0.0.10")
	refused := Plan{Refused: []Refusal{{"10.0.0.1", RefusedNodeAddress, "x"}, {"10.0.0.2", RefusedNodeAddress, "x"}, {"fd00::1", RefusedFamily, "x"}}}
	a, b := &entry{}, &entry{}
	m.enter("shop", true)
	m.enter("shop", false)
	m.enter("shop", true)
	m.count(a, refused)
	m.count(a, refused)
	m.count(b, Plan{Addrs: some, Announced: true, Refused: refused.Refused[:1]})
	want("two", map[string]float64{
		"kube_vip_active_services shop": 2, "kube_vip_services refused": 1, "kube_vip_services announced": 1,
		"kube_vip_services_refused node-address": 2, "kube_vip_services_refused family": 1,
		"kube_vip_service_refused_total node-address": 2, "kube_vip_service_refused_total family": 1,
	})
	m.count(a, Plan{Addrs: some, Announced: true})
	m.count(b, Plan{Addrs: some})
	want("one is had, one is withdrawn", map[string]float64{
		"kube_vip_active_services shop": 2, "kube_vip_services withdrawn": 1, "kube_vip_services announced": 1,
		"kube_vip_service_refused_total node-address": 2, "kube_vip_service_refused_total family": 1,
	})
	m.count(a, refused)
	m.count(b, Plan{Addrs: some, Nowhere: true})
	m.leave("shop/a", a)
	want("refused again, and gone", map[string]float64{
		"kube_vip_active_services shop": 1, "kube_vip_services no-node": 1,
		"kube_vip_service_refused_total node-address": 3, "kube_vip_service_refused_total family": 2,
	})
	m.count(b, Plan{Wanting: true})
	want("without an address", map[string]float64{
		"kube_vip_active_services shop": 1, "kube_vip_services no-address": 1,
		"kube_vip_service_refused_total node-address": 3, "kube_vip_service_refused_total family": 2,
	})
	m.leave("shop/b", b)
	want("all gone", map[string]float64{"kube_vip_service_refused_total node-address": 3, "kube_vip_service_refused_total family": 2})
}

// Every code of a refusal, and every state, has a row, so that it is there from the start.
func TestLabels(t *testing.T) {
	rows := map[string]bool{}
	for _, list := range [][]Label{RefusalCodes(), States(), MoveReasons()} {
		for _, l := range list {
			if rows[l.Value] && l.Value != string(StateRefused) {
				t.Errorf("%s has two rows", l.Value)
			}
			rows[l.Value] = true
		}
	}
	for _, tc := range []struct {
		ask  string
		code RefusalCode
	}{
		{"10.0.0.300", RefusedSyntax}, {"fe80::1%eth0", RefusedZone}, {"0.0.0.0", RefusedDHCP}, {"127.0.0.1", RefusedNotUnicast},
		{"web.example", RefusedName}, {"10.0.0.1", RefusedNodeAddress}, {"10.244.0.7", RefusedPodNetwork}, {"10.96.0.9", RefusedServiceNetwork},
		{"10.0.1.9", RefusedNotAllowed}, {"10.0.0.9", RefusedClash},
	} {
		p := plan(service("a", asking(tc.ask)), Options{Allowed: prefixes("10.0.0.0/24")}, Facts{Node: "n1", Cluster: kinds(), Clash: clashes})
		if len(p.Refused) != 1 || p.Refused[0].Code != tc.code || !rows[string(tc.code)] {
			t.Errorf("%s is refused as %+v, want %s", tc.ask, p.Refused, tc.code)
		}
	}
	if p := plan(service("a", asking("fd00::9"), families("IPv4")), Options{}, Facts{Clash: clashes}); len(p.Refused) != 1 || p.Refused[0].Code != RefusedFamily {
		t.Errorf("the wrong family is refused as %+v", p.Refused)
	}
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// kinds is a cluster with one node and one network of each kind.
func kinds() Cluster {
	p := prefixes("10.244.0.0/24", "10.96.0.0/16")
	return Cluster{nodes: map[netip.Addr]string{netip.MustParseAddr("10.0.0.1"): "n1"}, pods: map[netip.Prefix]string{p[0]: "n1"}, services: map[netip.Prefix]string{p[1]: "kubernetes"}}
}

func clashes(netip.Addr) string { return "taken" }
