package ha

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// provisionFor is how long at a time a mandate lasts that no Lease gives: who kills the process then is rid of its
	// addresses in as much, rounded up to the kernel's second.
	provisionFor = 2 * time.Second
	// provisionPause is the least time between two looks at the wire for one, and provisionJitter what is added by chance:
	// two instances that look at the same time both find each other, and neither begins (RFC 5227 §2.1.1).
	provisionPause = 500 * time.Millisecond
	// provisionAfter is for how long the API has to give no rights first: one that has just started says so before it has
	// read who has which.
	provisionAfter  = 2 * time.Second
	provisionJitter = time.Second
)

// provision is the core's part of holding without a Lease. Before kubeadm has given this node rights nobody may write one,
// and what gives rights may need the very address that is to be held. So a healthy node whose API server says that it has no
// rights holds provisionally, once the wire has nobody with the address, until it can read the Lease: then that has the
// word, as ever. It begins only before this process has seen the Lease.
type provision struct {
	on     bool      // this instance may
	denied bool      // what came of the last call was that this instance has no rights
	since  time.Time // since when that is so; zero when it is not
	held   bool      // the mandate is provisional
	again  time.Time // the wire is not asked before
	met    time.Time // when the wire had somebody else; zero while it had not
}

// provisionally is choose before anything is known of the Lease.
func (c *core) provisionally(now time.Time) decision {
	p := &c.prov
	d := decision{verdict: undecided, write: readAgain}
	if p.held || c.decided {
		d.verdict, d.why = revoked, "it was held provisionally, and that is over"
	}
	may := p.on && p.denied && c.health == Healthy && c.patience.IsZero()
	if begins := p.since.Add(provisionAfter); may && !p.held && now.Before(begins) {
		d.wake = begins
		return d
	}
	switch {
	case p.held && c.health != Healthy, !c.until.After(now):
		p.held, c.until = false, time.Time{}
	case may && c.until.Sub(now) <= provisionFor*3/4:
		c.until = now.Add(provisionFor)
	}
	switch {
	case p.held:
		d.verdict, d.until = granted, c.until
		d.wake = c.until.Add(-provisionFor * 3 / 4)
	case may && now.Before(p.again):
		d.wake = p.again
	case may:
		d.probe = true
	}
	return d
}

// probed is told whether the wire had nobody else who has what is to be held, or means to have it.
func (c *core) probed(now time.Time, alone bool, pause time.Duration) {
	if c.prov.again = now.Add(pause); !alone {
		c.prov.met = now
	} else if !c.known {
		c.prov.held, c.until = true, now.Add(provisionFor)
	}
}

// yields is until when a Lease that is not there yet is left to another who holds provisionally: he hears of his rights at
// his next look, which is twice the retry period away at most.
func (c *core) yields() time.Time {
	if c.lease != nil || c.prov.met.IsZero() || c.seen.Sub(c.prov.met) > 2*(provisionPause+provisionJitter) {
		return time.Time{}
	}
	return c.seen.Add(3 * c.timing.Retry)
}

// called is told what came of a call.
func (c *core) called(now time.Time, err error) {
	p := &c.prov
	p.denied = apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
	switch {
	case !p.denied && !p.held:
		p.since = time.Time{}
	case p.denied && p.since.IsZero():
		p.since = now
	}
}

// probe has the wire asked whether what is to be held provisionally is free, while that is asked for.
func (e *Election) probe(ctx context.Context, work *sync.WaitGroup, ask bool) {
	e.inquire(ctx, work, &e.probing, ask, func(ctx context.Context) func() {
		alone := e.o.Alone(ctx)
		return func() { e.core.probed(time.Now(), alone, provisionPause+e.jitter(provisionJitter)) }
	})
}

// provision tells whether this instance holds provisionally.
func (e *Election) provision(d decision) {
	if d.provisional == e.provisional {
		return
	}
	e.provisional = d.provisional
	switch {
	case d.provisional:
		e.log.Info("this node holds the VIP provisionally: its API server is well and gives no rights to have the Lease yet, and nobody else has the VIP", "node", e.o.Identity)
	case d.verdict == granted:
		e.log.Info("the Lease of what was held provisionally is this node's", "node", e.o.Identity)
		e.metrics.leader.Set(1)
		e.metrics.transitions.Inc()
	}
	if e.o.Provisional != nil {
		e.o.Provisional(d.provisional)
	}
}
