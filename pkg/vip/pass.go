package vip

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// want is what is to become of one claimed VIP.
type want struct {
	vip VIP
	// until is when the last mandate ends under which it is claimed, which may be over; zero when none is granted.
	until time.Time
	// keep says that its address is claimed under mandates with no verdict yet, and no others: what an earlier life
	// left of it stays.
	keep bool
}

// want appends what is to become of the VIPs that are claimed with an address, in order. Called with mu held.
func (t *Table) want(to []want, addr netip.Addr) []want {
	first, decided := len(to), false
	for _, s := range t.stakes[addr] {
		v, known := t.verdicts[s.mandate]
		if t.over {
			v, known = verdict{}, true
		}
		decided = decided || known
		at := slices.IndexFunc(to[first:], func(w want) bool { return w.vip == s.vip })
		if at < 0 {
			at = len(to) - first
			to = append(to, want{vip: s.vip})
		}
		if w := &to[first+at]; v.until.After(w.until) {
			w.until = v.until
		}
	}
	of := to[first:]
	for i := range of {
		of[i].keep = !decided
	}
	slices.SortFunc(of, func(a, b want) int { return compare(a.vip, b.vip) })
	return to
}

// wants is every claimed VIP, in order, but for the addresses. Called with mu held.
func (t *Table) wants() []want {
	if t.order == nil || len(t.touched) > 0 {
		t.order = slices.SortedFunc(maps.Keys(t.stakes), netip.Addr.Compare)
	}
	list := make([]want, 0, len(t.order))
	for _, addr := range t.order {
		list = t.want(list, addr)
	}
	return list
}

// mandates are those under which an address is claimed. Called with mu held.
func (t *Table) mandates(addr netip.Addr) (list []string) {
	for _, s := range t.stakes[addr] {
		list = append(list, s.mandate)
	}
	return list
}

// prune forgets verdicts that are over, of mandates that nobody claims anything under: thousands of Leases come and
// go. Called with mu held.
func (t *Table) prune() {
	if len(t.verdicts) < 2*len(t.claims)+spareVerdicts {
		return
	}
	used := make(map[string]struct{}, len(t.claims))
	for _, c := range t.claims {
		used[c.mandate] = struct{}{}
	}
	now := time.Now()
	maps.DeleteFunc(t.verdicts, func(mandate string, v verdict) bool {
		_, is := used[mandate]
		return !is && !v.until.After(now)
	})
}

// spareVerdicts is how many verdicts of unused mandates are not worth looking for.
const spareVerdicts = 64

// pass is one comparison of what is wanted with what is there. Its maps and slices are its own.
type pass struct {
	*Table
	wants   []want // in the order of compare
	strays  bool   // an address which nobody claims is to go
	ends    bool   // Run ends
	addrs   []Address
	before  []VIP // held after the pass before
	news    bool  // something was told since the pass before
	holding []VIP
	left    map[netip.Addr]error // what could not be taken off
	errs    map[subject]error
	missing []Fault // of the VIPs that are to be present and are not
	blind   error   // why addrs was not read, but is what is believed

	borrowing map[VIP]struct{}

	later []netip.Addr // are put when what was put is announced
}

// longestAdding is how long VIPs are added before they are announced and others are renewed. The kernel takes longer for
// each the more it has: adding thousands may last longer than the first of them do.
const longestAdding = 200 * time.Millisecond

// of is what is wanted of an address; empty when nobody claims it.
func (p *pass) of(addr netip.Addr) []want {
	at, _ := slices.BinarySearchFunc(p.wants, addr, func(w want, a netip.Addr) int { return w.vip.Addr().Compare(a) })
	end := at
	for end < len(p.wants) && p.wants[end].vip.Addr() == addr {
		end++
	}
	return p.wants[at:end]
}

// subject is what an error is about.
type subject struct {
	about matter
	place
	speaker int
}

// matter is a kind of error.
type matter int

const (
	matterList matter = iota
	matterPut
	matterRemove
	matterForeign
	matterAnnounce
)

// place is where an address is: the same address on another link is another place.
type place struct {
	prefix netip.Prefix
	link   string
}

func (v VIP) place() place { return place{v.Prefix, v.Link} }

// pass compares once and repairs. It returns what it could not take off.
// Addresses go on before the announcement and the announcement ends before addresses go off: nobody is sent to a
// node that does not answer.
func (t *Table) pass() (stays error) {
	p := pass{Table: t, left: map[netip.Addr]error{}, errs: map[subject]error{}, borrowing: map[VIP]struct{}{}}
	t.mu.Lock()
	t.prune()
	p.wants = t.wants()
	p.strays, p.ends = t.told && t.awaited == 0 || t.over, t.over
	p.before = t.holding
	asked := t.asked
	p.news = asked != t.seen
	t.whole = false
	clear(t.touched)
	t.mu.Unlock()

	listed := p.list()
	p.put()
	p.announce()
	stays = errors.Join(listed, p.remove())
	p.foreign()
	p.show()
	p.report()
	p.tellTrouble()
	t.borrowed = p.borrowing

	t.mu.Lock()
	left := map[string]error{}
	for addr, err := range p.left {
		for _, m := range t.mandates(addr) {
			if !errors.Is(left[m], err) {
				left[m] = errors.Join(left[m], err)
			}
		}
	}
	if p.blind != nil {
		for _, c := range t.claims {
			left[c.mandate] = p.blind
		}
	}
	t.seen, t.left, t.lastPass, t.holding = asked, left, time.Now(), p.holding
	for _, addr := range p.later {
		t.touched[addr] = struct{}{}
		signal(t.wake)
	}
	close(t.passed)
	t.passed = make(chan struct{})
	t.mu.Unlock()
	return stays
}

// list reads what is there. If that fails, what was held is taken for what is there, so that mandates are kept
// and ended all the same; nobody is told then that a VIP is off, for there may be more.
func (p *pass) list() (err error) {
	p.addrs, err = p.kernel.Addresses()
	if err == nil {
		return nil
	}
	p.blind = err
	p.fault(subject{about: matterList}, err)
	for _, v := range p.before {
		_, others := p.borrowed[v]
		p.addrs = append(p.addrs, Address{Prefix: v.Prefix, Link: v.Link, Ours: !others})
	}
	return err
}

// put adds what is missing, renews what is due and notes what is held then.
func (p *pass) put() {
	type spot struct { // whatever its prefix length
		addr netip.Addr
		link string
	}
	ours, others := make(map[place]Address, len(p.before)), map[spot]netip.Prefix{}
	for _, a := range p.addrs {
		if a.Ours {
			ours[place{a.Prefix, a.Link}] = a
		} else {
			others[spot{a.Prefix.Addr(), a.Link}] = a.Prefix
		}
	}
	was := p.lives
	p.Table.lives = make(map[VIP]*life, len(was))
	began := time.Now()
	var puts batch
	for i := range p.wants {
		w := &p.wants[i]
		// The clock is looked at here and not once per pass: this process may have been stopped in between.
		now := time.Now()
		valid := w.until.Sub(now)
		if valid <= 0 {
			w.until = time.Time{}
			continue
		}
		a, found := ours[w.vip.place()]
		theirs, taken := others[spot{w.vip.Addr(), w.vip.Link}]
		l := lifeOf(w.vip, was[w.vip], a.Valid, valid, now)
		switch {
		case found && !l.isDue(now, w.until) && !outlasts(a.Valid, valid):
			p.holding = append(p.holding, w.vip)
			p.lives[w.vip] = l
		case taken && !found:
			p.did(Put{w.vip, valid}, now, found, notOurs(theirs, w.vip.Link))
		case !found && now.Sub(began) > longestAdding:
			p.later = append(p.later, w.vip.Addr())
		default:
			puts.add(w.vip, valid, found)
		}
		if puts.full() {
			puts.flush(p.kernel, p.did)
		}
	}
	puts.flush(p.kernel, p.did)
	p.requeue()
	slices.SortFunc(p.holding, compare)
	// What is put after a stop is taken off by the next pass, which is due; it is not announced before.
	now := time.Now()
	p.holding = slices.DeleteFunc(p.holding, func(v VIP) bool { return !p.present(v, now) })
}

// did notes what became of a VIP that was to be put at that time, and that was found there before or not.
func (p *pass) did(put Put, at time.Time, found bool, err error) {
	v := put.VIP
	if err == nil {
		p.wasPut(v, at, put.Valid)
	}
	if !found && errors.Is(err, ErrNotOurs) {
		// It answers here, and here is where the mandate is.
		p.borrowing[v] = struct{}{}
		found = true
	} else if err == nil && !found {
		p.added(v)
		found = true
	}
	p.fault(subject{about: matterPut, place: v.place()}, err)
	// Of one that is only believed to be there, a put that fails is all that is known.
	if err != nil && (!found || p.blind != nil && !errors.Is(err, ErrNotOurs)) {
		p.missing = append(p.missing, Fault{v, err})
	}
	if found { // an address that could not be renewed is there until its lifetime ends
		p.holding = append(p.holding, v)
	}
}

// present says whether v is to be present now.
func (p *pass) present(v VIP, now time.Time) bool {
	return slices.ContainsFunc(p.of(v.Addr()), func(w want) bool { return w.vip == v && w.until.After(now) })
}

// batch is VIPs that are to be put in one go: the kernel takes many at once for much less than one by one.
type batch struct {
	puts  []Put
	found []bool
}

// batchSize bounds the time between a look at the clock and the system call.
const batchSize = 64

func (b *batch) add(v VIP, valid time.Duration, found bool) {
	b.puts, b.found = append(b.puts, Put{v, valid}), append(b.found, found)
}

func (b *batch) full() bool { return len(b.puts) >= batchSize }

// flush puts them and tells did of each, and from when on its lifetime counts.
func (b *batch) flush(k Kernel, did func(put Put, at time.Time, found bool, err error)) {
	if len(b.puts) == 0 {
		return
	}
	at := time.Now()
	for i, err := range k.PutAll(b.puts) {
		v := b.puts[i].VIP
		if errors.Is(err, ErrNotOurs) && !b.found[i] {
			err = notOurs(v.Prefix, v.Link)
		}
		did(b.puts[i], at, b.found[i], err)
	}
	b.puts, b.found = b.puts[:0], b.found[:0]
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func notOurs(there netip.Prefix, link string) error {
	return fmt.Errorf("%s on %s: %w; it stays when the VIP moves: remove it with 'ip address delete %[1]s dev %[2]s'", there, link, ErrNotOurs)
}

func (p *pass) added(v VIP) {
	if _, was := slices.BinarySearchFunc(p.before, v, compare); was {
		p.log.Info("VIP was gone from its link, and is back", "vip", v.String(), "link", v.Link)
		return
	}
	p.log.Info("VIP added", "vip", v.String(), "link", v.Link)
}

func compare(a, b VIP) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Link, b.Link), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Via, b.Via))
}

func (p *pass) announce() {
	for i, s := range p.speakers {
		p.fault(subject{about: matterAnnounce, speaker: i}, s.Sync(slices.Clone(p.holding)))
	}
}

// remove takes off what carries our mark and is not wanted where it is.
func (p *pass) remove() (stays error) {
	var list []Address
	p.leftovers = false
	for _, a := range p.addrs {
		if !a.Ours {
			continue
		}
		wants := p.of(a.Prefix.Addr())
		stays := slices.ContainsFunc(wants, func(w want) bool { return !w.until.IsZero() && w.vip.place() == place{a.Prefix, a.Link} })
		left := slices.ContainsFunc(wants, func(w want) bool { return w.keep }) || len(wants) == 0 && !p.strays
		if p.leftovers = p.leftovers || left; !stays && !left {
			list = append(list, a)
		}
	}
	for i, err := range p.kernel.RemoveAll(list) {
		addr, at := list[i].Prefix.Addr(), place{list[i].Prefix, list[i].Link}
		p.fault(subject{about: matterRemove, place: at}, err)
		if err == nil {
			p.log.Info("VIP removed", "vip", addr.String(), "link", at.link)
			continue
		}
		stays = errors.Join(stays, err)
		p.left[addr] = errors.Join(p.left[addr], err)
	}
	return stays
}

// foreign finds the VIPs that this node answers for without a mandate, because of an address that is not ours: it
// counts on any link, since Linux answers ARP on each for the addresses of all. Before the first verdict nobody knows
// where the VIP belongs, and when Run ends somebody else is to look.
func (p *pass) foreign() {
	if p.blind != nil || p.ends {
		return
	}
	for _, a := range p.addrs {
		wants := p.of(a.Prefix.Addr())
		mine := slices.ContainsFunc(wants, func(w want) bool { return w.keep || !w.until.IsZero() })
		if !a.Ours && len(wants) > 0 && !mine {
			p.fault(subject{about: matterForeign, place: place{a.Prefix, a.Link}}, fmt.Errorf(
				"%s on %s: %w; it answers here while another node holds the VIP: remove it with 'ip address delete %[1]s dev %[2]s'",
				a.Prefix, a.Link, ErrNotOurs))
		}
	}
}

// show sets the metric of each claimed VIP.
func (p *pass) show() {
	if !p.news && slices.Equal(p.before, p.holding) {
		return
	}
	for addr := range p.shown {
		if len(p.of(addr)) == 0 {
			p.hides(addr)
		}
	}
	for _, w := range p.wants {
		p.shows(w.vip.Addr(), holds(p.holding, w.vip.Addr()))
	}
}

// shows sets the metric of one claimed address.
func (t *Table) shows(addr netip.Addr, held bool) {
	if is, known := t.shown[addr]; known && is == held {
		return
	}
	t.shown[addr] = held
	value := 0.0
	if held {
		value = 1
	}
	t.held.WithLabelValues(addr.String()).Set(value)
}

// hides ends the metric of an address that nobody claims any more.
func (t *Table) hides(addr netip.Addr) {
	t.held.DeleteLabelValues(addr.String())
	delete(t.shown, addr)
}

// holds says whether a sorted list has a VIP with an address.
func holds(list []VIP, addr netip.Addr) bool {
	_, is := slices.BinarySearchFunc(list, addr, func(v VIP, a netip.Addr) int { return v.Addr().Compare(a) })
	return is
}

func (p *pass) fault(s subject, err error) {
	if err != nil {
		p.errs[s] = err
	}
}

// tellTrouble calls trouble if what it was told last is not so any more.
func (p *pass) tellTrouble() {
	var texts []string
	for _, f := range p.missing {
		texts = append(texts, f.Err.Error())
	}
	if text := strings.Join(texts, "\n"); text != p.troubled {
		p.troubled = text
		p.trouble(p.missing)
	}
}

// report logs the errors that are new, and the end of those that were mended. One that only does not matter any more,
// as that of a VIP that is not to be here now, ends without a word.
func (p *pass) report() {
	for s, err := range p.errs {
		text := err.Error()
		if p.reported[s] == text {
			continue
		}
		p.reported[s] = text
		attrs := append(s.attrs(), "err", err)
		switch s.about {
		case matterList:
			p.log.Warn("addresses could not be listed", attrs...)
		case matterPut:
			p.log.Warn("VIP could not be put on its link", attrs...)
		case matterRemove:
			p.log.Warn("VIP could not be taken off its link", attrs...)
		case matterForeign:
			p.log.Warn("VIP is on this node, which does not hold it", attrs...)
		case matterAnnounce:
			p.log.Warn("VIPs could not be announced", attrs...)
		}
	}
	for s, text := range p.reported {
		if p.errs[s] != nil || p.blind != nil && (s.about == matterForeign || s.about == matterRemove) {
			continue
		}
		delete(p.reported, s)
		if p.mended(s) {
			p.log.Info("settled", append(s.attrs(), "was", text)...)
		}
	}
}

// mended says whether the subject of an error that has ended is as it should be.
func (p *pass) mended(s subject) bool {
	switch s.about {
	case matterPut:
		return slices.ContainsFunc(p.holding, func(v VIP) bool { return v.place() == s.place })
	case matterRemove: // not if it is to be here again
		return !slices.ContainsFunc(p.holding, func(v VIP) bool { return v.place() == s.place })
	case matterForeign:
		return !slices.ContainsFunc(p.addrs, func(a Address) bool { return !a.Ours && place{a.Prefix, a.Link} == s.place })
	}
	return true
}

func (s subject) attrs() []any {
	if s.link == "" {
		return nil
	}
	return []any{"vip", s.prefix.Addr().String(), "link", s.link}
}
