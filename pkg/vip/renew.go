package vip

import (
	"container/heap"
	"context"
	"time"
)

const (
	// survey is the time between two whole comparisons while the kernel tells of changes: what it tells is seen at
	// once, and this finds what it did not tell.
	survey = 5 * time.Second
	// together is how much earlier than due a lifetime is renewed to go along with others.
	together = 50 * time.Millisecond
	// patience is the time between two looks at a lifetime that lasts as long as its mandate, which may be extended. It
	// is shorter when less is left.
	patience = 250 * time.Millisecond
)

// life is an address of ours on its link, and how long the kernel leaves it there.
type life struct {
	vip  VIP
	ends time.Time // at the earliest, but for what the kernel's own timer is early
	due  time.Time // when it is to be renewed
}

// lives are in the order in which they are due. Those of which the Table knows a newer one, or none, count no more.
type lives []*life

// Len implements heap.Interface.
func (l lives) Len() int { return len(l) }

// Less implements heap.Interface.
func (l lives) Less(i, j int) bool { return l[i].due.Before(l[j].due) }

// Swap implements heap.Interface.
func (l lives) Swap(i, j int) { l[i], l[j] = l[j], l[i] }

// Push implements heap.Interface.
func (l *lives) Push(x any) { *l = append(*l, x.(*life)) }

// Pop implements heap.Interface.
func (l *lives) Pop() any {
	last := len(*l) - 1
	one := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return one
}

// wasPut notes that v was put at that time or later, to stay for valid.
func (t *Table) wasPut(v VIP, at time.Time, valid time.Duration) {
	l := &life{vip: v}
	l.lasts(at, valid)
	t.lives[v] = l // in the place of an older one
	heap.Push(&t.queue, l)
}

// lasts notes the same of what l is about. Two fifths of the lifetime are left for what delays its renewal: with a mandate
// of three seconds 1.2, less the quarter of a second that the kernel may be early.
func (l *life) lasts(at time.Time, valid time.Duration) {
	length := time.Duration(lifetimeSeconds(valid)) * time.Second
	l.ends, l.due = at.Add(length), at.Add(length*3/5)
}

// lifeOf returns the life of a VIP whose address is there, and of which the kernel says that left is left, in whole seconds
// of which the present one is not over. known is what came of the last put, which counts unless somebody has changed it
// since; nil means that there was none.
func lifeOf(v VIP, known *life, left, mandate time.Duration, now time.Time) *life {
	if known != nil {
		if off := left - known.ends.Sub(now); off > -time.Second && off < 2*time.Second {
			return known
		}
	}
	ends := now.Add(left - time.Second)
	return &life{vip: v, ends: ends, due: ends.Add(-mandate * 2 / 5)}
}

// isDue says whether the lifetime is to be renewed for a mandate that lasts until then.
func (l *life) isDue(now, until time.Time) bool { return !l.due.After(now) && l.ends.Before(until) }

// requeue makes the queue anew.
func (t *Table) requeue() {
	t.queue = t.queue[:0]
	for _, l := range t.lives {
		t.queue = append(t.queue, l)
	}
	heap.Init(&t.queue)
}

// outlasts says that an address of which left is said to be left stays for longer than its mandate, rounded up.
func outlasts(left, mandate time.Duration) bool {
	return left > time.Duration(lifetimeSeconds(mandate))*time.Second
}

// nextRenewal is when the first lifetime is due; zero when none is.
func (t *Table) nextRenewal() time.Time {
	for len(t.queue) > 0 {
		if first := t.queue[0]; t.lives[first.vip] == first {
			return first.due
		}
		heap.Pop(&t.queue)
	}
	return time.Time{}
}

// plain makes the VIPs whose claims changed what they are to be, and renews the lifetimes that are due. What is not plain
// it leaves to the next pass, by false.
func (t *Table) plain(ctx context.Context) bool {
	limit := time.Now().Add(together)
	for first := true; ctx.Err() == nil; first = false {
		// Who is new does not wait behind thousands that are renewed; but thousands that are new wait for those.
		if (first || !t.adding) && !t.touch() {
			return false
		}
		if more, done := t.renew(limit); !done || !more {
			return done
		}
	}
	return true
}

// renew renews a batch of those lifetimes, and looks at nothing else. It says whether there are more of them.
func (t *Table) renew(limit time.Time) (more, done bool) {
	var some []*life
	for len(some) < batchSize {
		due := t.nextRenewal()
		if due.IsZero() || due.After(limit) {
			break
		}
		some = append(some, heap.Pop(&t.queue).(*life))
	}
	untils := make([]time.Time, len(some))
	t.mu.Lock()
	for i, l := range some {
		untils[i] = t.until(l.vip)
	}
	t.lastPass = time.Now()
	done = !t.whole
	t.mu.Unlock()

	var puts batch
	renewed := some[:0]
	for i, l := range some {
		// The clock is looked at here: this process may have been stopped in between.
		valid := time.Until(untils[i])
		switch {
		case !done:
			heap.Push(&t.queue, l)
		case valid <= 0:
			delete(t.lives, l.vip)
			done = false
		case l.ends.Before(untils[i]): // and it is due
			puts.add(l.vip, valid, true)
			renewed = append(renewed, l)
		default: // until the mandate is extended
			l.due = time.Now().Add(min(patience, max(settle, time.Until(l.ends)/2)))
			heap.Push(&t.queue, l)
		}
	}
	puts.flush(t.kernel, func(p Put, at time.Time, _ bool, err error) {
		l := renewed[0]
		if renewed = renewed[1:]; err != nil {
			delete(t.lives, l.vip)
			done = false
			return
		}
		l.lasts(at, p.Valid)
		heap.Push(&t.queue, l)
	})
	return len(some) == batchSize, done
}

// until is when the last mandate ends under which v is claimed. Called with mu held.
func (t *Table) until(v VIP) (until time.Time) {
	for _, s := range t.stakes[v.Addr()] {
		if u := t.verdicts[s.mandate].until; s.vip == v && u.After(until) {
			until = u
		}
	}
	return until
}

// ended says that a mandate has ended that had not when the last pass began.
func (t *Table) ended(pass, now time.Time) bool {
	end := t.nextEnd(pass)
	return !end.IsZero() && !end.After(now)
}

// nextLook is when something is to be done, if nothing is told before: at due, at the end of a mandate that had not ended
// when the last pass began, when a lifetime is to be renewed, and every tick, so that LastPass shows that Run works.
func (t *Table) nextLook(pass, due time.Time) time.Time {
	next := earlier(due, time.Now().Add(tick))
	for _, at := range []time.Time{t.nextEnd(pass), t.nextRenewal()} {
		if !at.IsZero() {
			next = earlier(next, at)
		}
	}
	return next
}

// nextEnd is when the first of the mandates ends that were not over at that time; zero when there is none.
func (t *Table) nextEnd(after time.Time) (end time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.verdicts {
		if v.until.After(after) && (end.IsZero() || v.until.Before(end)) {
			end = v.until
		}
	}
	return end
}

// unwatched says that what happened before some time may have gone unnoticed, since the kernel was not watched.
func (t *Table) unwatched(before time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watching.IsZero() || t.watching.Add(tick).After(before)
}
