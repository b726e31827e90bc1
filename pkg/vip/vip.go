// Package vip holds and lets go of virtual IP addresses on this node.
//
// A Table is told which VIPs belong to whom (claims) and which mandates this node holds (grants). Whatever is
// claimed under a granted mandate is present on the node, every other claimed VIP is absent, and the Table
// makes the kernel and the Speakers match that, again and again. The kernel itself is the dead-man: an address
// is added with a finite valid lifetime that never outlasts its mandate by more than a second's rounding.
package vip

import "net/netip"

// VIP is one virtual IP address and its place on this node. It is comparable.
type VIP struct {
	// Prefix is the address with the prefix length that it gets on the link, 10.0.0.10/32 for example.
	Prefix netip.Prefix
	// Link is the name of the interface that carries the address, or Detached.
	Link string
	// Via is the name of the interface by which the network is told of it: Link, unless Link is a loopback and nothing
	// but that network leads here.
	Via string
	// Global gives the address the global scope even on a loopback.
	Global bool
}

// Addr is the address alone.
func (v VIP) Addr() netip.Addr { return v.Prefix.Addr() }

// String is the address alone, as users write it.
func (v VIP) String() string { return v.Prefix.Addr().String() }

// A Speaker tells the network where VIPs are. Sync is called by one goroutine at a time, right after the
// addresses in present were put on their links, and before an address that left present is taken off. It
// starts announcing what is new in present at once, and has stopped announcing whatever is not in present
// when it returns. Calling it again with the same set changes nothing. It must not block on the network.
type Speaker interface {
	Sync(present []VIP) error
}
