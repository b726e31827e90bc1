package ha

import (
	"container/heap"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Pace says how often an instance that holds so many Leases, and makes perSecond API calls a second at most, renews
// each of them: every retry period or, where that would be too many calls, less often. The error says that it can not
// work, and which settings would do.
func (t Timing) Pace(leases int, perSecond float64) (every time.Duration, err error) {
	every = max(t.Retry, time.Duration(float64(leases)/perSecond*float64(time.Second)))
	if every <= t.slowest() {
		return every, nil
	}
	retry := math.Ceil(every.Seconds())
	renew := max(2*retry, t.Renew.Seconds())
	lease := max(renew+retry+1, t.Lease.Seconds())
	return every, fmt.Errorf("renew %d Leases every %s: that is %.0f calls a second, and %.0f are allowed; each would be renewed every %s, "+
		"which leaves no time for a second try before the renew deadline of %s; set vip_retryperiod to %.0f, vip_renewdeadline to %.0f and vip_leaseduration to %.0f at least",
		leases, t.Retry, float64(leases)/t.Retry.Seconds(), perSecond, every.Round(time.Millisecond), t.Renew, retry, math.Ceil(renew), math.Ceil(lease))
}

// slowest is the longest time between two renewals that leaves time for a second try.
func (t Timing) slowest() time.Duration { return max(t.Retry, t.Renew/2) }

// most is how many Leases can be held with perSecond calls a second.
func (t Timing) most(perSecond float64) int { return int(t.slowest().Seconds() * perSecond) }

// errand is what an API call is for.
type errand int

const (
	// farewell gives a Lease up. Others wait for it, and there is one for each Lease: no rate holds it back.
	farewell errand = iota
	// renewal keeps a mandate.
	renewal
	// claim asks for a mandate that we have not.
	claim
)

// errand says what the call that d asks for is for, and by when it is to be made. One that keeps no mandate waits
// its turn as if it had been given a mandate when it was asked for: none is put off for ever, and a renewal is made
// before all that were asked for since its mandate began.
func (c *core) errand(d decision, asked time.Time) (errand, time.Time) {
	leaving, _ := c.leaving()
	switch {
	case leaving && (c.stopping || c.ours()):
		return farewell, time.Time{}
	case d.verdict == granted || d.ask:
		return renewal, c.until
	case d.verdict == undecided: // the addresses of an earlier life stay no longer than the kernel lets them
		return renewal, asked
	case d.write == readAgain:
		return renewal, asked.Add(c.timing.Renew)
	}
	return claim, asked.Add(c.timing.Renew)
}

// pace says whose turn it is to make an API call, so that many Elections that share a client make neither too many
// calls a second nor too many at once, and the one whose mandate ends first comes first. It knows no clock.
type pace struct {
	perSecond float64 // calls; no farewell is held back
	inFlight  int     // calls under way at most; claims have half of that, so that claims that hang hold no renewal back
	most      int     // mandates at most: more could not be renewed in time

	tokens   float64 // calls that may begin now
	filled   time.Time
	busy     int // calls under way, turns that were given included
	claiming int // of these, claims
	held     int // mandates

	duties, claims turnHeap // waiting
}

// burst is the part of a second whose calls may be made at once after a rest.
const burst = 0.05

// refill counts the calls that have become possible since the last time.
func (p *pace) refill(now time.Time) {
	most := max(1, p.perSecond*burst)
	if p.filled.IsZero() {
		p.tokens = most
	} else {
		p.tokens = min(most, p.tokens+now.Sub(p.filled).Seconds()*p.perSecond)
	}
	p.filled = now
}

// full says that there are as many mandates, or claims under way, as can be kept.
func (p *pace) full() bool { return p.held+p.claiming >= p.most }

// next gives somebody their turn. Without anybody it says when to ask again; zero means after a change.
func (p *pace) next(now time.Time) (*turn, time.Time) {
	if p.busy >= p.inFlight {
		return nil, time.Time{}
	}
	queue := &p.duties
	if len(p.claims) > 0 && !p.full() && p.claiming < max(1, p.inFlight/2) && (len(p.duties) == 0 || p.claims[0].by.Before(p.duties[0].by)) {
		queue = &p.claims
	}
	if len(*queue) == 0 {
		return nil, time.Time{}
	}
	p.refill(now)
	if (*queue)[0].errand != farewell && p.tokens < 1 {
		return nil, now.Add(time.Duration(math.Ceil((1 - p.tokens) / p.perSecond * float64(time.Second))))
	}
	p.tokens = max(0, p.tokens-1)
	t := heap.Pop(queue).(*turn)
	p.busy++
	if t.errand == claim {
		p.claiming++
	}
	return t, time.Time{}
}

// put has t wait, or wait with another errand.
func (p *pace) put(t *turn, e errand, by time.Time) {
	if t.queue != nil && t.errand == e && t.by.Equal(by) {
		return
	}
	p.drop(t)
	t.errand, t.by, t.queue = e, by, &p.duties
	if e == claim {
		t.queue = &p.claims
	}
	heap.Push(t.queue, t)
}

// drop has t not wait any more.
func (p *pace) drop(t *turn) {
	if t.queue != nil {
		heap.Remove(t.queue, t.place)
	}
}

// ended is told that the call of t is over.
func (p *pace) ended(t *turn) {
	p.busy--
	if t.errand == claim {
		p.claiming--
	}
}

// unused is told that t makes no call now that it is its turn.
func (p *pace) unused(t *turn) {
	p.ended(t)
	p.tokens++
}

// golden is the fractional part of the golden ratio: its multiples, as parts of a whole, are spread evenly however
// many there are.
const golden = math.Phi - 1

// phases gives every Lease that is taken a moment of its own within the retry period, so that the renewals of those
// that were taken at once come evenly.
type phases struct {
	epoch  time.Time
	period time.Duration
	taken  atomic.Uint64
}

// next is a moment, before the epoch, from which the renewals of one more Lease are whole periods away.
func (p *phases) next() time.Time {
	_, phase := math.Modf(float64(p.taken.Add(1)) * golden)
	return p.epoch.Add(time.Duration((phase - 1) * float64(p.period)))
}

// turnHeap has the turn on top that is to be made first.
type turnHeap []*turn

func (h turnHeap) Len() int           { return len(h) }
func (h turnHeap) Less(i, j int) bool { return h[i].by.Before(h[j].by) }

func (h turnHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *turnHeap) Push(x any) {
	t := x.(*turn)
	t.place = len(*h)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *turnHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.queue = nil
	return t
}
