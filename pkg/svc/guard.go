package svc

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Guarded is an address of Services, and the ports that may be reached on it beside ICMP.
type Guarded struct {
	Addr  netip.Addr
	Ports []pool.Port
}

// Guard lets nothing but these ports reach these addresses from the network; what it was told before counts no more.
// It returns when that is so, when it cannot be made so, or when ctx ends, and keeps trying.
type Guard interface {
	Guard(ctx context.Context, list []Guarded)
}

const (
	// guardEvery is the least time between two words to the Guard: each names every address.
	guardEvery = 50 * time.Millisecond
	// guardShare is the part of the worker's time, one in so many, that those words may take while Services keep changing,
	// and guardSlowest the longest pause that comes of it.
	guardShare   = 10
	guardSlowest = time.Second
	// guardPatience is how long an address waits for its filter: longer than thousands of them take. A Service that is
	// reached by too much is better than one that is not reached.
	guardPatience = 2 * time.Second
)

// exposure is what a Service says of its ports.
type exposure struct {
	ports []pool.Port
	open  bool // it is not to be guarded
}

func exposureOf(s *corev1.Service) exposure {
	return exposure{ports: tenant(s).Ports, open: isTrue(s, UnguardedAnnotation)}
}

func (e exposure) equal(o exposure) bool { return e.open == o.open && slices.Equal(e.ports, o.ports) }

// nature is what an address is beside a Service's.
type nature struct {
	own       bool        // it is the node's own, and guarding it would cut the node off
	here      bool        // it is on this node as a VIP
	elsewhere bool        // it is held under another mandate as well: the control plane's
	also      []pool.Port // what may be reached on it for that
}

// guarded lists what is to be guarded of the addresses of Services, in order. Who shares an address shares its
// openness: one Service that opts out opens it, and each port of any of them may be reached. What was guarded before
// and is no Service's any more is guarded until it has gone; lingers says that there is such.
func guarded(known map[string]*entry, before []Guarded, look func(netip.Addr) nature) (list []Guarded, lingers bool) {
	ports, open := map[netip.Addr][]pool.Port{}, map[netip.Addr]bool{}
	for _, r := range known {
		for _, a := range r.addrs {
			ports[a] = append(ports[a], r.exposure.ports...)
			open[a] = open[a] || r.exposure.open
		}
	}
	list = make([]Guarded, 0, len(ports))
	for a, of := range ports {
		if is := look(a); !open[a] && !is.own {
			list = append(list, Guarded{Addr: a, Ports: append(of, is.also...)})
		}
	}
	for _, g := range before {
		if _, wanted := ports[g.Addr]; wanted {
			continue
		}
		if is := look(g.Addr); is.here && !is.own && !is.elsewhere {
			list, lingers = append(list, g), true
		}
	}
	slices.SortFunc(list, func(a, b Guarded) int { return a.Addr.Compare(b.Addr) })
	return list, lingers
}

// ownAddresses are those of the node itself. One without a subnet may be a VIP that somebody else put there, as
// kube-proxy in IPVS mode does, and is to be guarded.
func ownAddresses(links []vip.Link) map[netip.Addr]bool {
	own := map[netip.Addr]bool{}
	for _, l := range links {
		for _, p := range l.Addrs {
			if !p.IsSingleIP() {
				own[p.Addr()] = true
			}
		}
	}
	return own
}

// guardian is what the worker remembers of what it told the Guard.
type guardian struct {
	stale   bool      // there is news
	due     bool      // guardKey is in the queue, or will be
	again   time.Time // not before
	told    []Guarded
	lingers bool // what is guarded has addresses that are going
	// waiting are the Services with addresses that the Guard has not been told of, in the order in which they came.
	waiting map[string]settled
	order   []string
}

// settled is a Service about which everything is decided.
type settled struct {
	service *corev1.Service
	entry   *entry
	plan    Plan
}

// expose notes what a Service says of its ports, before it has its new addresses, and whether that is news for the
// Guard. It reports whether the addresses have to wait until the Guard was told.
func (c *Controller) expose(r *entry, now exposure, addrs []netip.Addr) (first bool) {
	if c.o.Guard == nil {
		return false
	}
	if !slices.Equal(r.addrs, addrs) || !r.exposure.equal(now) {
		c.guard.stale = true
	}
	r.exposure = now
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !slices.Contains(r.cleared, a) })
}

// carryLater has the Service's addresses claimed when the Guard was told of them.
func (c *Controller) carryLater(key string, s settled) {
	if c.guard.waiting == nil {
		c.guard.waiting = map[string]settled{}
	}
	if _, is := c.guard.waiting[key]; !is {
		c.guard.order = append(c.guard.order, key)
	}
	c.guard.waiting[key] = s
}

// guardSoon tells the Guard what there is to guard: at once, or when enough time has passed since the last word. Who
// waits for that has its addresses then.
func (c *Controller) guardSoon(ctx context.Context) {
	g := &c.guard
	if c.o.Guard == nil || !g.stale && len(g.waiting) == 0 {
		return
	}
	if pause := time.Until(g.again); pause > 0 {
		if !g.due {
			g.due = true
			c.queue.AddAfter(guardKey, pause)
		}
		return
	}
	began := time.Now()
	g.stale = false
	g.told, g.lingers = c.toGuard()
	ctx, cancel := context.WithTimeout(ctx, guardPatience)
	defer cancel()
	c.o.Guard.Guard(ctx, g.told)
	g.again = time.Now().Add(min(max(guardEvery, guardShare*time.Since(began)), guardSlowest))

	for _, key := range g.order {
		if s, still := g.waiting[key]; still {
			c.carry(key, s)
		}
	}
	g.order = nil
}

// guardAgain has the Guard told again after a look at the interfaces: what is the node's own may have changed, and now
// and then what is the control plane's.
func (c *Controller) guardAgain(changed bool) {
	c.guard.stale = c.guard.stale || changed || time.Since(c.guard.again) > linksEvery
}

// guardDue is what guardKey asks for.
func (c *Controller) guardDue() {
	c.guard.due = false
	c.guard.stale = c.guard.stale || c.guard.lingers
}

// toGuard is what the Guard is to be told.
func (c *Controller) toGuard() ([]Guarded, bool) {
	own := ownAddresses(c.links)
	c.mu.Lock()
	here := c.here // Sync makes it anew and never changes one
	c.mu.Unlock()
	return guarded(c.known, c.guard.told, func(a netip.Addr) nature {
		is := nature{own: own[a]}
		_, is.here = here[a]
		if _, is.elsewhere = c.o.Elsewhere(a); is.elsewhere {
			is.also = c.o.Also
		}
		return is
	})
}
