package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
)

// timing is the lease duration, the renew deadline and the retry period, in seconds.
type timing struct{ lease, renew, retry int }

func (t timing) String() string { return fmt.Sprintf("%d/%d/%d s", t.lease, t.renew, t.retry) }

func (t timing) flags() []string {
	return []string{"--servicesElection", "--leaseDuration", strconv.Itoa(t.lease), "--leaseRenewDuration", strconv.Itoa(t.renew), "--leaseRetry", strconv.Itoa(t.retry)}
}

// slack is by how much a count of few requests in a short time may be off.
const slack = 0.4

// anyway is what three instances ask a second with one Lease, too: each reads and writes its member Lease every ten
// seconds, and one renews the Lease of all Services.
func (t timing) anyway() (gets, puts float64) {
	return members / 10.0, members/10.0 + 1/float64(t.retry)
}

var (
	fast = timing{5, 3, 1}   // our defaults
	slow = timing{15, 10, 2} // those of kube-vip 1.2.3
)

// A scenario is a number of Services with a Lease each, and what is measured with them.
type scenario struct {
	services int
	timing   timing
	bounds   leaseBounds
	past     leasePast
	vanish   bool
	soak     time.Duration
	// crowded says that it is not known whether the instances can do it at all: they do, or say why not.
	crowded bool
}

// leaseBounds are bounds; zero is none.
type leaseBounds struct {
	status   time.Duration
	puts     float64 // a second, and no GET
	moved    time.Duration
	spread   float64 // most on one node, as a multiple of the mean
	untouchd bool
}

// leasePast is what kube-vip 1.2.3 did.
type leasePast struct{ status, gets, puts, spread, moved, outcome string }

func scenarios(c config) []scenario {
	return []scenario{
		{services: 100, timing: fast, bounds: leaseBounds{puts: 100}, past: leasePast{gets: "126/s", puts: "100/s"}},
		{
			services: 300, timing: slow, vanish: true,
			bounds: leaseBounds{status: 10 * time.Second, puts: 150, moved: time.Duration(slow.lease)*time.Second + 3*time.Second, spread: 1.25},
			past:   leasePast{status: "207 s", gets: "174/s", puts: "130/s", spread: "83, 82, 135", moved: "113 s"},
		},
		{services: 1000, timing: slow, soak: c.soak, bounds: leaseBounds{untouchd: true}},
		{services: 1000, timing: fast, crowded: true, past: leasePast{outcome: "all three crash within a minute"}},
	}
}

// leaseResult is what was measured in a scenario; what is missing is why err is not nil.
type leaseResult struct {
	scenario
	status     time.Duration
	spread     []int // addresses per node
	gets, puts float64
	rates      []measure.Rate
	moved      time.Duration
	soaked     *soaked
	outcome    string
	steady     bool // in the outcome: what is held stays, and nothing moves
	err        error
}

// soaked is what happened in a soak: nothing should.
type soaked struct {
	over                     time.Duration
	moves, gone, throttlings int
	example                  string // of a throttling
	cpu                      float64
	rss                      int64 // peak
}

// measureLease takes the measurements of a scenario.
func measureLease(ctx context.Context, c config, s scenario, log *slog.Logger, m *measure.Machine) (r leaseResult) {
	r.scenario = s
	defer func() {
		if r.err != nil {
			log.Error("given up", "err", r.err)
		}
	}()
	k, err := newCluster(ctx, c, log, s.timing.flags()...)
	if err != nil {
		r.err = err
		return r
	}
	defer func() { r.err = errors.Join(r.err, k.close()) }()
	if *m, r.err = measure.Describe(ctx, k.Lab, k.binary); r.err != nil {
		return r
	}
	r.err = k.manyLeases(ctx, c, &r)
	return r
}

// manyLeases is a Lease for each Service.
func (k *cluster) manyLeases(ctx context.Context, c config, r *leaseResult) error {
	n := r.services
	if _, err := k.load.CreateAll(ctx, 0, n); err != nil {
		return err
	}
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	own, err := measure.Requests(ctx, k.Nodes, func() error { return measure.Sleep(ctx, background) })
	if err != nil {
		return err
	}
	began := time.Now()
	if err := k.startAll(); err != nil {
		return err
	}
	if r.crowded {
		return k.crowd(ctx, c, r, began)
	}
	last, err := k.told(ctx, n)
	if err != nil {
		return err
	}
	r.status = last.Sub(began)
	k.log.Info("started", "every status after", measure.Span(r.status))
	if err := k.ready(ctx); err != nil {
		return err
	}
	if _, err := k.quiet(ctx); err != nil {
		return err
	}
	if r.spread, err = k.held(); err != nil {
		return err
	}
	k.log.Info("spread", "addresses per node", fmt.Sprint(r.spread))
	over := c.rest
	if r.soak > 0 {
		over = r.soak
	}
	if err := k.restLeases(ctx, r, over, own); err != nil {
		return err
	}
	if !r.vanish {
		return nil
	}
	busiest := k.members[slices.Index(r.spread, slices.Max(r.spread))]
	addrs, err := k.on(busiest)
	if err != nil {
		return err
	}
	moved, err := k.crash(ctx, busiest, addrs)
	if err != nil {
		return err
	}
	r.moved = moved.link
	k.log.Info("a holder vanished", "addresses", len(addrs), "on links after", measure.Span(moved.link), "announced after", measure.Span(moved.wire))
	return nil
}

// restLeases watches the instances renew. In a soak it is also watched whether anything moves.
func (k *cluster) restLeases(ctx context.Context, r *leaseResult, over time.Duration, own map[string]float64) (err error) {
	var p *presence
	if r.soak > 0 {
		if p, err = k.watchPresence(k.members); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
	}
	_, _, before := k.statuses.counted(0, r.services)
	used, rates, err := k.idle(ctx, over, own)
	if err != nil {
		return err
	}
	r.rates = rates
	for _, q := range rates {
		switch verb, _, _ := strings.Cut(q.What, " "); verb {
		case "GET":
			r.gets += q.PerSecond
		case "PUT":
			r.puts += q.PerSecond
		}
	}
	k.log.Info("at rest", "GET/s", fmt.Sprintf("%.2f", r.gets), "PUT/s", fmt.Sprintf("%.2f", r.puts))
	if r.soak == 0 {
		return nil
	}
	if err := k.alive(); err != nil {
		return err
	}
	_, _, moves := k.statuses.counted(0, r.services)
	throttled := k.grep("throttl", "too many requests")
	r.soaked = &soaked{over: over, moves: moves - before, gone: p.withdrawals(), throttlings: len(throttled)}
	if len(throttled) > 0 {
		r.soaked.example = throttled[0]
	}
	for _, u := range used {
		r.soaked.cpu, r.soaked.rss = max(r.soaked.cpu, u.cpu), max(r.soaked.rss, u.peak)
	}
	k.log.Info("soaked", "over", over, "moves", r.soaked.moves, "addresses gone", r.soaked.gone, "throttled", len(throttled))
	return p.complete()
}

const (
	// crowdTime is how long instances are watched that may have too much to do.
	crowdTime = 90 * time.Second
	// crowdRest is how long it is then watched what they hold.
	crowdRest = 30 * time.Second
	// refusal and warning are what they say then.
	refusal = "no more leases are taken than can be renewed in time"
	warning = "this node could not hold every lease that it stands for"
)

// crowd watches what instances do that may have more Leases than they can renew in time.
func (k *cluster) crowd(ctx context.Context, c config, r *leaseResult, began time.Time) error {
	if err := measure.Sleep(ctx, crowdTime); err != nil {
		return err
	}
	count, last, before := k.statuses.counted(0, r.services)
	least, most := r.services, 0
	for deadline := time.Now().Add(crowdRest); time.Now().Before(deadline); {
		counts, err := k.held()
		if err != nil {
			return err
		}
		sum := 0
		for _, n := range counts {
			sum += n
		}
		least, most, r.spread = min(least, sum), max(most, sum), counts
		if err := measure.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	_, _, moves := k.statuses.counted(0, r.services)
	switch ended := k.alive(); {
	case ended != nil:
		r.outcome = "ends: " + ended.Error()
	case count == r.services:
		r.outcome = fmt.Sprintf("runs; every status after %s", measure.Span(last.Sub(began)))
	default:
		r.outcome = fmt.Sprintf("runs; %d of %s Services announced after %s", count, measure.Thousands(r.services), crowdTime)
	}
	r.outcome += fmt.Sprintf("; in the next %s from %d to %d addresses are held, at last %s on the three nodes, and %d moved", crowdRest, least, most, list(r.spread), moves-before)
	r.steady = k.alive() == nil && least == most && moves == before
	for _, text := range []string{refusal, warning} {
		if said := k.grep(text); len(said) > 0 {
			r.outcome += fmt.Sprintf("; the log says %q", message(said[0]))
		}
	}
	k.log.Info("crowded", "outcome", r.outcome, "steady", r.steady)
	return nil
}

// message is the msg of a line of log.
func message(line string) string {
	_, rest, found := strings.Cut(line, `msg="`)
	if !found {
		return line
	}
	msg, _, _ := strings.Cut(rest, `"`)
	return msg
}

func list(counts []int) string {
	var texts []string
	for _, n := range counts {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ", ")
}
