package pool

import (
	"cmp"
	"maps"
	"slices"
)

// Stat is how much of one family's part of a pool is in use. What is never given out is left out.
type Stat struct {
	// Pool is the ConfigMap's key.
	Pool   string
	Family Family
	// Used counts the addresses that some Service has, whether it got them out of this pool, out of another that
	// overlaps it, or by name; Free the others. A float64 is exact up to 2^53, less than a /64 of IPv6 has.
	Used, Free float64
}

// Stats are one for each pool and each family that it has, in order.
func (a *Allocator) Stats() []Stat {
	var stats []Stat
	for _, namespace := range slices.Sorted(maps.Keys(a.pools.pools)) {
		p := a.pools.pools[namespace]
		for f := range families {
			if len(p.spans[f]) > 0 {
				stats = append(stats, a.stat(p, f))
			}
		}
	}
	slices.SortStableFunc(stats, func(x, y Stat) int { return cmp.Compare(x.Pool, y.Pool) })
	return stats
}

func (a *Allocator) stat(p *pool, f Family) Stat {
	s := Stat{Pool: p.key, Family: f}
	for _, span := range p.spans[f] {
		used := a.used.usable(span)
		s.Used += used
		s.Free += span.usable() - used
	}
	return s
}
