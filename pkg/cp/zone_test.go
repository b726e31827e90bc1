package cp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
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

// with lists the lines that contain s.
func (b *logBook) with(s string) (lines []string) {
	for _, l := range b.lines() {
		if strings.Contains(l, s) {
			lines = append(lines, l)
		}
	}
	return lines
}
