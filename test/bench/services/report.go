package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
)

// The keys of figures.
const (
	created         = "created"
	startLink       = "start: link"
	startStatus     = "start: status"
	startQuiet      = "start: quiet"
	oneLink         = "one more: link"
	oneWire         = "one more: wire"
	oneStatus       = "one more: status"
	tail99          = ", 99 of 100" // behind the three above
	holderCPU       = "holder: CPU"
	holderRSS       = "holder: RSS"
	holderPeak      = "holder: peak RSS"
	followerCPU     = "follower: CPU"
	followerRSS     = "follower: RSS"
	followerPeak    = "follower: peak RSS"
	requests        = "requests"
	vanishAll       = "vanish: all"
	vanishLink      = "vanish: won to link"
	vanishWire      = "vanish: won to wire"
	restartStop     = "restart: stop"
	restartLink     = "restart: link"
	restartWire     = "restart: wire"
	churnGoroutines = "churn: goroutines"
	churnHeap       = "churn: heap"
	churnRSS        = "churn: RSS"
)

// whatever is the number of Services in bounds that hold for any.
const whatever = 0

// A row is one thing that is measured with every number of Services under one Lease.
type row struct {
	key, what string
	show      func(float64) string
	bounds    map[int]float64 // the most, by the number of Services
	// past is what kube-vip 1.2.3 did with pastServices, and pastValue a figure of that for the picture; 0 is none.
	past      string
	pastValue float64
}

// pastServices is what kube-vip 1.2.3 was measured with.
const pastServices = 1000

func seconds(v float64) string   { return measure.Span(time.Duration(v * float64(time.Second))) }
func share(v float64) string     { return measure.Percent(v) }
func megabytes(v float64) string { return measure.Megabytes(int64(v)) }
func perSecond(v float64) string { return fmt.Sprintf("%.2f/s", v) }
func plain(v float64) string     { return fmt.Sprintf("%.0f", v) }

// rows is the table, in its order.
func rows() []row {
	cpu, memory := map[int]float64{1000: 0.02, 10000: 0.15}, map[int]float64{1000: 80e6, 10000: 250e6}
	return []row{
		{key: created, what: "creating the Services and their EndpointSlices, without us", show: seconds},
		{key: startLink, what: "start of three instances → every address on a node", show: seconds},
		{key: startStatus, what: "start of three instances → every status written", show: seconds, bounds: map[int]float64{1000: 5, 10000: 60}, past: "30.7 s", pastValue: 30.7},
		{key: startQuiet, what: "start of three instances → the last Event written", show: seconds},
		{key: oneLink, what: "one more Service → its address on the node, median", show: seconds, bounds: map[int]float64{10000: 0.020}, past: "10–20 ms", pastValue: 0.015},
		{key: oneLink + tail99, what: "the same, 99 of 100 ²", show: seconds, bounds: map[int]float64{10000: 0.100}},
		{key: oneWire, what: "one more Service → first announcement on the wire, median", show: seconds, bounds: map[int]float64{10000: 0.020}},
		{key: oneWire + tail99, what: "the same, 99 of 100 ²", show: seconds, bounds: map[int]float64{10000: 0.100}},
		{key: oneStatus, what: "one more Service → its status written, median", show: seconds},
		{key: oneStatus + tail99, what: "the same, 99 of 100 ²", show: seconds},
		{key: holderCPU, what: "CPU at rest of the holder, of a core", show: share, bounds: cpu, past: "25 %", pastValue: 0.25},
		{key: followerCPU, what: "CPU at rest of the busier follower, of a core", show: share, bounds: cpu},
		{key: holderRSS, what: "memory of the holder at rest (RSS)", show: megabytes, bounds: memory, past: "148 MB", pastValue: 148e6},
		{key: holderPeak, what: "memory of the holder, the most it ever had (RSS)", show: megabytes, bounds: memory},
		{key: followerRSS, what: "memory of the larger follower at rest (RSS)", show: megabytes, bounds: memory},
		{key: followerPeak, what: "memory of the larger follower, the most it ever had (RSS)", show: megabytes, bounds: memory},
		{key: requests, what: "API requests at rest, all three instances", show: perSecond, bounds: map[int]float64{whatever: 2}},
		{key: vanishAll, what: "the holder vanishes → every address on another node", show: seconds, bounds: map[int]float64{1000: leaseDuration.Seconds() + 1}, past: "10.4 s", pastValue: 10.4},
		{key: vanishLink, what: "the Lease won → every address on the node", show: seconds, bounds: map[int]float64{1000: 0.5}},
		{key: vanishWire, what: "the Lease won → every address announced", show: seconds, bounds: map[int]float64{1000: 0.5}},
		{key: restartStop, what: "SIGTERM of all three → all have ended", show: seconds},
		{key: restartLink, what: "start of all three again → every address on a node", show: seconds},
		{key: restartWire, what: "start of all three again → every address announced", show: seconds},
		{key: churnGoroutines, what: "goroutines before and after 1 000 Services more came and went", show: plain, bounds: map[int]float64{whatever: 5}},
		{key: churnHeap, what: "the same, live heap", show: megabytes, bounds: map[int]float64{whatever: 5e6}},
		{key: churnRSS, what: "the same, memory (RSS)", show: megabytes, bounds: map[int]float64{whatever: 15e6}},
	}
}

// rowOf finds a row by its key.
func rowOf(key string) row {
	all := rows()
	return all[slices.IndexFunc(all, func(r row) bool { return r.key == key })]
}

// bound is that of n Services.
func (r row) bound(n int) (float64, bool) {
	if b, ok := r.bounds[n]; ok {
		return b, true
	}
	b, ok := r.bounds[whatever]
	return b, ok
}

// boundCell names all bounds of the row.
func (r row) boundCell() string {
	var texts []string
	for _, n := range []int{whatever, 1000, 10000} {
		b, ok := r.bounds[n]
		switch {
		case !ok:
		case n == whatever && strings.HasPrefix(r.key, "churn"):
			texts = append(texts, "≤ "+r.show(b)+" more")
		case n == whatever:
			texts = append(texts, "≤ "+r.show(b))
		default:
			texts = append(texts, measure.Thousands(n)+": ≤ "+r.show(b))
		}
	}
	if len(texts) == 0 {
		return measure.Unknown
	}
	return strings.Join(texts, "; ")
}

// A report is everything that was measured.
type report struct {
	config  config
	machine measure.Machine
	leader  []*result
	lease   []leaseResult
	began   time.Time
	took    time.Duration
}

// past heads the column of what was measured another time.
const past = "kube-vip 1.2.3 with 1 000, measured earlier ¹"

// cell is a figure and, if it has missed its bound, that.
func (r row) cell(of *result) (text string, missed bool) {
	f, ok := of.figures[r.key]
	if !ok {
		return measure.Unknown, false
	}
	text = f.text
	if text == "" {
		text = r.show(f.value)
	}
	if b, has := r.bound(of.n); has && f.value > b {
		return text + " " + measure.Verdict(false), true
	}
	return text, false
}

// leaderTable has a column for each number of Services.
func (r *report) leaderTable() measure.Table {
	header := []string{"Services", "bound"}
	for _, of := range r.leader {
		header = append(header, measure.Thousands(of.n))
	}
	t := measure.Table{append(header, past)}
	for _, row := range rows() {
		cells := []string{row.what, row.boundCell()}
		for _, of := range r.leader {
			text, _ := row.cell(of)
			cells = append(cells, text)
		}
		t.Add(append(cells, orUnknown(row.past))...)
	}
	var kinds []string
	for _, of := range r.leader {
		for _, q := range of.rates {
			kinds = append(kinds, q.What)
		}
	}
	slices.Sort(kinds)
	for _, kind := range slices.Compact(kinds) {
		cells := []string{"of these requests, " + kind, measure.Unknown}
		for _, of := range r.leader {
			cells = append(cells, rateOf(of.rates, kind))
		}
		t.Add(append(cells, measure.Unknown)...)
	}
	return t
}

func rateOf(rates []measure.Rate, kind string) string {
	for _, q := range rates {
		if q.What == kind {
			return perSecond(q.PerSecond)
		}
	}
	return measure.Unknown
}

func orUnknown(s string) string {
	if s == "" {
		return measure.Unknown
	}
	return s
}

// leaseTable has a line for each thing that was measured in a scenario, with its verdict in the third column.
func (r *report) leaseTable() measure.Table {
	t := measure.Table{{"Services, and their timing", "what", "bound", "", "kube-vip", "kube-vip 1.2.3, measured earlier ¹"}}
	for _, of := range r.lease {
		name := measure.Thousands(of.services) + ", " + of.timing.String()
		add := func(what, bound string, kept bool, got, past string) {
			verdict := ""
			if bound != measure.Unknown {
				verdict = measure.Verdict(kept)
			}
			t.Add(name, what, bound, verdict, got, orUnknown(past))
		}
		b := of.bounds
		if of.status > 0 {
			add("start of three instances → every status written", most(b.status), of.status <= b.status, measure.Span(of.status), of.past.status)
		}
		if of.rates != nil {
			gets, puts := of.timing.anyway()
			add("GET at rest, all three instances", atMost(b.puts > 0, "none more than with one Lease, "+perSecond(gets)), of.gets <= gets*(1+slack), perSecond(of.gets), of.past.gets)
			add("PUT at rest, all three instances", atMost(b.puts > 0, "≤ "+perSecond(b.puts)+" more than with one Lease, "+perSecond(puts)), of.puts <= b.puts+puts, perSecond(of.puts), of.past.puts)
		}
		if of.spread != nil && !of.crowded {
			add("addresses per node", atMost(b.spread > 0, fmt.Sprintf("≤ %.2f × the mean", b.spread)), even(of.spread, b.spread), list(of.spread), of.past.spread)
		}
		if of.moved > 0 {
			add("a holder vanishes → its addresses on other nodes", most(b.moved), of.moved <= b.moved, measure.Span(of.moved), of.past.moved)
		}
		if s := of.soaked; s != nil {
			got := fmt.Sprintf("%d moved, %d withdrawn, %d lines about throttling", s.moves, s.gone, s.throttlings)
			add("moves and throttling in "+s.over.String(), atMost(b.untouchd, "none"), s.moves+s.gone+s.throttlings == 0, got, "")
			add("the busiest instance: CPU of a core, most memory", measure.Unknown, true, measure.Percent(s.cpu)+", "+measure.Megabytes(s.rss), "")
		}
		if of.outcome != "" {
			add(fmt.Sprintf("in the first %s", crowdTime+crowdRest), "what is held stays; none moves", of.steady, of.outcome, of.past.outcome)
		}
	}
	return t
}

// most is a bound on a time.
func most(d time.Duration) string { return atMost(d > 0, "≤ "+measure.Span(d)) }

// atMost is a bound, if there is one.
func atMost(has bool, bound string) string {
	if !has {
		return measure.Unknown
	}
	return bound
}

// even reports whether no node has more than so many times the mean, or less than that part of it.
func even(counts []int, times float64) bool {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	mean := float64(sum) / float64(len(counts))
	for _, n := range counts {
		if float64(n) > mean*times || float64(n) < mean/times {
			return false
		}
	}
	return true
}

// missed names what did not keep its bound, and what could not be measured.
func (r *report) missed() []string {
	var names []string
	for _, of := range r.leader {
		for _, row := range rows() {
			if text, missed := row.cell(of); missed {
				b, _ := row.bound(of.n)
				names = append(names, fmt.Sprintf("%s Services: %s: %s (bound: ≤ %s)", measure.Thousands(of.n), row.what, strings.TrimSuffix(text, " "+measure.Verdict(false)), row.show(b)))
			}
		}
	}
	for _, line := range r.leaseTable()[1:] {
		if line[3] == measure.Verdict(false) {
			names = append(names, fmt.Sprintf("a Lease for each of %s: %s: %s (bound: %s)", line[0], line[1], line[4], line[2]))
		}
	}
	for _, err := range r.failures() {
		names = append(names, "not measured: "+strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return names
}

// failures are what could not be measured.
func (r *report) failures() []error {
	var errs []error
	for _, of := range r.leader {
		if of.err != nil {
			errs = append(errs, fmt.Errorf("%s Services: %w", measure.Thousands(of.n), of.err))
		}
	}
	for _, of := range r.lease {
		if of.err != nil {
			errs = append(errs, fmt.Errorf("a Lease for each of %s, %s: %w", measure.Thousands(of.services), of.timing, of.err))
		}
	}
	return errs
}

// command is what brings this report about again.
func (c config) command() string {
	var flags []string
	base := byDefault
	if c.quick {
		flags, base = append(flags, "-quick"), trial
		base.placements = byDefault.placements
	}
	if !slices.Equal(c.numbers, base.numbers) {
		flags = append(flags, "-n "+joined(c.numbers))
	}
	if c.samples != base.samples {
		flags = append(flags, fmt.Sprintf("-samples %d", c.samples))
	}
	if c.rest != base.rest {
		flags = append(flags, "-rest "+c.rest.String())
	}
	if c.soak != base.soak {
		flags = append(flags, "-soak "+c.soak.String())
	}
	if !slices.Equal(c.placements, base.placements) {
		flags = append(flags, "-placement "+strings.Join(c.placements, ","))
	}
	if len(flags) == 0 {
		return command
	}
	return command + " BENCHFLAGS='" + strings.Join(flags, " ") + "'"
}

// placement is the one that was measured.
func (r *report) placement() string { return r.config.placements[0] }

// markdown is the section of docs/benchmarks.md.
func (r *report) markdown() string {
	m := r.machine
	title := "Services under one Lease"
	if r.placement() == byLease {
		title = "Services with a Lease each"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `## %s

Measured by `+"`%s`"+` on %s, in %d minutes. It needs root.

| | |
|---|---|
| machine | %s |
| kube-vip | %s, built with %s; ARP, three instances as a DaemonSet; lease duration, renew deadline and retry period 5, 3 and 1 s (the defaults) unless it says otherwise |
| cluster | one node with etcd and kube-apiserver %s, three workers, as network namespaces on one bridge |

`, title, r.config.command(), r.began.Format(time.DateOnly), int(r.took.Round(time.Minute).Minutes()), m, m.Version, m.Golang, m.Kubernetes)

	if missed := r.missed(); len(missed) > 0 {
		b.WriteString("**Bounds that were missed in this run:**\n\n")
		for _, name := range missed {
			b.WriteString("- " + name + "\n")
		}
	} else {
		b.WriteString("Every bound was met in this run.\n")
	}
	if r.placement() == byLeader {
		fmt.Fprintf(&b, `
![time, CPU and memory by the number of Services](%s)

%s`, pictureName, r.leaderTable())
	} else {
		fmt.Fprintf(&b, `
With `+"`--servicesElection`"+`.

%s`, r.leaseTable())
	}
	fmt.Fprintf(&b, `
### How they were measured

- The bench creates the Services, each with an address of its own by annotation and without node ports, and an EndpointSlice with
  a ready endpoint on each worker. Nothing else acts on them: no kube-proxy, no controllers. %d are created at a time.
- Start: three instances start at the same moment in a cluster whose Services have no status. A Service has its status when its
  ingress names the address, vipHost a node, and the condition is true, seen by one watch. Addresses are those of the kernel's
  notifications, announcements those of a capture on the bridge; times are those of reading.
`, measure.Creators)
	if r.placement() == byLeader {
		fmt.Fprintf(&b, `- One more Service: created %d times and deleted again. Its EndpointSlice is there already, and the time begins when the API
  server has answered, or when the bench's own watch shows the Service if that is sooner.
- Creations and deletions: what /metrics of the instance says that grew most, up to %s after the last deletion; the live heap
  is that of the last collection.
`, r.config.samples, churnLimit)
	}
	fmt.Fprintf(&b, `- At rest: CPU and memory are those of /proc over %s, with probes as in the manifest, after the last Event was written (Events
  leave slowly). Requests are the API server's own counters, less what it counts with as many Services and no instance.
- Vanishes: the switch's port goes down and every process of the worker is killed. The Lease is won when a watch shows the new holder.
- MB is a million bytes. The API server, etcd, the three instances and the bench share these %d cores.

¹ Of the existing kube-vip 1.2.3, in an earlier run on such a machine with three nodes and one API server; not measured in this run.
`, r.config.rest, m.Cores)
	if r.placement() == byLeader {
		b.WriteString(`
² The nearest rank: with fewer than a hundred samples it is the worst.
`)
	}
	return b.String()
}
