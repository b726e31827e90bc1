package arp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kube-vip.io/kube-vip/pkg/vip"
)

// segment is a node and an observer on one Ethernet, simulated or real. Its links have no IPv6 link-local
// address until they are given one.
type segment interface {
	wire() Wire
	// in calls f where the Wire works.
	in(f func())
	// run starts Run there and returns what ends it and gives its result.
	run(t *testing.T, a *Announcer) (stop func() error)
	addLink(t *testing.T, name string, mac MAC)
	delLink(t *testing.T, name string)
	setMAC(t *testing.T, name string, mac MAC)
	setUp(t *testing.T, name string, up bool)
	setRouter(t *testing.T, name string, router bool)
	addAddr(t *testing.T, link string, addr netip.Addr)
	delAddr(t *testing.T, link string, addr netip.Addr)
	// heard is what the observer hears.
	heard() <-chan sighting
}

// onEachSegment runs a test on the simulated and on the real segment.
func onEachSegment(t *testing.T, body func(t *testing.T, s segment)) {
	t.Helper()
	t.Run("simulated", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { body(t, newFake()) })
	})
	t.Run("kernel", func(t *testing.T) { body(t, newHosts(t)) })
}

// sighting is an announcement on the wire.
type sighting struct {
	at   time.Time
	addr netip.Addr
	mac  MAC
	// form is "request", "reply", "advertisement" or "advertisement of a router".
	form string
}

// sight reads an announcement from a frame.
func sight(at time.Time, frame []byte) (sighting, bool) {
	if len(frame) < 42 {
		return sighting{}, false
	}
	s := sighting{at: at, mac: MAC(frame[6:12])}
	switch etherType, payload := binary.BigEndian.Uint16(frame[12:14]), frame[14:]; {
	case etherType == 0x0806:
		if !bytes.Equal(payload[14:18], payload[24:28]) || !bytes.Equal(payload[8:14], s.mac[:]) {
			return sighting{}, false
		}
		s.addr = netip.AddrFrom4([4]byte(payload[14:18]))
		s.form = map[byte]string{1: "request", 2: "reply"}[payload[7]]
	case etherType == 0x86dd && len(payload) == 72 && payload[6] == 58 && payload[40] == 136:
		if !bytes.Equal(payload[66:72], s.mac[:]) {
			return sighting{}, false
		}
		s.addr = netip.AddrFrom16([16]byte(payload[48:64]))
		s.form = map[byte]string{0x20: "advertisement", 0xa0: "advertisement of a router"}[payload[44]]
	default:
		return sighting{}, false
	}
	return s, s.form != ""
}

// await waits for an announcement.
func await(t *testing.T, s segment, what string, ok func(sighting) bool) sighting {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case got := <-s.heard():
			if ok(got) {
				return got
			}
		case <-deadline:
			t.Fatalf("not heard within 10s: %s", what)
		}
	}
}

// awaitForm waits for an announcement of an address by a hardware address in a form.
func awaitForm(t *testing.T, s segment, addr string, mac MAC, form string) sighting {
	t.Helper()
	return await(t, s, fmt.Sprintf("%s of %s by %s", form, addr, mac), func(got sighting) bool {
		return got.addr == netip.MustParseAddr(addr) && got.mac == mac && got.form == form
	})
}

// drain returns what was heard and not yet read.
func drain(s segment) []sighting {
	var all []sighting
	for {
		select {
		case got := <-s.heard():
			all = append(all, got)
		default:
			return all
		}
	}
}

// vips names VIPs by their link.
func vips(link string, addrs ...string) []vip.VIP {
	var all []vip.VIP
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		all = append(all, vip.VIP{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Link: link, Via: link})
	}
	return all
}

func mustSync(t *testing.T, a *Announcer, present []vip.VIP) {
	t.Helper()
	if err := a.Sync(present); err != nil {
		t.Fatal(err)
	}
}

// start makes an Announcer on s and runs it until the test ends.
func start(t *testing.T, s segment, o Options) *Announcer {
	t.Helper()
	o.Wire = s.wire()
	a := New(o)
	stop := s.run(t, a)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if f, ok := s.(*fake); ok && f.openPorts() != 0 {
			t.Errorf("%d ports are still open after Run", f.openPorts())
		}
	})
	return a
}

// runner starts Run and returns what ends it.
func runner(a *Announcer, spawn func(func())) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	spawn(func() { done <- a.Run(ctx) })
	return sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

// journal is a slog.Handler that keeps the lines.
type journal struct {
	mu    *sync.Mutex
	lines *[]string
	attrs string
}

func newJournal() journal { return journal{mu: &sync.Mutex{}, lines: &[]string{}} }

func (j journal) Enabled(context.Context, slog.Level) bool { return true }

func (j journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message + j.attrs
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	*j.lines = append(*j.lines, line)
	return nil
}

func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		j.attrs += " " + a.String()
	}
	return j
}

func (j journal) WithGroup(string) slog.Handler { return j }

// with returns the lines that contain s.
func (j journal) with(s string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(*j.lines), func(l string) bool { return !strings.Contains(l, s) })
}

// counters reads the announcement counters: "sent ipv4 eth0" and so on.
func counters(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		kind := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "kube_vip_announcements_"), "_total")
		for _, m := range f.GetMetric() {
			name := kind
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue()
		}
	}
	return all
}

// fake is the simulated segment. Like the kernel it knows links by index, refuses frames on what is gone or
// down, and opens neither loopbacks nor what is no Ethernet.
type fake struct {
	sightings chan sighting

	mu    sync.Mutex
	index int
	links map[string]*fakeLink
	addrs map[netip.Addr]string
	ports int
	// onHeld, when set, is called before the addresses are listed and may refuse it.
	onHeld func() error
	// onSend, when set, is called before an announcement is sent and may refuse it.
	onSend func(sighting) error
}

type fakeLink struct {
	index    int
	station  Station
	loopback bool
}

var _ segment = (*fake)(nil)

func newFake() *fake {
	return &fake{
		sightings: make(chan sighting, 1<<17),
		links:     map[string]*fakeLink{},
		addrs:     map[netip.Addr]string{},
	}
}

func (f *fake) run(_ *testing.T, a *Announcer) func() error {
	return runner(a, func(g func()) { go g() })
}

func (f *fake) wire() Wire { return f }

func (f *fake) in(g func()) { g() }

func (f *fake) heard() <-chan sighting { return f.sightings }

func (f *fake) addLink(t *testing.T, name string, mac MAC) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.links[name] != nil {
		t.Fatalf("add link %s: file exists", name)
	}
	f.index++
	f.links[name] = &fakeLink{index: f.index, station: Station{MAC: mac, Up: true, Running: true}}
}

func (f *fake) delLink(t *testing.T, name string) {
	t.Helper()
	f.change(t, name, func(*fakeLink) {})
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, name)
	for addr, link := range f.addrs {
		if link == name {
			delete(f.addrs, addr)
		}
	}
}

func (f *fake) setMAC(t *testing.T, name string, mac MAC) {
	t.Helper()
	f.change(t, name, func(l *fakeLink) { l.station.MAC = mac })
}

func (f *fake) setUp(t *testing.T, name string, up bool) {
	t.Helper()
	f.change(t, name, func(l *fakeLink) { l.station.Up, l.station.Running = up, up })
}

func (f *fake) setRouter(t *testing.T, name string, router bool) {
	t.Helper()
	f.change(t, name, func(l *fakeLink) { l.station.Router = router })
}

func (f *fake) addAddr(t *testing.T, link string, addr netip.Addr) {
	t.Helper()
	f.change(t, link, func(l *fakeLink) {
		if f.addrs[addr] != "" {
			t.Fatalf("add %s to %s: file exists", addr, link)
		}
		f.addrs[addr] = link
		if addr.IsLinkLocalUnicast() && !l.station.LinkLocal.IsValid() {
			l.station.LinkLocal = addr
		}
	})
}

func (f *fake) delAddr(t *testing.T, link string, addr netip.Addr) {
	t.Helper()
	f.change(t, link, func(l *fakeLink) {
		if f.addrs[addr] != link {
			t.Fatalf("delete %s from %s: cannot assign requested address", addr, link)
		}
		delete(f.addrs, addr)
		if l.station.LinkLocal == addr {
			l.station.LinkLocal = netip.Addr{}
		}
	})
}

func (f *fake) change(t *testing.T, name string, g func(*fakeLink)) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[name]
	if l == nil {
		t.Fatalf("link %s: no such device", name)
	}
	g(l)
}

// intercept has g called before announcements are sent.
func (f *fake) intercept(g func(sighting) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onSend = g
}

// interceptHeld has g called before the addresses are listed.
func (f *fake) interceptHeld(g func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onHeld = g
}

func (f *fake) openPorts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ports
}

// Open implements Wire.
func (f *fake) Open(link string) (Port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.links[link]
	switch {
	case l == nil:
		return nil, fmt.Errorf("open link %s: %w", link, syscall.ENODEV)
	case l.loopback:
		return nil, fmt.Errorf("open link %s: a loopback has no neighbours", link)
	}
	f.ports++
	return &fakePort{fake: f, name: link, index: l.index}, nil
}

// Held implements Wire.
func (f *fake) Held() (map[netip.Addr]bool, error) {
	f.mu.Lock()
	onHeld := f.onHeld
	f.mu.Unlock()
	if onHeld != nil {
		if err := onHeld(); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	held := map[netip.Addr]bool{}
	for addr := range f.addrs {
		held[addr] = true
	}
	return held, nil
}

type fakePort struct {
	fake   *fake
	name   string
	index  int
	closed bool
}

// Look implements Port.
func (p *fakePort) Look() (Station, error) {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	l := p.fake.links[p.name]
	if p.closed || l == nil || l.index != p.index {
		return Station{}, fmt.Errorf("look at link %s: %w", p.name, syscall.ENODEV)
	}
	return l.station, nil
}

// Send implements Port.
func (p *fakePort) Send(frame []byte) error {
	p.fake.mu.Lock()
	l := p.fake.links[p.name]
	onSend := p.fake.onSend
	var err error
	switch {
	case p.closed:
		err = errors.New("use of closed network connection")
	case l == nil, l.index != p.index:
		err = syscall.ENXIO
	case !l.station.Up:
		err = syscall.ENETDOWN
	}
	p.fake.mu.Unlock()
	s, ok := sight(time.Now(), frame)
	if err == nil && ok && onSend != nil {
		err = onSend(s)
	}
	if err != nil {
		return fmt.Errorf("send on %s: %w", p.name, err)
	}
	if ok {
		p.fake.sightings <- s
	}
	return nil
}

// Close implements Port.
func (p *fakePort) Close() error {
	p.fake.mu.Lock()
	defer p.fake.mu.Unlock()
	if p.closed {
		return errors.New("use of closed network connection")
	}
	p.closed = true
	p.fake.ports--
	return nil
}
