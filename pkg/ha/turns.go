package ha

import (
	"sync"
	"time"
)

// turns has Elections make their API calls one after another, at a pace.
type turns struct {
	mu    sync.Mutex // guards the fields below, and those of every turn
	pace  pace
	timer *time.Timer // serves again when the pace allows another call; nil before the first
	over  bool
	full  bool // a claim has waited since there are as many mandates as can be kept

	crowded chan struct{} // holds at most one token: full has become true
}

func newTurns(p pace) *turns { return &turns{pace: p, crowded: make(chan struct{}, 1)} }

// turn is one Election's place among the others. A nil turn is that of an Election that is alone: it waits for nobody.
type turn struct {
	turns *turns
	given chan struct{} // holds at most one token: it may be this one's turn

	// The fields below are guarded by turns.mu.
	errand errand
	by     time.Time
	queue  *turnHeap // in which it waits; nil while it does not
	place  int       // in queue
	asked  time.Time // since when
	state  turnState
	holds  bool // a mandate
}

type turnState int

const (
	resting turnState = iota
	waiting
	called  // it is its turn, and it has not noticed yet
	calling // it makes its call
)

func (l *turns) join() *turn { return &turn{turns: l, given: make(chan struct{}, 1)} }

// come is signalled when it may be t's turn.
func (t *turn) come() <-chan struct{} {
	if t == nil {
		return nil
	}
	return t.given
}

// take says whether the call that d asks for may be made now. If not it is to be called again when come is signalled.
// After a call, and after its Election has said by hold what came of it, take or pass ends the turn.
func (t *turn) take(now time.Time, c *core, d decision) bool {
	if t == nil {
		return true
	}
	l := t.turns
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.state == calling {
		t.passLocked()
	}
	if t.state == resting {
		t.asked = now
	}
	if t.state != called {
		t.state = waiting
		e, by := c.errand(d, t.asked)
		l.pace.put(t, e, by)
		l.serve(now)
	}
	if t.state != called {
		return false
	}
	t.state = calling
	return true
}

// pass says that there is no call to be made, or none any more.
func (t *turn) pass() {
	if t == nil {
		return
	}
	t.turns.mu.Lock()
	defer t.turns.mu.Unlock()
	t.passLocked()
}

func (t *turn) passLocked() {
	before := t.state
	t.state = resting
	switch l := t.turns; before {
	case waiting:
		l.pace.drop(t)
	case called:
		l.pace.unused(t)
		l.serve(time.Now())
	case calling:
		l.pace.ended(t)
		l.serve(time.Now())
	}
}

// hold says whether t's Election has a mandate.
func (t *turn) hold(holds bool) {
	if t == nil {
		return
	}
	l := t.turns
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case holds && !t.holds:
		l.pace.held++
	case !holds && t.holds:
		l.pace.held--
	}
	t.holds = holds
	l.serve(time.Now())
}

// leave is the last that is heard of t, after its last call has ended.
func (t *turn) leave() {
	if t == nil {
		return
	}
	l := t.turns
	l.mu.Lock()
	defer l.mu.Unlock()
	t.passLocked()
	l.serve(time.Now())
}

// serve gives everybody their turn whose turn it is. Called with mu held.
func (l *turns) serve(now time.Time) {
	for {
		t, again := l.pace.next(now)
		if t == nil {
			l.wake(now, again)
			break
		}
		t.state = called
		select {
		case t.given <- struct{}{}:
		default: // a token is there already
		}
	}
	switch full := l.pace.full(); {
	case full && !l.full && len(l.pace.claims) > 0:
		l.full = true
		select {
		case l.crowded <- struct{}{}:
		default: // a token is there already
		}
	case !full && len(l.pace.claims) == 0:
		l.full = false
	}
}

func (l *turns) wake(now, at time.Time) {
	switch {
	case at.IsZero() || l.over:
	case l.timer == nil:
		l.timer = time.AfterFunc(at.Sub(now), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.serve(time.Now())
		})
	default:
		l.timer.Reset(at.Sub(now))
	}
}

// close ends the timer, after everybody left.
func (l *turns) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.timer != nil {
		l.timer.Stop()
	}
}
