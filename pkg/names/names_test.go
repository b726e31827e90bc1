package names

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(s string) (addrs []netip.Addr) {
	for _, a := range strings.Fields(s) {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs
}

func show(addrs []netip.Addr) string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return strings.Join(list, " ")
}

func TestChoose(t *testing.T) {
	const name = "vip.example"
	lost := lookup{err: &net.DNSError{Err: "i/o timeout", Name: name, IsTimeout: true}}
	none := lookup{err: &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}}
	other := lookup{err: &net.AddrError{Err: "no suitable address found", Addr: name}} // as /etc/hosts is read
	is := func(s string) lookup { return lookup{addrs: parse(s)} }
	tests := []struct {
		name      string
		mode      Mode
		last      string
		four, six lookup
		want      string
		err       string
	}{
		{"first: IPv4 before IPv6", First, "", is("10.0.0.10"), is("fd00::10"), "10.0.0.10", ""},
		{"the zero mode is first", "", "", is("10.0.0.10"), is("fd00::10"), "10.0.0.10", ""},
		{"first: the lowest, whatever the order", First, "10.0.0.12", is("10.0.0.12 10.0.0.10 10.0.0.11"), none, "10.0.0.10", ""},
		{"first: IPv6 alone", First, "", none, is("fd00::10"), "fd00::10", ""},
		{"first: IPv6 alone in /etc/hosts", First, "", other, is("fd00::10"), "fd00::10", ""},
		{"dual: IPv4 alone in /etc/hosts", Dual, "10.0.0.10 fd00::10", is("10.0.0.10"), other, "10.0.0.10", ""},
		{"first: an empty answer is none", First, "", is(""), is("fd00::10"), "fd00::10", ""},
		{"first: no address", First, "", none, none, "", "vip.example has no address"},
		{"first: no address any more", First, "10.0.0.10", none, none, "10.0.0.10", "vip.example has no address"},
		{"first: lost", First, "10.0.0.10", lost, lookup{}, "10.0.0.10", "lookup vip.example: i/o timeout"},
		{"first: IPv4 lost while the name has IPv6 alone", First, "fd00::10", lost, lookup{}, "fd00::10", "lookup vip.example: i/o timeout"},
		{"first: lost at the start", First, "", lost, lookup{}, "", "lookup vip.example: i/o timeout"},
		{"first: IPv6 lost", First, "fd00::10", none, lost, "fd00::10", "lookup vip.example: i/o timeout"},
		{"ipv4", IPv4, "", is("10.0.0.10"), lookup{}, "10.0.0.10", ""},
		{"ipv4: none", IPv4, "", none, lookup{}, "", "vip.example has no IPv4 address, and dns_mode is ipv4"},
		{"ipv4: lost", IPv4, "10.0.0.10", lost, lookup{}, "10.0.0.10", "lookup vip.example: i/o timeout"},
		{"ipv6", IPv6, "", lookup{}, is("fd00::11 fd00::10"), "fd00::10", ""},
		{"ipv6: none any more", IPv6, "fd00::10", lookup{}, none, "fd00::10", "vip.example has no IPv6 address, and dns_mode is ipv6"},
		{"dual", Dual, "", is("10.0.0.10"), is("fd00::10"), "10.0.0.10 fd00::10", ""},
		{"dual: one family alone", Dual, "10.0.0.10 fd00::10", is("10.0.0.10"), none, "10.0.0.10", ""},
		{"dual: one family lost", Dual, "10.0.0.9 fd00::10", is("10.0.0.10"), lost, "10.0.0.10 fd00::10", "lookup vip.example: i/o timeout"},
		{"dual: one family lost at the start", Dual, "", is("10.0.0.10"), lost, "10.0.0.10", "lookup vip.example: i/o timeout"},
		{"dual: both lost", Dual, "10.0.0.10 fd00::10", lost, lost, "10.0.0.10 fd00::10", "lookup vip.example: i/o timeout"},
		{"dual: no address any more", Dual, "10.0.0.10 fd00::10", none, none, "10.0.0.10 fd00::10", "vip.example has no address"},
		{"not a VIP", First, "10.0.0.10", is("127.0.0.1"), none, "10.0.0.10", "vip.example resolves to 127.0.0.1, which cannot be a VIP"},
		{"not a VIP: multicast", IPv6, "", lookup{}, is("ff02::1"), "", "vip.example resolves to ff02::1, which cannot be a VIP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := choose(tt.mode, name, parse(tt.last), tt.four, tt.six)
			if show(got) != tt.want || text(err) != tt.err {
				t.Errorf("got %q, %v; want %q, %s", show(got), err, tt.want, tt.err)
			}
		})
	}
}

// A zone is a resolver that a test edits.
type zone struct {
	mu     sync.Mutex
	hosts  map[string]string
	broken error
	hangs  bool
	asked  map[string]int // by network
}

func (z *zone) set(f func(*zone)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f(z)
}

func (z *zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	hosts, broken, hangs := z.hosts[host], z.broken, z.hangs
	if z.asked == nil {
		z.asked = make(map[string]int)
	}
	z.asked[network]++
	z.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, &net.DNSError{Err: "i/o timeout", Name: host, IsTimeout: true}
	}
	if broken != nil {
		return nil, broken
	}
	var addrs []netip.Addr
	for _, a := range parse(hosts) {
		if a.Unmap().Is4() == (network == "ip4") {
			addrs = append(addrs, a)
		}
	}
	if addrs == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		z := &zone{}
		logs := &logBook{}
		f := &Follower{Resolver: z, Mode: Dual, Names: []string{"a.example", "b.example"}, Log: slog.New(logs)}
		z.hosts = map[string]string{"a.example": "::ffff:10.0.0.10 fd00::10"} // as some resolvers answer

		changes := make(chan Resolution)
		go f.Run(ctx, changes)
		want := func(at time.Duration, name, addrs, err string) {
			t.Helper()
			r := <-changes
			got := []any{time.Since(start), r.Name, show(r.Addrs), text(r.Err)}
			if diff := cmp.Diff([]any{at, name, addrs, err}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		const s = time.Second
		want(0, "a.example", "10.0.0.10 fd00::10", "")
		want(0, "b.example", "", "b.example has no address")
		// A name without an address is asked for again soon.
		time.Sleep(5 * s)
		z.set(func(z *zone) { z.hosts["b.example"] = "10.0.0.20" })
		want(6*s, "b.example", "10.0.0.20", "")
		time.Sleep(s) // let the round end
		z.set(func(z *zone) { z.hosts["a.example"] = "10.0.0.11" })
		want(16*s, "a.example", "10.0.0.11", "")
		time.Sleep(s) // let the round end
		z.set(func(z *zone) { z.broken = errors.New("no servers") })
		want(26*s, "a.example", "10.0.0.11", "no servers")
		want(26*s, "b.example", "10.0.0.20", "no servers")
		logs.clear()
		time.Sleep(94 * s) // nothing new, nothing said
		if lines := logs.lines(); len(lines) != 0 {
			t.Errorf("said again: %q", lines)
		}
		time.Sleep(s) // let the round end
		z.set(func(z *zone) { z.broken = nil })
		want(126*s, "a.example", "10.0.0.11", "")
		want(126*s, "b.example", "10.0.0.20", "")
		time.Sleep(s) // let the round end
		z.set(func(z *zone) { z.hangs = true })
		want(136*s+2*resolveTimeout, "a.example", "10.0.0.11", "lookup a.example: i/o timeout")
		cancel()
		synctest.Wait()
	})
}

// Only what can matter is asked for.
func TestFollowerAsks(t *testing.T) {
	tests := []struct {
		mode  Mode
		hosts string
		want  map[string]int
	}{
		{First, "10.0.0.10 fd00::10", map[string]int{"ip4": 1}},
		{First, "fd00::10", map[string]int{"ip4": 1, "ip6": 1}},
		{IPv4, "fd00::10", map[string]int{"ip4": 1}},
		{IPv6, "10.0.0.10", map[string]int{"ip6": 1}},
		{Dual, "10.0.0.10", map[string]int{"ip4": 1, "ip6": 1}},
	}
	for _, tt := range tests {
		z := &zone{hosts: map[string]string{"a.example": tt.hosts}}
		f := &Follower{Resolver: z, Mode: tt.mode, Log: slog.New(slog.DiscardHandler)}
		f.lookup(t.Context(), "a.example", nil)
		if diff := cmp.Diff(tt.want, z.asked); diff != "" {
			t.Errorf("%s with %s (-want +got):\n%s", tt.mode, tt.hosts, diff)
		}
	}
}

// What stays the same is the same text, whatever port a question came from.
func TestCause(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"none", nil, ""},
		{"silence", &net.DNSError{Err: "read udp 10.0.0.1:40001->10.0.0.2:53: i/o timeout", Name: "a.example", Server: "10.0.0.2:53", IsTimeout: true}, "no name server answered in time"},
		{"refused", &net.DNSError{Err: "read udp 10.0.0.1:40001->10.0.0.2:53: read: connection refused", Name: "a.example"}, "no name server can be reached"},
		{"trouble of the server's", &net.DNSError{Err: "server misbehaving", Name: "a.example", IsTemporary: true}, "server misbehaving"},
		{"another error", errors.New("no servers"), "no servers"},
	} {
		if got := Cause(tt.err); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// Followers that share slots look up no more names at once than there are.
func TestFollowersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		z := &zone{hangs: true}
		slots, changes := make(chan struct{}, 2), make(chan Resolution)
		for _, name := range []string{"a.example", "b.example", "c.example"} {
			f := &Follower{Resolver: z, Mode: IPv4, Names: []string{name}, Slots: slots, Log: slog.New(slog.DiscardHandler)}
			go f.Run(ctx, changes)
		}
		var at []time.Duration
		for range 3 {
			<-changes
			at = append(at, time.Since(start))
		}
		if diff := cmp.Diff([]time.Duration{resolveTimeout, resolveTimeout, 2 * resolveTimeout}, at); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		cancel()
		synctest.Wait()
	})
}

// A logBook keeps what is logged: "LEVEL message key=value …".
type logBook struct {
	mu   sync.Mutex
	list []string
}

func (b *logBook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logBook) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logBook) WithGroup(string) slog.Handler            { return b }
func (b *logBook) Handle(_ context.Context, r slog.Record) error {
	var s strings.Builder
	s.WriteString(r.Level.String() + " " + r.Message)
	r.Attrs(func(a slog.Attr) bool {
		s.WriteString(" " + a.String())
		return true
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, s.String())
	return nil
}

func (b *logBook) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.list...)
}

func (b *logBook) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
