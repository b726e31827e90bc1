package pool

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestWalk does anything in any order: Services get addresses, out of pools and by name, change their ports and go,
// pools are edited, the Allocator starts anew. After each step everybody has what they had, and nobody has what is
// another's; what is given out is what a naive search finds. A failure is repeated by its seed.
func TestWalk(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			walk(t, seed)
		})
	}
}

// walker walks, and knows what the Allocator was told and has answered.
type walker struct {
	*Allocator
	t        *testing.T
	random   *rand.Rand
	data     map[string]string
	services map[string]Service
	has      map[string][]netip.Addr
	steps    []string
}

func walk(t *testing.T, seed uint64) {
	w := &walker{
		Allocator: NewAllocator(), t: t, random: rand.New(rand.NewPCG(seed, 0)),
		services: map[string]Service{}, has: map[string][]netip.Addr{}, data: map[string]string{},
	}
	for range 200 {
		w.step()
		w.check()
		if t.Failed() {
			t.Logf("seed %d; the steps were:\n%s", seed, strings.Join(w.steps, "\n"))
			return
		}
	}
}

func (w *walker) said(format string, args ...any) {
	w.steps = append(w.steps, fmt.Sprintf(format, args...))
}

// one of what it is told.
func one[T any](w *walker, of ...T) T { return of[w.random.IntN(len(of))] }

// service is any one, with what is known of it.
func (w *walker) service() Service {
	namespace := one(w, "a", "b", "c")
	name := fmt.Sprintf("%s/%d", namespace, w.random.IntN(6))
	if s, known := w.services[name]; known {
		return s
	}
	return Service{Name: name, Namespace: namespace, Ports: w.ports(), Alone: w.random.IntN(8) == 0}
}

func (w *walker) ports() (list []Port) {
	if w.random.IntN(10) == 0 {
		return nil
	}
	for range 1 + w.random.IntN(2) {
		list = append(list, Port{one[uint16](w, 53, 80, 443, 8080), one(w, "", "TCP", "UDP")})
	}
	return list
}

// skip refuses some addresses; which they are differs from step to step.
func (w *walker) skip() func(netip.Addr) bool {
	if w.random.IntN(3) > 0 {
		return nil
	}
	bit := byte(1) << w.random.IntN(3)
	return func(a netip.Addr) bool { b := a.AsSlice(); return b[len(b)-1]&bit == 0 }
}

func (w *walker) step() {
	switch w.random.IntN(12) {
	case 0, 1, 2, 3, 4:
		w.allocate()
	case 5, 6:
		s := w.service()
		addr := netip.MustParseAddr(one(w, "10.0.0.1", "10.0.0.3", "10.0.1.2", "192.168.0.1", "fd00::2", "fd01::1", "10.0.0.0"))
		if err := w.Check(s.Name, addr, s.Ports); err != nil {
			w.said("%s may not have %s: %v", s.Name, addr, err)
			w.clashes(s, addr, err)
			return
		}
		w.said("%s %v alone %t by name has %s", s.Name, s.Ports, s.Alone, addr)
		w.use(s, []netip.Addr{addr})
	case 7:
		s := w.service()
		s.Ports = w.ports()
		for _, addr := range w.has[s.Name] {
			if w.Check(s.Name, addr, s.Ports) != nil {
				return
			}
		}
		w.said("%s has the ports %v on %v", s.Name, s.Ports, w.has[s.Name])
		w.use(s, w.has[s.Name])
	case 8, 9:
		s := w.service()
		w.said("%s goes", s.Name)
		w.Release(s.Name)
		delete(w.services, s.Name)
		delete(w.has, s.Name)
	case 10:
		w.edit()
	case 11:
		w.said("a start")
		w.Allocator = w.anew()
	}
}

func (w *walker) use(s Service, addrs []netip.Addr) {
	w.Use(s, addrs)
	if len(addrs) > 0 {
		w.services[s.Name], w.has[s.Name] = s, slices.Clone(addrs)
	}
}

// edit changes one key of the ConfigMap.
func (w *walker) edit() {
	key := one(w, "cidr-a", "range-a", "cidr-b", "cidr-global", "range-global", "allow-share-a", "allow-share-b", "allow-share-global", "search-order", "skip-end-ips-in-cidr")
	value := ""
	switch {
	case w.random.IntN(4) == 0:
	case strings.HasPrefix(key, "allow-share"), key == "skip-end-ips-in-cidr":
		value = one(w, "true", "true", "false", "maybe")
	case key == "search-order":
		value = one(w, "asc", "desc")
	default:
		value = one(w, "10.0.0.0/29", "10.0.0.0/30,fd00::/125", "10.0.1.0/30,10.0.0.1-10.0.0.2", "10.0.0.254-10.0.1.3", "fd00::1-fd00::3", "10.0.0.3,x,fd01::1", "x")
	}
	w.said("%s: %q", key, value)
	w.data[key] = value
	if value == "" {
		delete(w.data, key)
	}
	pools, _ := Parse(w.data)
	w.SetPools(pools)
}

// anew is an Allocator that is told what there is, in any order.
func (w *walker) anew() *Allocator {
	a := NewAllocator()
	pools, _ := Parse(w.data)
	late := w.random.IntN(2) == 0
	if !late {
		a.SetPools(pools)
	}
	names := slices.Collect(maps.Keys(w.has))
	slices.Sort(names)
	w.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		a.Use(w.services[name], w.has[name])
	}
	if late {
		a.SetPools(pools)
	}
	return a
}

func (w *walker) allocate() {
	r := Request{Service: w.service(), Policy: one(w, SingleStack, PreferDualStack, RequireDualStack), Families: one(w, v4, v6, v46, v64), Skip: w.skip()}
	want, kinds := w.naive(r)
	other, otherErr := w.anew().Allocate(r)
	before := w.Addrs(r.Name)
	answer, err := w.Allocate(r)
	w.said("%s %v alone %t asks for %v %s, skip %t: %v %v", r.Name, r.Ports, r.Alone, r.Families, r.Policy, r.Skip != nil, answer, err)
	if joined(answer.Addrs) != joined(want) {
		w.t.Errorf("%s gets %v, want %v", r.Name, answer.Addrs, want)
	}
	if joined(answer.Addrs) != joined(other.Addrs) || text(err) != text(otherErr) || text(answer.Lacking) != text(other.Lacking) {
		w.t.Errorf("%s gets %v (%v), and after a start it would be %v (%v)", r.Name, answer, err, other, otherErr)
	}
	for _, kind := range kinds {
		if !errors.Is(errors.Join(err, answer.Lacking), kind) {
			w.t.Errorf("%s is lacking for %v (%v), want %v", r.Name, err, answer.Lacking, kind)
		}
	}
	if err != nil {
		return
	}
	for _, addr := range answer.Addrs {
		if slices.Contains(answer.Fresh, addr) != (len(w.tenants(addr)) == 0) {
			w.t.Errorf("%s: fresh are %v, and %s was %v's", r.Name, answer.Fresh, addr, w.tenants(addr))
		}
		if slices.Contains(before, addr) {
			continue
		}
		if p := w.pools.of(r.Namespace); !p.spans[FamilyOf(addr)].contains(addr) {
			w.t.Errorf("%s is given to %s, and not in %s", addr, r.Name, p.key)
		}
	}
	w.services[r.Name], w.has[r.Name] = r.Service, answer.Addrs
}

// naive is what r is to get, or why it gets nothing or less.
func (w *walker) naive(r Request) (addrs []netip.Addr, kinds []error) {
	wanted := map[Policy][]Family{
		SingleStack: r.Families[:1], PreferDualStack: r.Families, RequireDualStack: {r.Families[0], 1 - r.Families[0]},
	}[r.Policy]
	for _, f := range wanted {
		addr, kind := w.naiveOne(r, f)
		if kind != nil {
			kinds = append(kinds, kind)
			continue
		}
		addrs = append(addrs, addr)
	}
	if r.Policy == RequireDualStack && len(kinds) > 0 {
		return nil, kinds
	}
	return addrs, kinds
}

func (w *walker) naiveOne(r Request, f Family) (netip.Addr, error) {
	may := func(a netip.Addr) bool { return r.Skip == nil || !r.Skip(a) }
	for _, a := range w.has[r.Name] {
		if FamilyOf(a) == f && may(a) && w.fits(r.Service, a) {
			return a, nil
		}
	}
	p := w.pools.of(r.Namespace)
	switch {
	case p == nil || p.empty():
		return netip.Addr{}, ErrNoPool
	case len(p.spans[f]) == 0:
		return netip.Addr{}, ErrNoFamily
	}
	var list []netip.Addr
	for _, s := range p.spans[f] {
		for a := s.from; !s.to.Less(a); a = a.Next() {
			if may(a) && !reserved(a) {
				list = append(list, a)
			}
		}
	}
	if w.data["search-order"] == "desc" {
		slices.Reverse(list)
	}
	share := func(s Service) bool { return w.pools.Shares(s.Namespace) && !s.Alone && len(s.Ports) > 0 }
	for _, a := range list {
		tenants := w.tenants(a)
		all := share(r.Service) && len(tenants) > 0
		for _, s := range tenants {
			all = all && share(s) && s.Name != r.Name
		}
		if all && w.fits(r.Service, a) {
			return a, nil
		}
	}
	for _, a := range list {
		if len(w.tenants(a)) == 0 {
			return a, nil
		}
	}
	return netip.Addr{}, ErrExhausted
}

// tenants are those who have a.
func (w *walker) tenants(a netip.Addr) (list []Service) {
	for _, name := range slices.Sorted(maps.Keys(w.has)) {
		if slices.Contains(w.has[name], a) {
			list = append(list, w.services[name])
		}
	}
	return list
}

// fits says whether s may be on a beside the others who have it.
func (w *walker) fits(s Service, a netip.Addr) bool {
	return !slices.ContainsFunc(w.tenants(a), func(o Service) bool { return o.Name != s.Name && same(o, s) })
}

// same says whether two Services can not have one address.
func same(a, b Service) bool {
	protocol := func(p Port) string { return strings.Replace(p.Protocol, "TCP", "", 1) }
	for _, p := range a.Ports {
		for _, q := range b.Ports {
			if p.Number == q.Number && protocol(p) == protocol(q) {
				return true
			}
		}
	}
	return len(a.Ports) == 0 || len(b.Ports) == 0
}

// clashes checks that a refusal has its reason.
func (w *walker) clashes(s Service, addr netip.Addr, err error) {
	var clash *Error
	if !errors.As(err, &clash) || !slices.Contains(w.has[clash.Other], addr) || clash.Other == s.Name || !same(w.services[clash.Other], s) {
		w.t.Errorf("%s may not have %s: %v", s.Name, addr, err)
	}
}

// check looks at everything.
func (w *walker) check() {
	for name := range w.has {
		if got := w.Addrs(name); !slices.Equal(got, w.has[name]) {
			w.t.Errorf("%s has %v, want %v", name, got, w.has[name])
		}
		for other := range w.has {
			for _, a := range w.has[name] {
				if name < other && slices.Contains(w.has[other], a) && same(w.services[name], w.services[other]) {
					w.t.Errorf("%s and %s have %s", name, other, a)
				}
			}
		}
	}
	for name := range w.Allocator.services {
		if _, has := w.has[name]; !has {
			w.t.Errorf("%s is still there", name)
		}
	}
	// What follows from all this is what it is after a start.
	anew := w.anew()
	if !slices.Equal(w.used, anew.used) || !slices.Equal(w.open, anew.open) || !maps.EqualFunc(w.taken, anew.taken, func(a, b *runs) bool { return slices.Equal(*a, *b) }) {
		w.t.Errorf("used %v, open %v, taken %v; after a start it would be %v, %v, %v", w.used, w.open, w.taken, anew.used, anew.open, anew.taken)
	}
	for _, s := range w.Stats() {
		used := 0
		for a := range w.places {
			for _, p := range w.pools.pools {
				if p.key == s.Pool && p.spans[s.Family].contains(a) && !reserved(a) {
					used++
				}
			}
		}
		if int(s.Used) != used || s.Free < 0 {
			w.t.Errorf("%+v, want %d used", s, used)
		}
	}
}
