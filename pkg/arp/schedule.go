package arp

import (
	"container/heap"
	"hash/fnv"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// burst is when a takeover is announced, counted from its first announcement. The repeats are for frames that
// are lost and for neighbours that are busy with the same outage; after the last one a VIP is refreshed.
func burst() [6]time.Duration {
	return [6]time.Duration{
		0,
		20 * time.Millisecond,
		50 * time.Millisecond,
		100 * time.Millisecond,
		250 * time.Millisecond,
		500 * time.Millisecond,
	}
}

const (
	// slots is into how many moments a rate is divided. More of them wake the process more often, which costs more than
	// what it then does; fewer put more frames on the wire at once.
	slots = 30
	// perSecond is how many VIPs are refreshed in a second, all together, when none is new. With more VIPs than fit into
	// the rate each is refreshed more rarely: neighbours ask for themselves before they forget an address, and a refresh
	// only helps one that lost every announcement of a takeover.
	perSecond = 50
)

// cadence is when VIPs are refreshed: each at its own phase, so that thousands of them make a steady trickle.
type cadence struct {
	epoch time.Time
	rate  time.Duration
	// stretch is how many rates there are between two refreshes of a VIP; 0 is 1.
	stretch int
}

// spread is c for that many VIPs.
func (c cadence) spread(vips int) cadence {
	fit := max(1, int(perSecond*c.rate/time.Second))
	c.stretch = max(1, (vips+fit-1)/fit)
	return c
}

// young is c for a VIP whose burst began that long ago: it is refreshed more often than the old ones, first at the rate
// and then twice as rarely each time.
func (c cadence) young(age time.Duration) cadence {
	c.stretch = min(c.stretch, max(1, int(age/c.rate)))
	return c
}

// interval is the time between two refreshes of a VIP.
func (c cadence) interval() time.Duration { return c.rate * time.Duration(max(1, c.stretch)) }

// phase is where in the interval an address is refreshed. It depends on the address alone.
func (c cadence) phase(addr netip.Addr) time.Duration {
	b := addr.As16()
	h := fnv.New64a()
	h.Write(b[:])
	// The low bits of FNV-1a alone follow the last byte of neighbouring addresses; folding takes the high ones in.
	sum := h.Sum64()
	slot := (sum ^ sum>>32) % uint64(slots*max(1, c.stretch))
	return c.rate * time.Duration(slot) / slots
}

// after is the first refresh of addr later than t: at most one interval later.
func (c cadence) after(t time.Time, addr netip.Addr) time.Time {
	first, interval := c.epoch.Add(c.phase(addr)), c.interval()
	periods := t.Sub(first) / interval
	next := first.Add(periods * interval)
	// The quotient is rounded towards zero, so next lies before t, at t, or a period after it.
	for !next.After(t) {
		next = next.Add(interval)
	}
	return next
}

// entry is one VIP on one link and when it is announced next.
type entry struct {
	addr netip.Addr
	link *link
	// round is the last call of Sync that had the VIP in it.
	round uint64
	// missing says that the kernel did not have the address when it was asked last; such a VIP is not queued.
	missing bool

	// start is when the burst began and step how many announcements of it are behind.
	start time.Time
	step  int
	due   time.Time
	// at is the place in the queue, -1 when not queued.
	at int

	// frames is the announcement as it goes out; nil when it must be built anew.
	frames [][]byte
	// fault is the reason why the last announcement failed, "" when it did not.
	fault string

	sent, failed prometheus.Counter
}

// restart begins the burst anew: to neighbours the VIP is new, or has moved.
func (e *entry) restart(now time.Time) {
	e.start, e.step, e.due, e.frames = now, 0, now, nil
}

// advance sets when the next announcement is due, given that one was tried at now. What is overdue by then
// is left out: after a delay there is one announcement, not all that were missed.
func (e *entry) advance(now time.Time, c cadence) {
	offsets := burst()
	for e.step < len(offsets) && !e.start.Add(offsets[e.step]).After(now) {
		e.step++
	}
	if e.step < len(offsets) {
		// A rate shorter than the burst's gaps is kept within the burst too.
		if due := e.start.Add(offsets[e.step]); due.Sub(now) <= c.rate {
			e.due = due
			return
		}
	}
	e.due = c.young(now.Sub(e.start)).after(now, e.addr)
}

// queue holds entries in the order in which they are due.
type queue []*entry

// next is the entry that is due first, nil when there is none.
func (q queue) next() *entry {
	if len(q) == 0 {
		return nil
	}
	return q[0]
}

// put queues e, or moves it to where its due time belongs.
func (q *queue) put(e *entry) {
	if e.at >= 0 {
		heap.Fix(q, e.at)
		return
	}
	heap.Push(q, e)
}

// drop takes e out; doing it twice is doing it once.
func (q *queue) drop(e *entry) {
	if e.at >= 0 {
		heap.Remove(q, e.at)
	}
}

// Len implements heap.Interface.
func (q queue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

// Swap implements heap.Interface.
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(*q)
	*q = append(*q, e)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.at = -1
	return e
}
