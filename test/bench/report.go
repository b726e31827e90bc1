package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"kube-vip.io/kube-vip/test/bench/measure"
)

// The bounds of what is measured beside the events.
const (
	boundStart    = 2 * time.Second
	boundAnnounce = 5 * time.Millisecond
	boundCPU      = 0.005
	boundMemory   = 45e6
	boundBinary   = 45e6
)

// A report is everything that was measured.
type report struct {
	config    config
	machine   machine
	titles    []string // of the contenders, ours first
	events    []row
	starts    []time.Duration
	announced []time.Duration
	usage     []usage
	requests  []measure.Rate
	repeated  int
	began     time.Time
	took      time.Duration
}

// A row is an event and, per contender, what was seen of it.
type row struct {
	event
	seen [][]observation
}

func gaps(seen []observation) []time.Duration {
	ds := make([]time.Duration, len(seen))
	for i, o := range seen {
		ds[i] = o.gap
	}
	return ds
}

// failures is in how many samples attempts failed.
func failures(seen []observation) int {
	n := 0
	for _, o := range seen {
		if o.failed > 0 {
			n++
		}
	}
	return n
}

// gapCell is what a contender's clients saw.
func gapCell(seen []observation) string {
	s := measure.Spread(gaps(seen))
	if failures(seen) == 0 {
		s += ", no attempt failed"
	}
	return s
}

// gapBound is the bound on the gap of the row and whether ours kept it.
func (r row) gapBound() (bound, kept string) {
	switch {
	case r.unbroken:
		return "no attempt fails", measure.Verdict(failures(r.seen[0]) == 0)
	case r.gap > 0:
		return "≤ " + measure.Span(r.gap), measure.Verdict(measure.Worst(gaps(r.seen[0])) <= r.gap)
	default:
		return measure.Unknown, ""
	}
}

// twoCell is how long two nodes answered for a contender's address.
func twoCell(seen []observation) string {
	var longest time.Duration
	times, lasting := 0, 0
	for _, o := range seen {
		if o.several {
			times++
		}
		if o.lasting {
			lasting++
		}
		longest = max(longest, o.overlap)
	}
	if times == 0 {
		return "never"
	}
	s := fmt.Sprintf("%s (in %d of %d)", measure.Span(longest), times, len(seen))
	if lasting > 0 {
		s = fmt.Sprintf("≥ %s, until the watch ended (in %d of %d)", measure.Span(longest), lasting, len(seen))
	}
	return s
}

// twoBound is the bound on two nodes answering.
func (r row) twoBound() (bound, kept string) {
	if !r.alone {
		return measure.Unknown, ""
	}
	return "never", measure.Verdict(!slices.ContainsFunc(r.seen[0], func(o observation) bool { return o.several }))
}

// lag is the worst lateness of a client's clock in the row.
func (r row) lag() time.Duration {
	var most time.Duration
	for _, seen := range r.seen {
		for _, o := range seen {
			most = max(most, o.lag)
		}
	}
	return most
}

// past heads the column of what was measured another time.
const past = "kube-vip 1.2.3, measured earlier ¹"

func (r *report) gapTable() measure.Table {
	t := measure.Table{append(append([]string{"event on the holder", "bound", ""}, r.titles...), past, "noise ²")}
	for _, e := range r.events {
		bound, kept := e.gapBound()
		cells := []string{e.name, bound, kept}
		for _, seen := range e.seen {
			cells = append(cells, gapCell(seen))
		}
		t.Add(append(cells, e.past, measure.Span(e.lag()))...)
	}
	return t
}

func (r *report) twoTable() measure.Table {
	t := measure.Table{append(append([]string{"event on the holder", "bound", ""}, r.titles...), past)}
	for _, e := range r.events {
		bound, kept := e.twoBound()
		cells := []string{e.name, bound, kept}
		for _, seen := range e.seen {
			cells = append(cells, twoCell(seen))
		}
		t.Add(append(cells, e.pastTwo)...)
	}
	return t
}

func (r *report) restTable() measure.Table {
	t := measure.Table{{"what", "bound", "", "kube-vip", past}}
	t.Add(fmt.Sprintf("start of three instances → the VIP is on a node (N = %d)", len(r.starts)), "≤ "+measure.Span(boundStart),
		measure.Verdict(measure.Worst(r.starts) <= boundStart), measure.Spread(r.starts), measure.Unknown)
	t.Add(fmt.Sprintf("address on the link → first announcement on the wire (N = %d)", len(r.announced)), "≤ "+measure.Span(boundAnnounce),
		measure.Verdict(measure.Worst(r.announced) <= boundAnnounce), measure.Spread(r.announced), measure.Unknown)
	for _, holder := range []bool{true, false} {
		who, most := "the busier follower", usage{}
		if holder {
			who = "the holder"
		}
		for _, u := range r.usage {
			if u.holder == holder {
				most.cpu, most.rss = max(most.cpu, u.cpu), max(most.rss, u.rss)
			}
		}
		t.Add("CPU at rest of "+who, "≤ "+measure.Percent(boundCPU)+" of a core", measure.Verdict(most.cpu <= boundCPU), measure.Percent(most.cpu)+" of a core", measure.Unknown)
		t.Add("memory of "+who+", the most it ever had (RSS)", "≤ "+measure.Megabytes(boundMemory), measure.Verdict(most.rss <= boundMemory), measure.Megabytes(most.rss), measure.Unknown)
	}
	t.Add("the program, stripped", "≤ "+measure.Megabytes(boundBinary), measure.Verdict(r.machine.Size <= boundBinary), measure.Megabytes(r.machine.Size), "61 MB")
	for _, q := range r.requests {
		t.Add("requests at rest of all three instances: "+q.What, measure.Unknown, "", fmt.Sprintf("%.2f/s", q.PerSecond), measure.Unknown)
	}
	return t
}

// missed are the names of what did not keep its bound.
func (r *report) missed() []string {
	var names []string
	for _, t := range []measure.Table{r.gapTable(), r.twoTable(), r.restTable()} {
		for _, line := range t[1:] {
			if line[2] == measure.Verdict(false) {
				names = append(names, line[0]+": "+line[3]+" (bound: "+line[1]+")")
			}
		}
	}
	return names
}

// command is what brings this report about again.
func (c config) command() string {
	switch {
	case c.quick:
		return fmt.Sprintf("make bench BENCHFLAGS='-quick -n %d -rest %s'", c.n, c.rest)
	case c.n != samples || c.rest != rest:
		return fmt.Sprintf("make bench BENCHFLAGS='-n %d -rest %s'", c.n, c.rest)
	default:
		return "make bench"
	}
}

// markdown is our section of docs/benchmarks.md.
func (r *report) markdown() string {
	m := r.machine
	var b strings.Builder
	fmt.Fprintf(&b, `## The control plane's address

Measured by `+"`%s`"+` on %s, in %d minutes. It needs root and Debian or Ubuntu, and installs the packages that are missing.

| | |
|---|---|
| machine | %s |
| kube-vip | %s, built with %s; ARP, lease duration, renew deadline and retry period 5, 3 and 1 s (the defaults) |
| keepalived | %s, the distribution's package; VRRP version 3, advert interval 1 s and 0.1 s |
| cluster | three nodes as network namespaces on one bridge, each with etcd and kube-apiserver %s |

`, r.config.command(), r.began.Format(time.DateOnly), int(r.took.Round(time.Minute).Minutes()),
		m, m.Version, m.Golang, m.keepalived, m.Kubernetes)

	if missed := r.missed(); len(missed) > 0 {
		b.WriteString("**Bounds that were missed in this run:**\n\n")
		for _, name := range missed {
			b.WriteString("- " + name + "\n")
		}
	} else {
		b.WriteString("Every bound was met in this run.\n")
	}

	fmt.Fprintf(&b, `
### How long a client cannot connect

The longest time between two successful connections, median / worst of %d. A bound is for the worst.

%s
### How long two nodes answer for the address

The longest time in which every question "who has it?" (ARP, every %d ms) got two answers, the worst of %d.

%s
### At rest

%s
`, r.config.n, r.gapTable(), ask.Milliseconds(), r.config.n, r.twoTable(), r.restTable())

	fmt.Fprintf(&b, `### How it was measured

- A client in a namespace of its own opens a new TCP connection to port 6443 of the address every 5 ms, each attempt on
  its own and with a timeout of 250 ms. Because the kernel accepts connections for a server that hangs, that event is
  measured with GET /version over a new TLS connection every 50 ms, with a timeout of 1 s. So the shortest gap that can be
  told from none is about 10 ms, in that row about 100 ms.
- kube-vip runs from what `+"`kube-vip manifest pod --arp --address …`"+` prints. keepalived runs on the same nodes, twice, with
  addresses of its own; priorities 102, 101 and 100, nopreempt, and a script that asks the node's API server for /livez every
  second and takes two failures for a fault.
- Each event happens once to all three at the same moment, on a node that holds all three addresses, at a random moment of the
  timers' period; the events take turns, and the next comes when every part of the cluster is ready again. Each noise
  thus meets all three alike.
- SIGTERM and kill -9 go to the three programs on that node; kill -9 to all processes of keepalived, because a child of it
  that outlives its parent would clean up. "Started again" is what a kubelet does, after 1 s, with all three. kill -9 is
  watched for %s, and for %s when nothing is started again.
- "Vanishes": the switch's port goes down and every process of the node is killed.
- Start: the three manifests appear at the same moment in a cluster without Leases of earlier instances. The time ends with the kernel's
  notification of the address. The first announcement is timed from that notification to a capture on the bridge, in every start
  and every takeover of this run; both times are those of reading, so a busy machine shows in the worst of them.
- CPU and memory are those of /proc over %s, before keepalived was there, with probes as in the manifest. Requests are the
  API servers' own counters, less what they count without kube-vip; "health" are the probes of /livez.
- MB is a million bytes.

¹ Of the existing kube-vip 1.2.3, in an earlier run on such a machine in such a lab, with ARP and the timings 5, 3 and 1 s; not
measured in this run. At its default timings of 15, 10 and 2 s a vanished node cost it 13 to 22 s.

² By how much an attempt of a client began too late at most, because the machine was busy: what a sample of the row may be wrong
by. The lab's three API servers, three etcds and the measurement itself share these %d cores.
`, measure.Span(events()[4].watch), measure.Span(events()[5].watch), r.config.rest, m.Cores)
	if r.repeated > 0 {
		fmt.Fprintf(&b, "\n%d samples were taken again because the lab did not bring their event about.\n", r.repeated)
	}
	return b.String()
}
