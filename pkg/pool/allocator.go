package pool

import (
	"fmt"
	"net/netip"
	"slices"
)

// Service is one that has addresses, or is to have some.
type Service struct {
	// Name is what others are told of it, namespace/name for example. It is the Service's identity.
	Name string
	// Namespace decides on the pool, and on sharing.
	Namespace string
	// Ports are all that it has; without any it takes the whole of its addresses.
	Ports []Port
	// Alone says that allocation puts it beside no other Service, and no other beside it, whatever the namespaces
	// allow: since it is held by another node than they are, for example. Check does not look at it.
	Alone bool
}

// Request asks for addresses out of the pool of a Service's namespace.
type Request struct {
	Service
	// Families are those that the Service can have, in the order in which it is to have them; none are IPv4 and
	// IPv6 in a dual-stack Service, and one of them, IPv4 if the pool has it, in a single-stack one.
	Families []Family
	Policy   Policy
	// Skip says that an address is not to be had: it was found in use by a stranger, it is a node's, … An address
	// that the Service has already is given up when Skip says so of it. Nil means that all can be had.
	Skip func(netip.Addr) bool
}

// Answer is what a Request comes to.
type Answer struct {
	// Addrs are the addresses that the Service has now, one of each family, in the order that was asked for.
	Addrs []netip.Addr
	// Fresh are those of Addrs that no Service had before: for all that is known here a stranger may have them.
	Fresh []netip.Addr
	// Lacking is why a Service with PreferDualStack has one family only; nil when it has all that it asked for.
	Lacking error
}

// Allocator knows who has which address, and chooses addresses for those who want one. It is a function of the
// pools and of who has what: a new one that is told the same chooses the same. It is owned by one goroutine.
type Allocator struct {
	pools    Pools
	services map[string]*tenant
	places   map[netip.Addr]*tenancy

	// What a search looks at. It follows from places.
	used  runs           // what anybody has
	open  runs           // of used, where another may be put beside those who are there
	taken map[Port]*runs // of used, where somebody has the port
}

// tenant is a Service with what it has.
type tenant struct {
	name      string
	namespace string
	ports     []Port // as of portsOf
	alone     bool
	addrs     []netip.Addr
	closed    bool // others are not to be put beside it
}

// NewAllocator returns an Allocator without pools, in which nobody has anything.
func NewAllocator() *Allocator {
	return &Allocator{services: map[string]*tenant{}, places: map[netip.Addr]*tenancy{}, taken: map[Port]*runs{}}
}

// Pools are the pools that addresses are given out of.
func (a *Allocator) Pools() Pools { return a.pools }

// SetPools has addresses given out of these pools from now on. Nobody loses an address by it.
func (a *Allocator) SetPools(p Pools) {
	a.pools = p
	for _, s := range a.services {
		if closed := a.closed(s); closed != s.closed {
			a.leave(s)
			s.closed = closed
			a.enter(s)
		}
	}
}

// closed says whether no other is to be put beside s.
func (a *Allocator) closed(s *tenant) bool {
	return s.alone || s.ports[0] == whole || !a.pools.Shares(s.namespace)
}

// Use says what a Service has now, wherever it has it from; it replaces what was said of it earlier. It is told, not
// asked: two Services may be said to have the same port on the same address, and Check says so of both.
func (a *Allocator) Use(s Service, addrs []netip.Addr) {
	a.Release(s.Name)
	t := &tenant{name: s.Name, namespace: s.Namespace, ports: portsOf(s.Ports), alone: s.Alone}
	for _, addr := range addrs {
		if addr = plain(addr); addr.IsValid() && !slices.Contains(t.addrs, addr) {
			t.addrs = append(t.addrs, addr)
		}
	}
	if len(t.addrs) == 0 {
		return
	}
	t.closed = a.closed(t)
	a.services[s.Name] = t
	a.enter(t)
}

// plain is addr as the one thing that it is on every network.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// Release says that a Service has no address any more.
func (a *Allocator) Release(name string) {
	if t := a.services[name]; t != nil {
		a.leave(t)
		delete(a.services, name)
	}
}

// Addrs are the addresses that a Service has.
func (a *Allocator) Addrs(name string) []netip.Addr {
	if t := a.services[name]; t != nil {
		return slices.Clone(t.addrs)
	}
	return nil
}

// enter puts t on its addresses.
func (a *Allocator) enter(t *tenant) {
	for _, addr := range t.addrs {
		place := a.places[addr]
		if place == nil {
			place = &tenancy{}
			a.places[addr] = place
			a.used.add(addr)
			a.open.add(addr)
		}
		for _, p := range t.ports {
			place.add(holding{p, t.name})
			if a.taken[p] == nil {
				a.taken[p] = &runs{}
			}
			a.taken[p].add(addr)
		}
		if t.closed {
			place.closed++
			a.open.remove(addr)
		}
	}
}

// leave takes t off its addresses.
func (a *Allocator) leave(t *tenant) {
	for _, addr := range t.addrs {
		place := a.places[addr]
		for _, p := range t.ports {
			place.remove(holding{p, t.name})
			if place.has(p) {
				continue
			}
			if a.taken[p].remove(addr); len(*a.taken[p]) == 0 {
				delete(a.taken, p)
			}
		}
		if t.closed {
			place.closed--
		}
		switch {
		case len(place.holdings) == 0:
			delete(a.places, addr)
			a.used.remove(addr)
			a.open.remove(addr)
		case place.closed == 0:
			a.open.add(addr)
		}
	}
}

// Check says whether a Service with these ports may have addr, which its user asks for by name: it may, unless
// another has one of the ports there, of whichever namespace. No pool is asked. An error is ErrClash, and names the
// other.
func (a *Allocator) Check(name string, addr netip.Addr, ports []Port) error {
	return a.check(name, plain(addr), portsOf(ports))
}

func (a *Allocator) check(name string, addr netip.Addr, ports []Port) error {
	if place := a.places[addr]; place != nil {
		return place.clash(name, addr, ports)
	}
	return nil
}

// Allocate gives a Service addresses out of the pool of its namespace; it has them from then on, as if told by Use.
// What it has already it keeps, one address of each family that it asks for, unless Skip refuses that or another has
// the port there; whether a pool has it does not matter. With an error the Service has what it had before; the error
// is ErrNoPool, ErrNoFamily or ErrExhausted, or two of them when none of two families is to be had.
//
// Who finds that a stranger has a fresh address asks again, with a Skip that refuses it.
func (a *Allocator) Allocate(r Request) (Answer, error) {
	if r.Skip == nil {
		r.Skip = func(netip.Addr) bool { return false }
	}
	var answer Answer
	var lacking []error
	wanted := a.families(r)
	for _, f := range wanted {
		addr, err := a.choose(r, f)
		if err != nil {
			lacking = append(lacking, err)
			continue
		}
		answer.Addrs = append(answer.Addrs, addr)
		if !a.used.contains(addr) {
			answer.Fresh = append(answer.Fresh, addr)
		}
	}
	switch {
	case len(lacking) == 0:
	case len(answer.Addrs) > 0 && r.Policy == PreferDualStack:
		answer.Lacking = lacking[0]
	case len(lacking) == 2 && lacking[0].Error() != lacking[1].Error():
		return Answer{}, fmt.Errorf("%w, and %w", lacking[0], lacking[1])
	default:
		return Answer{}, lacking[0]
	}
	a.Use(r.Service, answer.Addrs)
	return answer, nil
}

// families are those that r wants, in order.
func (a *Allocator) families(r Request) []Family {
	wanted := r.Families
	if len(wanted) == 0 {
		wanted = []Family{IPv4, IPv6}
		if p := a.pools.of(r.Namespace); r.Policy == SingleStack && p != nil && len(p.spans[IPv4]) == 0 && len(p.spans[IPv6]) > 0 {
			wanted = []Family{IPv6}
		}
	}
	switch {
	case r.Policy == SingleStack:
		return wanted[:1]
	case r.Policy == RequireDualStack:
		return []Family{wanted[0], wanted[0].other()}
	}
	return slices.Compact(slices.Clone(wanted))
}

// choose finds an address of one family.
func (a *Allocator) choose(r Request, f Family) (netip.Addr, error) {
	ports := portsOf(r.Ports)
	if t := a.services[r.Name]; t != nil {
		for _, addr := range t.addrs {
			if FamilyOf(addr) == f && !r.Skip(addr) && a.check(r.Name, addr, ports) == nil {
				return addr, nil
			}
		}
	}
	p := a.pools.of(r.Namespace)
	switch {
	case p == nil:
		return netip.Addr{}, noPool(r.Namespace)
	case p.empty():
		return netip.Addr{}, noEntry(p)
	case len(p.spans[f]) == 0:
		return netip.Addr{}, noFamily(p, f)
	}
	s := search{spans: p.spans[f], direction: a.pools.direction, skip: r.Skip}
	shares := a.pools.Shares(r.Namespace) && !r.Alone && ports[0] != whole
	if shares {
		if addr := s.shared(a.open, a.takenBy(ports)); addr.IsValid() {
			return addr, nil
		}
	}
	if addr := s.free(a.used); addr.IsValid() {
		return addr, nil
	}
	return netip.Addr{}, exhausted(a.stat(p, f), s.refused, s.refused == skipLimit, shares)
}

// takenBy are the addresses where one of the ports is somebody's.
func (a *Allocator) takenBy(ports []Port) []runs {
	var list []runs
	for _, p := range ports {
		if taken := a.taken[p]; taken != nil {
			list = append(list, *taken)
		}
	}
	return list
}
