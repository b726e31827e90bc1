package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An end is a router, and what the one at the other end is to know of it.
type end struct {
	*Router
	as     uint32
	addrs  []netip.Addr // of both sessions: IPv4 first
	routes []netip.Prefix
	watch  *RouteWatch
}

// neighbors are the end as the other one has it: by IPv4 with MD5, and by IPv6 with BFD.
func (e *end) neighbors(change ...func(v4, v6 *Neighbor)) []Neighbor {
	both := []Neighbor{
		{Addr: e.addrs[0], AS: e.as, Password: "secret", Hold: 30 * time.Second},
		{Addr: e.addrs[1], AS: e.as, BFD: &BFDIntervals{Transmit: 100 * time.Millisecond, Receive: 100 * time.Millisecond, Multiplier: 5}},
	}
	for _, f := range change {
		f(&both[0], &both[1])
	}
	return both
}

// hop is by what the other end goes to a route of this one.
func (e *end) hop(prefix netip.Prefix) netip.Addr {
	if prefix.Addr().Is4() {
		return e.addrs[0]
	}
	return e.addrs[1]
}

// knows waits until the kernel goes to all routes of the other end by it.
func (e *end) knows(t *testing.T, ctx context.Context, other *end) {
	t.Helper()
	must(t, e.WaitSessions(ctx, other.addrs...))
	for _, p := range other.routes {
		must(t, e.WaitRoute(ctx, p, other.hop(p)))
	}
}

// session is the one with the other end's address.
func (e *end) session(t *testing.T, ctx context.Context, peer netip.Addr) Session {
	t.Helper()
	s, ok, err := e.Session(ctx, peer)
	must(t, err)
	if !ok {
		t.Fatalf("%s knows of no session with %s", e.Name, peer)
	}
	return s
}

// lost waits until the kernel has told that the routes are gone, and returns how long after since it told of the last.
func (e *end) lost(t *testing.T, ctx context.Context, since time.Time, routes ...netip.Prefix) time.Duration {
	t.Helper()
	var last time.Time
	for _, p := range routes {
		event, err := e.watch.Wait(ctx, since, p)
		must(t, err)
		if event.Time.After(last) {
			last = event.Time
		}
	}
	return last.Sub(since)
}

// TestRouters has FRR and BIRD be each other's neighbours, and both do what the other one is to notice.
func TestRouters(t *testing.T) {
	Need(t, errors.Join(CheckRouter(FRR), CheckRouter(BIRD)))
	l := New(t, Options{Nodes: 1, Family: Dual, NoCluster: true})
	var ends []*end
	for i, kind := range []RouterKind{FRR, BIRD} {
		e := &end{as: 65000 + uint32(i), routes: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.30.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:30::%d/128", i+1)),
		}}
		for _, p := range l.addrs(hostRouter + i) {
			e.addrs = append(e.addrs, p.Addr())
		}
		var err error
		e.Router, err = l.StartRouter(deadline(t, 20*time.Second), RouterOptions{Kind: kind, AS: e.as, Announce: e.routes})
		must(t, err)
		must(t, e.AddAddress("lo", e.routes[1]))
		e.watch, err = e.WatchRoutes()
		must(t, err)
		t.Cleanup(e.watch.Close)
		ends = append(ends, e)
	}
	for i, e := range ends {
		must(t, e.Configure(t.Context(), func(o *RouterOptions) { o.Neighbors = ends[1-i].neighbors() }))
	}
	for _, step := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context, near, far *end)
	}{
		{"sessions", routerSessions},
		{"routes", routerRoutes},
		{"announcements change", routerAnnounces},
		{"BFD", routerBFD},
		{"passwords and passive ends", routerRefuses},
		{"the program is stopped", routerStops},
		{"the program is killed", routerIsKilled},
	} {
		for i, e := range ends {
			t.Run(step.name+" "+e.Name, func(t *testing.T) {
				ctx := deadline(t, 30*time.Second)
				e.knows(t, ctx, ends[1-i])
				ends[1-i].knows(t, ctx, e)
				step.run(t, ctx, e, ends[1-i])
			})
		}
	}
	t.Run("sessions are reset", func(t *testing.T) { routersReset(t, deadline(t, 30*time.Second), ends) })
	t.Run("unnumbered", func(t *testing.T) { routersUnnumbered(t, deadline(t, 30*time.Second), ends[0], ends[1]) })
	for _, e := range ends {
		must(t, e.watch.Err())
	}
}

// routerSessions: what was negotiated is told.
func routerSessions(t *testing.T, ctx context.Context, near, far *end) {
	changes, err := near.Changes()
	must(t, err)
	for i, peer := range far.addrs {
		s := near.session(t, ctx, peer)
		if !s.Established() || s.AS != far.as || s.Accepted != 1 || s.Flaps != 0 || s.Since.IsZero() || !slices.Contains(s.Capabilities, "4-octet AS") ||
			!slices.Contains(s.Capabilities, []string{"IPv4", "IPv6"}[i]) {
			t.Errorf("the session with %s is %+v", peer, s)
		}
		if i == 0 && s.Hold != 30*time.Second {
			t.Errorf("the hold time with %s is %s, want 30s", peer, s.Hold)
		}
		if !slices.ContainsFunc(changes, func(c SessionChange) bool { return c.Peer == peer && c.Up }) {
			t.Errorf("that the session with %s came is not among %+v", peer, changes)
		}
	}
}

// routerRoutes: what the other end announces is in the table with all that belongs to it, and in the kernel.
func routerRoutes(t *testing.T, ctx context.Context, near, far *end) {
	kernel, err := near.KernelRoutes()
	must(t, err)
	for _, p := range far.routes {
		got, err := near.Routes(ctx, p)
		must(t, err)
		for i := range got {
			got[i].NextHops = got[i].NextHops[:1] // the next one of IPv6 is the link-local address
		}
		want := []Route{{
			Prefix: p, From: far.hop(p), NextHops: []netip.Addr{far.hop(p)}, Origin: "IGP", ASPath: []uint32{far.as}, LocalPref: 100, Best: true, Multipath: true,
		}}
		if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
			t.Errorf("%s on %s (-want +got):\n%s", p, near.Name, diff)
		}
		if by := near.lab.Names(kernel[p]); !slices.Equal(by, []string{far.Name}) {
			t.Errorf("the kernel of %s goes to %s by %v", near.Name, p, by)
		}
		if got, err := far.KernelRoute(p); len(got) > 0 || err != nil {
			t.Errorf("%s goes to its own %s by %v; %v", far.Name, p, got, err)
		}
	}
}

// routerAnnounces: a route comes and goes while the sessions stay.
func routerAnnounces(t *testing.T, ctx context.Context, near, far *end) {
	before, err := near.Changes()
	must(t, err)
	more := netip.MustParsePrefix("10.40.0.1/32")
	began := time.Now()
	must(t, far.Configure(ctx, func(o *RouterOptions) { o.Announce = append(o.Announce, more) }))
	came, err := near.watch.Wait(ctx, began, more, far.hop(more))
	must(t, err)
	must(t, far.Configure(ctx, func(o *RouterOptions) { o.Announce = far.routes }))
	near.lost(t, ctx, came.Time, more)
	if got := near.watch.Events(more); len(got) != 2 {
		t.Errorf("%s came and went, and was told of: %v", more, got)
	}
	if got, err := near.Routes(ctx, more); len(got) > 0 || err != nil {
		t.Errorf("%s still knows %+v; %v", near.Name, got, err)
	}
	if after, err := near.Changes(); len(after) != len(before) || err != nil {
		t.Errorf("sessions came and went: %+v; %v", after[len(before):], err)
	}
}

// routerBFD: an end that is cut off is lost where BFD watches, and nowhere else.
func routerBFD(t *testing.T, ctx context.Context, near, far *end) {
	var got BFDSession
	must(t, waitSlowly(ctx, "BFD is up and at its pace", func() (bool, error) {
		sessions, err := near.BFD(ctx)
		if len(sessions) == 1 {
			got = sessions[0]
		}
		return got.Transmit == 100*time.Millisecond, err
	}))
	if got.Peer.WithZone("") != far.addrs[1] || got.State != "Up" || got.Multihop || got.Detection != 500*time.Millisecond {
		t.Errorf("BFD is %+v", got)
	}
	began := time.Now()
	flaps := near.session(t, ctx, far.addrs[1]).Flaps
	must(t, far.Cut())
	t.Logf("lost after %s", near.lost(t, ctx, began, far.routes[1]).Round(time.Millisecond))
	must(t, near.WaitSessions(ctx, far.addrs[0]))
	s := near.session(t, ctx, far.addrs[1])
	changes, err := near.Changes()
	must(t, err)
	last := changes[len(changes)-1]
	if last.Peer != s.Peer || last.Up || last.Time.Before(began) || s.Flaps != flaps+1 || !strings.Contains(last.Reason+s.Reason, "BFD") { // FRR logs no reason
		t.Errorf("%s has lost %+v, and says %+v", near.Name, last, s)
	}
	must(t, far.Heal())
	near.knows(t, ctx, far)
}

// routerRefuses: there is no session where the passwords differ, and none where both ends wait; one may.
func routerRefuses(t *testing.T, ctx context.Context, near, far *end) {
	passive := func(_, v6 *Neighbor) { v6.Passive = true }
	set := func(e, other *end, change ...func(v4, v6 *Neighbor)) {
		t.Helper()
		must(t, e.Configure(ctx, func(o *RouterOptions) { o.Neighbors = other.neighbors(change...) }))
	}
	set(near, far, passive, func(v4, _ *Neighbor) { v4.Password = "another" })
	set(far, near, passive)
	must(t, near.WaitSessions(ctx))
	must(t, far.WaitSessions(ctx))
	const while = 2 * time.Second // both try each second
	if err := waitSlowly(deadline(t, while), "a session", func() (bool, error) {
		sessions, err := near.Sessions(ctx)
		return slices.ContainsFunc(sessions, Session.Established), err
	}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s has a session that cannot be; %v", near.Name, err)
	}
	set(near, far, passive)
	set(far, near)
	near.knows(t, ctx, far)
	far.knows(t, ctx, near)
}

// routersReset: each end resets another session, which comes back, and is counted.
func routersReset(t *testing.T, ctx context.Context, ends []*end) {
	var flaps [2]int
	for i, near := range ends {
		far := ends[1-i]
		far.knows(t, ctx, near)
		flaps[i] = far.session(t, ctx, near.addrs[i]).Flaps
	}
	began := time.Now()
	for i, near := range ends {
		must(t, near.ResetSession(ctx, ends[1-i].addrs[i]))
	}
	for i, near := range ends {
		far := ends[1-i]
		far.lost(t, ctx, began, near.routes[i])
		far.knows(t, ctx, near)
		if s := far.session(t, ctx, near.addrs[i]); s.Flaps != flaps[i]+1 {
			t.Errorf("%s says of the session that %s has reset %+v, want one flap more than %d", far.Name, near.Name, s, flaps[i])
		}
	}
}

// routerStops: who is stopped says goodbye, and leaves nothing in his kernel.
func routerStops(t *testing.T, ctx context.Context, near, far *end) {
	began := time.Now()
	must(t, near.Stop())
	t.Logf("withdrawn after %s", far.lost(t, ctx, began, near.routes...).Round(time.Millisecond))
	if left, err := near.KernelRoutes(); len(left) > 0 || err != nil {
		t.Errorf("%s leaves %v; %v", near.Name, left, err)
	}
	for _, p := range near.routes {
		if got, err := far.Routes(ctx, p); len(got) > 0 || err != nil {
			t.Errorf("%s still knows %+v; %v", far.Name, got, err)
		}
	}
	must(t, near.Start(ctx))
	far.knows(t, ctx, near)
	near.knows(t, ctx, far)
}

// routerIsKilled: who is killed is lost with his connections, and his kernel goes on by what it has.
func routerIsKilled(t *testing.T, ctx context.Context, near, far *end) {
	began := time.Now()
	near.Kill()
	far.lost(t, ctx, began, near.routes...)
	for _, p := range far.routes {
		if hops, err := near.KernelRoute(p); err != nil || !slices.Equal(near.lab.Names(hops), []string{far.Name}) {
			t.Errorf("the kernel of %s goes to %s by %v; %v", near.Name, p, hops, err)
		}
	}
	must(t, near.Start(ctx))
	far.knows(t, ctx, near)
	near.knows(t, ctx, far)
}

// routersUnnumbered: one session, by link-local addresses on a cable between them, carries both families. FRR waits for the
// neighbour's Router Advertisements before it connects, and BIRD for the connection.
func routersUnnumbered(t *testing.T, ctx context.Context, frr, bird *end) {
	own, theirs, err := frr.Cable(bird.Host)
	must(t, err)
	must(t, frr.Configure(ctx, func(o *RouterOptions) {
		o.Neighbors = []Neighbor{{Interface: own, AS: bird.as, ExtendedNextHop: true}}
	}))
	must(t, bird.Configure(ctx, func(o *RouterOptions) {
		o.Neighbors = []Neighbor{{Interface: theirs, AS: frr.as, ExtendedNextHop: true}}
		o.Extra = []string{fmt.Sprintf("protocol radv { interface %q { default lifetime 0; min ra interval 3; max ra interval 4; }; }", theirs)}
	}))
	for _, side := range []struct {
		near, far *end
		link      string
	}{{frr, bird, own}, {bird, frr, theirs}} {
		peer := linkLocal(side.far.MAC).WithZone(side.link)
		must(t, side.near.WaitSessions(ctx, peer))
		for _, p := range side.far.routes {
			must(t, side.near.WaitRoute(ctx, p, side.far.addrs[0]))
			if hops, err := side.near.KernelRoute(p); err != nil || !slices.Equal(hops, []netip.Addr{peer}) {
				t.Errorf("the kernel of %s goes to %s by %v, want %s; %v", side.near.Name, p, hops, peer, err)
			}
			if routes, err := side.near.Routes(ctx, p); err != nil || len(routes) != 1 || routes[0].From != peer {
				t.Errorf("%s knows %+v; %v", side.near.Name, routes, err)
			}
		}
	}
}
