package svc

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/pool"
)

// book says who has which address with which ports, and who waits for one. Services may share an address as long as
// no two have the same port of the same protocol on it.
type book struct {
	*pool.Allocator
	holds   map[string]holding
	shares  map[netip.Addr]int                 // how many Services have an address
	waiting map[netip.Addr]map[string]struct{} // Services that were refused an address for another's sake
	waits   map[string][]netip.Addr
	hungry  map[string]struct{}      // Services for which no pool had an address left, or none of one family
	freed   map[netip.Addr]time.Time // when nobody was to have an address any more
	pruned  int                      // how many were left of freed when it was pruned last
}

// farewell is how long a node may still answer for an address that it is not to have any more: until it has heard of
// that, and at the latest until the address ends in its kernel.
const farewell = 15 * time.Second

// prunedLeast is how many addresses are remembered at least before those of long ago are forgotten.
const prunedLeast = 100

type holding struct {
	addrs []netip.Addr
	ports []pool.Port
}

func newBook() *book {
	return &book{Allocator: pool.NewAllocator(), holds: map[string]holding{}, shares: map[netip.Addr]int{}, waiting: map[netip.Addr]map[string]struct{}{},
		waits: map[string][]netip.Addr{}, hungry: map[string]struct{}{}, freed: map[netip.Addr]time.Time{}}
}

// tenant is s as the Allocator knows it.
func tenant(s *corev1.Service) pool.Service {
	t := pool.Service{Name: key(s), Namespace: s.Namespace, Alone: choosy(s)}
	for _, p := range s.Spec.Ports {
		t.Ports = append(t.Ports, pool.Port{Number: uint16(p.Port), Protocol: string(cmp.Or(p.Protocol, corev1.ProtocolTCP))})
	}
	return t
}

// clash says why the Service can not have addr beside those that have it; empty when it can. Who is refused waits:
// set and release tell of it.
func (b *book) clash(t pool.Service, addr netip.Addr) string {
	err := b.Check(t.Name, addr, t.Ports)
	if err == nil {
		return ""
	}
	if b.waiting[addr] == nil {
		b.waiting[addr] = map[string]struct{}{}
	}
	if _, does := b.waiting[addr][t.Name]; !does {
		b.waiting[addr][t.Name] = struct{}{}
		b.waits[t.Name] = append(b.waits[t.Name], addr)
	}
	return err.Error()
}

// set says what a Service has now, and that what it was to be given besides is not its own any more. It returns those who
// were waiting for what it has no more.
func (b *book) set(t pool.Service, addrs []netip.Addr) (free []string) {
	before, reserved := b.holds[t.Name], b.Addrs(t.Name)
	for _, a := range before.addrs {
		if !slices.Contains(addrs, a) {
			b.freed[a] = time.Now()
			b.prune()
		}
	}
	same := slices.Equal(before.ports, t.Ports)
	if same && slices.Equal(before.addrs, addrs) && slices.Equal(reserved, addrs) {
		return nil
	}
	for _, a := range union(before.addrs, reserved) {
		if !same || !slices.Contains(addrs, a) {
			free = append(free, b.waitingFor(a)...)
		}
	}
	for _, a := range before.addrs {
		if b.shares[a]--; b.shares[a] == 0 {
			delete(b.shares, a)
		}
	}
	for _, a := range addrs {
		b.shares[a]++
	}
	if len(addrs) == 0 {
		delete(b.holds, t.Name)
		b.Release(t.Name)
		return free
	}
	b.holds[t.Name] = holding{addrs: slices.Clone(addrs), ports: t.Ports}
	b.Use(t, addrs)
	for _, a := range addrs {
		if delete(b.waiting[a], t.Name); len(b.waiting[a]) == 0 {
			delete(b.waiting, a)
		}
	}
	return free
}

// give gives a Service that has some addresses others out of its pool. It returns those who were waiting for what it was
// to be given before.
func (b *book) give(r pool.Request, has []netip.Addr) (answer pool.Answer, free []string, err error) {
	before := b.Addrs(r.Name)
	b.Use(r.Service, union(has, before))
	answer, err = b.Allocate(r)
	for now := b.Addrs(r.Name); len(before) > 0; before = before[1:] {
		if !slices.Contains(now, before[0]) && !slices.Contains(b.holds[r.Name].addrs, before[0]) {
			free = append(free, b.waitingFor(before[0])...)
		}
	}
	return answer, free, err
}

// union is a with what b has besides.
func union(a, b []netip.Addr) []netip.Addr {
	list := slices.Clone(a)
	for _, addr := range b {
		if !slices.Contains(list, addr) {
			list = append(list, addr)
		}
	}
	return list
}

// waitingFor are those who may have addr once somebody has it no more.
func (b *book) waitingFor(addr netip.Addr) []string {
	return slices.AppendSeq(slices.Collect(maps.Keys(b.waiting[addr])), maps.Keys(b.hungry))
}

// forget forgets a Service. It returns those who were waiting for what it had.
func (b *book) forget(name string) (free []string) {
	free = b.set(pool.Service{Name: name}, nil)
	for _, a := range b.waits[name] {
		if delete(b.waiting[a], name); len(b.waiting[a]) == 0 {
			delete(b.waiting, a)
		}
	}
	delete(b.waits, name)
	delete(b.hungry, name)
	return free
}

// has says whether a Service has addr.
func (b *book) has(addr netip.Addr) bool { return b.shares[addr] > 0 }

// lately says whether a node of ours may still answer for addr, since some Service had it a moment ago.
func (b *book) lately(addr netip.Addr) bool {
	at, was := b.freed[addr]
	return was && time.Since(at) <= farewell
}

// prune forgets what was let go long ago, whenever twice as much is known as was left the last time.
func (b *book) prune() {
	if len(b.freed) <= 2*b.pruned+prunedLeast {
		return
	}
	maps.DeleteFunc(b.freed, func(_ netip.Addr, at time.Time) bool { return time.Since(at) > farewell })
	b.pruned = len(b.freed)
}

// earlier orders Services by their right to an address: who has one, and else who came first.
func earlier(a, b *corev1.Service) int {
	asks := func(s *corev1.Service) int {
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(asks(a), asks(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(key(a), key(b)))
}
