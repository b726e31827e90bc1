package main

import (
	"net/netip"
	"slices"
	"sync"

	"kube-vip.io/kube-vip/pkg/bgp"
	"kube-vip.io/kube-vip/pkg/svc"
)

// traits passes on to a Speaker what Services ask of the routes to their addresses. Where Services share an address the first
// by name has the word.
type traits struct {
	describe  func(addr netip.Addr, a *bgp.Attributes)
	forget    func(addr netip.Addr)
	resolve   func(s string) (value string, large bool, err error)
	bandwidth bool // routes say how many endpoints are here

	mu    sync.Mutex // guards the fields below
	asked map[string]asked
	users map[netip.Addr][]string // the Services that have an address, by name
}

// asked is what one Service asks for.
type asked struct {
	addrs      []netip.Addr
	attributes *bgp.Attributes
}

// endpointBandwidth is what one endpoint counts for in a link's bandwidth, in octets per second: 1 Gbit/s. What counts is the
// proportion.
const endpointBandwidth = 125e6

// note is svc.Options.Traits.
func (t *traits) note(service string, addrs []netip.Addr, list map[string]string, endpoints int) error {
	a, err := bgp.ParseTraits(svc.TraitsPrefix, list, t.resolve)
	if t.bandwidth && endpoints > 0 {
		if a == nil {
			a = &bgp.Attributes{}
		}
		a.Bandwidth = endpointBandwidth * float32(endpoints)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.asked[service]
	for _, addr := range before.addrs {
		if !slices.Contains(addrs, addr) {
			t.users[addr] = slices.DeleteFunc(t.users[addr], func(user string) bool { return user == service })
			t.tell(addr)
		}
	}
	if len(addrs) == 0 {
		delete(t.asked, service)
		return err
	}
	t.asked[service] = asked{addrs, a}
	for _, addr := range addrs {
		if at, is := slices.BinarySearch(t.users[addr], service); !is {
			t.users[addr] = slices.Insert(t.users[addr], at, service)
		}
		t.tell(addr)
	}
	return err
}

// tell is called with mu held.
func (t *traits) tell(addr netip.Addr) {
	users := t.users[addr]
	if len(users) == 0 {
		delete(t.users, addr)
		t.forget(addr)
		return
	}
	t.describe(addr, t.asked[users[0]].attributes)
}
