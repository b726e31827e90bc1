package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

const (
	members = 3

	readyURL   = "http://127.0.0.1:29112/readyz"
	metricsURL = "http://127.0.0.1:2112/metrics"

	// The limits of waits; that of what grows with the Services is limit.
	readyLimit = time.Minute
	// quietLimit is how long the traffic after a start may last: Events are written slowly, and thousands queue.
	quietLimit = 5 * time.Minute
)

// limit is how long n Services may take to be announced, or to move, before it is given up.
func limit(n int) time.Duration { return 2*time.Minute + time.Duration(n)*20*time.Millisecond }

// A cluster is a lab with one API server, Services, and three workers that run kube-vip as a DaemonSet. The control
// plane has a node of its own, which never fails.
type cluster struct {
	*lab.Lab
	load     *measure.Services
	log      *slog.Logger
	binary   string // a copy
	manifest []byte
	members  []*lab.Node
	pods     map[*lab.Node]*lab.Pod
	statuses *statuses
}

// newCluster starts the lab without Services and instances.
func newCluster(ctx context.Context, c config, log *slog.Logger, flags ...string) (_ *cluster, err error) {
	l, err := lab.Start(ctx, lab.Options{Nodes: 1 + members, ControlPlanes: 1, Wide: true, Log: log})
	if err != nil {
		return nil, err
	}
	k := &cluster{Lab: l, log: log, members: l.Nodes[1:], pods: map[*lab.Node]*lab.Pod{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.binary, err = measure.Copy(c.binary, l.Dir); err != nil {
		return nil, err
	}
	common := append([]string{"--services", "--arp"}, flags...)
	rbac, err := measure.Generate(ctx, k.binary, append([]string{"manifest", "rbac"}, common...)...)
	if err != nil {
		return nil, err
	}
	if err := l.Nodes[0].Apply(ctx, rbac, false); err != nil {
		return nil, err
	}
	if k.manifest, err = measure.Generate(ctx, k.binary, append([]string{"manifest", "daemonset", "--inCluster"}, common...)...); err != nil {
		return nil, err
	}
	if k.load, err = measure.NewServices(l, k.members, log); err != nil {
		return nil, err
	}
	k.statuses, err = watchStatuses(ctx, k.load.Client)
	return k, err
}

// woes are the warnings and errors that the instances logged: what they said, and how often.
func (k *cluster) woes() []string {
	counts := map[string]int{}
	for _, line := range k.grep("level=warn", "level=error", "panic", "fatal error") {
		counts[message(line)]++
	}
	var all []string
	for msg, n := range counts {
		all = append(all, fmt.Sprintf("%d × %s", n, msg))
	}
	slices.Sort(all)
	return all
}

func (k *cluster) close() error {
	for _, text := range k.woes() {
		k.log.Info("the instances said", "what", text)
	}
	if k.statuses != nil {
		k.statuses.close()
	}
	return k.Close()
}

// start starts the instance of a member, after an earlier one has ended.
func (k *cluster) start(n *lab.Node) error {
	if old := k.pods[n]; old != nil {
		_ = old.Stop() // it has ended; its manifest goes
	}
	pod, err := n.RunManifest(k.manifest, k.binary, lab.PodOptions{NoRestart: true})
	if err != nil {
		return fmt.Errorf("run the manifest on %s: %w", n, err)
	}
	k.pods[n] = pod
	return nil
}

// startAll starts all three.
func (k *cluster) startAll() error {
	for _, n := range k.members {
		if err := k.start(n); err != nil {
			return err
		}
	}
	return nil
}

// alive is nil while no instance has ended by itself.
func (k *cluster) alive() error {
	const ended = "it has ended" // in the words of the lab
	var errs []error
	for _, n := range k.members {
		if pod := k.pods[n]; pod != nil && !n.Crashed() && pod.Waiting() == ended {
			errs = append(errs, fmt.Errorf("kube-vip on %s has ended with exit code %d; its last words: %s", n, pod.ExitCode(), lastWords(pod)))
		}
	}
	return errors.Join(errs...)
}

func lastWords(pod *lab.Pod) string {
	lines := pod.Output()
	if len(lines) == 0 {
		return "none"
	}
	return lines[len(lines)-1].Text
}

// look is how often a condition is looked at. What is waited for has its time from events, and looking at ten thousand
// Services takes time from the instances.
const look = 200 * time.Millisecond

// await waits for a condition that says how far it is; within a limit, and while no instance ends.
func (k *cluster) await(ctx context.Context, limit time.Duration, what string, cond func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for round := 1; ; round++ {
		ok, state := cond()
		if ok {
			return nil
		}
		if err := k.alive(); err != nil {
			return fmt.Errorf("wait until %s: %w (now: %s)", what, err, state)
		}
		if round%50 == 0 {
			k.log.Info("waiting", "until", what, "now", state)
		}
		if err := measure.Sleep(ctx, look); err != nil {
			return fmt.Errorf("wait until %s: %w, the limit is %s (now: %s)", what, err, limit, state)
		}
	}
}

// ready waits until every instance is.
func (k *cluster) ready(ctx context.Context) error {
	return k.await(ctx, readyLimit, "every instance is ready", func() (bool, string) {
		for _, n := range k.members {
			if _, err := k.pods[n].Get(ctx, readyURL); err != nil {
				return false, fmt.Sprintf("%s: %v", n, err)
			}
		}
		return true, ""
	})
}

// held is how many of the Services' addresses each member has.
func (k *cluster) held() ([]int, error) {
	var counts []int
	for _, n := range k.members {
		addrs, err := k.on(n)
		if err != nil {
			return nil, err
		}
		counts = append(counts, len(addrs))
	}
	return counts, nil
}

// on are the Services' addresses that a member has.
func (k *cluster) on(n *lab.Node) ([]netip.Addr, error) {
	all, err := n.Addresses()
	if err != nil {
		return nil, err
	}
	var ours []netip.Addr
	for _, a := range all {
		if measure.IsService(a.Prefix.Addr()) {
			ours = append(ours, a.Prefix.Addr())
		}
	}
	return ours, nil
}

// holder is the member that has all n addresses, and no other has any.
func (k *cluster) holder(ctx context.Context, n int) (*lab.Node, error) {
	var holder *lab.Node
	err := k.await(ctx, readyLimit, fmt.Sprintf("one node holds %d addresses and the others none", n), func() (bool, string) {
		counts, err := k.held()
		if err != nil {
			return false, err.Error()
		}
		i := slices.Index(counts, n)
		if i < 0 || slices.Max(counts) != n {
			return false, fmt.Sprint(counts)
		}
		for j, c := range counts {
			if j != i && c > 0 {
				return false, fmt.Sprint(counts)
			}
		}
		holder = k.members[i]
		return true, ""
	})
	return holder, err
}

// quiet waits until the instances write no more than at rest: Events are written slowly after a start.
func (k *cluster) quiet(ctx context.Context) (time.Duration, error) {
	const span = 2 * time.Second
	began := time.Now()
	calm := 0
	err := k.await(ctx, quietLimit, "no status and no Event is written for 4 s", func() (bool, string) {
		all, err := measure.Requests(ctx, k.Nodes, func() error { return measure.Sleep(ctx, span) })
		if err != nil {
			return false, err.Error()
		}
		writes := all["PATCH services"] + all["PUT services"] + all["POST events"] + all["PATCH events"]
		if calm++; writes > 0 {
			calm = 0
		}
		return calm == 2, fmt.Sprintf("%.0f writes in %s", writes, span)
	})
	return time.Since(began), err
}

// grep finds the lines of all instances' logs that contain one of the texts, in lower case.
func (k *cluster) grep(texts ...string) []string {
	var found []string
	for _, n := range k.members {
		if k.pods[n] == nil {
			continue
		}
		for _, line := range k.pods[n].Output() {
			for _, text := range texts {
				if bytes.Contains(bytes.ToLower([]byte(line.Text)), []byte(text)) {
					found = append(found, n.Name+": "+line.Text)
				}
			}
		}
	}
	return found
}
