package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"kube-vip.io/kube-vip/pkg/ha"
)

// departure has routers go to other nodes before this one ends to announce the control plane's VIP: when its API server is not
// well and still answers, its routes are marked for a while first. One that does not answer is not waited for.
type departure struct {
	drain time.Duration
	// mark has routes announced as the worst there are, or as usual again, and tell is told of the health that counts.
	// Neither blocks, nor calls back.
	mark func(on bool)
	tell func(h ha.Health, reason string)
	log  *slog.Logger

	mu      sync.Mutex // guards the fields below
	answers bool
	health  ha.Health // told last
	told    bool
	timer   *time.Timer // ends the time for which routes are marked; nil when they are not, or that is over
	last    ha.Health   // heard last, with its reason
	reason  string
	done    bool // nothing is waited for any more
	word    int  // counts what was said, so that an earlier timer is told from the last one
}

// answering says whether an API server that is not well still answers. It is said before what comes of it.
func (d *departure) answering(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers = yes
}

// set takes this node's health.
func (d *departure) set(h ha.Health, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.reason = h, reason
	if h != ha.Healthy && d.answers && !d.done && d.drain > 0 && (d.timer != nil || d.told && d.health == ha.Healthy) {
		if d.timer == nil {
			d.log.Info("leaving: the control plane's routes are announced as the worst there are", "for", d.drain, "why", reason)
			d.mark(true)
			mine := d.word
			d.timer = time.AfterFunc(d.drain, func() { d.over(mine) })
		}
		return
	}
	d.stop()
	if h == ha.Healthy {
		d.mark(false)
	}
	d.health, d.told = h, true
	d.tell(h, reason)
}

// over ends the time for which routes are marked.
func (d *departure) over(word int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if word != d.word {
		return
	}
	d.stop()
	d.health = d.last
	d.tell(d.last, d.reason)
}

// stop is called with mu held.
func (d *departure) stop() {
	d.word++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// Run waits for the end, so that no timer outlives the instance.
func (d *departure) Run(ctx context.Context) error {
	<-ctx.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop()
	d.done = true
	return nil
}
