package bfd

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What a Peer has that does not say otherwise.
const (
	DefaultInterval   = 300 * time.Millisecond
	DefaultMultiplier = 3
)

// Peer is a neighbour to keep a session with. It is comparable.
type Peer struct {
	// Key is how the caller calls him; no two have the same.
	Key string
	// Remote is his address; a link-local one has its interface as its zone.
	Remote netip.Addr
	// Local is the node's address that packets to him come from; invalid means the one that the kernel chooses.
	Local netip.Addr
	// Interface is the one by which packets go to him, and by which those of a neighbour on the link come; "" means the one
	// that the kernel chooses, and any.
	Interface string
	// Multihop says that he may be some hops away: UDP port 4784 (RFC 5883). Else he is on the link: port 3784, and what a
	// router has passed on is not heard (RFC 5881 §5).
	Multihop bool
	// MinTTL is the least TTL with which a packet may come from some hops away; 0 means any.
	MinTTL uint8
	// MinTx is the interval at which to send, and MinRx the least at which he may, both once the session is up: from a
	// microsecond to an hour, 0 means DefaultInterval. Who is slower says how it is (RFC 5880 §6.8.2).
	MinTx, MinRx time.Duration
	// Multiplier is how many of our packets in a row may be lost before he takes this node for down; 0 means
	// DefaultMultiplier.
	Multiplier uint8
	// Passive has nothing sent before he has been heard.
	Passive bool
}

// place is what a session belongs to: when it changes the session is another one.
type place struct {
	remote, local netip.Addr
	link          string
	multihop      bool
	passive       bool
}

func (p Peer) place() place { return place{p.Remote, p.Local, p.Interface, p.Multihop, p.Passive} }

func (p Peer) kind() kind { return kind{p.Remote.Is6(), p.Multihop} }

// complete returns the peer with nothing left open, or what is wrong with it.
func (p Peer) complete() (Peer, error) {
	p.Remote, p.Local = p.Remote.Unmap(), p.Local.Unmap()
	p.MinTx, p.MinRx = cmp.Or(p.MinTx, DefaultInterval), cmp.Or(p.MinRx, DefaultInterval)
	p.Multiplier = cmp.Or(p.Multiplier, DefaultMultiplier)
	zone := p.Remote.Zone()
	var errs []error
	no := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case !p.Remote.IsValid() || p.Remote.IsUnspecified() || p.Remote.IsMulticast():
		no("remote address %s is not that of a host", p.Remote)
	case p.Remote.IsLinkLocalUnicast() && p.Multihop:
		no("remote address %s is of a link, so he is not some hops away", p.Remote)
	case p.Remote.Is6() && p.Remote.IsLinkLocalUnicast() && zone == "" && p.Interface == "":
		no("remote address %s is of a link: name its interface", p.Remote)
	case zone != "" && p.Interface != "" && p.Interface != zone:
		no("remote address %s is not of interface %s", p.Remote, p.Interface)
	}
	p.Interface = cmp.Or(p.Interface, zone)
	p.Remote, p.Local = p.Remote.WithZone(""), p.Local.WithZone("")
	if p.Local.IsValid() && p.Local.BitLen() != p.Remote.BitLen() {
		no("local address %s is not of the family of %s", p.Local, p.Remote)
	}
	if p.MinTTL != 0 && !p.Multihop {
		no("a least TTL is for a neighbour some hops away: the TTL of one on the link is 255")
	}
	errs = append(errs, p.session(1, nil).Validate())
	if err := errors.Join(errs...); err != nil {
		return p, fmt.Errorf("peer %s: %w", p.Key, err)
	}
	return p, nil
}

func (p Peer) session(mine uint32, jitter func() float64) SessionOptions {
	return SessionOptions{Mine: mine, MinTx: p.MinTx, MinRx: p.MinRx, Multiplier: p.Multiplier, Passive: p.Passive, Jitter: jitter}
}

// alike says that a first packet could be from either peer.
func alike(p, q Peer) bool {
	open := func(a, b string) bool { return a == "" || b == "" || a == b }
	return p.Remote == q.Remote && p.Multihop == q.Multihop && (p.Multihop || open(p.Interface, q.Interface)) &&
		(!p.Local.IsValid() || !q.Local.IsValid() || p.Local == q.Local)
}

// complete returns peers with nothing left open, or what is wrong with any of them.
func complete(peers []Peer) ([]Peer, error) {
	list := make([]Peer, len(peers))
	var errs []error
	for i, p := range peers {
		var err error
		list[i], err = p.complete()
		errs = append(errs, err)
		for _, q := range list[:i] {
			switch {
			case p.Key == q.Key:
				errs = append(errs, fmt.Errorf("peer %s is there twice", p.Key))
			case alike(list[i], q):
				errs = append(errs, fmt.Errorf("peers %s and %s are at the same address %s", q.Key, p.Key, q.Remote))
			}
		}
	}
	return list, errors.Join(errs...)
}
