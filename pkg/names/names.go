// Package names looks up what DNS names stand for, again and again, so that a VIP goes where its name goes. A name
// that cannot be looked up, or has lost its addresses, keeps those that it had.
package names

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
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

// Mode chooses among the addresses of a name. Every node must make the same choice, whatever order the answer
// comes in, so each mode takes the lowest address of a family.
type Mode string

// The modes.
const (
	// First takes an IPv4 address, or an IPv6 address when the name has no other. The zero Mode is First.
	First Mode = "first"
	// IPv4 takes an IPv4 address.
	IPv4 Mode = "ipv4"
	// IPv6 takes an IPv6 address.
	IPv6 Mode = "ipv6"
	// Dual takes one of each family that the name has.
	Dual Mode = "dual"
)

// A lookup is what asking for one family of a name gave.
type lookup struct {
	addrs []netip.Addr
	err   error
}

// none says that the name surely has no address of the family, which a lookup that failed does not say.
func (l lookup) none() bool {
	var dns *net.DNSError
	var other *net.AddrError // package net found the name in /etc/hosts, in the other family alone
	return errors.As(l.err, &dns) && dns.IsNotFound || errors.As(l.err, &other) || l.err == nil && len(l.addrs) == 0
}

// choose picks the addresses of name. Those of a family that could not be asked for stay what they were in last,
// and so does everything when the name has no address at all any more: a mistake in a zone must not take the
// VIP away. The error says what was wrong, also where there are addresses to go on with.
func choose(mode Mode, name string, last []netip.Addr, four, six lookup) ([]netip.Addr, error) {
	want := []lookup{four, six}
	family := func(i int) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a.Is4() == (i == 0) }
	}
	switch mode {
	case IPv4:
		if four.none() {
			return last, AnswerError{name, "has no IPv4 address, and dns_mode is ipv4"}
		}
		want[1] = lookup{}
	case IPv6:
		if six.none() {
			return last, AnswerError{name, "has no IPv6 address, and dns_mode is ipv6"}
		}
		want[0] = lookup{}
	case Dual:
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
				return last, AnswerError{name, fmt.Sprintf("resolves to %s, which cannot be a VIP", a)}
			}
			chosen = append(chosen, a)
		}
	}
	if len(chosen) == 0 && lost == nil {
		return last, AnswerError{name, "has no address"}
	}
	if len(chosen) == 0 {
		chosen = last
	}
	return chosen, lost
}

// AnswerError says that a name surely gives no address to hold, or none of the kind that is asked for.
type AnswerError struct {
	Name string
	// Why goes on from "it": has no address.
	Why string
}

func (e AnswerError) Error() string { return e.Name + " " + e.Why }

// Cause is what went wrong with a lookup, without what is another each time, so that a cause that stays is the same
// text; empty for nil.
func Cause(err error) string {
	var dns *net.DNSError
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &dns):
		return err.Error()
	case dns.IsTimeout:
		return "no name server answered in time"
	case strings.Contains(dns.Err, "->"): // from where, with the port of this one question, to where
		return "no name server can be reached"
	}
	return dns.Err
}

// A Resolution is what a name stands for now.
type Resolution struct {
	Name  string
	Addrs []netip.Addr
	Err   error // why Addrs may be out of date, or empty
}

// A Follower looks names up again and again and says what changed.
type Follower struct {
	Resolver Resolver
	Mode     Mode
	Names    []string
	// Slots bound how many names are looked up at once by all Followers that share it: each lookup puts a token into
	// it and takes it out again; nil bounds nothing.
	Slots chan struct{}
	Log   *slog.Logger
}

// Once looks a name up as a Follower does for the first time.
func (f *Follower) Once(ctx context.Context, name string) Resolution {
	addrs, err := f.lookup(ctx, name, nil)
	return Resolution{Name: name, Addrs: addrs, Err: err}
}

// Run sends what each name stands for, for the first time and when that or its error changes, until ctx ends.
func (f *Follower) Run(ctx context.Context, changes chan<- Resolution) {
	known := make(map[string]Resolution)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next := resolveEvery
		for _, name := range f.Names {
			last, asked := known[name]
			addrs, err := f.lookup(ctx, name, last.Addrs)
			if ctx.Err() != nil {
				return
			}
			if len(addrs) == 0 {
				next = resolveAgain
			}
			now := Resolution{Name: name, Addrs: addrs, Err: err}
			if asked && slices.Equal(now.Addrs, last.Addrs) && Cause(now.Err) == Cause(last.Err) {
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
func (f *Follower) say(last, now Resolution) {
	if !slices.Equal(now.Addrs, last.Addrs) {
		f.Log.Info("VIP's name resolved", "name", now.Name, "vip", now.Addrs, "before", last.Addrs)
	}
	switch {
	case now.Err != nil && Cause(now.Err) != Cause(last.Err):
		f.Log.Warn("VIP's name not resolved, keeping what is known", "name", now.Name, "vip", now.Addrs, "err", now.Err)
	case now.Err == nil && last.Err != nil:
		f.Log.Info("VIP's name resolves again", "name", now.Name, "vip", now.Addrs)
	}
}

// lookup asks for the families one by one: asked for both at once a resolver gives what it got, and an answer
// that was lost would look like a family that the name does not have.
func (f *Follower) lookup(ctx context.Context, name string, last []netip.Addr) ([]netip.Addr, error) {
	if f.Slots != nil {
		select {
		case f.Slots <- struct{}{}:
			defer func() { <-f.Slots }()
		case <-ctx.Done():
			return last, ctx.Err()
		}
	}
	ask := func(network string) lookup {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		addrs, err := f.Resolver.LookupNetIP(ctx, network, name)
		for i := range addrs {
			addrs[i] = addrs[i].Unmap()
		}
		return lookup{addrs, err}
	}
	var four, six lookup
	if f.Mode != IPv6 {
		four = ask("ip4")
	}
	if f.Mode == IPv6 || f.Mode == Dual || f.Mode != IPv4 && four.none() {
		six = ask("ip6")
	}
	return choose(f.Mode, name, last, four, six)
}
