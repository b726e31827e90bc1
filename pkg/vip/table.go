package vip

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// tick is the time between two comparisons while something is wrong, or the kernel does not tell of changes: an
	// address that was removed behind our back is back within it.
	tick = time.Second
	// settle is the time between two comparisons that only the kernel asks for. Starting a pod sends twenty
	// notifications, and a program that fights us for an address sends them without end.
	settle = 10 * time.Millisecond
	// calm bounds the part of the time, one in so many, that comparisons take which only the kernel asks for.
	calm = 5
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
	stakes   map[netip.Addr][]stake // the same by address
	verdicts map[string]verdict
	told     bool                    // some VIP was claimed since the start; before, an address that nobody claims says nothing
	awaited  int                     // those who have not made all their first claims; before, likewise
	over     bool                    // Run ends: every VIP is to be off
	asked    uint64                  // counts the changes that must be seen
	seen     uint64                  // the last change that was seen
	touched  map[netip.Addr]struct{} // whose claims changed since they were looked at
	whole    bool                    // something changed that a whole pass must see
	passed   chan struct{}           // closed and made anew after each pass
	lastPass time.Time
	watching time.Time        // since when the kernel is watched; zero while it is not
	left     map[string]error // per mandate, why a VIP that should be off this node may still be on it
	holding  []VIP

	// Owned by Run.
	order     []netip.Addr        // the claimed addresses, sorted; nil when it must be made anew
	reported  map[subject]string  // the last error of each subject, so that each is logged once
	shown     map[netip.Addr]bool // the VIPs that have a metric, and its value
	borrowed  map[VIP]struct{}    // of holding, those whose address on the node is another's
	troubled  string              // what trouble was told last; empty when that was nothing
	adding    bool                // more VIPs were touched than are added in one go
	leftovers bool                // an earlier life's addresses are left alone
	lives     map[VIP]*life       // of what is held and ours
	queue     lives               // the same in the order in which they are to be renewed
}

type claim struct {
	mandate string
	vips    []VIP
}

// stake is one VIP of a claim.
type stake struct {
	owner, mandate string
	vip            VIP
}

// verdict is what is known of a mandate. There is none before the first Grant or Revoke: then an address with
// our mark, left by an earlier life of this process, is neither renewed nor removed. The kernel takes it away in time.
type verdict struct{ until time.Time }

// NewTable returns a Table that claims nothing. Run does the work.
func NewTable(o Options) *Table {
	t := &Table{
		kernel:   newDetaching(o.Kernel),
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
		stakes:   map[netip.Addr][]stake{},
		verdicts: map[string]verdict{},
		touched:  map[netip.Addr]struct{}{},
		passed:   make(chan struct{}),
		left:     map[string]error{},
		reported: map[subject]string{},
		shown:    map[netip.Addr]bool{},
		borrowed: map[VIP]struct{}{},
		lives:    map[VIP]*life{},
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
// earlier claim; saying the same again changes nothing. From the first VIP that is claimed on, addresses which an
// earlier life of this process left and nobody claims are removed.
func (t *Table) Claim(owner, mandate string, vips []VIP) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.claims[owner]
	if known && before.mandate == mandate && slices.Equal(before.vips, vips) {
		return
	}
	t.unclaim(owner)
	t.claims[owner] = claim{mandate: mandate, vips: slices.Clone(vips)}
	for _, v := range vips {
		addr := v.Addr()
		t.stakes[addr] = append(t.stakes[addr], stake{owner, mandate, v})
		t.touched[addr] = struct{}{}
	}
	if !t.told && len(vips) > 0 {
		t.told, t.whole = true, true
	}
	t.ask()
}

// Await has addresses that carry our mark and that nobody claims left alone until complete is called: some of them may
// be of somebody whose first claims take a while. If complete is never called, the kernel takes them away in time. Await
// is called before Run.
func (t *Table) Await() (complete func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.awaited++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.awaited--
		t.whole = true
		t.ask()
	})
}

// Unclaim says that owner wants no VIP any more.
func (t *Table) Unclaim(owner string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.claims[owner]; known {
		t.unclaim(owner)
		t.ask()
	}
}

// unclaim is called with mu held.
func (t *Table) unclaim(owner string) {
	for _, v := range t.claims[owner].vips {
		addr := v.Addr()
		t.touched[addr] = struct{}{}
		others := slices.DeleteFunc(t.stakes[addr], func(s stake) bool { return s.owner == owner })
		if t.stakes[addr] = others; len(others) == 0 {
			delete(t.stakes, addr)
		}
	}
	delete(t.claims, owner)
}

// Grant says that this node holds mandate until then, on the monotonic clock. It may be called again with another
// time, an earlier one too.
func (t *Table) Grant(mandate string, until time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, now := t.verdicts[mandate].until, time.Now()
	t.verdicts[mandate] = verdict{until: until}
	if before.After(now) && !until.Before(before) {
		return // what is held goes on
	}
	t.whole = true
	t.ask()
}

// Revoke says that this node does not hold mandate. It takes effect when Revoke returns; off then waits until
// every VIP claimed under mandate alone is off this node. Its error says what could not be taken off, or that ctx
// ended first. An address that is not ours is not waited for: it stays whatever happens.
func (t *Table) Revoke(mandate string) (off func(ctx context.Context) error) {
	t.mu.Lock()
	t.verdicts[mandate] = verdict{}
	t.whole = true
	mine := t.ask()
	t.mu.Unlock()
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

// Claimed lists the VIPs that are claimed under a mandate, in order.
func (t *Table) Claimed(mandate string) (list []VIP) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.claims {
		if c.mandate == mandate {
			list = append(list, c.vips...)
		}
	}
	slices.SortFunc(list, compare)
	return slices.Compact(list)
}

// Mandates lists the mandates under which an address is claimed.
func (t *Table) Mandates(addr netip.Addr) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.mandates(addr)
	slices.Sort(list)
	return slices.Compact(list)
}

// LastPass is when Run was last seen at work; zero before the first comparison. More than a few seconds ago means stuck.
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

// ask has the changes that were just made seen to. Called with mu held; it returns their number.
func (t *Table) ask() uint64 {
	t.asked++
	signal(t.wake)
	return t.asked
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
	var began, ended, due time.Time // of the last pass, and of the next
	for ctx.Err() == nil {
		timer.Reset(time.Until(t.nextLook(began, due)))
		select {
		case <-ctx.Done():
			continue
		case <-t.wake:
			if t.plain(ctx) {
				continue
			}
		case <-timer.C:
			if now := time.Now(); due.After(now) && !t.ended(began, now) && t.plain(ctx) {
				continue
			}
		case <-t.stirred:
			if rest := ended.Add(max(settle, calm*ended.Sub(began))); rest.After(time.Now()) {
				due = earlier(due, rest)
				continue
			}
		}
		began = time.Now()
		_ = t.pass()
		ended = time.Now()
		if due = ended.Add(survey); len(t.reported) > 0 || t.unwatched(began) {
			due = ended.Add(tick)
		}
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
		if err = t.pass(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("take every VIP off this node: %w", err)
}

// watch turns the kernel's notifications into hints. Without them the tick still repairs, only later.
func (t *Table) watch(ctx context.Context) {
	failed := ""
	watching := func(since time.Time) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.watching = since
	}
	for ctx.Err() == nil {
		watching(time.Now())
		err := t.kernel.Watch(ctx, t.Hint)
		watching(time.Time{})
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
