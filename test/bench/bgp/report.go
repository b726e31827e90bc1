package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

// The keys of figures.
const (
	startSession   = "start: session"
	sessionRoute   = "session: route"
	apiKilled      = "API server killed"
	holdVanish     = "vanish"
	bfdVanish      = "vanish, BFD"
	bfdTraffic     = "vanish, BFD: traffic"
	bfdFlaps       = "BFD: flaps"
	rtVanish       = "vanish, BFD in real time"
	rtTraffic      = "vanish, BFD in real time: traffic"
	rtFlaps        = "BFD in real time: flaps"
	rolledFailed   = "rolled: failed"
	rolledMoved    = "rolled: moved"
	firstStart     = "first start: all"
	firstAnnounced = "first start: session to all"
	againStart     = "start again: all"
	againAnnounced = "start again: session to all"
	resetAnnounced = "reset: session to all"
	withdrawn      = "stop: none"
	oneHeard       = "one more: heard"
	oneMore        = "one more"
	oneLess        = "one less"
	restCPU        = "at rest: CPU"
	restRSS        = "at rest: RSS"
	peakRSS        = "peak RSS"
)

// A figure is what was measured with a router: a value that is held against the bound, in seconds where it is a time, and
// what is shown.
type figure struct {
	value float64
	text  string
}

// A row is one thing that is measured.
type row struct {
	key, what string
	most      float64        // of the value; see bound
	bound     string         // as it is shown; empty means that there is none
	metallb   string         // what is published of MetalLB, or follows from that
	past      string         // what kube-vip 1.2.3 did
	not       lab.RouterKind // is not held against the bound, for it cannot keep it
}

// within is a bound on a time.
func within(d time.Duration) (float64, string) { return d.Seconds(), "≤ " + measure.Span(d) }

// timed is a row with a bound on a time.
func timed(key, what string, most time.Duration, metallb, past string) row {
	r := row{key: key, what: what, metallb: metallb, past: past}
	r.most, r.bound = within(most)
	return r
}

// nodeRows is the table of what happens to nodes.
func nodeRows() []row {
	const ms = time.Millisecond
	return []row{
		timed(startSession, "start of an instance → its session is up", 2*time.Second, "", ""),
		timed(sessionRoute, "its session is up → the router sends to the node", time.Second, "", ""),
		timed(apiKilled, "a node's API server is killed → the router does not send to it", 500*ms, "", "2.35 s ²"),
		timed(bfdVanish, "a node vanishes, BFD 50 ms × 3 → the router does not send to it", 250*ms, "900 ms ¹", "no BFD"),
		timed(bfdTraffic, "the same → the last connection that fails begins", 250*ms, "", ""),
		{key: bfdFlaps, what: "sessions with nodes that are there, ended by BFD", bound: "0"},
		timed(rtVanish, "vanishes, kube-vip in real time ³ → the router does not send to it", 250*ms, "", ""),
		timed(rtTraffic, "the same → the last connection that fails begins", 250*ms, "", ""),
		{key: rtFlaps, what: "sessions with nodes that are there, ended by BFD", bound: "0"},
		timed(holdVanish, "a node vanishes, no BFD, hold time 9 s → the router does not send to it", hold+250*ms, "90 s, or 180 s ¹", "30 s ²"),
		{key: rolledFailed, what: "requests that failed while all instances were restarted", bound: "0"},
		{key: rolledMoved, what: "connections that the router sent elsewhere meanwhile"},
	}
}

// addressRows is the table of thousands of addresses.
func addressRows() []row {
	const ms = time.Millisecond
	memory := func(key, what string) row { return row{key: key, what: what, most: 250e6, bound: "≤ 250 MB"} }
	return []row{
		{key: firstStart, what: "start, no Service has a status → every route"},
		timed(firstAnnounced, "of that, the session is up → every route", 3*time.Second, "", ""),
		{key: againStart, what: "start again → every route"},
		timed(againAnnounced, "of that, the session is up → every route", 3*time.Second, "", ""),
		timed(resetAnnounced, "the router resets the session, it is up again → every route", 3*time.Second, "", ""),
		timed(withdrawn, "SIGTERM → no route, of which 2 s are the drain", 3*time.Second, "", ""),
		timed(oneHeard, "one more Service → FRR has heard of it, median / 99 of 100 ⁴", 50*ms, "", ""),
		{key: oneMore, what: "one more Service → its route, median / 99 of 100 ⁴", most: (50 * ms).Seconds(), bound: "BIRD: ≤ 50 ms", metallb: "3–4 s ¹", not: lab.FRR},
		{key: oneLess, what: "that Service is deleted → no route, median / 99 of 100 ⁴"},
		{key: restCPU, what: "CPU at rest, of a core"},
		memory(restRSS, "memory at rest (RSS)"),
		memory(peakRSS, "memory, the most it ever had (RSS)"),
	}
}

// A report is everything that was measured.
type report struct {
	config  config
	log     *slog.Logger
	machine measure.Machine
	figures map[string]map[lab.RouterKind]figure
	began   time.Time
	took    time.Duration
}

func (r *report) set(key string, kind lab.RouterKind, value float64, text string) {
	if r.figures[key] == nil {
		r.figures[key] = map[lab.RouterKind]figure{}
	}
	r.figures[key][kind] = figure{value, text}
	r.log.Info("measured", "what", key, "router", kind, "figure", text)
}

// spans notes times of which the worst counts.
func (r *report) spans(key string, kind lab.RouterKind, ds []time.Duration) {
	text := measure.Spread(ds)
	if len(ds) == 1 {
		text = measure.Span(ds[0])
	}
	r.set(key, kind, measure.Worst(ds).Seconds(), text)
}

// median notes times of which the median counts.
func (r *report) median(key string, kind lab.RouterKind, ds []time.Duration) {
	m := measure.Median(ds)
	r.set(key, kind, m.Seconds(), measure.Span(m)+" / "+measure.Span(measure.Percentile(ds, 0.99)))
}

// verdict says whether the bound of a row was kept with every router that was measured.
func (r *report) verdict(of row) string {
	if of.bound == "" || len(r.figures[of.key]) == 0 {
		return ""
	}
	for kind, f := range r.figures[of.key] {
		if f.value > of.most && kind != of.not {
			return measure.Verdict(false)
		}
	}
	return measure.Verdict(true)
}

// The columns of what was not measured in this run.
const (
	metallb = "MetalLB, published"
	past    = "kube-vip 1.2.3"
)

func orUnknown(s string) string {
	if s == "" {
		return measure.Unknown
	}
	return s
}

func (r *report) table(rows []row) measure.Table {
	t := measure.Table{{"", "bound", "", "FRR", "BIRD", metallb, past}}
	for _, of := range rows {
		cells := []string{of.what, orUnknown(of.bound), r.verdict(of)}
		for _, kind := range kinds {
			cells = append(cells, orUnknown(r.figures[of.key][kind].text))
		}
		t.Add(append(cells, orUnknown(of.metallb), orUnknown(of.past))...)
	}
	return t
}

// missed are the names of what did not keep its bound.
func (r *report) missed() []string {
	var names []string
	for _, rows := range [][]row{nodeRows(), addressRows()} {
		for _, of := range rows {
			if r.verdict(of) != measure.Verdict(false) {
				continue
			}
			var all []string
			for _, kind := range kinds {
				if f, is := r.figures[of.key][kind]; is {
					all = append(all, fmt.Sprintf("%s %s", strings.ToUpper(string(kind)), f.text))
				}
			}
			names = append(names, fmt.Sprintf("%s: %s (bound: %s)", of.what, strings.Join(all, ", "), of.bound))
		}
	}
	return names
}

// command is what brings this report about again.
func (c config) command() string {
	var flags []string
	base := byDefault
	if c.quick {
		flags, base = append(flags, "-quick"), trial
	}
	for _, f := range []struct {
		name      string
		have, was any
	}{{"n", c.n, base.n}, {"samples", c.samples, base.samples}, {"more", c.more, base.more}, {"rest", c.rest, base.rest}} {
		if f.have != f.was {
			flags = append(flags, fmt.Sprintf("-%s %v", f.name, f.have))
		}
	}
	if !slices.Equal(c.parts, byDefault.parts) {
		flags = append(flags, "-part "+strings.Join(c.parts, ","))
	}
	if len(flags) == 0 {
		return command
	}
	return command + " BENCHFLAGS='" + strings.Join(flags, " ") + "'"
}

// markdown is our section of docs/benchmarks.md.
func (r *report) markdown() string {
	m := r.machine
	var b strings.Builder
	fmt.Fprintf(&b, `## BGP

Measured by `+"`%s`"+` on %s, in %d minutes. It needs root and Debian or Ubuntu, and installs the packages that are missing.

| | |
|---|---|
| machine | %s |
| kube-vip | %s, built with %s |
| cluster | network namespaces on one bridge, etcd and kube-apiserver %s |

`, r.config.command(), r.began.Format(time.DateOnly), int(r.took.Round(time.Minute).Minutes()), m, m.Version, m.Golang, m.Kubernetes)
	if missed := r.missed(); len(missed) > 0 {
		b.WriteString("**Bounds that were missed in this run:**\n\n")
		for _, name := range missed {
			b.WriteString("- " + name + "\n")
		}
	} else {
		b.WriteString("Every bound was met in this run.\n")
	}
	if slices.Contains(r.config.parts, nodesPart) {
		fmt.Fprintf(&b, "\n%s", r.table(nodeRows()))
	}
	if slices.Contains(r.config.parts, addressesPart) {
		fmt.Fprintf(&b, "\n%s", r.table(addressRows()))
	}
	fmt.Fprintf(&b, `
### How it was measured

- FRR and BIRD are the distribution's packages, at the edge of the nodes' network, each with a client behind it. They are told
  to go by all paths at once. When a route is there, or goes, is the kernel's notification on the router; FRR itself waits
  for 50 ms with what it was told before it chooses its paths (the hold of bgpd's process queue, which no setting changes), and the
  kernel has them some 15 ms later: so much of each of FRR's figures is its own, and one more Service cannot keep its bound
  there. What it logs as received is the bound for FRR. A session is up when the router's log says so.
- Three nodes: static pods from `+"`kube-vip manifest pod --bgp --controlplane --services`"+`, etcd, kube-apiserver and kube-proxy on each, and
  both routers are peers of all of them, so each event happens to both at once. Median / worst of %d; a bound is for the worst.
- A node vanishes: the switch does not pass its frames any more, at a random moment; it comes back. With BFD and without, the
  client behind each router opens a TCP connection to port 6443 of the control plane's address every 5 ms, with a timeout of 250 ms.
  Without BFD there are %d samples. Sessions that BFD ended: those with nodes that were not the one that vanished, at rest and between
  vanishings.
- Restarted: one instance after another is stopped, as the kubelet does it, with the default drain of 2 s, and started when the router
  does not send to its node any more; the next one follows when it sends to all three again. Clients ask a Service for a page,
  %d requests a second, each over a new connection, first behind FRR and then behind BIRD. A connection that is reset within 0.2 s of a change of
  the router's next hops was open when the router sent its packets to another node, and is not counted as failed.
- %s addresses: one worker with an instance as a DaemonSet has one of the routers as its peer. The Services are there before it starts, with
  an EndpointSlice each; creating them is not measured. At the first start none has a status, and the instance writes all of them while it
  announces; that is measured with FRR only. Each time is a single one, but for one more Service, which is created %d times and
  deleted again: from the API server's answer, or when the bench's own watch shows the Service if that is sooner, until FRR logs that
  it was told, or the kernel has the route. Its EndpointSlice is there already. At rest: %s after the last status and Event.
- MB is a million bytes. The API servers, etcds, routers, instances and the bench share these %d cores.

¹ Not measured in this run. MetalLB: what its BFD profile comes to when nothing is set, 300 ms × 3 ([documentation](https://docs.okd.io/latest/networking/metallb/metallb-configure-bfd-profiles.html));
its hold time when none is set, 90 s in native mode and FRR's own, 180 s, in FRR mode ([#2537](https://github.com/metallb/metallb/pull/2537)), which a router's own
shorter one overrules; and what was reported of 0.15.2 in FRR mode, which collects changes for 3 s before it reloads
FRR's configuration ([#2900](https://github.com/metallb/metallb/issues/2900), [#2952](https://github.com/metallb/metallb/pull/2952)).

² Not measured in this run: of the existing kube-vip 1.2.3, in an earlier run on such a machine at the shortest period of its health check; its hold time is the
default of its settings.

³ All threads of the instance are put before everything that is not in real time (`+"`chrt -a -r -p 1`"+`); the routers are not. No manifest of kube-vip does that.

⁴ The nearest rank: with fewer than a hundred samples it is the worst. The bound is for the median.
`, r.config.samples, min(r.config.samples, unwatched), rate, measure.Thousands(r.config.n), r.config.more, idle, m.Cores)
	return b.String()
}
