package main

import (
	"context"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// leaseDuration is that of the generated manifests.
const leaseDuration = 5 * time.Second

// restartDelay is what a kubelet takes to start again what has ended.
const restartDelay = time.Second

// An event happens to the node that holds every contender's address, or to every contender on it.
type event struct {
	// name is that of its row.
	name string
	// tls has the client ask for GET /version: where a kernel accepts what nobody will answer.
	tls bool
	// watch is for how long it is looked at; 0 means until another node holds and half a second more.
	watch time.Duration
	// node happens to the node. Exactly one of node and process is set.
	node func(holder *lab.Node) error
	// process happens to a contender on the node.
	process func(ctx context.Context, c contender, holder *lab.Node) error

	// gap is the most that the gap of kube-vip may be; 0 means that no bound is set, and unbroken that no attempt
	// may fail.
	gap      time.Duration
	unbroken bool
	// alone says that two nodes may never answer.
	alone bool
	// past is what kube-vip 1.2.3 did in the same event: its gap, and how long two nodes answered.
	past, pastTwo string
}

func events() []event {
	return []event{
		{
			name:    "SIGTERM of the process",
			process: func(_ context.Context, c contender, n *lab.Node) error { return c.stop(n) },
			gap:     100 * time.Millisecond,
			past:    "884–949 ms", pastTwo: measure.Unknown,
		},
		{
			name: "its API server is killed",
			node: func(n *lab.Node) error { return n.API.Kill() },
			gap:  time.Second,
			past: "6.86 s", pastTwo: measure.Unknown,
		},
		{
			name: "its API server hangs (SIGSTOP)", tls: true,
			node: func(n *lab.Node) error { return n.API.Hang() },
			gap:  3500 * time.Millisecond,
			past: "7.0 s", pastTwo: "1.4 s",
		},
		{
			name: "the whole node vanishes",
			node: func(n *lab.Node) error { return n.Crash() },
			gap:  leaseDuration + time.Second,
			past: "6.95 s", pastTwo: measure.Unknown,
		},
		{
			name: "kill -9 of the process, started again after 1 s", watch: 8 * time.Second,
			process: func(ctx context.Context, c contender, n *lab.Node) error {
				if err := c.kill(n); err != nil {
					return err
				}
				if err := measure.Sleep(ctx, restartDelay); err != nil {
					return err
				}
				return c.start(n)
			},
			unbroken: true, alone: true,
			past: measure.Unknown, pastTwo: measure.Unknown,
		},
		{
			name: "kill -9 of the process, for good", watch: 9 * time.Second,
			process: func(_ context.Context, c contender, n *lab.Node) error { return c.kill(n) },
			alone:   true,
			past:    "none", pastTwo: "for good",
		},
	}
}
