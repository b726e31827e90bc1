package bfd

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

const ms = time.Millisecond

// end is a Detector that runs.
type end struct {
	*Detector
	changes chan change
	// stop ends it, and returns what Run returned.
	stop func() error
}

type change struct {
	at time.Time
	Status
}

// detect runs a Detector in the namespace.
func (ns *namespace) detect(t testing.TB, o Options, peers ...Peer) *end {
	t.Helper()
	e := &end{changes: make(chan change, 1<<12)}
	next := o.Changed
	o.Changed = func(key string, s Status) {
		e.changes <- change{time.Now(), s}
		if next != nil {
			next(key, s)
		}
	}
	o.Realtime = true // the machine may be busy
	e.Detector = New(o)
	e.set(t, peers...)
	ctx, cancel := context.WithCancel(context.Background())
	result, done := error(nil), make(chan struct{})
	ns.Go(func() {
		defer close(done)
		result = e.Run(ctx)
	})
	e.stop = func() error {
		cancel()
		<-done
		return result
	}
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	netns.Eventually(t, "it runs", func() bool { return len(e.Status()) == len(peers) })
	return e
}

// ended is how long it took to end it.
func (e *end) ended(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func (e *end) set(t testing.TB, peers ...Peer) {
	t.Helper()
	if err := e.Set(peers); err != nil {
		t.Fatal(err)
	}
}

// becomes waits until a session has changed to a state.
func (e *end) becomes(t testing.TB, key string, state State) change {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case c := <-e.changes:
			if c.Key == key && c.State == state {
				return c
			}
		case <-late:
			t.Fatalf("session %s is not %s after 20s: %+v", key, state, e.Status())
		}
	}
}

// status is that of one session.
func (e *end) status(t testing.TB, key string) Status {
	t.Helper()
	for _, s := range e.Status() {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("there is no session %s", key)
	return Status{}
}

// forget has changes until now not count.
func (e *end) forget() {
	for len(e.changes) > 0 {
		<-e.changes
	}
}

// stays fails if any session has changed since it was last looked at.
func (e *end) stays(t testing.TB, when string) {
	t.Helper()
	for {
		select {
		case c := <-e.changes:
			t.Errorf("%s: session %s became %s (%s)", when, c.Key, c.State, c.Diagnostic)
		default:
			return
		}
	}
}

// fast is a peer at a 50 ms interval. The multiplier is one with which a machine that has too much to do, as those have that
// test, loses nobody.
func fast(key string, remote netip.Addr) Peer {
	return Peer{Key: key, Remote: remote, MinTx: 50 * ms, MinRx: 50 * ms, Multiplier: 10}
}

func TestNeighbours(t *testing.T) {
	for _, tc := range []struct {
		name string
		a, b netip.Addr
		with func(p *Peer, local netip.Addr)
		port uint16
	}{
		{"ipv4", a4, b4, func(*Peer, netip.Addr) {}, 3784},
		{"ipv4 from an address by an interface", a4, b4, func(p *Peer, local netip.Addr) { p.Local, p.Interface = local, eth }, 3784},
		{"ipv6", a6, b6, func(*Peer, netip.Addr) {}, 3784},
		{"ipv6 link-local", aLocal, bLocal, func(p *Peer, _ netip.Addr) { p.Remote = p.Remote.WithZone(eth) }, 3784},
		{"ipv6 link-local from an address", aLocal, bLocal, func(p *Peer, local netip.Addr) { p.Local, p.Interface = local, eth }, 3784},
		{"ipv4 multihop", a4, b4, func(p *Peer, local netip.Addr) { p.Multihop, p.Local, p.MinTTL = true, local, 250 }, 4784},
		{"ipv6 multihop", a6, b6, func(p *Peer, _ netip.Addr) { p.Multihop = true }, 4784},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a, b := cable(t)
			wire := b.tap(t, eth)
			there, here := fast("b", tc.b), fast("a", tc.a)
			tc.with(&there, tc.a)
			tc.with(&here, tc.b)
			x, y := a.detect(t, Options{}, there), b.detect(t, Options{}, here)
			x.becomes(t, "b", Up)
			y.becomes(t, "a", Up)
			mine := x.status(t, "b")

			netns.Eventually(t, "the fast interval", func() bool { return x.status(t, "b").Interval == 50*ms && y.status(t, "a").Interval == 50*ms })
			wire.forget()
			netns.Eventually(t, "50 packets", func() bool { return len(wire.heard(tc.a)) >= 50 })
			for _, f := range wire.heard(tc.a) {
				if f.p.Poll || f.p.Final || f.p.State != Up { // of before, and read late
					continue
				}
				want := frame{at: f.at, from: netip.AddrPortFrom(tc.a, uint16(mine.Port)), to: netip.AddrPortFrom(tc.b, tc.port), ttl: 255, class: 0xc0, p: Packet{
					State: Up, Multiplier: 10, Mine: mine.Mine, Yours: y.status(t, "a").Mine, MinTx: 50 * ms, MinRx: 50 * ms,
				}}
				if f != want {
					t.Fatalf("it sends %+v, want %+v", f, want)
				}
			}
			if mine.Port < 49152 {
				t.Errorf("it sends from port %d", mine.Port)
			}
			paced(t, wire.heard(tc.a), 50*ms)

			x.stays(t, "before anything is wrong")
			y.stays(t, "before anything is wrong")
			cut := time.Now()
			b.OnLink(t, eth, netlink.LinkSetDown)
			for key, e := range map[string]*end{"b": x, "a": y} {
				c := e.becomes(t, key, Down)
				if c.Diagnostic != DetectionTimeExpired {
					t.Errorf("it is down for %s", c.Diagnostic)
				}
				if took := c.at.Sub(cut); took < 200*ms || took > 5*time.Second { // the last packet was late, perhaps
					t.Errorf("lost after %s, want 450 to 500 ms", took)
				} else {
					t.Logf("lost after %s", took)
				}
			}
			b.OnLink(t, eth, netlink.LinkSetUp)
			if tc.b.IsLinkLocalUnicast() { // others are kept
				b.AddAddr(t, eth, tc.b.String()+"/64")
			}
			x.becomes(t, "b", Up)
			y.becomes(t, "a", Up)
			if got := x.status(t, "b"); got.Port != mine.Port || got.Mine != mine.Mine {
				t.Errorf("it sends from port %d with discriminator %d, and did from %d with %d", got.Port, got.Mine, mine.Port, mine.Mine)
			}

			took := x.ended(t)
			if took > 5*time.Second {
				t.Errorf("it stopped after %s", took)
			}
			if c := y.becomes(t, "a", Down); c.Diagnostic != NeighborSignaledDown || c.RemoteState != AdminDown || c.RemoteDiagnostic != AdministrativelyDown {
				t.Errorf("the other end is told of the stop by %+v", c.Status)
			}
		})
	}
}

// paced compares the time between packets with an interval that is shortened by 0 to 25 per cent. That some are sent late
// is the machine's business.
func paced(t testing.TB, frames []frame, interval time.Duration) {
	t.Helper()
	var gaps []time.Duration
	for i := 1; i < len(frames); i++ {
		if !frames[i].p.Final && !frames[i-1].p.Final {
			gaps = append(gaps, frames[i].at.Sub(frames[i-1].at))
		}
	}
	slices.Sort(gaps)
	part := func(percent int) time.Duration { return gaps[(len(gaps)-1)*percent/100] }
	if low, middle, high := part(10), part(50), part(80); low < interval*70/100 || low > interval*87/100 || middle < interval*75/100 || middle > interval*101/100 || high < interval*88/100 {
		t.Errorf("it sends every %s to %s, want every %s less 0 to 25 %%: %v", low, high, interval, gaps)
	}
}

// Each end sends as the slower of the two says, and changes of that leave the session up.
func TestIntervals(t *testing.T) {
	a, b := cable(t)
	wire := b.tap(t, eth)
	there := Peer{Key: "b", Remote: b4, MinTx: 40 * ms, MinRx: 60 * ms, Multiplier: 10}
	x := a.detect(t, Options{}, there)
	y := b.detect(t, Options{}, Peer{Key: "a", Remote: a4, MinTx: 50 * ms, MinRx: 200 * ms, Multiplier: 12})
	x.becomes(t, "b", Up)
	y.becomes(t, "a", Up)
	pace := func(e *end, key string, interval, detection time.Duration) {
		t.Helper()
		netns.Eventually(t, fmt.Sprintf("%s sends every %s", key, interval), func() bool {
			s := e.status(t, key)
			return s.Interval == interval && s.Detection == detection
		})
	}
	pace(x, "b", 200*ms, 12*60*ms)
	pace(y, "a", 60*ms, 10*200*ms)
	wire.forget()
	netns.Eventually(t, "20 packets", func() bool { return len(wire.heard(a4)) >= 20 })
	paced(t, wire.heard(a4), 200*ms)
	paced(t, wire.heard(b4), 60*ms)
	before := x.status(t, "b")

	wire.forget()
	there.MinTx, there.MinRx, there.Multiplier = 300*ms, 20*ms, 9
	x.set(t, there)
	pace(x, "b", 300*ms, 12*50*ms)
	pace(y, "a", 50*ms, 9*300*ms)
	netns.Eventually(t, "an answer to the poll", func() bool {
		return slices.ContainsFunc(wire.heard(a4), func(f frame) bool {
			return f.p.Poll && f.p.MinTx == 300*ms && f.p.MinRx == 20*ms && f.p.Multiplier == 9
		}) &&
			slices.ContainsFunc(wire.heard(b4), func(f frame) bool { return f.p.Final })
	})
	wire.forget()
	netns.Eventually(t, "20 packets", func() bool { return len(wire.heard(a4)) >= 20 })
	paced(t, wire.heard(a4), 300*ms)
	if frames := wire.heard(a4); slices.ContainsFunc(frames, func(f frame) bool { return f.p.Poll }) {
		t.Error("it goes on to poll")
	}
	x.stays(t, "changed intervals")
	y.stays(t, "changed intervals")
	after := x.status(t, "b")
	if after.Mine != before.Mine || !after.Since.Equal(before.Since) || after.Port != before.Port {
		t.Errorf("the session is another one: %+v, and was %+v", after, before)
	}
	if got := y.status(t, "a").RemoteMultiplier; got != 9 {
		t.Errorf("the neighbour knows of a multiplier of %d", got)
	}
}

// forge sends what nobody else would.
func (ns *namespace) forge(t testing.TB, from, to netip.Addr, multihop bool, hops int, octets []byte) {
	t.Helper()
	ns.Must(t, func() error {
		p := Peer{Remote: to, Local: from, Multihop: multihop}
		fd, err := dial(p, 0, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if to.Is6() {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
		} else {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, hops)
		}
		if err != nil {
			return err
		}
		return unix.Sendto(fd, octets, 0, sockaddr(to, p.kind(), p.kind().port(), 0))
	})
}

// What a router has passed on is not heard, whatever it says (RFC 5082); what comes from the link is.
func TestTTL(t *testing.T) {
	for _, tc := range []struct {
		name string
		a, b netip.Addr
	}{{"ipv4", a4, b4}, {"ipv6", a6, b6}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a, b := cable(t)
			x, y := a.detect(t, Options{}, fast("b", tc.b)), b.detect(t, Options{}, fast("a", tc.a))
			x.becomes(t, "b", Up)
			y.becomes(t, "a", Up)
			down := Packet{State: Down, Multiplier: 3, Mine: 7, MinTx: time.Second, MinRx: time.Second}
			b.forge(t, tc.b, tc.a, false, 254, down.AppendTo(nil))
			down.Yours = x.status(t, "b").Mine
			b.forge(t, tc.b, tc.a, false, 254, down.AppendTo(nil))
			netns.Eventually(t, "two drops", func() bool { return x.status(t, "b").Dropped["ttl"] == 2 })
			x.stays(t, "a TTL of 254")
			b.forge(t, tc.b, tc.a, false, 255, down.AppendTo(nil))
			if c := x.becomes(t, "b", Down); c.Diagnostic != NeighborSignaledDown {
				t.Errorf("with a TTL of 255 it is down for %s", c.Diagnostic)
			}
		})
	}
}

// Strangers are not answered, and packets that are for nobody not either; all are counted.
func TestStrangers(t *testing.T) {
	a, b := cable(t)
	stranger := addr("10.0.0.3")
	b.AddAddr(t, eth, "10.0.0.3/24")
	wire := b.tap(t, eth)
	registry := prometheus.NewRegistry()
	x := a.detect(t, Options{Registerer: registry}, fast("b", b4), Peer{Key: "far", Remote: b4, Multihop: true, MinTTL: 200, MinTx: 50 * ms, MinRx: 50 * ms, Multiplier: 10})
	y := b.detect(t, Options{}, fast("a", a4), Peer{Key: "far", Remote: a4, Multihop: true, MinTx: 50 * ms, MinRx: 50 * ms, Multiplier: 10})
	netns.Eventually(t, "both are up", func() bool {
		return !slices.ContainsFunc(slices.Concat(x.Status(), y.Status()), func(s Status) bool { return s.State != Up })
	})
	x.forget()
	p := Packet{State: Down, Multiplier: 3, Mine: 7, MinTx: time.Second, MinRx: time.Second, Poll: true}
	send := func(from netip.Addr, multihop bool, hops int, yours uint32, state State) {
		t.Helper()
		p.Yours, p.State = yours, state
		b.forge(t, from, a4, multihop, hops, p.AppendTo(nil))
	}
	mine := x.status(t, "far").Mine
	send(stranger, false, 255, 0, Down)
	send(stranger, false, 255, 12345, Up)
	send(b4, false, 255, 12345, Up)
	send(b4, false, 255, mine, Down) // by the other port
	send(b4, true, 255, 0, Down)
	send(b4, true, 199, mine, Down)
	b.forge(t, b4, a4, false, 255, p.AppendTo(nil)[:23])
	b.forge(t, stranger, a4, true, 255, nil)
	want := map[string]float64{"malformed": 2, "ttl": 1, "unknown_sender": 2, "unknown_session": 2, "without_a_session": 1}
	netns.Eventually(t, "all are counted", func() bool { return cmp.Equal(want, values(t, registry, "kube_vip_bfd_packets_dropped_total")) })
	if diff := cmp.Diff(map[string]uint64{"unknown_session": 2, "malformed": 1}, x.status(t, "b").Dropped); diff != "" {
		t.Errorf("b (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"ttl": 1, "without_a_session": 1}, x.status(t, "far").Dropped); diff != "" {
		t.Errorf("far (-want +got):\n%s", diff)
	}
	x.stays(t, "packets that are for nobody")
	if frames := wire.heard(a4); slices.ContainsFunc(frames, func(f frame) bool { return f.to.Addr() == stranger || f.p.Yours == 7 }) {
		t.Errorf("something was answered: %+v", frames)
	}
	// The wire shows what is answered, when it is for a session.
	send(b4, true, 200, mine, AdminDown)
	x.becomes(t, "far", Down)
	netns.Eventually(t, "an answer", func() bool {
		return slices.ContainsFunc(wire.heard(a4), func(f frame) bool { return f.p.Final && f.p.Yours == 7 })
	})
}

// values are those of a metric, by its labels' values.
func values(t testing.TB, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			found[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return found
}

// Who runs late finds what was sent meanwhile before the detection time is judged.
func TestLate(t *testing.T) {
	a, b := cable(t)
	wire := b.tap(t, eth)
	entered, release := make(chan struct{}), make(chan struct{})
	there := fast("b", b4)
	there.Multiplier = 100 // the neighbour is patient
	x := a.detect(t, Options{Changed: func(key string, s Status) {
		if key == "b6" && s.State == Down {
			close(entered)
			<-release
		}
	}}, there, fast("b6", b6))
	y := b.detect(t, Options{}, fast("a", a4), fast("a6", a6))
	x.becomes(t, "b6", Up)
	netns.Eventually(t, "both are up", func() bool { return x.status(t, "b").State == Up && y.status(t, "a").Interval == 50*ms })
	y.set(t, fast("a", a4))
	<-entered
	before := x.status(t, "b")
	if before.Detection != 500*ms {
		t.Errorf("it detects in %s", before.Detection)
	}
	wire.forget()
	netns.Eventually(t, "20 packets", func() bool { return len(wire.heard(b4)) >= 20 }) // 750 ms at least
	close(release)
	netns.Eventually(t, "20 packets are heard", func() bool { return x.status(t, "b").In >= before.In+20 })
	after := x.status(t, "b")
	if after.State != Up || !after.Since.Equal(before.Since) {
		t.Errorf("it is %s (%s) since %s, and was %s since %s", after.State, after.Diagnostic, after.Since, before.State, before.Since)
	}
}

// Nothing is received before there is a neighbour, by a port that he does not use, or once he has gone; what is in the way
// is told, and waited for.
func TestPorts(t *testing.T) {
	a, b := cable(t)
	taken := func(k kind) (is bool) {
		a.Do(func() {
			fd, err := listen(k)
			is = err != nil
			if err == nil {
				unix.Close(fd)
			}
		})
		return is
	}
	state := func() string {
		var list []string
		for _, k := range []kind{{false, false}, {true, false}, {false, true}, {true, true}} {
			if taken(k) {
				list = append(list, k.String())
			}
		}
		return strings.Join(list, ", ")
	}
	becomes := func(want string) {
		t.Helper()
		got := ""
		netns.Eventually(t, "it receives on "+want, func() bool { got = state(); return got == want })
	}
	x := a.detect(t, Options{})
	x.set(t, Peer{Key: "b", Remote: b4})
	becomes("UDP port 3784 of IPv4")
	x.set(t, Peer{Key: "b", Remote: b6})
	becomes("UDP port 3784 of IPv6")
	x.set(t, Peer{Key: "b", Remote: b4, Multihop: true})
	becomes("UDP port 4784 of IPv4")
	x.set(t)
	becomes("")

	var other int
	a.Must(t, func() (err error) { other, err = listen(kind{}); return err })
	b.detect(t, Options{}, fast("a", a4))
	x.set(t, fast("b", b4))
	want := "listen on UDP port 3784 of IPv4: bind: address already in use"
	netns.Eventually(t, want, func() bool { return len(x.Status()) == 1 && x.status(t, "b").Fault == want })
	unix.Close(other)
	x.becomes(t, "b", Up)
	if got := x.status(t, "b").Fault; got != "" {
		t.Errorf("it is up, and says %s", got)
	}
}

// An interface that goes and comes again under its name is found again, and an address too.
func TestInterfaceAnew(t *testing.T) {
	a, b := cable(t)
	there := fast("b", b4)
	there.Interface, there.Local = eth, a4
	x, y := a.detect(t, Options{}, there), b.detect(t, Options{}, fast("a", a4))
	x.becomes(t, "b", Up)
	y.becomes(t, "a", Up)
	before := x.status(t, "b")
	a.OnLink(t, eth, netlink.LinkDel)
	x.becomes(t, "b", Down)
	want := "find interface eth0: no such device"
	netns.Eventually(t, want, func() bool { return x.status(t, "b").Fault == want })
	netns.Join(t, a.Namespace, b.Namespace, eth)
	b.AddAddr(t, eth, b4.String()+"/24")
	want = "open a socket to 10.0.0.2: bind: cannot assign requested address"
	netns.Eventually(t, want, func() bool { return x.status(t, "b").Fault == want })
	a.AddAddr(t, eth, a4.String()+"/24")
	x.becomes(t, "b", Up)
	if after := x.status(t, "b"); after.Port != before.Port || after.Mine != before.Mine || after.Fault != "" || after.Unsent == 0 {
		t.Errorf("it is %+v, and was %+v", after, before)
	}

	// So fast that nobody sees that it was gone.
	a.OnLink(t, eth, netlink.LinkDel)
	netns.Join(t, a.Namespace, b.Namespace, eth)
	b.AddAddr(t, eth, b4.String()+"/24")
	a.AddAddr(t, eth, a4.String()+"/24")
	x.becomes(t, "b", Down)
	x.becomes(t, "b", Up)
	if after := x.status(t, "b"); after.Port != before.Port || after.Mine != before.Mine {
		t.Errorf("it is %+v, and was %+v", after, before)
	}
}

// Who is named again keeps his session; who is named otherwise gets another one, and hears of the end of the first; who is
// not named any more hears it too.
func TestDesired(t *testing.T) {
	a, b := cable(t)
	wire := b.tap(t, eth)
	registry := prometheus.NewRegistry()
	x, y := a.detect(t, Options{Registerer: registry}, fast("b", b4), fast("b6", b6)), b.detect(t, Options{}, fast("a", a4), fast("a6", a6))
	up := func() bool {
		return !slices.ContainsFunc(slices.Concat(x.Status(), y.Status()), func(s Status) bool { return s.State != Up })
	}
	netns.Eventually(t, "all are up", up)
	before := x.Status()
	if before[0].Mine == before[1].Mine || before[0].Port == before[1].Port {
		t.Errorf("two sessions are one: %+v", before)
	}
	if got := values(t, registry, "kube_vip_bfd_session_up"); !cmp.Equal(got, map[string]float64{"b": 1, "b6": 1}) {
		t.Errorf("metrics say %v", got)
	}
	for range 3 {
		x.set(t, fast("b6", b6), fast("b", b4))
	}
	netns.Eventually(t, "another order", func() bool { return x.Status()[0].Key == "b6" })
	for i, s := range x.Status() {
		if was := before[1-i]; s.Mine != was.Mine || s.Port != was.Port || !s.Since.Equal(was.Since) {
			t.Errorf("it is %+v, and was %+v", s, was)
		}
	}

	y.forget()
	by := fast("b", b4)
	by.Interface = eth
	x.set(t, by)
	heard := map[string]string{}
	for len(heard) < 2 {
		c := <-y.changes
		if heard[c.Key] == "" {
			heard[c.Key] = fmt.Sprintf("%s: %s, %s", c.State, c.Diagnostic, c.RemoteState)
		}
	}
	told := "Down: neighbor signaled session down, AdminDown"
	if diff := cmp.Diff(map[string]string{"a": told, "a6": told}, heard); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	y.becomes(t, "a", Up)
	netns.Eventually(t, "it is up again", func() bool { return len(x.Status()) == 1 && x.Status()[0].State == Up })
	if after := x.Status()[0]; after.Mine == before[0].Mine {
		t.Error("another session has the same discriminator")
	}
	n := 0
	netns.Eventually(t, "the end of the first session", func() bool {
		n = 0
		for _, f := range wire.heard(a4) {
			if f.p.Mine == before[0].Mine && f.p.State == AdminDown {
				n++
			}
		}
		return n > 0
	})
	if n != 1 {
		t.Errorf("the end of the first session was told %d times, which the second one could suffer from", n)
	}
	if got := values(t, registry, "kube_vip_bfd_session_up"); !cmp.Equal(got, map[string]float64{"b": 1}) {
		t.Errorf("metrics say %v", got)
	}
	got := slices.Sorted(maps.Keys(values(t, registry, "kube_vip_bfd_packets_total")))
	if diff := cmp.Diff([]string{"in b", "out b"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	netns.Eventually(t, "metrics say 500 ms", func() bool {
		return cmp.Equal(values(t, registry, "kube_vip_bfd_detection_seconds"), map[string]float64{"b": 0.5})
	})
	y.stop()
	x.becomes(t, "b", Down)
	want := map[string]float64{"neighbor signaled session down b": 1}
	if diff := cmp.Diff(want, values(t, registry, "kube_vip_bfd_session_losses_total")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A neighbour who does not hear the end is told as often as he may miss, and not waited for longer than he would need to
// notice.
func TestFarewell(t *testing.T) {
	a, b := cable(t)
	wire := a.tap(t, eth)
	x, y := a.detect(t, Options{}, fast("b", b4)), b.detect(t, Options{}, fast("a", a4))
	x.becomes(t, "b", Up)
	y.becomes(t, "a", Up)
	netns.Eventually(t, "the fast interval", func() bool { return x.status(t, "b").Interval == 50*ms })
	b.OnLink(t, eth, func(l netlink.Link) error { // which has him deaf and dumb, and the sender none the wiser
		address, err := netlink.ParseAddr(b4.String() + "/24")
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, address)
	})
	wire.forget()
	took := x.ended(t)
	n := 0
	netns.Eventually(t, "it says so five times", func() bool { // who listens may be late
		n = 0
		for _, f := range wire.heard(a4) {
			if f.p.State == AdminDown {
				n++
			}
		}
		return n >= 5
	})
	if took < 500*ms || took > 5*time.Second || n > 10 {
		t.Errorf("it stopped after %s and said so %d times, want 500 ms and 10 times", took, n)
	}
}

// Real-time scheduling is for as long as it runs.
func TestRealtime(t *testing.T) {
	policy := func() string {
		a, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(a.Policy, a.Flags)
	}
	a, b := cable(t)
	ctx, cancel := context.WithCancel(t.Context())
	during := ""
	d := New(Options{Realtime: true, Changed: func(string, Status) {
		during = policy()
		cancel()
	}})
	if err := d.Set([]Peer{fast("b", b4)}); err != nil {
		t.Fatal(err)
	}
	b.detect(t, Options{}, fast("a", a4))
	done := make(chan struct{})
	a.Go(func() {
		defer close(done)
		before := policy()
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
		if after := policy(); after != before || during != fmt.Sprint(unix.SCHED_RR, unix.SCHED_FLAG_RESET_ON_FORK) {
			t.Errorf("the policy is %s, was %s before and %s meanwhile", after, before, during)
		}
	})
	<-done
}
