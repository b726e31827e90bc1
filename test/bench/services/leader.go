package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// A figure is one thing that was measured. Durations are seconds, memory is bytes.
type figure struct {
	value float64
	text  string // in place of the value, where that does not say all
}

// result is what was measured with n Services; what is missing is why err is not nil.
type result struct {
	n       int
	figures map[string]figure
	rates   []measure.Rate // of requests at rest
	err     error
}

func (r *result) set(key string, value float64) { r.figures[key] = figure{value: value} }

func (r *result) span(key string, d time.Duration) { r.set(key, d.Seconds()) }

const (
	// leaseDuration is that of the generated manifests.
	leaseDuration = 5 * time.Second
	// background is for how long the API server's own requests are counted.
	background = 20 * time.Second
	// oneLimit is how long one more Service may take.
	oneLimit = 30 * time.Second
	// head is how long before a Service its EndpointSlice is created.
	head = 250 * time.Millisecond
	// churned is how many Services are created and deleted.
	churned = 1000
	// churnLimit is how long memory may take to be given back: Go collects garbage every two minutes at least.
	churnLimit = 150 * time.Second
)

// oneLease is the measurements with n Services under one Lease.
type oneLease struct {
	*cluster
	config config
	n      int
	own    map[string]float64 // requests without us, during background
	result *result
}

// measureLeader takes every measurement with n Services under one Lease.
func measureLeader(ctx context.Context, c config, n int, log *slog.Logger, m *measure.Machine) (r *result) {
	r = &result{n: n, figures: map[string]figure{}}
	defer func() {
		if r.err != nil {
			log.Error("given up", "err", r.err)
		}
	}()
	k, err := newCluster(ctx, c, log)
	if err != nil {
		r.err = err
		return r
	}
	defer func() { r.err = errors.Join(r.err, k.close()) }()
	if *m, r.err = measure.Describe(ctx, k.Lab, k.binary); r.err != nil {
		return r
	}
	run := &oneLease{cluster: k, config: c, n: n, result: r}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"creating", run.fill},
		{"start", run.fromNothing},
		{"one more", run.oneMore},
		{"at rest", run.atRest},
		{"creations and deletions", run.churn},
		{"the holder vanishes", run.vanish},
		{"restart", run.restart},
	} {
		log.Info("step", "name", step.name)
		if err := step.do(ctx); err != nil {
			r.err = fmt.Errorf("%s: %w", step.name, err)
			return r
		}
		for _, key := range slices.Sorted(maps.Keys(r.figures)) {
			log.Debug("measured", "key", key, "figure", r.figures[key])
		}
	}
	return r
}

// fill creates the Services, and counts what the API server does by itself.
func (r *oneLease) fill(ctx context.Context) error {
	took, err := r.load.CreateAll(ctx, 0, r.n)
	if err != nil {
		return err
	}
	r.result.span(created, took)
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	r.own, err = measure.Requests(ctx, r.Nodes, func() error { return measure.Sleep(ctx, background) })
	return err
}

// told waits until n Services say that they are announced.
func (k *cluster) told(ctx context.Context, n int) (time.Time, error) {
	var last time.Time
	err := k.await(ctx, limit(n), fmt.Sprintf("%d Services have a status", n), func() (bool, string) {
		count, at, _ := k.statuses.counted(0, n)
		last = at
		return count == n, fmt.Sprintf("%d have", count)
	})
	return last, err
}

// fromNothing starts the instances in a cluster whose Services have no status.
func (r *oneLease) fromNothing(ctx context.Context) (err error) {
	p, err := r.watchPresence(r.members)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	began := time.Now()
	if err := r.startAll(); err != nil {
		return err
	}
	appeared, _, err := r.all(ctx, p, measure.Addresses(0, r.n))
	if err != nil {
		return err
	}
	last, err := r.told(ctx, r.n)
	if err != nil {
		return err
	}
	r.result.span(startLink, appeared.Sub(began))
	r.result.span(startStatus, last.Sub(began))
	r.log.Info("started", "on the link after", measure.Span(appeared.Sub(began)), "every status after", measure.Span(last.Sub(began)))
	if err := r.ready(ctx); err != nil {
		return err
	}
	if _, err := r.quiet(ctx); err != nil {
		return err
	}
	r.result.span(startQuiet, time.Since(began))
	return nil
}

// oneMore creates one more Service, again and again, and deletes it.
func (r *oneLease) oneMore(ctx context.Context) (err error) {
	holder, err := r.holder(ctx, r.n)
	if err != nil {
		return err
	}
	p, err := r.watchPresence([]*lab.Node{holder})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var link, wire, status []time.Duration
	for i := range r.config.samples {
		one, err := r.oneSample(ctx, p)
		if err != nil {
			return fmt.Errorf("sample %d: %w", i+1, err)
		}
		link, wire, status = append(link, one.link), append(wire, one.wire), append(status, one.status)
	}
	for key, ds := range map[string][]time.Duration{oneLink: link, oneWire: wire, oneStatus: status} {
		r.result.span(key, measure.Median(ds))
		r.result.span(key+tail99, measure.Percentile(ds, 0.99))
	}
	r.log.Info("one more", "link", measure.Spread(link), "wire", measure.Spread(wire), "status", measure.Spread(status))
	return p.complete()
}

// oneTimes are from when the API server had taken the Service.
type oneTimes struct{ link, wire, status time.Duration }

// oneSample creates the Service behind the last, whose EndpointSlice is there already.
func (r *oneLease) oneSample(ctx context.Context, p *presence) (oneTimes, error) {
	name, addr := measure.Number(r.n)
	p.forget(addr)
	if err := r.load.CreateSlice(ctx, r.n); err != nil {
		return oneTimes{}, err
	}
	if err := measure.Sleep(ctx, head+rand.N(head)); err != nil {
		return oneTimes{}, err
	}
	if err := r.load.CreateService(ctx, r.n); err != nil {
		return oneTimes{}, err
	}
	accepted := time.Now()
	var link, wire, status time.Time
	err := r.await(ctx, oneLimit, "the one more Service, "+name+", is on a link, announced, and says so", func() (bool, string) {
		a, b, at, heard := p.of([]netip.Addr{addr})
		c, told, _ := r.statuses.counted(r.n, r.n+1)
		link, wire, status = at, heard, told
		return a+b+c == 3, fmt.Sprintf("%d on a link, %d announced, %d told", a, b, c)
	})
	if err != nil {
		return oneTimes{}, err
	}
	// The watches may be faster than the answer.
	if seen := r.statuses.first(name); !seen.IsZero() && seen.Before(accepted) {
		accepted = seen
	}
	if err := r.load.Remove(ctx, r.n); err != nil {
		return oneTimes{}, err
	}
	err = r.await(ctx, oneLimit, "the deleted Service's address, "+addr.String()+", is gone", func() (bool, string) {
		return p.gone(addr) && r.statuses.first(name).IsZero(), "it is there"
	})
	return oneTimes{max(0, link.Sub(accepted)), max(0, wire.Sub(accepted)), max(0, status.Sub(accepted))}, err
}

// atRest watches the instances do nothing.
func (r *oneLease) atRest(ctx context.Context) error {
	if _, err := r.quiet(ctx); err != nil {
		return err
	}
	holder, err := r.holder(ctx, r.n)
	if err != nil {
		return err
	}
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	used, rates, err := r.idle(ctx, r.config.rest, r.own)
	if err != nil {
		return err
	}
	r.result.rates = rates
	total := 0.0
	for _, q := range rates {
		total += q.PerSecond
	}
	r.result.set(requests, total)
	for n, u := range used {
		keys := []string{followerCPU, followerRSS, followerPeak}
		if n == holder {
			keys = []string{holderCPU, holderRSS, holderPeak}
		}
		for i, v := range []float64{u.cpu, float64(u.rss), float64(u.peak)} {
			r.result.set(keys[i], max(v, r.result.figures[keys[i]].value))
		}
	}
	return nil
}

// usage is what an instance used at rest.
type usage struct {
	cpu       float64 // share of a core
	rss, peak int64
}

// idle is what each instance uses while nothing happens, and what they ask of the API, without what is its own.
func (k *cluster) idle(ctx context.Context, over time.Duration, own map[string]float64) (map[*lab.Node]usage, []measure.Rate, error) {
	used := map[*lab.Node]usage{}
	began := time.Now()
	all, err := measure.Requests(ctx, k.Nodes, func() error {
		began = time.Now()
		before := map[*lab.Node]lab.Usage{}
		for _, n := range k.members {
			var err error
			if before[n], err = k.pods[n].Usage(); err != nil {
				return err
			}
		}
		if err := measure.Sleep(ctx, over); err != nil {
			return err
		}
		for _, n := range k.members {
			after, err := k.pods[n].Usage()
			if err != nil {
				return err
			}
			u := usage{cpu: float64(after.CPU-before[n].CPU) / float64(time.Since(began)), rss: after.RSS, peak: after.PeakRSS}
			used[n] = u
			k.log.Info("at rest", "node", n.Name, "cpu", measure.Percent(u.cpu), "rss", measure.Megabytes(u.rss), "peak rss", measure.Megabytes(u.peak))
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	// What is no resource is the bench that reads the counters: our instances ask for nothing of that kind.
	rates := slices.DeleteFunc(measure.Rates(all, time.Since(began), own, background), func(q measure.Rate) bool { return strings.HasSuffix(q.What, " health") })
	return used, rates, nil
}

// process is what /metrics says of an instance: its heap is what was alive at the last collection, half of what the
// next one begins at. What is in use has garbage in it, at ten thousand Services more than what is looked for.
type process struct{ goroutines, heap, rss float64 }

func (k *cluster) processes(ctx context.Context) (map[*lab.Node]process, error) {
	all := map[*lab.Node]process{}
	for _, n := range k.members {
		samples, err := k.pods[n].Metrics(ctx, metricsURL)
		if err != nil {
			return nil, err
		}
		p := process{samples["go_goroutines"], samples["go_memstats_next_gc_bytes"] / 2, samples["process_resident_memory_bytes"]}
		if p.goroutines == 0 || p.heap == 0 || p.rss == 0 {
			return nil, fmt.Errorf("read %s of %s: it lacks go_goroutines, go_memstats_next_gc_bytes or process_resident_memory_bytes", metricsURL, n)
		}
		all[n] = p
	}
	return all, nil
}

// churn creates and deletes a thousand Services beside those that are there. With fewer than that it says nothing: what
// keeps the last thousands of something for good, as client-go does with Events, is not full yet.
func (r *oneLease) churn(ctx context.Context) error {
	if r.n < churned {
		return nil
	}
	before, err := r.processes(ctx)
	if err != nil {
		return err
	}
	if _, err := r.load.CreateAll(ctx, r.n, r.n+churned); err != nil {
		return err
	}
	if _, err := r.told(ctx, r.n+churned); err != nil {
		return err
	}
	if err := r.load.RemoveAll(ctx, r.n, r.n+churned); err != nil {
		return err
	}
	if _, err := r.holder(ctx, r.n); err != nil {
		return err
	}
	if _, err := r.quiet(ctx); err != nil {
		return err
	}
	for deadline := time.Now().Add(churnLimit); ; {
		after, err := r.processes(ctx)
		if err != nil {
			return err
		}
		kept := r.result.grown(before, after)
		if kept || time.Now().After(deadline) {
			r.log.Info("after creations and deletions", "back", kept, "before", fmt.Sprint(before), "after", fmt.Sprint(after))
			return nil
		}
		if err := measure.Sleep(ctx, 5*time.Second); err != nil {
			return err
		}
	}
}

// grown notes by how much the instance that grew most has grown, and reports whether that is nothing.
func (r *result) grown(before, after map[*lab.Node]process) bool {
	kept := true
	for key, get := range map[string]func(process) float64{
		churnGoroutines: func(p process) float64 { return p.goroutines },
		churnHeap:       func(p process) float64 { return p.heap },
		churnRSS:        func(p process) float64 { return p.rss },
	} {
		most := figure{}
		show := rowOf(key).show
		for n := range before {
			was, is := get(before[n]), get(after[n])
			if most.text == "" || is-was > most.value {
				most = figure{is - was, show(was) + " → " + show(is)}
			}
		}
		r.figures[key] = most
		bound, has := rowOf(key).bound(r.n)
		kept = kept && (!has || most.value <= bound)
	}
	return kept
}

// vanish takes the holder away, and brings its node back.
func (r *oneLease) vanish(ctx context.Context) (err error) {
	holder, err := r.holder(ctx, r.n)
	if err != nil {
		return err
	}
	lease, err := watchLease(ctx, r.load.Client)
	if err != nil {
		return err
	}
	defer lease.close()
	moved, err := r.crash(ctx, holder, measure.Addresses(0, r.n))
	if err != nil {
		return err
	}
	by, won := lease.last()
	if by == holder.Name {
		return fmt.Errorf("%s still has the Lease after its addresses have moved", holder)
	}
	r.result.span(vanishAll, moved.link)
	r.result.span(vanishLink, moved.at.link.Sub(won))
	r.result.span(vanishWire, moved.at.wire.Sub(won))
	r.log.Info("the holder vanished", "on links after", measure.Span(moved.link), "announced after", measure.Span(moved.wire),
		"Lease won after", measure.Span(won.Sub(moved.began)), "by", by)
	return nil
}

// moved is how long after a crash the last address was somewhere else.
type moved struct {
	began      time.Time
	link, wire time.Duration
	at         struct{ link, wire time.Time }
}

// crash takes a node away, waits until its addresses are on the others, and brings it back.
func (k *cluster) crash(ctx context.Context, n *lab.Node, addrs []netip.Addr) (m moved, err error) {
	others := slices.DeleteFunc(slices.Clone(k.members), func(o *lab.Node) bool { return o == n })
	p, err := k.watchPresence(others)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := measure.Sleep(ctx, rand.N(time.Second)); err != nil {
		return m, err
	}
	m.began = time.Now()
	if err := n.Crash(); err != nil {
		return m, err
	}
	if m.at.link, m.at.wire, err = k.all(ctx, p, addrs); err != nil {
		return m, err
	}
	m.link, m.wire = m.at.link.Sub(m.began), m.at.wire.Sub(m.began)
	if err := n.Boot(ctx); err != nil {
		return m, err
	}
	if err := k.start(n); err != nil {
		return m, err
	}
	return m, k.ready(ctx)
}

// restart stops all three at once and starts them at once.
func (r *oneLease) restart(ctx context.Context) (err error) {
	if _, err := r.quiet(ctx); err != nil {
		return err
	}
	began := time.Now()
	var stopping errgroup.Group
	for _, n := range r.members {
		stopping.Go(func() error {
			if err := r.pods[n].Stop(); err != nil {
				return fmt.Errorf("stop kube-vip on %s: %w", n, err)
			}
			return nil
		})
	}
	if err := stopping.Wait(); err != nil {
		return err
	}
	r.result.span(restartStop, time.Since(began))
	p, err := r.watchPresence(r.members)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	began = time.Now()
	if err := r.startAll(); err != nil {
		return err
	}
	appeared, announced, err := r.all(ctx, p, measure.Addresses(0, r.n))
	if err != nil {
		return err
	}
	r.result.span(restartLink, appeared.Sub(began))
	r.result.span(restartWire, announced.Sub(began))
	r.log.Info("restarted", "on a link after", measure.Span(appeared.Sub(began)), "announced after", measure.Span(announced.Sub(began)))
	return nil
}
