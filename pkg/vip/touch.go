package vip

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// touch makes the VIPs whose claims changed what they are to be, and looks at nothing else: one more among ten thousand
// does not wait until all were compared. It leaves to the next pass, by false, whatever is not plain: then nothing was
// seen to.
func (t *Table) touch() (done bool) {
	t.mu.Lock()
	if t.whole || len(t.touched) == 0 || len(t.reported) > 0 || t.leftovers {
		done = !t.whole && len(t.touched) == 0
		t.mu.Unlock()
		return done
	}
	var wants []want
	addrs := make([]netip.Addr, 0, len(t.touched))
	for addr := range t.touched {
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for _, addr := range addrs {
		wants = t.want(wants, addr)
	}
	asked, before := t.asked, t.holding
	t.order = nil
	clear(t.touched)
	t.mu.Unlock()

	plain := true
	var puts batch
	var holding []VIP // of what was touched
	did := func(p Put, at time.Time, _ bool, err error) {
		if err != nil {
			plain = false
			return
		}
		v := p.VIP
		t.wasPut(v, at, p.Valid)
		holding = append(holding, v)
		if _, was := slices.BinarySearchFunc(before, v, compare); !was {
			t.log.Info("VIP added", "vip", v.String(), "link", v.Link)
		}
	}
	t.adding = false
	began := time.Now()
	for i, w := range wants {
		now := time.Now()
		if now.Sub(began) > longestAdding && wants[i-1].vip.Addr() != w.vip.Addr() {
			addrs, wants = t.later(addrs, w.vip.Addr()), wants[:i]
			break
		}
		valid := w.until.Sub(now)
		if valid <= 0 {
			continue
		}
		if _, borrowed := t.borrowed[w.vip]; borrowed {
			holding = append(holding, w.vip)
			continue
		}
		if _, held := slices.BinarySearchFunc(before, w.vip, compare); held {
			holding = append(holding, w.vip)
			continue
		}
		if puts.add(w.vip, valid, false); puts.full() {
			puts.flush(t.kernel, did)
		}
	}
	puts.flush(t.kernel, did)
	now := time.Now()
	for _, w := range wants { // what was put after a stop is not announced; the pass takes it off
		if !w.until.IsZero() && !w.until.After(now) {
			holding = slices.DeleteFunc(holding, func(v VIP) bool { return v == w.vip })
			plain = false
		}
	}
	slices.SortFunc(holding, compare)
	gone := t.replace(addrs, before, holding)
	for _, s := range t.speakers {
		plain = s.Sync(slices.Clone(t.holding)) == nil && plain
	}
	plain = errors.Join(t.kernel.RemoveAll(gone)...) == nil && plain
	for _, a := range gone {
		t.log.Info("VIP removed", "vip", a.Prefix.Addr().String(), "link", a.Link)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, addr := range addrs {
		if len(t.stakes[addr]) > 0 {
			t.shows(addr, holds(holding, addr))
		} else {
			t.hides(addr)
		}
	}
	if !plain {
		t.whole = true
		signal(t.wake)
	}
	t.seen = asked
	return true
}

// later leaves those of the addresses, which are sorted, that are not before one for the next time, and returns the others.
func (t *Table) later(addrs []netip.Addr, first netip.Addr) []netip.Addr {
	at, _ := slices.BinarySearchFunc(addrs, first, netip.Addr.Compare)
	t.adding = true
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, addr := range addrs[at:] {
		t.touched[addr] = struct{}{}
	}
	signal(t.wake)
	return addrs[:at]
}

// replace puts what is held of some addresses, both sorted, in the place of what was. It returns our addresses that
// are to be taken off for it.
func (t *Table) replace(addrs []netip.Addr, before, holding []VIP) (gone []Address) {
	now := make([]VIP, 0, len(before)+len(holding))
	news := holding
	for _, v := range before {
		if _, touched := slices.BinarySearchFunc(addrs, v.Addr(), netip.Addr.Compare); !touched {
			for len(news) > 0 && compare(news[0], v) < 0 {
				now, news = append(now, news[0]), news[1:]
			}
			now = append(now, v)
			continue
		}
		if !slices.Contains(holding, v) {
			delete(t.lives, v)
		}
		stays := slices.ContainsFunc(holding, func(h VIP) bool { return h.place() == v.place() })
		if _, borrowed := t.borrowed[v]; !borrowed && !stays {
			gone = append(gone, Address{Prefix: v.Prefix, Link: v.Link, Ours: true})
		}
	}
	now = append(now, news...)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.holding = now
	return gone
}
