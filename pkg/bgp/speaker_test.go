package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/vip"
)

const (
	ourAS, theirAS = 65000, 65001
	// patience is for what takes gobgp a second or two: it connects that long after it was told to.
	patience = 30 * time.Second
)

// router is another gobgp, which listens on a loopback.
type router struct {
	*server.BgpServer
	addr netip.AddrPort
}

// newRouter is a router that takes sessions from us.
func newRouter(t *testing.T, as uint32, password string, us netip.Addr, change ...func(*api.Peer)) router {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := router{server.NewBgpServer(server.LoggerOption(&ear{log: slog.New(slog.DiscardHandler)})), at}
	go r.Serve()
	err = r.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{
		Asn: as, RouterId: "192.0.2.254", ListenPort: int32(at.Port()), ListenAddresses: []string{at.Addr().String()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.StopBgp(context.Background(), &api.StopBgpRequest{}) })
	peer := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: us.String(), PeerAsn: ourAS, AuthPassword: password},
		State:     &api.PeerState{},
		Transport: &api.Transport{PassiveMode: true},
		AfiSafis: []*api.AfiSafi{
			{Config: &api.AfiSafiConfig{Family: unicast(false), Enabled: true}}, {Config: &api.AfiSafiConfig{Family: unicast(true), Enabled: true}},
		},
	}
	for _, f := range change {
		f(peer)
	}
	if err := r.AddPeer(t.Context(), &api.AddPeerRequest{Peer: peer}); err != nil {
		t.Fatal(err)
	}
	return r
}

// routes are what the router was told, as text: prefix, next hop, MED and communities.
func (r router) routes(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, ip6 := range []bool{false, true} {
		err := r.ListPath(t.Context(), &api.ListPathRequest{Family: unicast(ip6)}, func(d *api.Destination) {
			for _, p := range d.Paths {
				var texts []string
				for _, a := range p.Pattrs {
					m, err := a.UnmarshalNew()
					if err != nil {
						t.Error(err)
						return
					}
					switch m := m.(type) {
					case *api.NextHopAttribute:
						texts = append(texts, "via "+m.NextHop)
					case *api.MpReachNLRIAttribute:
						texts = append(texts, "via "+strings.Join(m.NextHops, ","))
					case *api.MultiExitDiscAttribute:
						texts = append(texts, fmt.Sprintf("med %d", m.Med))
					case *api.CommunitiesAttribute:
						texts = append(texts, fmt.Sprintf("communities %d", m.Communities))
					case *api.LargeCommunitiesAttribute:
						texts = append(texts, fmt.Sprintf("large %d", m.Communities[0].LocalData2))
					case *api.AsPathAttribute:
						texts = append(texts, fmt.Sprintf("path %d", m.Segments[0].Numbers))
					}
				}
				slices.Sort(texts)
				out[d.Prefix] = strings.Join(texts, " ")
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (r router) peer(us netip.Addr) Peer {
	return Peer{
		Name: "router", Host: r.addr.Addr().String(), AS: theirAS, LocalAS: ourAS, RouterID: netip.MustParseAddr("192.0.2.1"),
		Port: r.addr.Port(), Source: us, Hold: 9 * time.Second, Keepalive: 3 * time.Second, Retry: time.Second, IPv4: true,
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func held(addrs ...string) (list []vip.VIP) {
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		list = append(list, vip.VIP{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Link: "lo"})
	}
	return list
}

// speaker runs one until the test ends, or what it returns is called.
func speaker(t *testing.T, o Options) (s *Speaker, stop func()) {
	t.Helper()
	s = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { _ = s.Run(ctx) })
	stop = func() { cancel(); work.Wait() }
	t.Cleanup(stop)
	return s, stop
}

var us = netip.MustParseAddr("127.0.0.2")

func TestSpeaker(t *testing.T) {
	r := newRouter(t, theirAS, "", us)
	registry := prometheus.NewRegistry()
	s, stop := speaker(t, Options{Registerer: registry})
	p := r.peer(us)
	p.IPv6, p.NextHop6 = true, netip.MustParseAddr("2001:db8::2")
	p.Attributes = Attributes{Communities: []uint32{1}, Large: []Large{{1, 2, 3}}, Prepend: new(uint32(1))}
	if err := s.SetPeers([]Peer{p}); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(held("198.51.100.1", "198.51.100.2", "2001:db8:1::1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three routes are there", func() bool { return len(r.routes(t)) == 3 })
	for prefix, want := range map[string]string{
		"198.51.100.1/32":   "communities [1] large 3 path [65000 65000] via 127.0.0.2",
		"2001:db8:1::1/128": "communities [1] large 3 path [65000 65000] via 2001:db8::2",
	} {
		if got := r.routes(t)[prefix]; got != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
	if got := s.Peers(); len(got) != 1 || !got[0].Up() || got[0].Routes != 3 || got[0].Error != "" {
		t.Errorf("the peer is %+v", got)
	}

	if err := s.Sync(held("198.51.100.2")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two are withdrawn", func() bool { return len(r.routes(t)) == 1 })

	med := uint32(7)
	s.Describe(netip.MustParseAddr("198.51.100.2"), &Attributes{MED: &med, Communities: []uint32{2}})
	eventually(t, "its own attributes are told", func() bool {
		return strings.Contains(r.routes(t)["198.51.100.2/32"], "communities [1 2] large 3 med 7")
	})

	p.Attributes = Attributes{}
	if err := s.SetPeers([]Peer{p}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the peer's new attributes are told", func() bool {
		return strings.HasPrefix(r.routes(t)["198.51.100.2/32"], "communities [2] med 7 path [65000] ")
	})
	if flaps := s.Peers()[0].Flaps; flaps != 0 {
		t.Errorf("the session ended %d times for it", flaps)
	}

	addr := []netip.Addr{netip.MustParseAddr("198.51.100.2")}
	s.Drain(addr, true)
	eventually(t, "it alone is left to others", func() bool {
		return strings.Contains(r.routes(t)["198.51.100.2/32"], fmt.Sprintf("communities [2 %d] med 4294967295", GracefulShutdown))
	})
	s.Drain(addr, false)
	eventually(t, "it is not any more", func() bool { return strings.HasPrefix(r.routes(t)["198.51.100.2/32"], "communities [2] med 7 ") })

	done := make(chan struct{})
	go func() { s.Leave(t.Context(), time.Second); close(done) }()
	eventually(t, "it is to be gone around", func() bool {
		return strings.Contains(r.routes(t)["198.51.100.2/32"], fmt.Sprintf("communities [2 %d] med 4294967295", GracefulShutdown))
	})
	<-done
	if got := r.routes(t); len(got) != 0 {
		t.Errorf("after leaving there is %v", got)
	}
	if got := withdrawn(t, registry); got != 3 {
		t.Errorf("%v routes were counted as withdrawn, want 3", got)
	}
	stop()
	if got := s.Peers(); len(got) != 1 || got[0].Up() {
		t.Errorf("after the end the peer is %+v", got)
	}
}

// VIPs that come one by one are all announced, and what goes meanwhile is withdrawn.
func TestSpeakerGrows(t *testing.T) {
	r := newRouter(t, theirAS, "", us)
	s, _ := speaker(t, Options{})
	_ = s.SetPeers([]Peer{r.peer(us)})
	const n = 300
	var all []vip.VIP
	for i := range n {
		all = append(all, held(fmt.Sprintf("198.51.%d.%d", i/100, i%100))...)
		if i == n/2 {
			all = slices.Delete(all, 7, 8)
		}
		if err := s.Sync(slices.Clone(all)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are there but one", func() bool { return len(r.routes(t)) == n-1 })
	if text := r.routes(t)["198.51.0.7/32"]; text != "" {
		t.Errorf("the one that went is there: %s", text)
	}
	_ = s.Sync(all[1:])
	eventually(t, "the first is withdrawn", func() bool { return len(r.routes(t)) == n-2 })
	_ = s.Sync(nil)
	eventually(t, "all are withdrawn", func() bool { return len(r.routes(t)) == 0 })
	_ = s.Sync(all)
	eventually(t, "they are there again", func() bool { return len(r.routes(t)) == n-1 })
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		some, all string
		want      bool
	}{
		{"", "", true}, {"", "1", true}, {"1", "", false}, {"1", "1", true}, {"13", "123", true}, {"123", "13", false}, {"12", "134", false}, {"21", "12", false},
	} {
		list := func(text string) (vips []vip.VIP) {
			for _, digit := range text {
				vips = append(vips, held(fmt.Sprintf("192.0.2.%c", digit))...)
			}
			return vips
		}
		if got := within(list(c.some), list(c.all)); got != c.want {
			t.Errorf("%q within %q: %t", c.some, c.all, got)
		}
	}
}

// withdrawn is how many routes were counted as withdrawn.
func withdrawn(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "kube_vip_bgp_route_changes_total" && strings.Contains(m.String(), `"withdrawn"`) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// A peer that cannot be spoken with says why, and hinders no other.
func TestSpeakerRefused(t *testing.T) {
	for name, c := range map[string]struct {
		as       uint32
		password string
		change   func(*Peer)
		want     string
		cause    Cause
	}{
		"it is of another AS":         {as: 65009, want: "Bad Peer AS; it is not of AS 65001, as it should be", cause: CauseRefused},
		"it expects another AS of us": {as: theirAS, change: func(p *Peer) { p.LocalAS = 65010 }, want: "expect another AS than 65010 (bgp_as)", cause: CauseNotification},
		"nobody listens":              {as: theirAS, change: func(p *Peer) { p.Port = 1 }, want: "connection refused", cause: CauseUnreachable},
		"it has another password":     {as: theirAS, password: "theirs", change: func(p *Peer) { p.Password = "ours" }, want: "a peer with another password does not answer either", cause: CauseUnreachable},
		"it has no address":           {as: theirAS, change: func(p *Peer) { p.Host = "nobody.invalid" }, want: "nobody.invalid", cause: CauseNotStarted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := newRouter(t, c.as, c.password, us), newRouter(t, theirAS, "", us)
			s, _ := speaker(t, Options{})
			one, other := bad.peer(us), good.peer(us)
			other.Name = "other"
			if c.change != nil {
				c.change(&one)
			}
			if err := s.SetPeers([]Peer{one, other}); err != nil {
				t.Fatal(err)
			}
			if err := s.Sync(held("198.51.100.1")); err != nil {
				t.Fatal(err)
			}
			at := func(name string) Status {
				list := s.Peers()
				return list[slices.IndexFunc(list, func(p Status) bool { return p.Name == name })]
			}
			eventually(t, "the other has the route", func() bool { return len(good.routes(t)) == 1 })
			eventually(t, "it says why", func() bool { return strings.Contains(at("router").Error, c.want) && at("router").Cause == c.cause })
		})
	}
}

// A password is printed nowhere.
func TestPeerPassword(t *testing.T) {
	p := Peer{Name: "router", Password: "secret"}
	if text := fmt.Sprintf("%v %+v %#v", p, p, p); strings.Contains(text, "secret") {
		t.Errorf("the password is printed: %s", text)
	}
}

// Peers that stay are not touched by those that come, go and change.
func TestSpeakerReload(t *testing.T) {
	a, b := newRouter(t, theirAS, "", us), newRouter(t, theirAS, "", us)
	s, _ := speaker(t, Options{})
	one, other := a.peer(us), b.peer(us)
	other.Name = "other"
	_ = s.Sync(held("198.51.100.1"))
	_ = s.SetPeers([]Peer{one})
	eventually(t, "the first has it", func() bool { return len(a.routes(t)) == 1 })
	since := s.Peers()[0].Since

	_ = s.SetPeers([]Peer{one, other})
	eventually(t, "the other has it", func() bool { return len(b.routes(t)) == 1 })
	other.Hold = 12 * time.Second
	_ = s.SetPeers([]Peer{other, one})
	eventually(t, "the other has it again", func() bool { return len(b.routes(t)) == 1 && len(s.Peers()) == 2 && s.Peers()[0].Up() })
	one.Lacks = "an address"
	if err := s.SetPeers([]Peer{one, {Name: "secret", Unusable: "its password is not there"}}); err == nil || err.Error() != "BGP peer secret: its password is not there" {
		t.Errorf("a peer without its password: %v", err)
	}
	if got := s.Peers(); len(got) != 2 || got[0].Lacks != one.Lacks || got[1].Error != "BGP peer secret: its password is not there" {
		t.Errorf("the peers are %+v", got)
	}
	one.Lacks = ""
	err := s.SetPeers([]Peer{one, {Name: "bad", Host: "192.0.2.9"}})
	if err == nil || !strings.Contains(err.Error(), "BGP peer bad: it has no AS number") {
		t.Errorf("a peer without an AS: %v", err)
	}
	eventually(t, "the other has nothing", func() bool { return len(b.routes(t)) == 0 })
	got := s.Peers()
	if len(got) != 2 || got[0].Name != "bad" || got[0].Error == "" || !got[1].Up() || got[1].Lacks != "" || got[1].Since != since || got[1].Flaps != 0 {
		t.Errorf("the peers are %+v", got)
	}
}

// A lost neighbour's session is closed at once, and comes back.
func TestSpeakerLost(t *testing.T) {
	r := newRouter(t, theirAS, "", us)
	var mu sync.Mutex
	var heard []string
	s, _ := speaker(t, Options{Told: func(before, now Status) {
		mu.Lock()
		defer mu.Unlock()
		if before.Up() != now.Up() {
			heard = append(heard, fmt.Sprint(now.Up(), " ", now.Cause))
		}
	}})
	_ = s.Sync(held("198.51.100.1"))
	_ = s.SetPeers([]Peer{r.peer(us)})
	eventually(t, "it has the route", func() bool { return len(r.routes(t)) == 1 })
	s.Lost("router", "BFD: control detection time expired")
	eventually(t, "it lost it", func() bool { return len(r.routes(t)) == 0 })
	eventually(t, "it has it again", func() bool { return len(r.routes(t)) == 1 })
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"true ", "false bfd", "true "}; !slices.Equal(heard, want) {
		t.Errorf("heard %q, want %q", heard, want)
	}
}
