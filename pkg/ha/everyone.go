package ha

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// everyoneFor is how long a mandate lasts that every healthy node holds: the addresses under it go that long after
	// the process was killed. It is a Lease's renew deadline in whole seconds of the kernel.
	everyoneFor = 3 * time.Second
	// everyonePause is the time between two grants.
	everyonePause = time.Second
)

// EveryoneOptions configure an Everyone.
type EveryoneOptions struct {
	Mandate string
	Granter Granter
	// Led is told when the mandate begins and ends to be held; may be nil. It must not block.
	Led func(Lead)
	Log *slog.Logger
}

// Everyone gives a mandate to this node for as long as it is healthy, whoever else has the same: where routers spread what
// they send over all that announce an address, nobody needs to be elected. There is no Lease, and no API is asked.
type Everyone struct {
	o    EveryoneOptions
	news chan struct{} // holds at most one token

	mu   sync.Mutex // guards told
	told *fitness   // nil while nothing is known
}

// NewEveryone returns an Everyone that grants nothing: it has not heard that this node is healthy. Run does the work.
func NewEveryone(o EveryoneOptions) *Everyone {
	if o.Led == nil {
		o.Led = func(Lead) {}
	}
	return &Everyone{o: o, news: make(chan struct{}, 1)}
}

// SetHealth says what this node can do. It may be called from any goroutine, before and while Run works, and does not
// block.
func (e *Everyone) SetHealth(h Health, reason string) {
	e.mu.Lock()
	e.told = &fitness{h, reason}
	e.mu.Unlock()
	select {
	case e.news <- struct{}{}:
	default: // a token is there already
	}
}

// Run grants until ctx ends; then it has everything under the mandate taken off this node, and its error says what was not.
func (e *Everyone) Run(ctx context.Context) error {
	ticker := time.NewTicker(everyonePause)
	defer ticker.Stop()
	holds, said := false, false
	for ctx.Err() == nil {
		e.mu.Lock()
		now := e.told
		e.mu.Unlock()
		switch {
		case now == nil: // what an earlier life left stays
		case now.health == Healthy:
			e.o.Granter.Grant(e.o.Mandate, time.Now().Add(everyoneFor))
			if !holds {
				holds, said = true, true
				e.o.Log.Info("this node announces", "mandate", e.o.Mandate)
				e.o.Led(Lead{Held: true})
			}
		case holds || !said:
			_ = e.o.Granter.Revoke(e.o.Mandate)
			e.o.Log.Info("this node does not announce", "mandate", e.o.Mandate, "why", now.reason)
			if holds {
				e.o.Led(Lead{})
			}
			holds, said = false, true
		}
		select {
		case <-ctx.Done():
		case <-e.news:
		case <-ticker.C:
		}
	}
	off := e.o.Granter.Revoke(e.o.Mandate)
	if holds {
		e.o.Led(Lead{})
	}
	over, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopDeadline)
	defer cancel()
	return off(over)
}
