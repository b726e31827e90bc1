package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/lab"
)

// route waits until what the router has of a prefix from the session is as it is to be; a nil test waits until it has none.
func (s *sessioned) route(t *testing.T, one *bgpSession, prefix string, is func(lab.Route) bool) {
	t.Helper()
	var last []lab.Route
	if err := lab.Wait(within(t, patience), one.String()+": the route to "+prefix, func() (bool, error) {
		all, err := one.router.Routes(within(t, patience), netip.MustParsePrefix(prefix))
		last = slices.DeleteFunc(all, func(r lab.Route) bool {
			return r.From != one.neighbor.Addr && (one.neighbor.Addr.IsValid() || !r.From.IsLinkLocalUnicast())
		})
		if is == nil {
			return len(last) == 0, err
		}
		return len(last) == 1 && is(last[0]), err
	}); err != nil {
		t.Errorf("%v: %+v", err, last)
	}
}

// a route as it is to be, beside prefix and neighbour; the zero value of LocalPref is 100.
type wantRoute struct {
	hop                netip.Addr
	path               []uint32
	localPref, med     uint32
	communities, large []string
	extended           []string
}

func (w wantRoute) is(r lab.Route) bool {
	if w.localPref == 0 {
		w.localPref = 100
	}
	return slices.Contains(r.NextHops, w.hop) && slices.Equal(r.ASPath, w.path) && r.Origin == "IGP" && r.LocalPref == w.localPref && r.MED == w.med &&
		slices.Equal(slices.Sorted(slices.Values(r.Communities)), slices.Sorted(slices.Values(w.communities))) &&
		slices.Equal(slices.Sorted(slices.Values(r.LargeCommunities)), slices.Sorted(slices.Values(w.large))) && slices.Equal(r.ExtCommunities, w.extended)
}

// sessionsRoutes: the control plane's routes have what each peer's fields ask for.
func sessionsRoutes(t *testing.T, s *sessioned) {
	const (
		vip4, vip6 = "10.99.0.10/32", "fd00:99::10/128"
		net4, net6 = "10.99.0.0/28", "fd00:99::/120"
	)
	once, thrice := []uint32{nodesAS}, []uint32{nodesAS, nodesAS, nodesAS}
	for _, r := range s.routers() {
		of := func(name string) *bgpSession { return s.find(t, r, name) }
		plain, attributes, six, both := of("plain"), of("attributes"), of("IPv6"), of("aggregated")
		s.route(t, plain, vip4, wantRoute{hop: plain.neighbor.Addr, path: once}.is)
		s.route(t, plain, vip6, nil)
		s.route(t, six, vip6, wantRoute{hop: six.neighbor.Addr, path: once}.is)
		s.route(t, six, vip4, nil)
		s.route(t, attributes, vip4, wantRoute{
			hop: attributes.neighbor.Addr, path: thrice, med: 70, communities: []string{"65001:50", "65535:65281"}, large: []string{"65001:5:0"},
		}.is)
		s.route(t, both, net4, wantRoute{hop: both.neighbor.Addr, path: once}.is)
		s.route(t, both, vip4, nil)
		s.route(t, both, net6, wantRoute{hop: netip.MustParseAddr(fixedHop), path: once}.is)
		s.route(t, both, vip6, nil)
	}
	// Without addresses both families lead to the link-local one, RFC 8950.
	unnumbered := s.find(t, s.frr, "unnumbered")
	for _, prefix := range []string{"10.99.0.0/27", "fd00:99::/119"} {
		s.route(t, unnumbered, prefix, wantRoute{hop: netip.MustParseAddr(cableHop), path: once}.is)
	}
	for _, r := range []*lab.Router{s.inner, s.bird} {
		internal := s.find(t, r, "internal")
		s.route(t, internal, vip4, wantRoute{hop: internal.neighbor.Addr, localPref: 300, med: 5, communities: []string{"65001:9"}}.is)
	}
}

// sessionsService: a Service's annotations come in place of the peer's fields, communities beside them, and the endpoints count.
func sessionsService(t *testing.T, s *sessioned) {
	still := s.steady(t)
	var backends []*lab.Backend
	for _, name := range []string{"one", "two"} {
		b, err := s.node.RunBackend(within(t, patience), name)
		if err != nil {
			t.Fatal(err)
		}
		backends = append(backends, b)
	}
	s.backends[s.node] = backends[0]
	addrs := []netip.Addr{netip.MustParseAddr("10.99.1.1"), netip.MustParseAddr("fd00:99:1::1")}
	service := s.create(t, "attributed", addrs, func(o *corev1.Service) {
		o.Annotations[svc.TraitsPrefix+"communities"] = "blue,65001:200,65001:1:2"
		o.Annotations[svc.TraitsPrefix+"med"] = "50"
		o.Annotations[svc.TraitsPrefix+"local-pref"] = "250"
	})
	const prefix, part = "10.99.1.1/32", "10.99.1.0/28"
	weighted := []string{"lb:65001:125000000"}
	see := func() {
		t.Helper()
		for _, r := range s.routers() {
			plain, attributes, both := s.find(t, r, "plain"), s.find(t, r, "attributes"), s.find(t, r, "aggregated")
			communities, large := []string{"65001:50", "65001:200"}, []string{"65001:1:2"}
			s.route(t, plain, prefix, wantRoute{
				hop: plain.neighbor.Addr, path: []uint32{nodesAS}, med: 50, communities: communities, large: large, extended: weighted,
			}.is)
			s.route(t, attributes, prefix, wantRoute{
				hop: attributes.neighbor.Addr, path: []uint32{nodesAS, nodesAS, nodesAS}, med: 50,
				communities: []string{"65001:50", "65001:200", "65535:65281"}, large: []string{"65001:1:2", "65001:5:0"}, extended: weighted,
			}.is)
			s.route(t, both, part, wantRoute{
				hop: both.neighbor.Addr, path: []uint32{nodesAS}, med: 50, communities: communities, large: large, extended: weighted,
			}.is)
		}
		for _, r := range []*lab.Router{s.inner, s.bird} {
			internal := s.find(t, r, "internal")
			s.route(t, internal, prefix, wantRoute{
				hop: internal.neighbor.Addr, localPref: 250, med: 50, communities: []string{"65001:9", "65001:50", "65001:200"}, large: []string{"65001:1:2"}, extended: weighted,
			}.is)
		}
	}
	see()
	if err := service.SetEndpoints(within(t, patience), lab.Ready(backends...)); err != nil {
		t.Fatal(err)
	}
	weighted = []string{"lb:65001:250000000"}
	see()

	s.change(t, service, func(o *corev1.Service) {
		o.Annotations[svc.TraitsPrefix+"communities"] = "no-such,65001:200"
		o.Annotations[svc.TraitsPrefix+"aggregation-length"] = "24"
		o.Annotations[svc.TraitsPrefix+"aggregation-length-v6"] = "64"
		o.Annotations[svc.TraitsPrefix+"prepend"] = "1"
	})
	s.says(t, service, metav1.ConditionTrue, svc.ReasonBadAnnotation, `there is no community "no-such"`)
	weighted = []string{"lb:65001:125000000"}
	for _, r := range s.routers() {
		plain, both := s.find(t, r, "plain"), s.find(t, r, "aggregated")
		want := wantRoute{hop: plain.neighbor.Addr, path: []uint32{nodesAS, nodesAS}, med: 50, communities: []string{"65001:200"}, extended: weighted}
		s.route(t, plain, "10.99.1.0/24", want.is)
		s.route(t, plain, prefix, nil)
		want.hop = netip.MustParseAddr(fixedHop)
		s.route(t, both, "fd00:99:1::/64", want.is)
		s.route(t, both, part, nil)
	}
	if err := service.SetEndpoints(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.routers() {
		s.route(t, s.find(t, r, "plain"), "10.99.1.0/24", nil)
	}
	still()
}

// sessionsLoop: that a router tells of a path with our own AS in it ends no session, and what we announce stays.
func sessionsLoop(t *testing.T, s *sessioned) {
	still := s.steady(t)
	looped := netip.MustParsePrefix("203.0.113.0/24")
	for _, r := range s.routers() {
		plain := s.find(t, r, "plain")
		if err := r.Configure(within(t, patience), func(o *lab.RouterOptions) {
			o.Announce = append(o.Announce, looped)
			for i := range o.Neighbors {
				if n := &o.Neighbors[i]; n.Addr == plain.neighbor.Addr && r.Kind == lab.FRR {
					n.FamilyExtra = append(n.FamilyExtra, "route-map LOOP out")
				} else if n.Addr == plain.neighbor.Addr {
					n.FamilyExtra = append(n.FamilyExtra, fmt.Sprintf("export filter { bgp_path.prepend(%d); if source = RTS_STATIC then accept; reject; };", nodesAS))
				}
			}
			if r.Kind == lab.FRR {
				o.Extra = append(o.Extra, "route-map LOOP permit 10", fmt.Sprintf("set as-path prepend %d", nodesAS), "exit")
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, time.Second)
	for _, r := range s.routers() {
		plain := s.find(t, r, "plain")
		s.route(t, plain, "10.99.0.10/32", func(lab.Route) bool { return true })
		if told := s.told(t)[plain.peer()]; told.State != "Established" || told.Error != "" {
			t.Errorf("%s: %+v", plain, told)
		}
	}
	still()
}
