// Package bgp announces VIPs to routers (RFC 4271), by gobgp.
//
// A Speaker is handed the VIPs that are on this node, and the peers, and has each peer's table of our routes match: what
// is to be announced is computed by routes, which is pure, and compared with what was handed out. Every peer has a server
// of gobgp of its own, so that what one of them is told, or does, touches no other. What a peer announces is kept by gobgp
// and used for nothing.
package bgp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// DefaultPort is where routers listen (RFC 4271 §8.2.1).
const DefaultPort = 179

// Peer is a router that VIPs are announced to, and how. It is plain data: two Peers that are alike ask for the same.
type Peer struct {
	// Name is the peer in logs, statuses and metrics, as its user wrote it; no two peers share one.
	Name string
	// Host is its address, or a name that has one. Empty means the router at the other end of Interface, which is known
	// by its IPv6 link-local address (unnumbered).
	Host      string
	Interface string
	// AS is its autonomous system; 0, of an unnumbered peer alone, means any other.
	AS uint32
	// LocalAS and RouterID are ours.
	LocalAS  uint32
	RouterID netip.Addr
	Port     uint16
	// Source is the address that the session comes from, SourceInterface the interface that it goes by; both may be empty.
	Source          netip.Addr
	SourceInterface string
	// Password is that of TCP MD5 signatures (RFC 2385); empty for none.
	Password Secret
	// TTL is the hop limit of what is sent to a peer of another AS that is not on the same network; 0 means that it is.
	TTL uint8
	// Hops is how far away the peer may be by TTL security (RFC 5082), 1 on the same network; 0 turns that off.
	Hops uint8
	// Passive waits for the peer to connect, and listens for that on Source.
	Passive bool
	// Hold is the time of silence after which a session is over, Keepalive that between two signs of life, and Retry that
	// between two attempts to connect: whole seconds.
	Hold, Keepalive, Retry time.Duration
	// IPv4 and IPv6 are the families that are announced.
	IPv4, IPv6 bool
	// NextHop4 and NextHop6 are where routes of the families lead; not valid means the session's own address.
	NextHop4, NextHop6 netip.Addr
	// Restart is for how long the peer may keep our routes when this process ends without a word (RFC 4724); 0 is not at all.
	Restart time.Duration
	// Attributes are those of every route to this peer.
	Attributes Attributes
	// BFD says that a detector watches the peer, and tells by Lost.
	BFD bool
	// Unusable is why there can be no session with the peer as it is, and Lacks why it is not told of everything, found by
	// whoever describes it; empty when there is nothing of that.
	Unusable, Lacks string
}

// Secret is a text that is not to be printed.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "***" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "***" }

// Attributes are what a route says beside where it leads. The zero value says nothing.
type Attributes struct {
	// Communities (RFC 1997) and Large ones (RFC 8092).
	Communities []uint32
	Large       []Large
	// LocalPref is told to peers of our own AS alone (RFC 4271 §5.1.5); nil leaves it.
	LocalPref, MED *uint32
	// Prepend is how often our AS is in the path besides; nil leaves it.
	Prepend *uint32
	// Aggregate4 and Aggregate6 are the lengths of the prefixes that VIPs are announced as part of; 0 means 32 and 128.
	Aggregate4, Aggregate6 int
	// Bandwidth is that of the link (draft-ietf-idr-link-bandwidth), in octets per second; 0 says nothing.
	Bandwidth float32
}

// Large is a large community (RFC 8092).
type Large struct{ Global, Local1, Local2 uint32 }

// String is the community as users write it.
func (l Large) String() string { return fmt.Sprintf("%d:%d:%d", l.Global, l.Local1, l.Local2) }

// GracefulShutdown is the community that asks for other routes to be used (RFC 8326).
const GracefulShutdown = 0xFFFF0000

// over is a with what a VIP asks for itself: communities besides, anything else in place.
func (a Attributes) over(own Attributes) Attributes {
	a.Communities = union(a.Communities, own.Communities)
	a.Large = union(a.Large, own.Large)
	if own.LocalPref != nil {
		a.LocalPref = own.LocalPref
	}
	if own.MED != nil {
		a.MED = own.MED
	}
	a.Prepend = cmp.Or(own.Prepend, a.Prepend)
	a.Aggregate4, a.Aggregate6 = cmp.Or(own.Aggregate4, a.Aggregate4), cmp.Or(own.Aggregate6, a.Aggregate6)
	a.Bandwidth = cmp.Or(own.Bandwidth, a.Bandwidth)
	return a
}

// union is a, sorted, with what it lacks of b.
func union[T comparable](a, b []T) []T {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// leaving is a for a node that is about to leave: whoever can is to go elsewhere.
func (a Attributes) leaving() Attributes {
	worst, none := uint32(1<<32-1), uint32(0)
	return a.over(Attributes{Communities: []uint32{GracefulShutdown}, MED: &worst, LocalPref: &none})
}

// text is the same for Attributes that are alike.
func (a Attributes) text() string {
	number := func(n *uint32) any {
		if n == nil {
			return "-"
		}
		return *n
	}
	return strings.TrimSpace(fmt.Sprintln(a.Communities, a.Large, number(a.LocalPref), number(a.MED), number(a.Prepend), a.Aggregate4, a.Aggregate6, a.Bandwidth))
}

// Validate says what is wrong with p, by what its user calls it.
func (p Peer) Validate() error {
	var errs []error
	say := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("BGP peer %s: %w", p.Name, fmt.Errorf(format, args...)))
	}
	switch {
	case p.Unusable != "":
		return fmt.Errorf("BGP peer %s: %s", p.Name, p.Unusable)
	case p.Host == "" && p.Interface == "":
		say("it has neither an address nor an interface")
	case p.AS == 0 && p.Host != "":
		say("it has no AS number")
	}
	if p.LocalAS == 0 {
		say("our own AS number is not known")
	}
	if !p.RouterID.Is4() {
		say("our router ID is not known: it must be an IPv4 address")
	}
	if p.TTL != 0 && p.Hops != 0 {
		say("TTL security and multihop exclude each other")
	}
	if p.Passive && p.Interface != "" {
		say("an unnumbered peer cannot be waited for")
	}
	if p.Passive && !p.Source.IsValid() {
		say("it is passive, and nothing says on which address to wait for it: sourceIP is missing")
	}
	if p.Password != "" && p.Interface != "" {
		say("an unnumbered peer cannot have a password: the kernel signs for no link-local address")
	}
	return errors.Join(errs...)
}

// internal says that the peer is of our own AS.
func (p Peer) internal() bool { return p.AS == p.LocalAS }
