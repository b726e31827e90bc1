package vip

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Forever is the Valid of an address that the kernel never takes away by itself.
const Forever time.Duration = -1

// Link is an interface of this node.
type Link struct {
	Index int
	Name  string
	// AltNames are its alternative names (ip link property). A VIP's Link is never one of them.
	AltNames []string
	// Up means that the interface is administratively up and has a carrier (RFC 2863 ifOperStatus up or unknown).
	Up       bool
	Loopback bool
	// Addrs are the interface's addresses that are not kube-vip's.
	Addrs []netip.Prefix
	// DefaultRoute4 and DefaultRoute6 say that a default route of the main table leaves by this interface.
	DefaultRoute4 bool
	DefaultRoute6 bool
}

// Address is an address on a link, as the kernel reports it.
type Address struct {
	Prefix netip.Prefix
	Link   string
	// Ours says that the address carries kube-vip's mark.
	Ours bool
	// Valid is the lifetime that is left, in whole seconds, or Forever.
	Valid time.Duration
	index int
}

// Put is a VIP that is to be on its link, and for how long.
type Put struct {
	VIP   VIP
	Valid time.Duration
}

// Errors that a caller branches on.
var (
	// ErrNoLink says that the interface does not exist (now).
	ErrNoLink = errors.New("no such interface")
	// ErrNotOurs says that the address is on this node without kube-vip's mark.
	ErrNotOurs = errors.New("the address is on this node already, without kube-vip's mark")
)

// Kernel is what the Table needs of the node's network. Netlink is the real one.
type Kernel interface {
	// Addresses lists every address of the node.
	Addresses() ([]Address, error)
	// Put adds v with the valid lifetime, or sets the lifetime of our address that is there. The lifetime is
	// rounded up to the kernel's whole seconds and is at least one. Putting twice is the same as putting once.
	// It fails with ErrNoLink, and with ErrNotOurs when the address is there without our mark, which it leaves alone.
	Put(v VIP, valid time.Duration) error
	// PutAll is Put for each of many, and costs less. The errors are in the order of puts.
	PutAll(puts []Put) []error
	// Remove takes a, which must be ours, off its link. An address that is gone already is no error.
	Remove(a Address) error
	// RemoveAll is Remove for each of many, and costs less. The errors are in the order of list.
	RemoveAll(list []Address) []error
	// Watch calls changed, from one goroutine, when a link or an address may have changed, until ctx ends. What
	// changed between two Watches is not told.
	Watch(ctx context.Context, changed func()) error
}

// lifetimeForever is INFINITY_LIFE_TIME of the kernel's include/net/addrconf.h.
const lifetimeForever = 0xffffffff

// lifetimeSeconds rounds up to the kernel's second; at least one, since zero would be refused. It is never for ever.
func lifetimeSeconds(d time.Duration) uint32 {
	seconds := d / time.Second
	if d%time.Second > 0 {
		seconds++
	}
	return uint32(min(max(1, seconds), lifetimeForever-1))
}
