package pool

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// overlapLimit is how many pairs of overlapping pools are told of.
const overlapLimit = 50

// overlaps warns of addresses that more than one pool has. They are given out once all the same.
func (r *reader) overlaps() {
	type span struct {
		run
		pool *pool
	}
	var spans []span
	for _, namespace := range slices.Sorted(maps.Keys(r.pools)) {
		p := r.pools[namespace]
		for _, s := range slices.Concat(p.spans[IPv4], p.spans[IPv6]) {
			spans = append(spans, span{s, p})
		}
	}
	slices.SortStableFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })

	type pair struct{ a, b string }
	told := map[pair]bool{}
	var open []span // those that began before the one looked at, and reach it
	for _, s := range spans {
		open = slices.DeleteFunc(open, func(o span) bool { return o.to.Less(s.from) })
		for _, o := range open {
			a, b := o.pool, s.pool
			if a.key > b.key {
				a, b = b, a
			}
			if both, _ := o.common(s.run); !told[pair{a.key, b.key}] {
				told[pair{a.key, b.key}] = true
				r.overlap(a, b, both)
			}
			if len(told) == overlapLimit {
				return
			}
		}
		open = append(open, s)
	}
}

// overlap warns of what pools a and b have in common.
func (r *reader) overlap(a, b *pool, both run) {
	entryA, entryB := a.entryOf(both), b.entryOf(both)
	r.warn(b.key, entryB, fmt.Sprintf("%s has %s as well (%s); each address is given out once, to whichever namespace asks first", a.key, both, printable(entryA)),
		"write each address under one key only")
}

// entryOf is the first entry that r is part of, as it is written.
func (p *pool) entryOf(r run) string {
	i := slices.IndexFunc(p.entries, func(e entry) bool { _, overlap := e.run.common(r); return overlap })
	return cmp.Or(p.entries[i].text, p.key)
}
