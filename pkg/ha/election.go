package ha

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

const (
	// stopDeadline bounds the time that taking the addresses off and giving the Lease up may take when we are
	// told to stop. After it the Lease is left to expire.
	stopDeadline = 3 * time.Second
	// releaseTimeout bounds one try to give the Lease up.
	releaseTimeout = time.Second
	// revokeRetry is the time between two tries when addresses could not be taken off.
	revokeRetry = 500 * time.Millisecond
	// rankStep is how much later each next candidate tries for a Lease that is to be had: time for the one before it
	// to write it, and for that to be seen.
	rankStep = 150 * time.Millisecond
	// healthWait is how long a candidate waits for the first word on this node's health.
	healthWait = 3 * time.Second
)

// A Granter holds what a mandate is for. Grant may be called again with a later time. Revoke takes effect when
// it returns; off then waits until everything under the mandate is gone from this node. Neither blocks, and off
// ends with its context.
type Granter interface {
	Grant(mandate string, until time.Time)
	Revoke(mandate string) (off func(context.Context) error)
}

// Options configure an Election. Every field without "may" in its comment is required.
type Options struct {
	Namespace string
	// Name is the Lease's.
	Name string
	// Mandate is what the Granter is told; may be empty, which means Name. No two Elections of a process share it.
	Mandate  string
	Identity string // of this instance: the node's name
	Timing   Timing
	// Annotations are written to the Lease while it is ours; may be nil.
	Annotations map[string]string
	// Labels likewise.
	Labels map[string]string
	// Owner is written to the Lease while it is ours, so that it is deleted with its owner; may be nil.
	Owner *metav1.OwnerReference
	// Rank is this instance's among the candidates, from 0: of a Lease that is free or has expired the best ranked
	// tries first, each other one later by its rank. It bears on nothing else, and not on what is ours already.
	Rank int
	// Renewals and Watches are the same Leases by different clients, so that a renewal never waits behind a watch.
	Renewals coordinationclient.LeasesGetter
	Watches  coordinationclient.LeasesGetter
	Granter  Granter
	// Members says whether another member is healthy; may be nil.
	Members *Members
	// AwaitHealth keeps this instance from taking the Lease, for a moment, until the first SetHealth. A Lease that
	// is ours from an earlier life is carried on with at once. Without it the instance may be healthy from the start.
	AwaitHealth bool
	// Keeper has the mandate go on while the API does not answer; nil ends it when its time is up.
	Keeper *Keeper
	// Alone says that nobody else on the wire has what this instance claims, or means to have it; it may take a while, and
	// ends with ctx. With it this instance holds provisionally as long as the API gives it no rights: until it can read the
	// Lease, or Contest says that somebody else has what is held. nil has it wait for the Lease. Provisional is told when
	// that begins and ends; may be nil. It must not block.
	Alone       func(ctx context.Context) bool
	Provisional func(on bool)
	// Led is called when this instance becomes or ceases to be the holder; may be nil. It must not block.
	Led func(Lead)
	Log *slog.Logger
	// Registerer gets the metrics; may be nil.
	Registerer prometheus.Registerer
}

// Election stands for a Lease, for ever. Losing it never ends the process.
type Election struct {
	o       Options
	log     *slog.Logger
	routine slog.Level // of lines that tell of no change here
	metrics electionMetrics
	company *company      // nil for one that is alone
	turn    *turn         // nil likewise
	line    *line         // the company's
	group   string        // for Members
	events  chan func()   // run by Run's goroutine
	news    chan struct{} // holds at most one token: health, ours or a member's, may have changed
	jitter  func(time.Duration) time.Duration
	choose  func(now time.Time) decision // core.decide

	mu      sync.Mutex // guards the fields below
	told    *fitness   // the last SetHealth; nil before the first
	standAs *standing  // the last stand; nil before the first
	contest bool       // somebody else claims what is held
	vacant  time.Time  // since when nobody holds the Lease, or from when on unless it is renewed; zero before it was seen

	// The fields below are touched by Run's goroutine alone.
	core        core
	applied     verdict
	until       time.Time // of the last Grant
	calling     bool      // an API call is under way
	claiming    bool      // and it is one that makes or keeps the Lease ours
	abortCall   context.CancelFunc
	beyond      bool               // the Keeper was told that the mandate goes on
	clearing    context.CancelFunc // ends a Clear; nil while there is none
	listening   context.CancelFunc // ends a Silent likewise
	probing     context.CancelFunc // ends an Alone likewise
	revoking    bool
	revoked     int // counts Grants and Revokes, so that a late answer is told from the present one
	again       time.Time
	leader      string
	expects     time.Time // of the core, as the feed was told
	provisional bool      // this instance holds without a Lease
	namesake    bool      // it was said that another instance has our name
	problem     string    // the last API failure that was logged
}

type fitness struct {
	health Health
	reason string
}

// standing is what a candidacy may have changed, beside its fitness.
type standing struct {
	rank   int
	owner  *metav1.OwnerReference
	labels map[string]string
}

// company is what the Elections of a Fleet share.
type company struct {
	feed      *feed
	turns     *turns
	silences  *woes // the API does not answer
	namesakes *woes // another instance has our name
	phases    *phases
	line      *line
}

// NewElection returns an Election that has not begun.
func NewElection(o Options) *Election {
	e := newElection(o)
	e.metrics = soloMetrics(o.Name, o.Identity, o.Registerer)
	return e
}

// newElection returns an Election without metrics.
func newElection(o Options) *Election {
	o.Mandate = cmp.Or(o.Mandate, o.Name)
	e := &Election{
		o:       o,
		log:     o.Log.With("lease", o.Namespace+"/"+o.Name),
		routine: slog.LevelInfo,
		group:   o.Name,
		events:  make(chan func()),
		news:    make(chan struct{}, 1),
		jitter:  rand.N[time.Duration],
		line:    &line{},
		core: core{namespace: o.Namespace, name: o.Name, id: o.Identity, timing: o.Timing, grace: expiryGrace,
			annotations: o.Annotations, labels: o.Labels, owner: o.Owner, delay: delayOf(o.Rank, o.Timing)},
	}
	e.core.keep.on, e.core.prov.on = o.Keeper != nil, o.Alone != nil
	e.choose = e.core.decide
	return e
}

// delayOf is how much later than the first one a candidate tries. The last of many do not wait for longer than a dead
// holder is waited for.
func delayOf(rank int, t Timing) time.Duration {
	return min(time.Duration(max(rank, 0))*rankStep, t.Lease)
}

// SetHealth says what this node can do for the group. It may be called from any goroutine, before and while
// Run works, and does not block.
func (e *Election) SetHealth(h Health, reason string) {
	e.mu.Lock()
	e.told = &fitness{h, reason}
	e.mu.Unlock()
	e.hint()
}

// Vacant says that nobody holds the Lease, as far as this instance has seen: it was given up, has expired or is not
// there. Like SetHealth it may be called from any goroutine, and does not block.
func (e *Election) Vacant() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.vacant.IsZero() && !time.Now().Before(e.vacant)
}

// seen notes for Vacant what was seen of the Lease.
func (e *Election) seen() {
	vacant := e.core.seen
	if e.core.holder() != "" {
		vacant = vacant.Add(e.core.duration() + e.core.grace)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vacant = vacant
}

// stand says as what this instance stands from now on. Like SetHealth it does not block.
func (e *Election) stand(s standing) {
	e.mu.Lock()
	e.standAs = &s
	e.mu.Unlock()
	e.hint()
}

// hint says that there may be news.
func (e *Election) hint() {
	select {
	case e.news <- struct{}{}:
	default: // a token is there already
	}
}

// learn takes the news over.
func (e *Election) learn() {
	e.mu.Lock()
	told, as, contest := e.told, e.standAs, e.contest
	e.contest = false
	e.mu.Unlock()
	if contest {
		e.core.contested()
	}
	if told != nil {
		e.core.fits(time.Now(), told.health, told.reason)
	}
	if as != nil {
		e.core.delay, e.core.owner, e.core.labels = delayOf(as.rank, e.o.Timing), as.owner, as.labels
	}
	if e.o.Members != nil {
		e.core.others = e.o.Members.healthy(e.group)
	}
}

// Run stands for election until ctx ends; then it takes the addresses off, gives the Lease up and returns. Only
// then can it fail, and says that the Lease is left to expire. Run is called once.
func (e *Election) Run(ctx context.Context) error {
	e.log.Log(ctx, e.routine, "Beginning cluster membership", "namespace", e.o.Namespace, "lock", e.o.Name, "id", e.o.Identity)
	// Calls outlive ctx: a Lease is given up after the order to stop.
	calls, endCalls := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer work.Wait()
	defer endCalls()
	defer e.goesOn(false)
	defer e.provision(decision{})
	if e.company != nil {
		defer e.join(calls)()
	} else {
		work.Go(func() { e.watch(calls) })
		if e.o.Members != nil {
			defer e.o.Members.subscribe(e.group, e.hint)()
		}
	}
	if e.o.AwaitHealth {
		e.core.patience = time.Now().Add(healthWait)
	}
	e.learn()

	timer := time.NewTimer(0)
	defer timer.Stop()
	stop := ctx.Done()
	var deadline <-chan time.Time
	for {
		now := time.Now()
		e.core.keep.reach = e.line.get()
		d := e.choose(now)
		e.seen()
		e.apply(calls, &work, d, now)
		if d.done && !e.claiming {
			return nil
		}
		timer.Reset(e.next(d, now))
		select {
		case f := <-e.events:
			f()
		case <-e.news:
			e.learn()
		case <-e.turn.come():
		case <-timer.C:
		case <-stop:
			stop = nil
			e.core.stopping = true
			deadline = time.After(stopDeadline)
		case <-deadline:
			return fmt.Errorf("give up Lease %s/%s: not done within %s; it is left to expire", e.o.Namespace, e.o.Name, stopDeadline)
		}
	}
}

// join makes e one of its company, until what it returns is called.
func (e *Election) join(calls context.Context) (part func()) {
	c, name := e.company, types.NamespacedName{Namespace: e.o.Namespace, Name: e.o.Name}
	e.core.fed = true
	// What an earlier Election of this process wrote may be told late. It is ours.
	e.core.stamp = time.Now().Truncate(time.Microsecond)
	c.feed.join(name, &e.core, func(f func(*core)) { e.send(calls, func() { f(&e.core) }) })
	return func() {
		c.feed.part(name, &e.core)
		if e.problem != "" {
			c.silences.less()
		}
		if e.namesake {
			c.namesakes.less()
		}
	}
}

func (e *Election) next(d decision, now time.Time) time.Duration {
	wake := earliest(d.wake, e.again)
	if wake.IsZero() { // nothing but an event can change anything
		return time.Hour
	}
	return max(wake.Sub(now), time.Millisecond)
}

// apply carries a decision out. It does not block: calls and waits report through events.
func (e *Election) apply(ctx context.Context, work *sync.WaitGroup, d decision, now time.Time) {
	e.look(ctx, work, d.ask)
	e.listen(ctx, work, d.listen)
	e.probe(ctx, work, d.probe)
	switch {
	case d.verdict == granted && (e.applied != granted || !d.until.Equal(e.until)):
		e.o.Granter.Grant(e.o.Mandate, d.until)
		e.until, e.revoking, e.again = d.until, false, time.Time{}
		e.revoked++ // an answer to an earlier Revoke says nothing any more
	case d.verdict == revoked && !e.revoking && (e.applied != revoked || !e.again.IsZero() && !now.Before(e.again)):
		e.revoke(ctx, work)
	}
	if d.verdict != e.applied {
		e.changed(e.applied, d)
		e.applied = d.verdict
	}
	e.goesOn(d.beyond)
	e.provision(d)
	switch {
	case e.claiming && d.abort:
		e.abortCall()
	case e.calling:
	case d.write == writeNothing:
		e.turn.pass()
	case e.turn.take(now, &e.core, d):
		e.begin(ctx, work, d)
	}
	e.tell(ctx)
}

// goesOn tells the Keeper.
func (e *Election) goesOn(beyond bool) {
	if beyond != e.beyond && e.o.Keeper != nil {
		e.beyond = beyond
		e.o.Keeper.Kept(e.o.Mandate, beyond)
	}
}

// tell says what is new about the Lease.
func (e *Election) tell(ctx context.Context) {
	if e.core.namesake != e.namesake {
		e.namesake = e.core.namesake
		const text = "another instance holds the Lease under this node's name: give each node a name of its own by vip_nodename"
		switch {
		case e.namesake && e.company != nil:
			e.company.namesakes.begin(e.log, text, "node", e.o.Identity)
		case e.namesake:
			e.log.Error(text, "node", e.o.Identity)
		case e.company != nil:
			e.company.namesakes.end()
		}
	}
	if leader := e.core.holder(); leader != e.leader && e.core.known {
		e.leader = leader
		if leader != "" {
			e.log.Log(ctx, e.routine, "new leader elected: "+leader, "node", leader)
		}
	}
	if until := e.core.expects(); e.company != nil && !until.Equal(e.expects) {
		e.expects = until
		e.company.feed.expect(types.NamespacedName{Namespace: e.o.Namespace, Name: e.o.Name}, until)
	}
}

func (e *Election) revoke(ctx context.Context, work *sync.WaitGroup) {
	off := e.o.Granter.Revoke(e.o.Mandate)
	e.revoking, e.again = true, time.Time{}
	e.revoked++
	mine := e.revoked
	work.Go(func() {
		err := off(ctx)
		e.send(ctx, func() {
			if mine != e.revoked {
				return
			}
			e.revoking = false
			if err != nil {
				e.log.Error("the VIP could not be taken off this node; the Lease is not given up before", "err", err)
				e.again = time.Now().Add(revokeRetry)
				return
			}
			e.core.cleared()
		})
	})
}

func (e *Election) changed(before verdict, d decision) {
	led := d.verdict == granted
	e.turn.hold(led)
	var lead Lead
	switch {
	case led && d.provisional:
		lead = Lead{Held: true}
	case led:
		lead = e.core.lead
		e.log.Info("this node holds the Lease", "node", e.o.Identity, "why", lead.Why, "from", lead.From, "silent", lead.Silent.Round(time.Millisecond))
		e.metrics.leader.Set(1)
		e.metrics.transitions.Inc()
	case before == granted:
		e.log.Info("this node does not hold the Lease any more", "node", e.o.Identity, "why", d.why)
		e.metrics.leader.Set(0)
	}
	if e.o.Led != nil && (led || before == granted) {
		e.o.Led(lead)
	}
}

func (e *Election) send(ctx context.Context, f func()) {
	select {
	case e.events <- f:
	case <-ctx.Done():
	}
}

// callTimeout bounds one API call: there must be time for another try before the mandate ends. One that took
// longer could not be followed by a renewal in time anyway.
func (e *Election) callTimeout(w write) time.Duration {
	if w == writeRelease {
		return releaseTimeout
	}
	return e.o.Timing.Renew / 2
}

// begin makes the API call that d asks for, and has what came of it reported.
func (e *Election) begin(ctx context.Context, work *sync.WaitGroup, d decision) {
	call, cancel := context.WithTimeout(ctx, e.callTimeout(d.write))
	if d.lease != nil {
		e.core.writes(d.lease)
	}
	if e.company != nil && d.verdict != granted && !d.ask {
		e.core.anchor = e.company.phases.next()
	}
	e.calling, e.claiming, e.abortCall = true, d.write == writeCreate || d.write == writeUpdate, cancel
	work.Go(func() {
		defer cancel()
		started := time.Now()
		verb, lease, err := e.call(call, d)
		aborted := errors.Is(call.Err(), context.Canceled)
		e.send(ctx, func() {
			e.calling, e.claiming = false, false
			e.ended(d, started, verb, lease, err, aborted)
		})
	})
}

func (e *Election) call(ctx context.Context, d decision) (verb string, lease *coordinationv1.Lease, err error) {
	leases := e.o.Renewals.Leases(e.o.Namespace)
	switch d.write {
	case writeCreate:
		lease, err = leases.Create(ctx, d.lease, metav1.CreateOptions{})
		return "create", lease, err
	case writeUpdate:
		lease, err = leases.Update(ctx, d.lease, metav1.UpdateOptions{})
		return "renew", lease, err
	case writeRelease:
		lease, err = leases.Update(ctx, d.lease, metav1.UpdateOptions{})
		return "give up", lease, err
	default:
		lease, err = leases.Get(ctx, e.o.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			lease, err = nil, nil
		}
		return "read", lease, err
	}
}

// ended tells the core what came of a call.
func (e *Election) ended(d decision, started time.Time, verb string, lease *coordinationv1.Lease, err error, aborted bool) {
	now := time.Now()
	switch {
	case answers(err):
		e.line.answered(started, now, e.o.Timing.Retry)
	case !aborted:
		e.line.lost(started)
	}
	if !aborted {
		e.core.called(now, err)
	}
	switch {
	case err != nil && overtaken(err):
		e.core.conflicted()
	case err != nil && aborted:
		e.core.abandoned()
		return // our doing says nothing about the API
	case err != nil:
		e.core.failed(now, d.write != readAgain)
	case d.write == readAgain:
		e.core.read(now, lease)
	default:
		e.core.wrote(now, started, lease)
		if d.write != writeRelease {
			e.metrics.renewals.Observe(now.Sub(started).Seconds())
		}
	}
	e.report(verb, err)
}

// overtaken says that the API refused a write because the Lease is not what we thought.
func overtaken(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

// answers says that the API answered, be it that it refused. Without its store it says that something is wrong with it.
func answers(err error) bool {
	var status apierrors.APIStatus
	return err == nil || errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError
}

// report logs a failing API once, and its recovery. That another was faster is no failure.
func (e *Election) report(verb string, err error) {
	text := ""
	if err != nil && !overtaken(err) {
		text = err.Error()
	}
	switch {
	case text == e.problem:
	case text == "" && e.company != nil:
		e.company.silences.end()
	case text == "":
		e.log.Info("the API answers for the Lease again")
	case e.problem == "" && e.company != nil:
		e.company.silences.begin(e.log, "could not "+verb+" the Lease; trying again", "err", err)
	case e.problem == "":
		e.log.Warn("could not "+verb+" the Lease; trying again", "err", err)
	default:
		e.log.Debug("could not "+verb+" the Lease", "err", err)
	}
	e.problem = text
}
