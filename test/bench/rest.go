package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// The Leases of the generated manifest: the lock, and one per member.
const (
	lockNamespace = "kube-system"
	lockName      = "plndr-cp-lock"
	memberPrefix  = "kubevip-member-"
)

// background is for how long the API servers' own requests are counted.
const background = 30 * time.Second

// usage is what an instance used at rest.
type usage struct {
	node   string
	cpu    float64 // share of a core
	rss    int64
	holder bool
}

// measureRest measures what has nothing to do with failures, before keepalived is there, and leaves every contender
// running.
func (b *bench) measureRest(ctx context.Context, r *report) error {
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	b.log.Info("counting the API servers' own requests", "for", background)
	own, err := measure.Requests(ctx, b.Nodes, func() error { return measure.Sleep(ctx, background) })
	if err != nil {
		return err
	}
	for i := range b.config.n {
		first, err := b.start(ctx)
		if err != nil {
			return err
		}
		b.log.Info("start", "of", fmt.Sprintf("%d/%d", i+1, b.config.n), "first VIP after", measure.Span(first.vip), "announced after another", measure.Span(first.announced))
		r.starts = append(r.starts, first.vip)
		r.announced = append(r.announced, first.announced)
		if i == b.config.n-1 {
			break // the last ones stay
		}
		for _, n := range b.Nodes {
			if err := b.ours.stop(n); err != nil {
				return err
			}
		}
	}
	if err := b.ready(ctx, b.ours); err != nil {
		return err
	}
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	b.log.Info("watching the cluster at rest", "for", b.config.rest)
	all, err := measure.Requests(ctx, b.Nodes, func() (err error) {
		r.usage, err = b.idle(ctx)
		return err
	})
	if err != nil {
		return err
	}
	r.requests = measure.Rates(all, b.config.rest, own, background)
	for _, c := range b.contenders[1:] {
		for _, n := range b.Nodes {
			if err := c.start(n); err != nil {
				return err
			}
		}
	}
	return nil
}

type firstVIP struct{ vip, announced time.Duration }

// start starts the three instances in a cluster that has never had any, and waits for the first address.
func (b *bench) start(ctx context.Context) (firstVIP, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := b.WaitNobody(ctx, b.ours.vip()); err != nil {
		return firstVIP{}, err
	}
	if err := b.forget(ctx); err != nil {
		return firstVIP{}, err
	}
	if err := measure.Sleep(ctx, tail+rand.N(phase)); err != nil {
		return firstVIP{}, err
	}
	capture, err := b.Gateway.Capture(b.Gateway.Link)
	if err != nil {
		return firstVIP{}, err
	}
	defer discard(capture)
	began := time.Now()
	for _, n := range b.Nodes {
		if err := b.ours.start(n); err != nil {
			return firstVIP{}, err
		}
	}
	holder, err := b.holder(ctx, b.ours)
	if err != nil {
		return firstVIP{}, err
	}
	_, err = capture.Wait(ctx, "the announcement", func(f lab.Frame) bool { return f.Announces(b.ours.vip()) })
	if err != nil {
		return firstVIP{}, err
	}
	announced, ok := b.announcement(capture.Frames(), nil, began)
	at, seen := appeared(b.kernels[holder].Events(), b.ours.vip(), began)
	if !ok || !seen {
		return firstVIP{}, fmt.Errorf("%s has %s and its kernel did not say so", holder, b.ours.vip())
	}
	return firstVIP{vip: at.Sub(began), announced: announced}, nil
}

// forget deletes every Lease of instances that were there before.
func (b *bench) forget(ctx context.Context) error {
	client, err := b.Kube()
	if err != nil {
		return err
	}
	leases := client.CoordinationV1().Leases(lockNamespace)
	list, err := leases.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the Leases of %s: %w", lockNamespace, err)
	}
	for _, lease := range list.Items {
		if lease.Name != lockName && !strings.HasPrefix(lease.Name, memberPrefix) {
			continue // an API server's own
		}
		if err := leases.Delete(ctx, lease.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the Lease %s: %w", lease.Name, err)
		}
	}
	return nil
}

// idle is what each instance uses.
func (b *bench) idle(ctx context.Context) ([]usage, error) {
	holder, err := b.holder(ctx, b.ours)
	if err != nil {
		return nil, err
	}
	before := map[*lab.Node]lab.Usage{}
	began := time.Now()
	for n, pod := range b.ours.pods {
		if before[n], err = pod.Usage(); err != nil {
			return nil, err
		}
	}
	if err := measure.Sleep(ctx, b.config.rest); err != nil {
		return nil, err
	}
	var all []usage
	for _, n := range b.Nodes {
		after, err := b.ours.pods[n].Usage()
		if err != nil {
			return nil, err
		}
		share := float64(after.CPU-before[n].CPU) / float64(time.Since(began))
		all = append(all, usage{node: n.Name, cpu: share, rss: after.PeakRSS, holder: n == holder})
		b.log.Info("at rest", "node", n.Name, "holder", n == holder, "cpu", measure.Percent(share), "rss", measure.Megabytes(after.RSS), "peak rss", measure.Megabytes(after.PeakRSS))
	}
	return all, nil
}

// machine says what was measured, and on what.
type machine struct {
	measure.Machine
	keepalived string
}

func (b *bench) describe(ctx context.Context) (machine, error) {
	of, err := measure.Describe(ctx, b.Lab, b.ours.binary)
	m := machine{Machine: of}
	if err != nil {
		return m, err
	}
	tool, err := lab.Tool("keepalived")
	if err != nil {
		return m, err
	}
	text, err := exec.CommandContext(ctx, tool, "--version").CombinedOutput()
	if err != nil {
		return m, fmt.Errorf("keepalived --version: %w", err)
	}
	if found := regexp.MustCompile(`Keepalived v(\S+)`).FindSubmatch(text); found != nil {
		m.keepalived = string(found[1])
	}
	return m, nil
}
