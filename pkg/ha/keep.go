package ha

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// keepFor is how long at a time a mandate goes on for want of the API: who kills the process then is rid of its
	// addresses in as much, rounded up to the kernel's second.
	keepFor = 2 * time.Second
	// keepMargin is how long before its end it does so first; then it does every half of that.
	keepMargin = time.Second
)

// Keeper has mandates go on while the API does not answer. Others may take the Lease then without this instance
// hearing of it; it is the wire that tells. A holder whose mandate is over goes on until somebody claims the addresses
// there (Contest), or the API says that the Lease is another's. And who takes the Lease of a holder that fell silent
// waits until nobody answers for the addresses.
type Keeper struct {
	// Kept is told when a mandate begins to go on beyond its time, and when it does not any more. It must not block.
	Kept func(mandate string, beyond bool)
	// Clear returns once nobody else on the wire answers for what this instance claims under a mandate, or when it gives
	// that up; or when ctx ends. Until then the mandate is not granted.
	Clear func(ctx context.Context, mandate string)
	// Silent says that nobody else on the wire answers for what this instance claims under a mandate: who had the Lease is
	// gone. It is false when that is not known. It asks as one who only looks.
	Silent func(ctx context.Context, mandate string) bool
}

// keeping is the core's part of a Keeper.
type keeping struct {
	on     bool
	beyond bool // the mandate goes on beyond its time
	wary   bool // who had the Lease before us may go on without it, and nobody has looked yet
	reach  contact
	// asked and gone are the Lease, by when it was seen, whose holder was asked for on the wire, and whose holder did not
	// answer there.
	asked, gone time.Time
}

// goOn has our mandate last a bit longer if it is about to end and there is no sign of another holder. One that is over
// does not begin again: while this process was stopped, nobody has listened.
func (c *core) goOn(now time.Time) {
	leaving, _ := c.leaving()
	if c.keep.on && !c.keep.wary && !leaving && !c.stale && c.ours() && c.until.After(now) && c.until.Sub(now) <= c.margin() {
		c.until, c.keep.beyond = now.Add(keepFor), true
	}
}

// margin is how long before the end of a mandate it is looked at again.
func (c *core) margin() time.Duration {
	switch {
	case !c.keep.on:
		return 0
	case c.keep.beyond:
		return keepFor - keepMargin/2
	}
	return min(keepMargin, (c.timing.Renew-c.timing.Retry)/2)
}

// contested is told that somebody else claims on the wire what we hold. While the API answers that is nobody with a
// right to it.
func (c *core) contested() {
	if c.keep.beyond || c.prov.held {
		c.until, c.prov.held = time.Time{}, false
	}
}

// unsure says that another's Lease may have run out only because the API did not answer: it is read first.
func (c *core) unsure() bool {
	return c.keep.on && c.holder() != "" && (c.keep.reach.apart || c.keep.reach.last.Before(c.seen.Add(c.duration())))
}

// courtesy is until when a holder may speak up after an outage of the API, if he is there at all: a call of its own that
// hangs ends within half the renew deadline, and it tries again within twice the retry period.
func (c *core) courtesy() time.Time {
	if !c.keep.on || c.holder() == "" || c.keep.reach.back.IsZero() || c.keep.gone.Equal(c.seen) {
		return time.Time{}
	}
	return c.keep.reach.back.Add(c.timing.Renew/2 + 2*c.timing.Retry + c.grace)
}

// patient says that courtesy is what another's Lease that ran out is left to him for, and that he has not been asked for.
func (c *core) patient(now time.Time) bool {
	return now.Before(c.courtesy()) && !now.Before(c.seen.Add(c.duration()+c.grace)) && !c.keep.asked.Equal(c.seen)
}

// listened is told whether the holder of the Lease as it was seen then is gone from the wire.
func (c *core) listened(seen time.Time, gone bool) {
	if c.keep.asked = seen; gone {
		c.keep.gone = seen
	}
}

// contact is when the API answered this process. A holder's silence counts only when it had the time to speak up after
// an outage.
type contact struct {
	last  time.Time // when the last call that was answered began
	apart bool      // the API did not answer since
	since time.Time // then, when the first call began that it did not answer
	back  time.Time // when it answered again after an outage, or answered late
}

// line is the contact of all Elections of a company.
type line struct {
	mu sync.Mutex // guards the field below
	contact
}

// lost notes that the API has not answered a call.
func (l *line) lost(began time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.apart || began.Before(l.since) {
		l.apart, l.since = true, began
	}
}

// lostSight notes that a watch could not be begun.
func (l *line) lostSight(err error) {
	switch now := time.Now(); {
	case usual(err) || answers(err):
	case errors.Is(err, context.DeadlineExceeded):
		l.lost(now.Add(-listTimeout))
	default:
		l.lost(now)
	}
}

// answered notes that the API has answered a call. It was away if it has answered none for longer than brief: one Lease
// that can not be written, among others that can, is no outage.
func (l *line) answered(began, now time.Time, brief time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := began
	if l.apart {
		since = l.since
	}
	if now.Sub(latest(since, l.last)) > brief {
		l.back = now
	}
	l.apart, l.last = false, latest(l.last, began)
}

func (l *line) get() contact {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.contact
}

// orderly says that an instance gave its Lease up, as client-go's leaderelection and released do. Who empties it by hand
// leaves its duration as it is.
func orderly(lease *coordinationv1.Lease) bool {
	return lease != nil && holder(lease) == "" && lease.Spec.LeaseDurationSeconds != nil && *lease.Spec.LeaseDurationSeconds == 1
}

// Contest says that somebody else claims on the wire what is held under the mandate: if it goes on beyond its time, it
// ends. It may be called from any goroutine while Run works, and does not block.
func (e *Election) Contest() {
	e.mu.Lock()
	e.contest = true
	e.mu.Unlock()
	e.hint()
}

// Contest is that of the Election for a mandate of Stand's.
func (f *Fleet) Contest(mandate string) {
	namespace, name, _ := strings.Cut(mandate, "/")
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.seats[types.NamespacedName{Namespace: namespace, Name: name}]; s != nil && s.election != nil {
		s.election.Contest()
	}
}

// look has the Keeper look whether the wire is clear, while that is asked for.
func (e *Election) look(ctx context.Context, work *sync.WaitGroup, ask bool) {
	e.inquire(ctx, work, &e.clearing, ask, func(ctx context.Context) func() {
		e.o.Keeper.Clear(ctx, e.o.Mandate)
		return func() { e.core.keep.wary = false }
	})
}

// listen has the Keeper find out whether the holder is gone, while that is asked for.
func (e *Election) listen(ctx context.Context, work *sync.WaitGroup, ask bool) {
	seen := e.core.seen
	e.inquire(ctx, work, &e.listening, ask, func(ctx context.Context) func() {
		gone := e.o.Keeper.Silent(ctx, e.o.Mandate)
		return func() { e.core.listened(seen, gone) }
	})
}

// inquire puts a question once while it is asked for, and has the core told of the answer. cancel ends it, and is nil while
// none is put.
func (e *Election) inquire(ctx context.Context, work *sync.WaitGroup, cancel *context.CancelFunc, ask bool, put func(context.Context) (tell func())) {
	switch {
	case !ask && *cancel != nil:
		(*cancel)()
		*cancel = nil
	case ask && *cancel == nil:
		var asking context.Context
		asking, *cancel = context.WithCancel(ctx)
		work.Go(func() {
			tell := put(asking)
			e.send(asking, func() {
				if asking.Err() == nil { // it is asked for still
					tell()
				}
			})
		})
	}
}
