package pool

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// run is the addresses from one to another, both included, of one family.
type run struct{ from, to netip.Addr }

// String is r as a user would write it.
func (r run) String() string {
	if r.from == r.to {
		return r.from.String()
	}
	return r.from.String() + "-" + r.to.String()
}

// common is what both r and o contain.
func (r run) common(o run) (run, bool) {
	if r.from.Less(o.from) {
		r.from = o.from
	}
	if o.to.Less(r.to) {
		r.to = o.to
	}
	return r, !r.to.Less(r.from)
}

// usable is how many addresses of r are not reserved.
func (r run) usable() float64 {
	if r.from.Is4() {
		from, to := number(r.from), number(r.to)
		// Of the numbers below n, (n+255)/256 end in 0 and n/256 end in 255.
		below := func(n uint64) uint64 { return n - (n+255)/256 - n/256 }
		return float64(below(to+1) - below(from))
	}
	from, to := r.from.As16(), r.to.As16()
	high := binary.BigEndian.Uint64(to[:8]) - binary.BigEndian.Uint64(from[:8])
	first, last := binary.BigEndian.Uint64(from[8:]), binary.BigEndian.Uint64(to[8:])
	reserved := high // each 2^64 has one that ends in 64 zero bits
	if first == 0 {
		reserved++
	}
	if last < first {
		high--
	}
	return float64(high)*(1<<64) + float64(last-first) + 1 - float64(reserved)
}

// number is the value of an IPv4 address.
func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

// runs is a set of addresses: runs in order, none of which touches another. What it costs depends on how scattered
// the addresses are, not on how many there are.
type runs []run

// find is the index of the first run that does not end before a, and whether it contains a.
func (s runs) find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(s, a, func(r run, a netip.Addr) int {
		switch {
		case r.to.Less(a):
			return -1
		case a.Less(r.from):
			return 1
		}
		return 0
	})
}

func (s runs) contains(a netip.Addr) bool {
	_, in := s.find(a)
	return in
}

// add puts one address in.
func (s *runs) add(a netip.Addr) {
	i, in := s.find(a)
	if in {
		return
	}
	// Next and Prev of a family's last and first address are invalid, and no run ends or begins with that.
	after := i > 0 && (*s)[i-1].to == a.Prev()
	before := i < len(*s) && (*s)[i].from == a.Next()
	switch {
	case after && before:
		(*s)[i-1].to = (*s)[i].to
		*s = slices.Delete(*s, i, i+1)
	case after:
		(*s)[i-1].to = a
	case before:
		(*s)[i].from = a
	default:
		*s = slices.Insert(*s, i, run{a, a})
	}
}

// remove takes one address out.
func (s *runs) remove(a netip.Addr) {
	i, in := s.find(a)
	if !in {
		return
	}
	switch r := (*s)[i]; {
	case r.from == r.to:
		*s = slices.Delete(*s, i, i+1)
	case a == r.from:
		(*s)[i].from = a.Next()
	case a == r.to:
		(*s)[i].to = a.Prev()
	default:
		(*s)[i].to = a.Prev()
		*s = slices.Insert(*s, i+1, run{a.Next(), r.to})
	}
}

// union is the set of what is in any of the list.
func union(list []run) runs {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b run) int { return a.from.Compare(b.from) })
	var s runs
	for _, r := range list {
		last := len(s) - 1
		switch {
		case last < 0 || s[last].to.Less(r.from) && s[last].to.Next() != r.from:
			s = append(s, r)
		case s[last].to.Less(r.to):
			s[last].to = r.to
		}
	}
	return s
}

// usable is how many addresses are in both s and within, and not reserved.
func (s runs) usable(within run) float64 {
	var n float64
	i, _ := s.find(within.from)
	for ; i < len(s); i++ {
		both, overlap := s[i].common(within)
		if !overlap {
			break
		}
		n += both.usable()
	}
	return n
}

// direction is the way in which addresses are searched.
type direction bool

const (
	up   direction = false
	down direction = true
)

// ends are where a search of r begins and ends.
func (d direction) ends(r run) (first, last netip.Addr) {
	if d == down {
		return r.to, r.from
	}
	return r.from, r.to
}

// step is the next address; invalid after the family's last.
func (d direction) step(a netip.Addr) netip.Addr {
	if d == down {
		return a.Prev()
	}
	return a.Next()
}

// past says whether a search that is at a has passed last.
func (d direction) past(a, last netip.Addr) bool {
	if !a.IsValid() {
		return true
	}
	if d == down {
		return a.Less(last)
	}
	return last.Less(a)
}

// out is the first address from a on that is not in s; invalid when there is none.
func (s runs) out(a netip.Addr, d direction) netip.Addr {
	i, in := s.find(a)
	if !in {
		return a
	}
	_, last := d.ends(s[i])
	return d.step(last)
}

// in is the first address from a on that is in s; invalid when there is none.
func (s runs) in(a netip.Addr, d direction) netip.Addr {
	i, in := s.find(a)
	if in {
		return a
	}
	if d == down {
		i--
	}
	if i < 0 || i >= len(s) {
		return netip.Addr{}
	}
	first, _ := d.ends(s[i])
	return first
}
