package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/vip"
)

// troublePenalty is how long a node counts as unhealthy whose kernel refused a VIP: once it does not hold any more,
// nothing shows whether the kernel would take it now.
const troublePenalty = 30 * time.Second

// fitness is what the election is told of this node: how the control plane is here, and whether the kernel takes the
// VIPs that are to be put on. A refusal makes the node unhealthy and not unable: of several VIPs the others may well
// be held, and where every node refuses, holding what can be held is all there is.
type fitness struct {
	tell func(ha.Health, string) // set before anything runs; does not block

	mu     sync.Mutex // guards the fields below
	plane  ha.Health
	reason string      // of plane
	known  bool        // the control plane was judged at least once
	fault  error       // why a VIP could not be put on
	word   int         // counts the Table's words, so that an earlier one's timer is told from the last one's
	over   *time.Timer // ends fault; nil while nothing is to end
}

// judged takes the control plane's health.
func (f *fitness) judged(h ha.Health, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plane, f.reason, f.known = h, reason, true
	f.sayLocked()
}

// trouble takes the Table's word on VIPs that cannot be put on their links. That it is over counts only after a
// while. A link that is not there is the control plane's to judge: it sees it come back.
func (f *fitness) trouble(err error) {
	err = refusals(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.word++
	if f.over != nil {
		f.over.Stop()
		f.over = nil
	}
	switch {
	case err != nil:
		f.fault = err
		f.sayLocked()
	case f.fault != nil:
		mine := f.word
		f.over = time.AfterFunc(troublePenalty, func() { f.forgive(mine) })
	}
}

func (f *fitness) forgive(word int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if word == f.word {
		f.fault = nil
		f.sayLocked()
	}
}

// refusals is what err joins, but for links that are not there.
func refusals(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		if errors.Is(err, vip.ErrNoLink) {
			return nil
		}
		return err
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, refusals(e))
	}
	return errors.Join(all...)
}

func (f *fitness) sayLocked() {
	switch {
	case f.fault != nil && f.plane != ha.Unable:
		f.tell(ha.Unhealthy, f.fault.Error())
	case f.known:
		f.tell(f.plane, f.reason)
	}
}

// problem is an error while this node could not hold every control-plane VIP.
func (f *fitness) problem() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.fault != nil:
		return f.fault
	case !f.known:
		return errors.New("the control plane's health on this node is not known yet")
	case f.plane != ha.Healthy:
		return errors.New(f.reason)
	}
	return nil
}

// Run waits for the end, so that no timer outlives the instance.
func (f *fitness) Run(ctx context.Context) error {
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.word++
	if f.over != nil {
		f.over.Stop()
	}
	return nil
}
