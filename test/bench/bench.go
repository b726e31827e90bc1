package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	apiPort = 6443
	// patience bounds each wait: a boot of a node takes a quarter of a minute here.
	patience = 90 * time.Second
	// tail is how long an address is watched after it has moved.
	tail = 500 * time.Millisecond
	// phase is the longest period of the contenders: the moment of an event is spread over it.
	phase = time.Second
	// ask is the time between two questions who has an address.
	ask = 10 * time.Millisecond
	// tries bounds how often a sample is taken when the lab fails to bring it about.
	tries = 3
)

// bench is a lab with the contenders on its nodes.
type bench struct {
	*lab.Lab
	config     config
	log        *slog.Logger
	began      time.Time
	ours       *kubeVIP
	contenders []contender // ours first
	kernels    map[*lab.Node]*lab.AddressWatch
	repeated   int // samples that had to be taken again
}

// newBench starts the lab, and nothing on it.
func newBench(ctx context.Context, c config, log *slog.Logger) (*bench, error) {
	for _, tool := range []string{"keepalived", "curl"} {
		if _, err := lab.Tool(tool); err != nil {
			return nil, err
		}
	}
	second, tenth := netip.MustParseAddr("10.10.0.20"), netip.MustParseAddr("10.10.0.21")
	l, err := lab.Start(ctx, lab.Options{SANs: []string{second.String(), tenth.String()}, Log: log})
	if err != nil {
		return nil, err
	}
	b := &bench{Lab: l, config: c, log: log, began: time.Now(), kernels: map[*lab.Node]*lab.AddressWatch{}}
	if err := b.prepare(ctx, second, tenth); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context, second, tenth netip.Addr) error {
	binary, err := measure.Copy(b.config.binary, b.Dir)
	if err != nil {
		return err
	}
	manifest, err := measure.Generate(ctx, binary, "manifest", "pod", "--arp", "--address", b.VIPs[0].String())
	if err != nil {
		return err
	}
	b.ours = &kubeVIP{address: b.VIPs[0], binary: binary, manifest: manifest, pods: map[*lab.Node]*lab.Pod{}}
	curl, err := lab.Tool("curl")
	if err != nil {
		return err
	}
	b.contenders = []contender{b.ours,
		&keepalived{advert: "1", router: 51, address: second, curl: curl, dir: b.Dir, nodes: b.Nodes, procs: map[*lab.Node]*vrrp{}},
		&keepalived{advert: "0.1", router: 52, address: tenth, curl: curl, dir: b.Dir, nodes: b.Nodes, procs: map[*lab.Node]*vrrp{}},
	}
	for _, n := range b.Nodes {
		if b.kernels[n], err = n.WatchAddresses(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) close() error {
	for _, w := range b.kernels {
		w.Close()
	}
	return b.Close()
}

// measure takes every measurement.
func (b *bench) measure(ctx context.Context) (*report, error) {
	r := &report{config: b.config, began: b.began}
	for _, c := range b.contenders {
		r.titles = append(r.titles, c.title())
	}
	var err error
	if r.machine, err = b.describe(ctx); err != nil {
		return nil, err
	}
	if err := b.measureRest(ctx, r); err != nil {
		return nil, err
	}
	all := events()
	r.events = make([]row, len(all))
	for i, e := range all {
		r.events[i] = row{event: e, seen: make([][]observation, len(b.contenders))}
	}
	for round := range b.config.n {
		for i, e := range all {
			seen, err := b.take(ctx, e)
			if err != nil {
				return nil, err
			}
			b.log.Info("sample", "of", fmt.Sprintf("%d/%d", round*len(all)+i+1, b.config.n*len(all)), "event", e.name,
				"kube-vip", seen[0], "advert 1 s", seen[1], "advert 0.1 s", seen[2])
			for k, o := range seen {
				r.events[i].seen[k] = append(r.events[i].seen[k], o)
			}
			if seen[0].announced {
				r.announced = append(r.announced, seen[0].announcement)
			}
		}
	}
	r.repeated, r.took = b.repeated, time.Since(b.began)
	return r, nil
}

// An observation is what one event did to one contender.
type observation struct {
	gap    time.Duration
	failed int           // attempts
	lag    time.Duration // of the client's clock
	// overlap is how long two nodes answered; lasting says that they still did in the end. several says that they
	// ever did, be it for one question.
	overlap          time.Duration
	several, lasting bool
	// announcement is the time from the address on the new holder to the first announcement on the wire, if both
	// were seen.
	announcement time.Duration
	announced    bool
}

// LogValue is short.
func (o observation) LogValue() slog.Value {
	s := fmt.Sprintf("%s (%d failed, lag %s)", measure.Span(o.gap), o.failed, measure.Span(o.lag))
	if o.several {
		s += ", two for " + measure.Span(o.overlap)
	}
	if o.announced {
		s += ", announced after " + measure.Span(o.announcement)
	}
	return slog.StringValue(s)
}

// take takes a sample, again if the lab failed.
func (b *bench) take(ctx context.Context, e event) ([]observation, error) {
	var errs []error
	for range tries {
		seen, err := b.sample(ctx, e)
		if err == nil {
			return seen, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		b.log.Warn("the sample is taken again", "event", e.name, "err", err)
		b.repeated++
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%s: %w", e.name, errors.Join(errs...))
}

// sample settles the cluster, lets the event happen to all contenders at once, watches, and repairs.
func (b *bench) sample(ctx context.Context, e event) (seen []observation, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	holder, err := b.settle(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.heal(ctx, holder)) }()
	capture, err := b.Gateway.Capture(b.Gateway.Link)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, capture.Close()) }()
	views := make([]view, len(b.contenders))
	defer func() {
		for _, v := range views {
			v.stop()
		}
	}()
	for i, c := range b.contenders {
		if views[i], err = b.look(ctx, c, e); err != nil {
			return nil, err
		}
	}
	if err := measure.Sleep(ctx, tail+rand.N(phase)); err != nil {
		return nil, err
	}
	if err := b.undisturbed(holder); err != nil {
		return nil, err
	}

	struck := time.Now()
	work, ctx := errgroup.WithContext(ctx)
	if e.node != nil {
		work.Go(func() error { return e.node(holder) })
	} else {
		for _, c := range b.contenders {
			work.Go(func() error { return e.process(ctx, c, holder) })
		}
	}
	seen = make([]observation, len(b.contenders))
	for i, c := range b.contenders {
		work.Go(func() error {
			if err := b.over(ctx, e, c, holder, struck); err != nil {
				return err
			}
			until := time.Now()
			if e.watch == 0 {
				until = until.Add(tail)
			}
			if err := views[i].gap.WaitFor(ctx, until); err != nil {
				return fmt.Errorf("%s: %w", c.title(), err)
			}
			seen[i] = views[i].stop()
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	seen[0].announcement, seen[0].announced = b.announcement(capture.Frames(), holder, struck)
	return seen, nil
}

// over waits until the event has had its effect on a contender.
func (b *bench) over(ctx context.Context, e event, c contender, holder *lab.Node, struck time.Time) error {
	if e.watch > 0 {
		return measure.Sleep(ctx, time.Until(struck.Add(e.watch)))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return measure.Wait(ctx, "another node than "+holder.Name+" holds the address of "+c.title(), func() (bool, error) {
		holders, err := b.Holders(c.vip())
		return len(holders) == 1 && holders[0] != holder, err
	})
}

// A view is what a client and the wire see of one address.
type view struct {
	gap     *lab.Gap
	answers *lab.AnswerWatch
	once    *sync.Once
}

func (b *bench) look(ctx context.Context, c contender, e event) (view, error) {
	gap, err := b.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(c.vip(), apiPort), TLS: e.tls})
	if err != nil {
		return view{}, fmt.Errorf("%s: %w", c.title(), err)
	}
	answers, err := b.WatchAnswers(c.vip(), ask)
	if err != nil {
		gap.Stop()
		return view{}, err
	}
	return view{gap: gap, answers: answers, once: &sync.Once{}}, nil
}

// stop ends the view and says what was seen; a second time it does nothing.
func (v view) stop() observation {
	var o observation
	if v.once == nil {
		return o
	}
	v.once.Do(func() {
		r, a := v.gap.Stop(), v.answers.Stop()
		o = observation{gap: r.Longest, failed: r.Failed, lag: r.Lag, several: a.Max > 1}
		if o.several {
			o.overlap = max(a.Overlap, ask)
		}
		// The last questions may have been asked too late for their answers.
		last := a.Samples[max(0, len(a.Samples)-20):max(0, len(a.Samples)-10)]
		for _, s := range last {
			o.lasting = o.lasting || len(s.By) > 1
		}
	})
	return o
}

// announcement finds how long after the address the new holder of ours announced it.
func (b *bench) announcement(frames []lab.Frame, old *lab.Node, since time.Time) (time.Duration, bool) {
	for _, n := range b.Nodes {
		if n == old {
			continue
		}
		present, ok := appeared(b.kernels[n].Events(), b.ours.vip(), since)
		if !ok {
			continue
		}
		for _, f := range frames {
			if f.Announces(b.ours.vip()) && bytes.Equal(f.Src, n.MAC) && f.Time.After(since) {
				return max(0, f.Time.Sub(present)), true
			}
		}
	}
	return 0, false
}

// appeared is when the address came since then.
func appeared(events []lab.AddressEvent, addr netip.Addr, since time.Time) (time.Time, bool) {
	for _, e := range events {
		if e.Addr == addr && e.Present && e.Time.After(since) {
			return e.Time, true
		}
	}
	return time.Time{}, false
}

// heal undoes what an event did to the node, and starts again what ended on it.
func (b *bench) heal(ctx context.Context, n *lab.Node) error {
	if n.Crashed() {
		if err := n.Boot(ctx); err != nil {
			return err
		}
	}
	if err := n.API.Start(); err != nil {
		return err
	}
	if err := n.API.Continue(); err != nil {
		return err
	}
	for _, c := range b.contenders {
		if c.running(n) {
			continue
		}
		// An address that a killed keepalived left would stay.
		has, err := n.Has(c.vip())
		if err == nil && has {
			err = n.RemoveAddress(n.Link, netip.PrefixFrom(c.vip(), c.vip().BitLen()))
		}
		if err = errors.Join(err, c.start(n)); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until every part of the cluster is well and one node holds the addresses of all contenders, which
// is brought about by moving those of keepalived, and returns it.
func (b *bench) settle(ctx context.Context) (*lab.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if err := b.well(ctx); err != nil {
			return nil, err
		}
		if err := measure.Calm(ctx); err != nil {
			return nil, err
		}
		holder, err := b.holder(ctx, b.ours)
		if err != nil {
			return nil, err
		}
		var moved errgroup.Group
		for _, c := range b.contenders[1:] {
			moved.Go(func() error { return b.move(ctx, c, holder) })
		}
		if err := moved.Wait(); err != nil {
			return nil, err
		}
		if err := b.well(ctx); err != nil {
			return nil, err
		}
		if b.undisturbed(holder) == nil {
			return holder, nil
		}
	}
}

// well waits until every API server and every instance is ready.
func (b *bench) well(ctx context.Context) error {
	for _, n := range b.Nodes {
		if err := n.Etcd.WaitReady(ctx); err != nil {
			return err
		}
		if err := n.API.WaitReady(ctx); err != nil {
			return err
		}
	}
	for _, c := range b.contenders {
		if err := b.ready(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until a contender is ready on every node.
func (b *bench) ready(ctx context.Context, c contender) error {
	for _, n := range b.Nodes {
		var last error
		err := measure.Wait(ctx, c.title()+" is ready on "+n.Name, func() (bool, error) {
			last = c.ready(ctx, n)
			return last == nil, nil
		})
		if err != nil {
			return errors.Join(err, last)
		}
	}
	return nil
}

// move brings a contender's address to a node, by stopping it on the others.
func (b *bench) move(ctx context.Context, c contender, to *lab.Node) error {
	holder, err := b.holder(ctx, c)
	if err != nil || holder == to {
		return err
	}
	for _, n := range b.Nodes {
		if n != to {
			if err := c.stop(n); err != nil {
				return err
			}
		}
	}
	err = measure.Wait(ctx, to.Name+" holds the address of "+c.title(), func() (bool, error) { return to.Has(c.vip()) })
	if err != nil {
		return err
	}
	for _, n := range b.Nodes {
		if n != to {
			if err := c.start(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// undisturbed is nil when the node, and no other, holds every contender's address.
func (b *bench) undisturbed(holder *lab.Node) error {
	for _, c := range b.contenders {
		holders, err := b.Holders(c.vip())
		if err != nil {
			return err
		}
		if len(holders) != 1 || holders[0] != holder {
			return fmt.Errorf("the address of %s is on %v and not on %s alone", c.title(), holders, holder)
		}
	}
	return nil
}

// holder waits until exactly one node has the contender's address, and returns it.
func (b *bench) holder(ctx context.Context, c contender) (*lab.Node, error) {
	var holders []*lab.Node
	err := measure.Wait(ctx, "one node holds the address of "+c.title(), func() (_ bool, err error) {
		holders, err = b.Holders(c.vip())
		return len(holders) == 1, err
	})
	if err != nil {
		return nil, fmt.Errorf("%w (held by %v)", err, holders)
	}
	return holders[0], nil
}

// discard closes what was only read.
func discard(c io.Closer) { _ = c.Close() }
