package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// ask sends a request to one server after the other until one answers.
func (c *client) ask(req *http.Request, body func() (io.ReadCloser, error), cred *credential) (*http.Response, endpoint, error) {
	list := c.access.endpoints(cred)
	r := &race{
		client: c, req: req, body: body, cred: cred,
		watch:   isWatch(req),
		began:   time.Now(),
		list:    list,
		queue:   c.access.health.order(time.Now(), list),
		running: map[*attempt]struct{}{},
		answers: make(chan answer),
		over:    make(chan struct{}),
	}
	return r.run()
}

// race is one request on its way to several servers. They are asked in turn. One that is silent for too long is
// not given up when the next is asked, for a slow answer is better than none: the first answer counts, and
// whoever was silent until then is put to the back.
type race struct {
	client *client
	req    *http.Request
	body   func() (io.ReadCloser, error)
	cred   *credential
	watch  bool
	list   []endpoint

	began   time.Time
	queue   []turn // not asked yet
	running map[*attempt]struct{}
	latest  *attempt
	trials  []trial // how those that gave no answer failed

	answers chan answer
	over    chan struct{} // closed when nobody listens to answers any more

	// A 5xx is the server's fault only if another one answers the same request without. Until that is known:
	spare   *answer    // the first such answer
	doubted []endpoint // who gave one
}

// attempt is one request to one server.
type attempt struct {
	turn
	began     time.Time
	cancel    context.CancelFunc
	connected atomic.Bool
	silent    bool
}

// answer is how an attempt ended.
type answer struct {
	*attempt
	resp *http.Response
	err  error
}

func (r *race) run() (*http.Response, endpoint, error) {
	got, err := r.answer()
	close(r.over)
	r.stopRunning()
	health := r.client.access.health
	switch {
	case r.spare != nil && err != nil:
		got, err = *r.spare, nil
	case r.spare != nil:
		r.spare.discard()
		for _, e := range r.doubted {
			health.fail(time.Now(), e, broken, r.list)
		}
	}
	if err != nil {
		return nil, endpoint{}, err
	}
	if !serverError(got.resp) {
		health.ok(got.endpoint)
	}
	got.resp.Body = &answerBody{ReadCloser: got.resp.Body, cancel: got.cancel}
	return got.resp, got.endpoint, nil
}

// answer returns the first answer that is no server error, or an error that says how each server failed.
func (r *race) answer() (answer, error) {
	if len(r.queue) == 0 {
		return answer{}, errors.New("reach the API server: none is known")
	}
	timer := time.NewTimer(r.next())
	defer timer.Stop()
	ctx := r.req.Context()
	for {
		select {
		case got := <-r.answers:
			delete(r.running, got.attempt)
			if got.err == nil && !serverError(got.resp) {
				return got, nil
			}
			if got.err != nil && ctx.Err() != nil {
				return answer{}, r.unreachable(ctx.Err())
			}
			r.take(got)
			if r.latest != nil && got.attempt != r.latest {
				continue // the latest still has its time
			}
		case <-timer.C:
			if r.latest != nil && time.Now().Before(r.due()) {
				timer.Reset(time.Until(r.due()))
				continue
			}
			if !r.silence() {
				return answer{}, r.unreachable(nil)
			}
		case <-ctx.Done():
			return answer{}, r.unreachable(ctx.Err())
		case <-r.client.access.done:
			return answer{}, errClosed
		}

		switch {
		case len(r.queue) > 0:
			timer.Reset(r.next())
		case len(r.running) > 0: // only silent ones
			r.latest = nil
			timer.Reset(r.lapWait())
		default:
			return answer{}, r.unreachable(nil)
		}
	}
}

// next asks the next server of the queue, and returns how long to wait before the one after it is asked.
func (r *race) next() time.Duration {
	access, now := r.client.access, time.Now()
	ctx, cancel := context.WithCancel(r.req.Context())
	at := &attempt{turn: r.queue[0], began: now, cancel: cancel}
	r.queue = r.queue[1:]
	r.latest = at
	r.running[at] = struct{}{}
	access.health.ask(now, at.endpoint)

	access.running.Go(func() {
		resp, err := r.client.send(ctx, r.req, r.body, r.cred, at)
		if err != nil {
			cancel()
		}
		got := answer{attempt: at, resp: resp, err: err}
		select {
		case r.answers <- got:
		case <-r.over:
			got.discard()
		}
	})

	return time.Until(r.due())
}

// due is when the latest attempt was silent for too long. That changes as it gets on.
func (r *race) due() time.Time {
	at := r.latest
	wait := r.patience(at)
	if deadline, ok := r.req.Context().Deadline(); ok && len(r.queue) > 0 {
		wait = min(wait, deadline.Sub(at.began)/2) // leave half of the time to the others
	}
	return at.began.Add(wait)
}

// patience is how long a server may be silent before another is asked as well.
func (r *race) patience(at *attempt) time.Duration {
	tm := r.client.access.timing
	switch {
	case at.failed || r.spare != nil: // likely to be in vain
		return tm.probePatience
	case !at.connected.Load():
		return tm.connectPatience
	case r.watch:
		return tm.watchPatience
	}
	return tm.patience
}

// lapWait is the time between two rounds of asking.
func (r *race) lapWait() time.Duration {
	tm := r.client.access.timing
	if r.spare != nil { // no better answer is likely
		return tm.probePatience
	}
	return tm.coolMin
}

// silence is called when the latest attempt had all the time it is given before another is asked. It reports
// whether to wait on.
func (r *race) silence() bool {
	a := r.client.access
	if r.latest != nil {
		r.tooSilent(r.latest)
		// What else is the same process will be silent as well: it comes last.
		var others, same []turn
		for _, t := range r.queue {
			if sameProcess(t.endpoint, r.latest.endpoint) {
				same = append(same, t)
			} else {
				others = append(others, t)
			}
		}
		r.queue = append(others, same...)
		return len(r.queue) > 0 || r.spare == nil
	}
	if r.spare != nil || time.Since(r.began) >= a.timing.giveUp {
		return false
	}
	// All were asked and only silent ones are left. The others may have come back.
	var others []endpoint
	for _, e := range r.list {
		asked := false
		for at := range r.running {
			asked = asked || at.server == e.server
		}
		if !asked {
			others = append(others, e)
		}
	}
	r.queue = a.health.order(time.Now(), others)
	return true
}

func (r *race) tooSilent(at *attempt) {
	at.silent = true
	r.failed(at.endpoint, noAnswer, silent)
}

func (r *race) failed(e endpoint, why string, k kind) {
	r.trials = append(r.trials, trial{e, why})
	a := r.client.access
	a.health.fail(time.Now(), e, k, r.list)
	a.opts.Log.Debug("API server passed over", "client", r.client.name, "server", e.String(), "err", why)
}

// take takes in an attempt that ended without an answer, or with a server error.
func (r *race) take(got answer) {
	if got.err != nil {
		if !got.silent { // else it was told already
			why, k := reason(got.err)
			r.failed(got.endpoint, why, k)
		}
		return
	}
	r.doubted = append(r.doubted, got.endpoint)
	if r.spare == nil {
		r.spare = &got
	} else {
		got.discard()
	}
	// A second opinion is asked of those that are likely to have one.
	var likely []turn
	for _, t := range r.queue {
		if !t.failed && !sameProcess(t.endpoint, got.endpoint) {
			likely = append(likely, t)
		}
	}
	r.queue = likely
}

// stopRunning ends the attempts that are not needed any more. A server that was silent while others were asked
// loses its connections: they may lead nowhere, as those to a machine that vanished do.
func (r *race) stopRunning() {
	late := errors.Is(r.req.Context().Err(), context.DeadlineExceeded)
	for at := range r.running {
		if late && !at.silent && time.Since(at.began) >= r.patience(at)/2 {
			r.tooSilent(at)
		}
		at.cancel()
		if at.silent {
			r.client.access.conns.closeIf(func(c *conn) bool { return c.client == r.client && c.to == at.server })
		}
	}
}

// discard is for an answer that nobody reads.
func (a *answer) discard() {
	if a.resp != nil {
		a.resp.Body.Close()
	}
	a.cancel()
}

// answerBody ends its attempt when it is closed.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}
