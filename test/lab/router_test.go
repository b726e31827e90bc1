package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRouters has FRR learn routes from two BIRDs, and goes by them.
func TestRouters(t *testing.T) {
	Need(t, CheckRouter(FRR))
	Need(t, CheckRouter(BIRD))
	for _, tt := range []struct {
		family         Family
		vip, leaving   netip.Prefix
		network, other netip.Prefix
	}{
		{IPv4, netip.MustParsePrefix("10.30.0.1/32"), netip.MustParsePrefix("10.30.0.2/32"), netip.MustParsePrefix("10.10.0.202/32"), netip.MustParsePrefix("0.0.0.0/0")},
		{IPv6, netip.MustParsePrefix("fd00:30::1/128"), netip.MustParsePrefix("fd00:30::2/128"), netip.MustParsePrefix("fd00:10:10::202/128"), netip.MustParsePrefix("::/0")},
	} {
		t.Run(string(tt.family), func(t *testing.T) { testRouters(t, tt.family, tt.vip, tt.leaving, tt.network, tt.other) })
	}
}

func testRouters(t *testing.T, family Family, vip, leaving, network, other netip.Prefix) {
	l := New(t, Options{Nodes: 1, NoCluster: true, Family: family})
	ctx := deadline(t, 2*time.Minute)
	channel := map[Family]string{IPv4: "ipv4", IPv6: "ipv6"}[family]
	addr := func(n int) netip.Addr { return l.addrs(hostRouter + n)[0].Addr() }
	begin := time.Now()
	step := func(what string) { t.Logf("%6v %s", time.Since(begin).Round(time.Millisecond), what) }

	// The first neighbour is known by its address and watched by BFD, the second has a password and comes out of a range.
	intervals := &BFDIntervals{Transmit: 250 * time.Millisecond, Receive: 250 * time.Millisecond, Multiplier: 4}
	f, err := l.StartRouter(ctx, RouterOptions{Kind: FRR, Announce: []netip.Prefix{other}, Neighbors: []Neighbor{
		{Addr: addr(1), AS: 65001, BFD: intervals},
		{Range: network, Password: "secret", GracefulRestart: true, Hold: 30 * time.Second},
	}})
	must(t, err)
	step("FRR is there")
	watch, err := f.WatchRoutes()
	must(t, err)
	defer watch.Close()

	var birds []*Router
	for i, n := range []Neighbor{
		{Addr: addr(0), AS: 65000, BFD: intervals, ExtendedNextHop: true},
		{Addr: addr(0), Password: "secret", GracefulRestart: true},
	} {
		n.FamilyExtra = []string{"export filter { if source != RTS_STATIC then reject; bgp_med = 33; accept; };"}
		b, err := l.StartRouter(ctx, RouterOptions{
			Kind: BIRD, Name: fmt.Sprintf("bird%d", i+1), AS: 65001, Neighbors: []Neighbor{n}, Announce: []netip.Prefix{leaving},
			Extra: []string{
				"protocol static { " + channel + ";",
				"route " + vip.String() + " blackhole { bgp_community.add((65001, 7)); bgp_large_community.add((65001, 1, 2));",
				"bgp_ext_community.add((rt, 65001, 5)); bgp_ext_community.add((generic, 0x0004fde9, 0x47f42400)); }; }",
			},
		})
		must(t, err)
		birds = append(birds, b)
		must(t, b.AddAddress("lo", vip))
		ln, err := b.Listen(netip.AddrPortFrom(vip.Addr(), 80).String())
		must(t, err)
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(b.Name))
				_ = c.Close()
			}
		}()
	}
	one, two := birds[0], birds[1]
	step("BIRD is there")
	must(t, f.WaitSessions(ctx, one.Addr(), two.Addr()))
	step("sessions are up")
	must(t, f.WaitRoute(ctx, vip, one.Addr(), two.Addr()))
	if _, err := watch.Wait(ctx, begin, vip, one.Addr(), two.Addr()); err != nil {
		t.Error(err)
	}
	step("the route is there")

	routes, err := f.Routes(ctx, vip)
	must(t, err)
	var want []Route
	for i, r := range routes {
		from := one.Addr()
		if r.From == two.Addr() {
			from = two.Addr()
		}
		routes[i].NextHops = r.NextHops[:1] // in IPv6 there is a link-local one too
		want = append(want, Route{
			Prefix: vip, From: from, NextHops: []netip.Addr{from}, Origin: "IGP", ASPath: []uint32{65001}, LocalPref: 100, MED: 33,
			Communities: []string{"65001:7"}, LargeCommunities: []string{"65001:1:2"}, ExtCommunities: []string{"rt:65001:5", "lb:65001:125000"},
			Best: i == 0, Multipath: true,
		})
	}
	if diff := cmp.Diff(want, routes, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || len(routes) != 2 {
		t.Errorf("FRR's routes (-want +got):\n%s", diff)
	}

	sessions, err := f.Sessions(ctx)
	must(t, err)
	for _, s := range sessions {
		wantHold, wantAbilities := 180*time.Second, []string{"4-octet AS", "enhanced route refresh", string(family), "route refresh"}
		if s.Peer == two.Addr() {
			wantHold, wantAbilities = 30*time.Second, []string{"4-octet AS", "enhanced route refresh", "graceful restart", string(family), "long-lived graceful restart", "route refresh"}
		} else if family == IPv4 {
			wantAbilities = []string{"4-octet AS", "enhanced route refresh", "extended next hop", string(family), "route refresh"}
		}
		slices.Sort(wantAbilities)
		if diff := cmp.Diff(wantAbilities, s.Capabilities); diff != "" || s.Hold != wantHold || s.AS != 65001 || s.Accepted != 2 || time.Since(s.Since) > time.Minute {
			t.Errorf("FRR's session %+v: hold %v wanted, capabilities (-want +got):\n%s", s, wantHold, diff)
		}
	}
	back, err := one.Routes(ctx, other)
	must(t, err)
	if len(back) != 1 || back[0].From != f.Addr() || !back[0].Best || !cmp.Equal(back[0].ASPath, []uint32{65000}) {
		t.Errorf("BIRD's routes to what FRR announces: %+v", back)
	}
	own, ok, err := one.Session(ctx, f.Addr())
	must(t, err)
	if !ok || !own.Established() || own.AS != 65000 || own.Accepted != 1 || own.Hold != 180*time.Second || len(own.Capabilities) < 4 {
		t.Errorf("BIRD's session: %+v", own)
	}
	all, err := f.KernelRoutes()
	must(t, err)
	if len(all) != 2 {
		t.Errorf("FRR's routes in the kernel: %v", all)
	}

	// By ECMP the client reaches both.
	reached := map[string]int{}
	for range 40 {
		conn, err := f.Client.DialContext(ctx, "tcp", netip.AddrPortFrom(vip.Addr(), 80).String())
		must(t, err)
		name := make([]byte, 16)
		n, _ := conn.Read(name)
		_ = conn.Close()
		reached[string(name[:n])]++
	}
	step(fmt.Sprintf("the client has reached %v", reached))
	if reached[one.Name] == 0 || reached[two.Name] == 0 || reached[one.Name]+reached[two.Name] != 40 {
		t.Errorf("the client has reached %v, want 40 times %s and %s", reached, one.Name, two.Name)
	}

	// Another password ends that session, once the router knows it, and no other.
	before, _, err := f.Session(ctx, one.Addr())
	must(t, err)
	must(t, f.Configure(ctx, func(o *RouterOptions) { o.Neighbors[1].Password = "another" }))
	must(t, two.ResetSession(ctx, f.Addr()))
	must(t, f.WaitRoute(ctx, vip, one.Addr()))
	step("the password is another")
	must(t, two.Configure(ctx, func(o *RouterOptions) { o.Neighbors[0].Password = "another" }))
	must(t, f.WaitSessions(ctx, one.Addr(), two.Addr()))
	must(t, f.WaitRoute(ctx, vip, one.Addr(), two.Addr()))
	step("the password is the same again")
	after, _, err := f.Session(ctx, one.Addr())
	must(t, err)
	if !after.Since.Equal(before.Since) || after.Flaps != before.Flaps {
		t.Errorf("a session flapped when another one's password was changed: %+v, before %+v", after, before)
	}

	// A graceful shutdown makes the route the worst.
	must(t, two.Configure(ctx, func(o *RouterOptions) {
		o.Neighbors[0].FamilyExtra = []string{"export filter { if source != RTS_STATIC then reject; bgp_med = 33; bgp_community.add((65535, 0)); accept; };"}
	}))
	must(t, f.WaitRoute(ctx, leaving, one.Addr()))
	routes, err = f.Routes(ctx, leaving)
	must(t, err)
	if len(routes) != 2 || routes[1].LocalPref != 0 || routes[1].Multipath || !cmp.Equal(routes[1].Communities, []string{"65535:0"}) {
		t.Errorf("routes of one that leaves: %+v", routes)
	}
	step("the second one leaves gracefully")

	// BFD finds that a neighbour is gone long before the hold time ends.
	bfd, err := f.BFD(ctx)
	must(t, err)
	if len(bfd) != 1 || bfd[0].Peer.WithZone("") != one.Addr() || bfd[0].State != "Up" || bfd[0].Transmit != 250*time.Millisecond || bfd[0].Detection != time.Second {
		t.Errorf("FRR's BFD: %+v", bfd)
	}
	bfd, err = one.BFD(ctx)
	must(t, err)
	if len(bfd) != 1 || bfd[0].Peer.WithZone("") != f.Addr() || bfd[0].State != "Up" || bfd[0].Detection != time.Second {
		t.Errorf("BIRD's BFD: %+v", bfd)
	}
	cut := time.Now()
	must(t, one.Cut())
	event, err := watch.Wait(ctx, cut, leaving, two.Addr())
	must(t, err)
	step(fmt.Sprintf("BFD has found the loss after %v", event.Time.Sub(cut).Round(time.Millisecond)))
	if took := event.Time.Sub(cut); took > 15*time.Second {
		t.Errorf("the loss was found after %v", took)
	}
	must(t, one.Heal())
	must(t, f.WaitSessions(ctx, one.Addr(), two.Addr()))
	changes, err := f.Changes()
	must(t, err)
	for _, r := range []*Router{f, one, two} {
		c, err := r.Changes()
		must(t, err)
		for _, c := range c {
			step(fmt.Sprintf("%s says: %+v", r.Name, c))
		}
	}
	if len(changes) < 6 {
		t.Errorf("FRR's log has %d changes of sessions, want at least 6", len(changes))
	}

	// Without its program the router forwards; with it again it learns again. Ended well, it takes its routes along.
	f.Kill()
	hops, err := f.KernelRoute(vip)
	must(t, err)
	if len(hops) == 0 {
		t.Error("the routes went with the program")
	}
	must(t, f.Start(ctx))
	must(t, f.WaitSessions(ctx, one.Addr(), two.Addr()))
	step("FRR is there again")
	must(t, f.Stop())
	must(t, f.WaitRoute(ctx, vip))
	step("FRR has ended")
	if err := watch.Err(); err != nil {
		t.Error(err)
	}
}

// TestUnnumbered has two FRRs on a cable of their own find each other without addresses.
func TestUnnumbered(t *testing.T) {
	Need(t, CheckRouter(FRR))
	l := New(t, Options{Nodes: 1, NoCluster: true})
	ctx := deadline(t, 2*time.Minute)
	prefix := netip.MustParsePrefix("10.30.0.1/32")
	one, err := l.StartRouter(ctx, RouterOptions{Kind: FRR, Name: "one"})
	must(t, err)
	two, err := l.StartRouter(ctx, RouterOptions{Kind: FRR, Name: "two", AS: 65001, Announce: []netip.Prefix{prefix}})
	must(t, err)
	own, theirs, err := one.Cable(two.Host)
	must(t, err)
	must(t, one.Configure(ctx, func(o *RouterOptions) { o.Neighbors = []Neighbor{{Interface: own}} }))
	must(t, two.Configure(ctx, func(o *RouterOptions) { o.Neighbors = []Neighbor{{Interface: theirs}} }))
	must(t, one.WaitRoute(ctx, prefix, two.Addr()))
	hops, err := one.KernelRoute(prefix)
	must(t, err)
	if len(hops) != 1 || !hops[0].IsLinkLocalUnicast() || hops[0].Zone() != own {
		t.Errorf("the next hop is %v, want a link-local address on %s", hops, own)
	}
	sessions, err := one.Sessions(ctx)
	must(t, err)
	if len(sessions) != 1 || !sessions[0].Established() || sessions[0].Name != own || sessions[0].Peer != hops[0] {
		t.Errorf("the sessions are %+v, want one with %v", sessions, hops)
	}
	routes, err := one.Routes(ctx, prefix)
	must(t, err)
	if len(routes) != 1 || routes[0].From != hops[0] {
		t.Errorf("the routes are %+v, want one from %v", routes, hops)
	}
	// The neighbour goes out of the configuration, and its route with it.
	must(t, one.Configure(ctx, func(o *RouterOptions) { o.Neighbors = nil }))
	must(t, one.WaitRoute(ctx, prefix))
}
