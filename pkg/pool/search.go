package pool

import "net/netip"

// skipLimit is how many free addresses a request may refuse before the search is given up: what is refused may be a
// whole network, and a pool of IPv6 has no end. It is a full /16.
const skipLimit = 1 << 16

// search looks for an address in spans.
type search struct {
	spans     runs
	direction direction
	skip      func(netip.Addr) bool
	refused   int // free addresses that skip refused
}

// free is the first address that nobody has; invalid when there is none.
func (s *search) free(used runs) netip.Addr {
	return s.first(func(at netip.Addr) (netip.Addr, bool) {
		if next := used.out(at, s.direction); next != at {
			return next, false
		}
		if reserved(at) {
			return s.direction.step(at), false
		}
		if s.skip(at) {
			s.refused++
			return s.direction.step(at), false
		}
		return at, true
	})
}

// shared is the first address out of open that is in none of taken; invalid when there is none.
func (s *search) shared(open runs, taken []runs) netip.Addr {
	return s.first(func(at netip.Addr) (netip.Addr, bool) {
		if next := open.in(at, s.direction); next != at {
			return next, false
		}
		for _, t := range taken {
			if next := t.out(at, s.direction); next != at {
				return next, false
			}
		}
		if reserved(at) || s.skip(at) {
			return s.direction.step(at), false
		}
		return at, true
	})
}

// first is the first address in spans that look accepts. Of others look says where to go on.
func (s *search) first(look func(netip.Addr) (next netip.Addr, found bool)) netip.Addr {
	for i := range s.spans {
		if s.direction == down {
			i = len(s.spans) - 1 - i
		}
		at, end := s.direction.ends(s.spans[i])
		for !s.direction.past(at, end) && s.refused < skipLimit {
			next, found := look(at)
			if found {
				return at
			}
			at = next
		}
	}
	return netip.Addr{}
}
