package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/svc"
	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	apiPort = 6443
	// nodesAS is that of the nodes, routersAS that of both routers.
	nodesAS, routersAS = 65001, 65000
	// hold is the hold time of sessions: three times the shortest keepalive interval that is usual.
	hold = 9 * time.Second
	// interval and multiplier are those of BFD.
	interval   = 50 * time.Millisecond
	multiplier = 3
	// patience bounds each wait.
	patience = 90 * time.Second
	// rate is how many requests a second go through a router while instances are restarted.
	rate = 1000

	// unwatched is how many samples there are at most of what takes the hold time.
	unwatched = 2
)

// kinds are the routers, in the order of the table.
var kinds = []lab.RouterKind{lab.FRR, lab.BIRD}

// cluster is three nodes that announce a VIP to two routers.
type cluster struct {
	*lab.Lab
	log      *slog.Logger
	report   *report
	binary   string // a copy
	manifest []byte
	pods     map[*lab.Node]*lab.Pod
	routers  []*lab.Router // by kinds
	watches  []*lab.RouteWatch
	service  netip.Addr
}

// measureNodes takes the measurements that have to do with nodes.
func measureNodes(ctx context.Context, r *report, log *slog.Logger) (err error) {
	k, err := newCluster(ctx, r, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if r.machine, err = measure.Describe(ctx, k.Lab, k.binary); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"starts", k.starts},
		{"API servers are killed", k.apiKilled},
		{"instances are restarted", k.rolled},
		{"nodes vanish without BFD", k.vanishUnwatched},
		{"nodes vanish with BFD", func(ctx context.Context) error { return k.vanishWatched(ctx, false) }},
		{"nodes vanish with BFD in real time", func(ctx context.Context) error { return k.vanishWatched(ctx, true) }},
	} {
		log.Info("step", "name", step.name)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// newCluster starts the lab with its routers, and no instance.
func newCluster(ctx context.Context, r *report, log *slog.Logger) (_ *cluster, err error) {
	l, err := lab.Start(ctx, lab.Options{KubeProxy: true, VIPs: []netip.Addr{netip.MustParseAddr("10.99.0.10")}, Endpoint: "127.0.0.1:6443", Log: log})
	if err != nil {
		return nil, err
	}
	k := &cluster{Lab: l, log: log, report: r, pods: map[*lab.Node]*lab.Pod{}, service: netip.MustParseAddr("10.99.1.1")}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.binary, err = measure.Copy(r.config.binary, l.Dir); err != nil {
		return nil, err
	}
	for _, kind := range kinds {
		router, err := l.StartRouter(ctx, lab.RouterOptions{Kind: kind, AS: routersAS, Neighbors: l.NodeNeighbors(neighbor(false))})
		if err != nil {
			return nil, err
		}
		watch, err := router.WatchRoutes()
		if err != nil {
			return nil, err
		}
		k.routers, k.watches = append(k.routers, router), append(k.watches, watch)
	}
	var backends []*lab.Backend
	for _, n := range l.Nodes {
		b, err := n.RunBackend(ctx, "web-"+n.Name)
		if err != nil {
			return nil, err
		}
		backends = append(backends, b)
	}
	service, err := l.CreateService(ctx, "web", map[string]string{svc.AddressesAnnotation: k.service.String()}, func(s *corev1.Service) {
		s.Spec.Ports = slices.DeleteFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Protocol != corev1.ProtocolTCP })
	})
	if err != nil {
		return nil, err
	}
	if err := service.SetEndpoints(ctx, lab.Ready(backends...)); err != nil {
		return nil, err
	}
	k.manifest, err = k.generate(ctx, false)
	return k, err
}

// neighbor is a node as a router has it.
func neighbor(watched bool) lab.Neighbor {
	n := lab.Neighbor{AS: nodesAS, Hold: hold, Keepalive: hold / 3, Passive: true}
	if watched {
		n.BFD = &lab.BFDIntervals{Transmit: interval, Receive: interval, Multiplier: multiplier}
	}
	return n
}

// generate is the manifest of an instance, with or without BFD.
func (k *cluster) generate(ctx context.Context, watched bool) ([]byte, error) {
	var peers []string
	for _, r := range k.routers {
		p := fmt.Sprintf("%s:%d", r.Addr(), routersAS)
		if watched {
			p += fmt.Sprintf("::false:179::enable;%[1]d;%[1]d;%[2]d", interval.Milliseconds(), multiplier)
		}
		peers = append(peers, p)
	}
	return measure.Generate(ctx, k.binary, "manifest", "pod", "--bgp", "--controlplane", "--services", "--address", k.VIPs[0].String(),
		"--localAS", strconv.Itoa(nodesAS), "--bgppeers", strings.Join(peers, ","),
		"--bgpHoldTimer", strconv.Itoa(int(hold.Seconds())), "--bgpKeepAliveInterval", strconv.Itoa(int(hold.Seconds())/3))
}

func (k *cluster) close() error {
	for _, w := range k.watches {
		w.Close()
	}
	return k.Close()
}

// run starts the instance of a node.
func (k *cluster) run(n *lab.Node) error {
	pod, err := n.RunManifest(k.manifest, k.binary, lab.PodOptions{})
	if err != nil {
		return fmt.Errorf("run the manifest on %s: %w", n, err)
	}
	k.pods[n] = pod
	return nil
}

// prefix is the route that leads to an address.
func prefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// but are the addresses of all nodes except one, which may be nil.
func (k *cluster) but(n *lab.Node) []netip.Addr {
	var hops []netip.Addr
	for _, o := range k.Nodes {
		if o != n {
			hops = append(hops, o.Addr())
		}
	}
	return hops
}

// everyone waits until both routers send to all nodes but one, which may be nil.
func (k *cluster) everyone(ctx context.Context, but *lab.Node) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, r := range k.routers {
		for _, a := range []netip.Addr{k.VIPs[0], k.service} {
			if err := r.WaitRoute(ctx, prefix(a), k.but(but)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// kernels says when each router's kernel sent to the VIP by all nodes but one, which may be nil, for the first time since a moment.
func (k *cluster) kernels(ctx context.Context, since time.Time, but *lab.Node) ([]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var at []time.Time
	for _, w := range k.watches {
		e, err := w.Wait(ctx, since, prefix(k.VIPs[0]), k.but(but)...)
		if err != nil {
			return nil, err
		}
		at = append(at, e.Time)
	}
	return at, nil
}

// up is when the router's session with a node came up since a moment; zero when it did not.
func up(r *lab.Router, n *lab.Node, since time.Time) (time.Time, error) {
	changes, err := r.Changes()
	for _, c := range changes {
		if c.Up && c.Peer == n.Addr() && !c.Time.Before(since) {
			return c.Time, err
		}
	}
	return time.Time{}, err
}

// phase lets some time pass, at most that, so that events fall on any moment of a period.
func phase(ctx context.Context, most time.Duration) error { return measure.Sleep(ctx, rand.N(most)) }

// starts starts all instances, and then one after another again.
func (k *cluster) starts(ctx context.Context) error {
	for _, n := range k.Nodes {
		if err := k.run(n); err != nil {
			return err
		}
	}
	if err := k.everyone(ctx, nil); err != nil {
		return err
	}
	var sessions, routes [][]time.Duration = make([][]time.Duration, len(kinds)), make([][]time.Duration, len(kinds))
	for i := range k.report.config.samples {
		n := k.Nodes[i%len(k.Nodes)]
		if err := k.pods[n].Stop(); err != nil {
			return err
		}
		if err := k.everyone(ctx, n); err != nil {
			return err
		}
		if err := measure.Calm(ctx); err != nil {
			return err
		}
		began := time.Now()
		if err := k.run(n); err != nil {
			return err
		}
		kernels, err := k.kernels(ctx, began, nil)
		if err != nil {
			return err
		}
		for j, r := range k.routers {
			at, err := up(r, n, began)
			if err != nil {
				return err
			}
			sessions[j], routes[j] = append(sessions[j], at.Sub(began)), append(routes[j], kernels[j].Sub(at))
		}
		if err := k.everyone(ctx, nil); err != nil {
			return err
		}
	}
	for j, kind := range kinds {
		k.report.spans(startSession, kind, sessions[j])
		k.report.spans(sessionRoute, kind, routes[j])
	}
	return nil
}

// apiKilled kills API servers.
func (k *cluster) apiKilled(ctx context.Context) error {
	gone := make([][]time.Duration, len(kinds))
	for i := range k.report.config.samples {
		n := k.Nodes[i%len(k.Nodes)]
		if err := phase(ctx, time.Second); err != nil {
			return err
		}
		began := time.Now()
		if err := n.API.Kill(); err != nil {
			return err
		}
		kernels, err := k.kernels(ctx, began, n)
		if err != nil {
			return err
		}
		for j, at := range kernels {
			gone[j] = append(gone[j], at.Sub(began))
		}
		if err := n.API.Start(); err != nil {
			return err
		}
		if err := k.everyone(ctx, nil); err != nil {
			return err
		}
		if err := measure.Calm(ctx); err != nil {
			return err
		}
	}
	for j, kind := range kinds {
		k.report.spans(apiKilled, kind, gone[j])
	}
	return nil
}

// rolled restarts all instances, one after another, while a client asks through each of the routers in turn.
func (k *cluster) rolled(ctx context.Context) error {
	const (
		late  = 200 * time.Millisecond // is what is heard of the kernel's changes
		quiet = time.Second            // before and after
	)
	for j, r := range k.routers {
		// A request a millisecond uses up the client's ports otherwise.
		if err := r.Client.Sysctl("net/ipv4/ip_local_port_range", "1024 65535"); err != nil {
			return err
		}
		began := time.Now()
		stop, err := k.load(ctx, r)
		if err != nil {
			return err
		}
		err = func() error {
			if err := measure.Sleep(ctx, quiet); err != nil {
				return err
			}
			for _, n := range k.Nodes {
				if err := k.pods[n].Stop(); err != nil {
					return err
				}
				if err := k.everyone(ctx, n); err != nil {
					return err
				}
				if err := k.run(n); err != nil {
					return err
				}
				if err := k.everyone(ctx, nil); err != nil {
					return err
				}
			}
			return measure.Sleep(ctx, quiet)
		}()
		results := stop()
		if err != nil {
			return err
		}
		changes := slices.DeleteFunc(k.watches[j].Events(netip.Prefix{}), func(e lab.RouteEvent) bool { return e.Time.Before(began) })
		failed, moved, attempts, perSecond := 0, 0, 0, 0.0
		for _, result := range results {
			for _, a := range result.Attempts {
				during := func(e lab.RouteEvent) bool { return e.Time.After(a.Start.Add(-late)) && e.Time.Before(a.End.Add(late)) }
				switch {
				case a.Err == nil:
				case errors.Is(a.Err, syscall.ECONNRESET) && slices.ContainsFunc(changes, during):
					moved++
				default:
					failed++
				}
			}
			attempts += len(result.Attempts)
			perSecond += float64(len(result.Attempts)) / result.End.Sub(result.Begin).Seconds()
		}
		k.report.set(rolledFailed, kinds[j], float64(failed), fmt.Sprintf("%d of %s, %.0f a second", failed, measure.Thousands(attempts), perSecond))
		k.report.set(rolledMoved, kinds[j], float64(moved), fmt.Sprint(moved))
	}
	return nil
}

// load asks the Service through a router. Several do, each seldom: one alone would be late for a request every millisecond.
func (k *cluster) load(ctx context.Context, r *lab.Router) (stop func() []lab.GapResult, err error) {
	const clients = 10
	var gaps []*lab.Gap
	stop = func() []lab.GapResult {
		var all []lab.GapResult
		for _, g := range gaps {
			all = append(all, g.Stop())
		}
		return all
	}
	for range clients {
		g, err := r.Client.StartGap(ctx, lab.GapOptions{
			Target: netip.AddrPortFrom(k.service, lab.ServicePort), HTTP: true, Interval: clients * time.Second / rate, Timeout: 3 * time.Second,
		})
		if err != nil {
			stop()
			return nil, err
		}
		gaps = append(gaps, g)
	}
	return stop, nil
}

// vanish cuts a node off the network and says when each router did without it, and when the last connection began that
// failed. The node comes back.
func (k *cluster) vanish(ctx context.Context, n *lab.Node) (routes, traffic []time.Duration, err error) {
	var gaps []*lab.Gap
	for _, r := range k.routers {
		g, err := r.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(k.VIPs[0], apiPort)})
		if err != nil {
			return nil, nil, err
		}
		gaps = append(gaps, g)
	}
	defer func() {
		if len(traffic) == 0 {
			for _, g := range gaps {
				g.Stop()
			}
		}
	}()
	if err := phase(ctx, time.Second); err != nil {
		return nil, nil, err
	}
	began := time.Now()
	if err := n.Cut(); err != nil {
		return nil, nil, err
	}
	kernels, err := k.kernels(ctx, began, n)
	if err != nil {
		return nil, nil, errors.Join(err, n.Heal())
	}
	if err := measure.Sleep(ctx, 2*tail); err != nil {
		return nil, nil, errors.Join(err, n.Heal())
	}
	for j, g := range gaps {
		routes = append(routes, kernels[j].Sub(began))
		last := began
		for _, a := range g.Stop().Attempts {
			if a.Err != nil && a.Start.After(last) {
				last = a.Start
			}
		}
		traffic = append(traffic, last.Sub(began))
	}
	if err := n.Heal(); err != nil {
		return nil, nil, err
	}
	for _, s := range []*lab.Server{n.Etcd, n.API} {
		if err := s.WaitReady(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err := k.everyone(ctx, nil); err != nil {
		return nil, nil, err
	}
	return routes, traffic, measure.Calm(ctx)
}

// tail is how long an attempt of a client may take.
const tail = 250 * time.Millisecond

// vanishUnwatched has nodes vanish that nothing but the hold time tells of.
func (k *cluster) vanishUnwatched(ctx context.Context) error {
	all := make([][]time.Duration, len(kinds))
	for i := range min(k.report.config.samples, unwatched) {
		routes, _, err := k.vanish(ctx, k.Nodes[i%len(k.Nodes)])
		if err != nil {
			return err
		}
		for j, d := range routes {
			all[j] = append(all[j], d)
		}
	}
	for j, kind := range kinds {
		k.report.spans(holdVanish, kind, all[j])
	}
	return nil
}

// vanishWatched has nodes vanish whom BFD watches, and counts the sessions that BFD ends beside them. In real time all
// threads of the instances go before what is not.
func (k *cluster) vanishWatched(ctx context.Context, realtime bool) error {
	if !realtime {
		if err := k.watch(ctx); err != nil {
			return err
		}
	} else {
		for _, n := range k.Nodes {
			if err := hurry(k.pods[n].Pid()); err != nil {
				return err
			}
		}
	}
	keys := [...]string{bfdVanish, bfdTraffic, bfdFlaps}
	if realtime {
		keys = [...]string{rtVanish, rtTraffic, rtFlaps}
	}
	if err := measure.Calm(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := measure.Sleep(ctx, k.report.config.rest); err != nil {
		return err
	}
	flaps := make([]int, len(kinds))
	count := func(since time.Time, but *lab.Node) error {
		for j, r := range k.routers {
			n, err := downs(r, since, but)
			if err != nil {
				return err
			}
			flaps[j] += n
		}
		return nil
	}
	if err := count(began, nil); err != nil {
		return err
	}
	atRest := slices.Clone(flaps)
	over := time.Since(began)
	routes, traffic := make([][]time.Duration, len(kinds)), make([][]time.Duration, len(kinds))
	for i := range k.report.config.samples {
		if err := k.watched(ctx); err != nil {
			return err
		}
		n := k.Nodes[i%len(k.Nodes)]
		began := time.Now()
		gone, failing, err := k.vanish(ctx, n)
		if err != nil {
			return err
		}
		for j := range kinds {
			routes[j], traffic[j] = append(routes[j], gone[j]), append(traffic[j], failing[j])
		}
		if err := count(began, n); err != nil {
			return err
		}
		over += time.Since(began)
	}
	for j, kind := range kinds {
		k.report.spans(keys[0], kind, routes[j])
		k.report.spans(keys[1], kind, traffic[j])
		k.report.set(keys[2], kind, float64(flaps[j]), fmt.Sprintf("%d in %s at rest, %d in all %s", atRest[j], k.report.config.rest, flaps[j], over.Round(time.Second)))
	}
	return nil
}

// watch has all sessions watched by BFD.
func (k *cluster) watch(ctx context.Context) (err error) {
	for _, n := range k.Nodes {
		if err := k.pods[n].Stop(); err != nil {
			return err
		}
	}
	for _, r := range k.routers {
		if err := r.Configure(ctx, func(o *lab.RouterOptions) { o.Neighbors = k.NodeNeighbors(neighbor(true)) }); err != nil {
			return err
		}
	}
	if k.manifest, err = k.generate(ctx, true); err != nil {
		return err
	}
	for _, n := range k.Nodes {
		if err := k.run(n); err != nil {
			return err
		}
	}
	if err := k.everyone(ctx, nil); err != nil {
		return err
	}
	return k.watched(ctx)
}

// watched waits until BFD is up between all nodes and routers.
func (k *cluster) watched(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, r := range k.routers {
		if err := measure.Wait(ctx, "BFD is up on "+r.Name, func() (bool, error) {
			sessions, err := r.BFD(ctx)
			return len(sessions) == len(k.Nodes) && !slices.ContainsFunc(sessions, func(s lab.BFDSession) bool { return s.State != "Up" }), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// downs counts the sessions that a router has lost since a moment, but for those with a node, which may be nil.
func downs(r *lab.Router, since time.Time, but *lab.Node) (int, error) {
	changes, err := r.Changes()
	n := 0
	for _, c := range changes {
		if !c.Up && c.Time.After(since) && (but == nil || c.Peer != but.Addr()) {
			n++
		}
	}
	return n, err
}

// hurry has all threads of a process scheduled in real time (SCHED_RR, its lowest priority), as `chrt -a -r -p 1 PID` does.
func hurry(pid int) error {
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("have thread %d scheduled in real time: %w", tid, err)
		}
	}
	return nil
}
