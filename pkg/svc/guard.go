package svc

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/pool"
)

// Guarded is an address of Services, and the ports that may be reached on it beside ICMP.
type Guarded struct {
	Addr  netip.Addr
	Ports []pool.Port
}

// Guard lets nothing but these ports reach these addresses from the network; what it was told before counts no more. It
// must not block.
type Guard interface {
	Guard(list []Guarded)
}

// guardEvery is the time between two words to the Guard while Services keep changing: each names every address.
const guardEvery = 50 * time.Millisecond

// exposure is what a Service says of its ports.
type exposure struct {
	ports []pool.Port
	open  bool // it is not to be guarded
}

func exposureOf(s *corev1.Service) exposure {
	return exposure{ports: tenant(s).Ports, open: isTrue(s, UnguardedAnnotation)}
}

func (e exposure) equal(o exposure) bool { return e.open == o.open && slices.Equal(e.ports, o.ports) }

// guarded lists what is to be guarded of the addresses of Services. Who shares an address shares its openness: one
// Service that opts out opens it, and each port of any of them may be reached. also is what else may be reached on an
// address that is not only Services'.
func guarded(known map[string]*entry, also func(netip.Addr) []pool.Port) []Guarded {
	ports, open := map[netip.Addr][]pool.Port{}, map[netip.Addr]bool{}
	for _, r := range known {
		for _, a := range r.addrs {
			ports[a] = append(ports[a], r.exposure.ports...)
			open[a] = open[a] || r.exposure.open
		}
	}
	list := make([]Guarded, 0, len(ports))
	for a, of := range ports {
		if !open[a] {
			list = append(list, Guarded{Addr: a, Ports: append(of, also(a)...)})
		}
	}
	slices.SortFunc(list, func(a, b Guarded) int { return a.Addr.Compare(b.Addr) })
	return list
}

// expose notes what a Service says of its ports, and whether that, or what it has, is news for the Guard.
func (c *Controller) expose(r *entry, now exposure, sameAddrs bool) {
	c.unguarded = c.unguarded || !sameAddrs || !r.exposure.equal(now)
	r.exposure = now
}

// guardSoon tells the Guard what there is to guard: when nothing is left to look at, or now and then.
func (c *Controller) guardSoon() {
	if c.o.Guard == nil || !c.unguarded || c.queue.Len() > 0 && time.Since(c.guardedAt) < guardEvery {
		return
	}
	c.unguarded, c.guardedAt = false, time.Now()
	c.o.Guard.Guard(guarded(c.known, func(a netip.Addr) []pool.Port {
		if _, elsewhere := c.o.Elsewhere(a); elsewhere {
			return c.o.Also
		}
		return nil
	}))
}
