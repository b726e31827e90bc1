package cp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	// resolveEvery is how often names are looked up. A VIP moves to another address seldom and by plan, and a
	// record's TTL is rarely less than this.
	resolveEvery = 10 * time.Second
	// resolveAgain is how soon a name that has no address yet is looked up again: there is no VIP until then.
	resolveAgain = 2 * time.Second
	// resolveTimeout bounds the lookup of one family.
	resolveTimeout = 3 * time.Second
)

// Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ Resolver = (*net.Resolver)(nil)

// DNSMode chooses among the addresses of a name. Every node must make the same choice, whatever order the answer
// comes in, so each mode takes the lowest address of a family.
type DNSMode string

// The modes.
const (
	// DNSFirst takes an IPv4 address, or an IPv6 address when the name has no other. The zero DNSMode is DNSFirst.
	DNSFirst DNSMode = "first"
	// DNSIPv4 takes an IPv4 address.
	DNSIPv4 DNSMode = "ipv4"
	// DNSIPv6 takes an IPv6 address.
	DNSIPv6 DNSMode = "ipv6"
	// DNSDual takes one of each family that the name has.
	DNSDual DNSMode = "dual"
)

// A lookup is what asking for one family of a name gave.
type lookup struct {
	addrs []netip.Addr
	err   error
}

// none says that the name surely has no address of the family, which a lookup that failed does not say.
func (l lookup) none() bool {
	var dns *net.DNSError
	return errors.As(l.err, &dns) && dns.IsNotFound || l.err == nil && len(l.addrs) == 0
}

// choose picks the addresses of name. Those of a family that could not be asked for stay what they were in last,
// and so does everything when the name has no address at all any more: a mistake in a zone must not take the
// control plane away. The error says what was wrong, also where there are addresses to go on with.
func choose(mode DNSMode, name string, last []netip.Addr, four, six lookup) ([]netip.Addr, error) {
	want := []lookup{four, six}
	family := func(i int) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a.Is4() == (i == 0) }
	}
	switch mode {
	case DNSIPv4:
		if four.none() {
			return last, fmt.Errorf("%s has no IPv4 address, and dns_mode is ipv4", name)
		}
		want[1] = lookup{}
	case DNSIPv6:
		if six.none() {
			return last, fmt.Errorf("%s has no IPv6 address, and dns_mode is ipv6", name)
		}
		want[0] = lookup{}
	case DNSDual:
	default:
		if !four.none() {
			want[1] = lookup{}
		}
	}

	var chosen []netip.Addr
	var lost error // the first will do: the second is the same as a rule
	for i, l := range want {
		switch {
		case l.none():
		case l.err != nil:
			lost = cmp.Or(lost, l.err)
			chosen = append(chosen, slices.DeleteFunc(slices.Clone(last), func(a netip.Addr) bool { return !family(i)(a) })...)
		default:
			a := slices.MinFunc(l.addrs, netip.Addr.Compare)
			if !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() {
				return last, fmt.Errorf("%s resolves to %s, which cannot be a VIP", name, a)
			}
			chosen = append(chosen, a)
		}
	}
	if len(chosen) == 0 && lost == nil {
		return last, fmt.Errorf("%s has no address", name)
	}
	if len(chosen) == 0 {
		chosen = last
	}
	return chosen, lost
}

// A resolution is what a name stands for now.
type resolution struct {
	name  string
	addrs []netip.Addr
	err   error // why it may be out of date, or empty
}

// A follower looks names up again and again and says what changed.
type follower struct {
	resolver Resolver
	mode     DNSMode
	names    []string
	log      *slog.Logger
}

func (f *follower) run(ctx context.Context, changes chan<- resolution) {
	known := make(map[string]resolution)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next := resolveEvery
		for _, name := range f.names {
			last, asked := known[name]
			addrs, err := f.lookup(ctx, name, last.addrs)
			if ctx.Err() != nil {
				return
			}
			if len(addrs) == 0 {
				next = resolveAgain
			}
			now := resolution{name: name, addrs: addrs, err: err}
			if asked && slices.Equal(now.addrs, last.addrs) && text(now.err) == text(last.err) {
				continue
			}
			f.say(last, now)
			known[name] = now
			select {
			case changes <- now:
			case <-ctx.Done():
				return
			}
		}
		timer.Reset(next)
	}
}

// say logs a change once.
func (f *follower) say(last, now resolution) {
	if !slices.Equal(now.addrs, last.addrs) {
		f.log.Info("VIP's name resolved", "name", now.name, "vip", now.addrs, "before", last.addrs)
	}
	switch {
	case now.err != nil && text(now.err) != text(last.err):
		f.log.Warn("VIP's name not resolved, keeping what is known", "name", now.name, "vip", now.addrs, "err", now.err)
	case now.err == nil && last.err != nil:
		f.log.Info("VIP's name resolves again", "name", now.name, "vip", now.addrs)
	}
}

// lookup asks for the families one by one: asked for both at once a resolver gives what it got, and an answer
// that was lost would look like a family that the name does not have.
func (f *follower) lookup(ctx context.Context, name string, last []netip.Addr) ([]netip.Addr, error) {
	ask := func(network string) lookup {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		addrs, err := f.resolver.LookupNetIP(ctx, network, name)
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		return lookup{addrs, err}
	}
	var four, six lookup
	if f.mode != DNSIPv6 {
		four = ask("ip4")
	}
	if f.mode == DNSIPv6 || f.mode == DNSDual || f.mode != DNSIPv4 && four.none() {
		six = ask("ip6")
	}
	return choose(f.mode, name, last, four, six)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
