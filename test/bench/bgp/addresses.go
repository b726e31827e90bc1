package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	// manyLimit bounds waits for thousands of routes, quietLimit those for what is written after a start.
	manyLimit  = 2 * time.Minute
	quietLimit = 3 * time.Minute
	// head is how long before a Service its EndpointSlice is created.
	head = 250 * time.Millisecond
	// slow is more than a session takes to come up: the instance's own words are logged.
	slow = 3 * time.Second
	// idle is how long the instance at rest is watched.
	idle = 10 * time.Second
)

// crowd is a node that announces thousands of Services' addresses to one router at a time.
type crowd struct {
	*lab.Lab
	log       *slog.Logger
	report    *report
	binary    string // a copy
	node      *lab.Node
	pod       *lab.Pod
	load      *measure.Services
	manifests []([]byte) // by kinds
	routers   []*lab.Router
	routes    []*routes
}

// routes are those to Services in a router's kernel.
type routes struct {
	watch *lab.RouteWatch

	mu      sync.Mutex // guards the fields below
	has     map[netip.Addr]struct{}
	changed time.Time // has, last
	at      map[netip.Addr]time.Time
}

func watchRoutes(r *lab.Router) (*routes, error) {
	w := &routes{has: map[netip.Addr]struct{}{}, at: map[netip.Addr]time.Time{}}
	var err error
	w.watch, err = r.WatchRoutesFunc(w.note)
	return w, err
}

func (w *routes) note(e lab.RouteEvent) {
	a := e.Prefix.Addr()
	if !e.Prefix.IsSingleIP() || !measure.IsService(a) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.has)
	if len(e.NextHops) > 0 {
		w.has[a] = struct{}{}
	} else {
		delete(w.has, a)
	}
	if len(w.has) != before {
		w.changed, w.at[a] = e.Time, e.Time
	}
}

// wait waits until there are n routes, and says since when.
func (w *routes) wait(ctx context.Context, n int, limit time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var has int
	var at time.Time
	err := measure.Wait(ctx, fmt.Sprintf("the router has %d routes", n), func() (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		has, at = len(w.has), w.changed
		return has == n, w.watch.Err()
	})
	if err != nil {
		return at, fmt.Errorf("%w (now: %d)", err, has)
	}
	return at, nil
}

// waitOne waits until there is a route to an address, or none, and says since when.
func (w *routes) waitOne(ctx context.Context, a netip.Addr, want bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var at time.Time
	err := measure.Wait(ctx, fmt.Sprintf("the router has a route to %s: %t", a, want), func() (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, has := w.has[a]
		at = w.at[a]
		return has == want, w.watch.Err()
	})
	return at, err
}

// measureAddresses takes the measurements with thousands of addresses.
func measureAddresses(ctx context.Context, r *report, log *slog.Logger) (err error) {
	c, err := newCrowd(ctx, r, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if r.machine, err = measure.Describe(ctx, c.Lab, c.binary); err != nil {
		return err
	}
	if _, err := c.load.CreateAll(ctx, 0, r.config.n); err != nil {
		return err
	}
	for j, kind := range kinds {
		// FRR sees the Services without a status first, and then once more as BIRD does.
		if j == 0 {
			log.Info("step", "name", "first start", "router", kind)
			if err := c.start(ctx, j, firstStart, firstAnnounced); err != nil {
				return fmt.Errorf("first start: %w", err)
			}
			if err := c.quiet(ctx); err != nil {
				return err
			}
			if err := c.atRest(ctx, j); err != nil {
				return err
			}
			if err := c.oneMore(ctx, j); err != nil {
				return fmt.Errorf("one more: %w", err)
			}
			if err := c.stop(ctx, j, ""); err != nil {
				return fmt.Errorf("stop: %w", err)
			}
		}
		log.Info("step", "name", "start again", "router", kind)
		if err := c.start(ctx, j, againStart, againAnnounced); err != nil {
			return fmt.Errorf("start again: %w", err)
		}
		if j > 0 {
			if err := c.quiet(ctx); err != nil {
				return err
			}
			if err := c.atRest(ctx, j); err != nil {
				return err
			}
			if err := c.oneMore(ctx, j); err != nil {
				return fmt.Errorf("one more: %w", err)
			}
		}
		log.Info("step", "name", "session reset", "router", kind)
		if err := c.reset(ctx, j); err != nil {
			return fmt.Errorf("reset: %w", err)
		}
		log.Info("step", "name", "stop", "router", kind)
		if err := c.stop(ctx, j, withdrawn); err != nil {
			return fmt.Errorf("stop: %w", err)
		}
	}
	return nil
}

// newCrowd starts the lab with its routers, without Services and instance.
func newCrowd(ctx context.Context, r *report, log *slog.Logger) (_ *crowd, err error) {
	l, err := lab.Start(ctx, lab.Options{Nodes: 2, ControlPlanes: 1, Log: log})
	if err != nil {
		return nil, err
	}
	c := &crowd{Lab: l, log: log, report: r, node: l.Nodes[1]}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.binary, err = measure.Copy(r.config.binary, l.Dir); err != nil {
		return nil, err
	}
	if c.load, err = measure.NewServices(l, []*lab.Node{c.node}, log); err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		o := lab.RouterOptions{Kind: kind, AS: routersAS, Neighbors: []lab.Neighbor{{Addr: c.node.Addr(), AS: nodesAS, Passive: true}}}
		if kind == lab.FRR {
			o.Extra = []string{"log stdout debugging"} // see heard
		}
		router, err := l.StartRouter(ctx, o)
		if err != nil {
			return nil, err
		}
		w, err := watchRoutes(router)
		if err != nil {
			return nil, err
		}
		manifest, err := measure.Generate(ctx, c.binary, "manifest", "daemonset", "--bgp", "--services", "--inCluster",
			"--localAS", strconv.Itoa(nodesAS), "--bgppeers", fmt.Sprintf("%s:%d", router.Addr(), routersAS))
		if err != nil {
			return nil, err
		}
		c.routers, c.routes, c.manifests = append(c.routers, router), append(c.routes, w), append(c.manifests, manifest)
	}
	rbac, err := measure.Generate(ctx, c.binary, "manifest", "rbac", "--services", "--bgp")
	if err != nil {
		return nil, err
	}
	return c, l.Nodes[0].Apply(ctx, rbac, false)
}

func (c *crowd) close() error {
	for _, w := range c.routes {
		w.watch.Close()
	}
	return c.Close()
}

// start starts the instance with one of the routers, and waits until that has every route.
func (c *crowd) start(ctx context.Context, j int, started, announced string) (err error) {
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	if c.pod, err = c.node.RunManifest(c.manifests[j], c.binary, lab.PodOptions{NoRestart: true}); err != nil {
		return err
	}
	if err := c.pod.WaitRunning(ctx, 0); err != nil { // it has a token to wait for
		return err
	}
	began := time.Now()
	all, err := c.routes[j].wait(ctx, c.report.config.n, manyLimit)
	if err != nil {
		return err
	}
	session, err := up(c.routers[j], c.node, began)
	if err != nil {
		return err
	}
	if session.Sub(began) > slow {
		for _, line := range c.pod.Output() {
			if strings.Contains(line.Text, "BGP") {
				c.log.Warn("the session was slow to come up", "at", line.Time.Sub(began), "it said", line.Text)
			}
		}
	}
	c.log.Info("started", "session up after", measure.Span(session.Sub(began)), "all routes after another", measure.Span(all.Sub(session)))
	c.report.spans(started, kinds[j], []time.Duration{all.Sub(began)})
	c.report.spans(announced, kinds[j], []time.Duration{all.Sub(session)})
	return nil
}

// stop stops the instance, and waits until the router has no route.
func (c *crowd) stop(ctx context.Context, j int, key string) error {
	began := time.Now()
	if err := c.pod.Stop(); err != nil {
		return err
	}
	gone, err := c.routes[j].wait(ctx, 0, manyLimit)
	if err != nil {
		return err
	}
	c.log.Info("stopped", "no route after", measure.Span(gone.Sub(began)))
	if key != "" {
		c.report.spans(key, kinds[j], []time.Duration{gone.Sub(began)})
	}
	return nil
}

// reset has the router reset the session.
func (c *crowd) reset(ctx context.Context, j int) error {
	began := time.Now()
	if err := c.routers[j].ResetSession(ctx, c.node.Addr()); err != nil {
		return err
	}
	if _, err := c.routes[j].wait(ctx, 0, manyLimit); err != nil {
		return err
	}
	all, err := c.routes[j].wait(ctx, c.report.config.n, manyLimit)
	if err != nil {
		return err
	}
	session, err := up(c.routers[j], c.node, began)
	if err != nil {
		return err
	}
	c.report.spans(resetAnnounced, kinds[j], []time.Duration{all.Sub(session)})
	return nil
}

// quiet waits until the instance writes no more than at rest, or for a while: statuses and Events are written slowly after a
// start.
func (c *crowd) quiet(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, quietLimit)
	defer cancel()
	began := time.Now()
	err := measure.Wait(limited, "no status and no Event is written for 2 s", func() (bool, error) {
		all, err := measure.Requests(limited, c.Nodes, func() error { return measure.Sleep(limited, 2*time.Second) })
		return all["PATCH services"]+all["PUT services"]+all["POST events"]+all["PATCH events"] == 0, err
	})
	c.log.Info("quiet", "after", measure.Span(time.Since(began)), "err", err)
	if limited.Err() != nil {
		return ctx.Err()
	}
	return err
}

// atRest is what the instance uses while nothing happens.
func (c *crowd) atRest(ctx context.Context, j int) error {
	before, err := c.pod.Usage()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := measure.Sleep(ctx, idle); err != nil {
		return err
	}
	after, err := c.pod.Usage()
	if err != nil {
		return err
	}
	cpu := float64(after.CPU-before.CPU) / float64(time.Since(began))
	c.report.set(restCPU, kinds[j], cpu, measure.Percent(cpu))
	c.report.set(restRSS, kinds[j], float64(after.RSS), measure.Megabytes(after.RSS))
	c.report.set(peakRSS, kinds[j], float64(after.PeakRSS), measure.Megabytes(after.PeakRSS))
	c.log.Info("at rest", "cpu", measure.Percent(cpu), "rss", measure.Megabytes(after.RSS), "peak rss", measure.Megabytes(after.PeakRSS))
	return nil
}

// oneMore creates one more Service, again and again, and deletes it.
func (c *crowd) oneMore(ctx context.Context, j int) error {
	i := c.report.config.n
	_, addr := measure.Number(i)
	router := c.routers[j]
	if router.Kind == lab.FRR {
		if _, err := router.Command(ctx, "debug bgp updates in"); err != nil {
			return err
		}
	}
	var heard, there, gone []time.Duration
	for range c.report.config.more {
		if err := c.load.CreateSlice(ctx, i); err != nil {
			return err
		}
		if err := measure.Sleep(ctx, head+rand.N(head)); err != nil {
			return err
		}
		began, err := c.create(ctx, i)
		if err != nil {
			return err
		}
		at, err := c.routes[j].waitOne(ctx, addr, true)
		if err != nil {
			return err
		}
		there = append(there, at.Sub(began))
		if router.Kind == lab.FRR {
			told, err := c.heard(router, addr, began)
			if err != nil {
				return err
			}
			heard = append(heard, told.Sub(began))
		}
		began = time.Now()
		if err := c.load.Remove(ctx, i); err != nil {
			return err
		}
		if at, err = c.routes[j].waitOne(ctx, addr, false); err != nil {
			return err
		}
		gone = append(gone, at.Sub(began))
	}
	c.log.Info("one more", "heard", measure.Spread(heard), "there", measure.Spread(there), "gone", measure.Spread(gone))
	for key, ds := range map[string][]time.Duration{oneHeard: heard, oneMore: there, oneLess: gone} {
		if len(ds) > 0 {
			c.report.median(key, kinds[j], ds)
		}
	}
	if router.Kind == lab.FRR {
		_, err := router.Command(ctx, "no debug bgp updates in")
		return err
	}
	return nil
}

// create creates a Service and says since when it is there: since the API server has answered, or since a watch shows it if that is
// sooner.
func (c *crowd) create(ctx context.Context, i int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	name, _ := measure.Number(i)
	watch, err := c.load.Client.CoreV1().Services(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()})
	if err != nil {
		return time.Time{}, err
	}
	defer watch.Stop()
	seen := make(chan time.Time, 1)
	go func() {
		<-watch.ResultChan()
		seen <- time.Now()
	}()
	if err := c.load.CreateService(ctx, i); err != nil {
		return time.Time{}, err
	}
	answered := time.Now()
	if first := <-seen; first.Before(answered) {
		return first, nil
	}
	return answered, nil
}

// received is what FRR logs of a prefix that a neighbour has told it of.
var received = regexp.MustCompile(`^(\S+ \S+) BGP: .* rcvd (\S+) IPv4 unicast`)

// heard is when FRR had a neighbour's word on an address for the first time since a moment, by its log. It chooses its paths
// later.
func (c *crowd) heard(r *lab.Router, addr netip.Addr, since time.Time) (time.Time, error) {
	log, err := os.Open(filepath.Join(c.Dir, r.Name, "bgpd.log"))
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = log.Close() }()
	for scanner := bufio.NewScanner(log); scanner.Scan(); {
		m := received.FindStringSubmatch(scanner.Text())
		if m == nil || m[2] != prefix(addr).String() {
			continue
		}
		at, err := time.ParseInLocation("2006/01/02 15:04:05.000000", m[1], time.UTC)
		if err != nil {
			return at, fmt.Errorf("read bgpd's log: %w", err)
		}
		if at.After(since) {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("read bgpd's log: nothing of %s", addr)
}
