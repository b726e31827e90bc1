package vip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// tick is the time between two comparisons when nothing hints at a change: an address that was removed behind
	// our back, unnoticed, is back within it.
	tick = time.Second
	// settle is the time between two comparisons that only the kernel asks for. Starting a pod sends twenty
	// notifications, and a program that fights us for an address sends them without end.
	settle = 10 * time.Millisecond
	// endTries and endPause bound how hard Run tries to take everything off before it returns: a stop is to take
	// less than a second, and what stays ends with its lifetime.
	endTries = 3
	endPause = 100 * time.Millisecond
)

// Options configure a Table. Kernel is required.
type Options struct {
	Kernel   Kernel
	Speakers []Speaker
	// Log is where changes are told; nil means nowhere.
	Log *slog.Logger
	// Registerer gets the Table's metrics; nil means none.
	Registerer prometheus.Registerer
	// Trouble is told of VIPs that are to be present and cannot be put on their link, whenever what is wrong
	// changes. None is left when they are there now or are not to be present any more. A VIP that is still there and cannot be renewed
	// is not told of, nor is one whose address is on its link by another's hand (ErrNotOurs): they answer.
	// Trouble is called by Run's goroutine, one call at a time, and must not block. It may call the Table, but not
	// wait for it (the off of Revoke). Nil means that nobody is told.
	Trouble func([]Fault)
}

// Fault is why a VIP cannot be put on its link. Err names the VIP.
type Fault struct {
	VIP VIP
	Err error
}

// Table makes the node match the claims and grants that it was told. Its methods may be called from any
// goroutine, before and while Run works.
type Table struct {
	kernel   Kernel
	speakers []Speaker
	log      *slog.Logger
	held     *prometheus.GaugeVec
	trouble  func([]Fault)

	wake    chan struct{} // holds at most one token: something was told
	stirred chan struct{} // holds at most one token: something on the node may have changed
	done    chan struct{} // closed when Run has returned

	mu       sync.Mutex // guards the fields below; never held across a system call
	claims   map[string]claim
	verdicts map[string]verdict
	told     bool          // some VIP was claimed since the start; before, an address that nobody claims says nothing
	over     bool          // Run ends: every VIP is to be off
	asked    uint64        // counts the changes that a pass must see
	seen     uint64        // the last change that a pass has seen
	passed   chan struct{} // closed and made anew after each pass
	lastPass time.Time
	left     map[string]error // per mandate, why a VIP that should be off this node may still be on it
	holding  []VIP

	// Owned by Run.
	reported map[subject]string      // the last error of each subject, so that each is logged once
	shown    map[netip.Addr]struct{} // the VIPs that have a metric
	borrowed map[VIP]struct{}        // of holding, those whose address on the node is another's
	troubled string                  // what trouble was told last; empty when that was nothing
}

type claim struct {
	mandate string
	vips    []VIP
}

// verdict is what is known of a mandate. There is none before the first Grant or Revoke: then an address with
// our mark, left by an earlier life of this process, is neither renewed nor removed. The kernel takes it away in time.
type verdict struct{ until time.Time }

// NewTable returns a Table that claims nothing. Run does the work.
func NewTable(o Options) *Table {
	t := &Table{
		kernel:   o.Kernel,
		speakers: o.Speakers,
		log:      o.Log,
		trouble:  o.Trouble,
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kube_vip_vip_held",
			Help: "1 while this node holds the VIP: it is on the link and announced. 0 while it is claimed and not held here.",
		}, []string{"vip"}),
		wake:     make(chan struct{}, 1),
		stirred:  make(chan struct{}, 1),
		done:     make(chan struct{}),
		claims:   map[string]claim{},
		verdicts: map[string]verdict{},
		passed:   make(chan struct{}),
		left:     map[string]error{},
		reported: map[subject]string{},
		shown:    map[netip.Addr]struct{}{},
		borrowed: map[VIP]struct{}{},
	}
	if t.trouble == nil {
		t.trouble = func([]Fault) {}
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(t.held)
	}
	return t
}

// Claim says that these VIPs belong to owner and are held while mandate is granted. It replaces the owner's
// earlier claim. From the first VIP that is claimed on, addresses which an earlier life of this process left and
// nobody claims are removed.
func (t *Table) Claim(owner, mandate string, vips []VIP) {
	t.change(func() {
		t.claims[owner] = claim{mandate: mandate, vips: slices.Clone(vips)}
		t.told = t.told || len(vips) > 0
	})
}

// Unclaim says that owner wants no VIP any more.
func (t *Table) Unclaim(owner string) {
	t.change(func() { delete(t.claims, owner) })
}

// Grant says that this node holds mandate until then, on the monotonic clock. It may be called again with another
// time, an earlier one too.
func (t *Table) Grant(mandate string, until time.Time) {
	t.change(func() { t.verdicts[mandate] = verdict{until: until} })
}

// Revoke says that this node does not hold mandate. It takes effect when Revoke returns; off then waits until
// every VIP claimed under mandate alone is off this node. Its error says what could not be taken off, or that ctx
// ended first. An address that is not ours is not waited for: it stays whatever happens.
func (t *Table) Revoke(mandate string) (off func(ctx context.Context) error) {
	mine := t.change(func() { t.verdicts[mandate] = verdict{} })
	return func(ctx context.Context) error {
		done := t.done
		for {
			t.mu.Lock()
			seen, passed, left := t.seen, t.passed, t.left[mandate]
			t.mu.Unlock()
			if seen >= mine {
				return left
			}
			if done == nil {
				return fmt.Errorf("revoke %s: the table is not running", mandate)
			}
			select {
			case <-passed:
			case <-done:
				done = nil // what the last pass saw counts
			case <-ctx.Done():
				return fmt.Errorf("revoke %s: %w", mandate, ctx.Err())
			}
		}
	}
}

// Holding lists the VIPs that were on this node after the last comparison.
func (t *Table) Holding() []VIP {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.holding)
}

// LastPass is when the last comparison ended; zero before the first. More than a few seconds ago means stuck.
func (t *Table) LastPass() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastPass
}

// Hint says that something on the node may have changed.
func (t *Table) Hint() { signal(t.stirred) }

// signal leaves a token, unless one is there already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (t *Table) change(do func()) uint64 {
	t.mu.Lock()
	do()
	t.asked++
	mine := t.asked
	t.mu.Unlock()
	signal(t.wake)
	return mine
}

// Run compares and repairs until ctx ends; then it takes every VIP off this node, and its error says what it
// could not take off. Afterwards nothing of it runs. It works once.
func (t *Table) Run(ctx context.Context) error {
	defer close(t.done)
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { t.watch(watching) })
	defer watch.Wait()
	defer stopWatching()

	timer := time.NewTimer(0)
	defer timer.Stop()
	var last, next time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-t.wake:
		case <-timer.C:
		case <-t.stirred:
			if rest := last.Add(settle); rest.After(time.Now()) {
				if rest.Before(next) {
					next = rest
				}
				timer.Reset(time.Until(next))
				continue
			}
		}
		next, _ = t.pass()
		last = time.Now()
		timer.Reset(time.Until(next))
	}
	return t.end()
}

// end takes everything off.
func (t *Table) end() error {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	var err error
	for try := range endTries {
		if try > 0 {
			time.Sleep(endPause)
		}
		if _, err = t.pass(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("take every VIP off this node: %w", err)
}

// watch turns the kernel's notifications into hints. Without them the tick still repairs, only later.
func (t *Table) watch(ctx context.Context) {
	failed := ""
	for ctx.Err() == nil {
		err := t.kernel.Watch(ctx, t.Hint)
		if err != nil && err.Error() != failed {
			failed = err.Error()
			t.log.Warn("watching the kernel's links and addresses ended; looking every second instead", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

// wanted is a picture of the claims and verdicts at one moment.
type wanted struct {
	present  map[VIP]time.Time       // until when, which may be over
	mandates map[netip.Addr][]string // of every claimed address
	// keep has the addresses that are claimed under mandates with no verdict yet, and no others: what an earlier
	// life left of them stays.
	keep map[netip.Addr]struct{}
	// strays says that an address which nobody claims is to go.
	strays bool
	// over says that Run ends.
	over bool
}

// wanted is called with mu held.
func (t *Table) wanted() wanted {
	w := wanted{present: map[VIP]time.Time{}, mandates: map[netip.Addr][]string{}, keep: map[netip.Addr]struct{}{}}
	w.strays, w.over = t.told || t.over, t.over
	decided := map[netip.Addr]struct{}{}
	for _, c := range t.claims {
		v, known := t.verdicts[c.mandate]
		if t.over {
			v, known = verdict{}, true
		}
		for _, vip := range c.vips {
			addr := vip.Addr()
			w.mandates[addr] = append(w.mandates[addr], c.mandate)
			if !known {
				w.keep[addr] = struct{}{}
				continue
			}
			decided[addr] = struct{}{}
			if v.until.After(w.present[vip]) {
				w.present[vip] = v.until
			}
		}
	}
	for addr := range decided {
		delete(w.keep, addr)
	}
	return w
}

// pass is one comparison of what is wanted with what is there. Its maps and slices are its own.
type pass struct {
	*Table
	want    wanted
	addrs   []Address
	before  []VIP            // held after the pass before
	had     map[VIP]struct{} // the same
	news    bool             // something was told since the pass before
	holding []VIP
	left    map[string]error
	errs    map[subject]error
	missing []Fault // of the VIPs that are to be present and are not
	blind   bool    // addrs was not read, but is what is believed

	borrowing map[VIP]struct{}
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

// pass compares once and repairs. It returns when the next comparison is due and what it could not take off.
// Addresses go on before the announcement and the announcement ends before addresses go off: nobody is sent to a
// node that does not answer.
func (t *Table) pass() (next time.Time, stays error) {
	p := pass{Table: t, left: map[string]error{}, errs: map[subject]error{}, borrowing: map[VIP]struct{}{}}
	t.mu.Lock()
	p.want = t.wanted()
	p.before = t.holding
	asked := t.asked
	p.news = asked != t.seen
	t.mu.Unlock()

	p.had = make(map[VIP]struct{}, len(p.before))
	for _, v := range p.before {
		p.had[v] = struct{}{}
	}
	listed := p.list()
	next = p.put()
	p.announce()
	stays = errors.Join(listed, p.remove())
	p.foreign()
	p.show()
	p.report()
	p.tellTrouble()
	t.borrowed = p.borrowing

	t.mu.Lock()
	t.seen, t.left, t.lastPass, t.holding = asked, p.left, time.Now(), p.holding
	close(t.passed)
	t.passed = make(chan struct{})
	t.mu.Unlock()
	return next, stays
}

// list reads what is there. If that fails, what was held is taken for what is there, so that mandates are kept
// and ended all the same; nobody is told then that a VIP is off, for there may be more.
func (p *pass) list() (err error) {
	p.addrs, err = p.kernel.Addresses()
	if err == nil {
		return nil
	}
	p.blind = true
	p.fault(subject{about: matterList}, err)
	for _, v := range p.before {
		_, others := p.borrowed[v]
		p.addrs = append(p.addrs, Address{Prefix: v.Prefix, Link: v.Link, Ours: !others})
	}
	for _, mandates := range p.want.mandates {
		for _, m := range mandates {
			p.left[m] = err
		}
	}
	return err
}

// put adds what is missing, renews what is due and notes what is held then. A VIP whose mandate has run out
// meanwhile leaves p.want.present. It returns when the next mandate ends, or the next tick.
func (p *pass) put() (next time.Time) {
	type spot struct { // whatever its prefix length
		addr netip.Addr
		link string
	}
	ours, others := map[place]Address{}, map[spot]netip.Prefix{}
	for _, a := range p.addrs {
		if a.Ours {
			ours[place{a.Prefix, a.Link}] = a
		} else {
			others[spot{a.Prefix.Addr(), a.Link}] = a.Prefix
		}
	}
	next = time.Now().Add(tick)
	for _, v := range slices.SortedFunc(maps.Keys(p.want.present), compare) {
		// The clock is looked at here and not once per pass: this process may have been stopped in between.
		until := p.want.present[v]
		valid := time.Until(until)
		if valid <= 0 {
			delete(p.want.present, v)
			continue
		}
		if until.Before(next) {
			next = until
		}
		a, found := ours[v.place()]
		theirs, taken := others[spot{v.Addr(), v.Link}]
		var err error
		switch {
		case found && !due(a.Valid, valid):
		case taken && !found:
			err = notOurs(theirs, v.Link)
		default:
			err = p.kernel.Put(v, valid)
		}
		if !found && errors.Is(err, ErrNotOurs) {
			// It answers here, and here is where the mandate is.
			if !taken {
				err = notOurs(v.Prefix, v.Link)
			}
			p.borrowing[v] = struct{}{}
			found = true
		} else if err == nil && !found {
			p.added(v)
			found = true
		}
		p.fault(subject{about: matterPut, place: v.place()}, err)
		// Of one that is only believed to be there, a put that fails is all that is known.
		if err != nil && (!found || p.blind && !errors.Is(err, ErrNotOurs)) {
			p.missing = append(p.missing, Fault{v, err})
		}
		if found { // an address that could not be renewed is there until its lifetime ends
			p.holding = append(p.holding, v)
		}
	}
	// What is put after a stop is taken off by the next pass, which is due; it is not announced before.
	now := time.Now()
	p.holding = slices.DeleteFunc(p.holding, func(v VIP) bool { return !p.want.present[v].After(now) })
	return next
}

// due says whether our address, of whose lifetime left is said to be left, must be put again for a mandate that
// ends in valid: when a third of the mandate's time is used up; when it might not last to the next tick, for up to
// a second less is left than is said; and when it would outlast the mandate by more than the rounding.
func due(left, valid time.Duration) bool {
	longest := time.Duration(lifetimeSeconds(valid)) * time.Second
	return left*3 <= valid*2 || left <= tick+time.Second || left > longest
}

func notOurs(there netip.Prefix, link string) error {
	return fmt.Errorf("%s on %s: %w; it stays when the VIP moves: remove it with 'ip address delete %[1]s dev %[2]s'", there, link, ErrNotOurs)
}

func (p *pass) added(v VIP) {
	if _, was := p.had[v]; was {
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
	wanted := make(map[place]struct{}, len(p.want.present))
	for v := range p.want.present {
		wanted[v.place()] = struct{}{}
	}
	for _, a := range p.addrs {
		addr := a.Prefix.Addr()
		at := place{a.Prefix, a.Link}
		mandates, claimed := p.want.mandates[addr]
		_, keep := p.want.keep[addr]
		_, stay := wanted[at]
		if !a.Ours || keep || stay || !claimed && !p.want.strays {
			continue
		}
		err := p.kernel.Remove(a)
		p.fault(subject{about: matterRemove, place: at}, err)
		if err == nil {
			p.log.Info("VIP removed", "vip", addr.String(), "link", a.Link)
			continue
		}
		stays = errors.Join(stays, err)
		for _, m := range mandates {
			p.left[m] = errors.Join(p.left[m], err)
		}
	}
	return stays
}

// foreign finds the VIPs that this node answers for without a mandate, because of an address that is not ours: it
// counts on any link, since Linux answers ARP on each for the addresses of all. Before the first verdict nobody knows
// where the VIP belongs, and when Run ends somebody else is to look.
func (p *pass) foreign() {
	if p.blind || p.want.over {
		return
	}
	granted := map[netip.Addr]struct{}{}
	for v := range p.want.present {
		granted[v.Addr()] = struct{}{}
	}
	for _, a := range p.addrs {
		addr := a.Prefix.Addr()
		_, claimed := p.want.mandates[addr]
		_, undecided := p.want.keep[addr]
		_, here := granted[addr]
		if !a.Ours && claimed && !undecided && !here {
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
		if _, claimed := p.want.mandates[addr]; !claimed {
			p.held.DeleteLabelValues(addr.String())
			delete(p.shown, addr)
		}
	}
	held := map[netip.Addr]float64{}
	for _, v := range p.holding {
		held[v.Addr()] = 1
	}
	for addr := range p.want.mandates {
		p.shown[addr] = struct{}{}
		p.held.WithLabelValues(addr.String()).Set(held[addr])
	}
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
		if p.errs[s] != nil || p.blind && (s.about == matterForeign || s.about == matterRemove) {
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
