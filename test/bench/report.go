package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
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
	requests  []rate
	repeated  int
	began     time.Time
	took      time.Duration
}

// A row is an event and, per contender, what was seen of it.
type row struct {
	event
	seen [][]observation
}

// median is the middle one, or the mean of the two in the middle; 0 of none.
func median(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ds))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// worst is the longest; 0 of none.
func worst(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return slices.Max(ds)
}

// span prints a duration with as many digits as it is known to.
func span(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	default:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
}

// spread is the median and the worst.
func spread(ds []time.Duration) string { return span(median(ds)) + " / " + span(worst(ds)) }

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// megabytes counts a million bytes as one.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// verdict says whether a bound was kept.
func verdict(kept bool) string {
	if kept {
		return "met"
	}
	return "**missed**"
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
	s := spread(gaps(seen))
	if failures(seen) == 0 {
		s += ", no attempt failed"
	}
	return s
}

// gapBound is the bound on the gap of the row and whether ours kept it.
func (r row) gapBound() (bound, kept string) {
	switch {
	case r.unbroken:
		return "no attempt fails", verdict(failures(r.seen[0]) == 0)
	case r.gap > 0:
		return "≤ " + span(r.gap), verdict(worst(gaps(r.seen[0])) <= r.gap)
	default:
		return unknown, ""
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
	s := fmt.Sprintf("%s (in %d of %d)", span(longest), times, len(seen))
	if lasting > 0 {
		s = fmt.Sprintf("≥ %s, until the watch ended (in %d of %d)", span(longest), lasting, len(seen))
	}
	return s
}

// twoBound is the bound on two nodes answering.
func (r row) twoBound() (bound, kept string) {
	if !r.alone {
		return unknown, ""
	}
	return "never", verdict(!slices.ContainsFunc(r.seen[0], func(o observation) bool { return o.several }))
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

// A table is printed as Markdown, aligned for those who read the source.
type table [][]string

func (t *table) add(cells ...string) { *t = append(*t, cells) }

func (t table) String() string {
	width := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for i, line := range t {
		for k, cell := range line {
			fmt.Fprintf(&b, "| %s%s ", cell, strings.Repeat(" ", width[k]-len([]rune(cell))))
		}
		b.WriteString("|\n")
		if i == 0 {
			for _, w := range width {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// past heads the column of what was measured another time.
const past = "kube-vip 1.2.3, measured earlier ¹"

func (r *report) gapTable() table {
	t := table{append(append([]string{"event on the holder", "bound", ""}, r.titles...), past, "noise ²")}
	for _, e := range r.events {
		bound, kept := e.gapBound()
		cells := []string{e.name, bound, kept}
		for _, seen := range e.seen {
			cells = append(cells, gapCell(seen))
		}
		t.add(append(cells, e.past, span(e.lag()))...)
	}
	return t
}

func (r *report) twoTable() table {
	t := table{append(append([]string{"event on the holder", "bound", ""}, r.titles...), past)}
	for _, e := range r.events {
		bound, kept := e.twoBound()
		cells := []string{e.name, bound, kept}
		for _, seen := range e.seen {
			cells = append(cells, twoCell(seen))
		}
		t.add(append(cells, e.pastTwo)...)
	}
	return t
}

func (r *report) restTable() table {
	t := table{{"what", "bound", "", "kube-vip", past}}
	t.add(fmt.Sprintf("start of three instances → the VIP is on a node (N = %d)", len(r.starts)), "≤ "+span(boundStart),
		verdict(worst(r.starts) <= boundStart), spread(r.starts), unknown)
	t.add(fmt.Sprintf("address on the link → first announcement on the wire (N = %d)", len(r.announced)), "≤ "+span(boundAnnounce),
		verdict(worst(r.announced) <= boundAnnounce), spread(r.announced), unknown)
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
		t.add("CPU at rest of "+who, "≤ "+percent(boundCPU)+" of a core", verdict(most.cpu <= boundCPU), percent(most.cpu)+" of a core", unknown)
		t.add("memory of "+who+", the most it ever had (RSS)", "≤ "+megabytes(boundMemory), verdict(most.rss <= boundMemory), megabytes(most.rss), unknown)
	}
	t.add("the program, stripped", "≤ "+megabytes(boundBinary), verdict(r.machine.size <= boundBinary), megabytes(r.machine.size), "61 MB")
	for _, q := range r.requests {
		t.add("requests at rest of all three instances: "+q.what, unknown, "", fmt.Sprintf("%.2f/s", q.perSecond), unknown)
	}
	return t
}

// missed are the names of what did not keep its bound.
func (r *report) missed() []string {
	var names []string
	for _, t := range []table{r.gapTable(), r.twoTable(), r.restTable()} {
		for _, line := range t[1:] {
			if line[2] == verdict(false) {
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

// markdown is docs/benchmarks.md.
func (r *report) markdown() string {
	m := r.machine
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`%s`"+` on %s, in %d minutes. It needs root and Debian or Ubuntu, and installs the packages that are missing.

| | |
|---|---|
| machine | %d cores, %.0f GiB of memory, Linux %s |
| kube-vip | %s, built with %s; ARP, lease duration, renew deadline and retry period 5, 3 and 1 s (the defaults) |
| keepalived | %s, the distribution's package; VRRP version 3, advert interval 1 s and 0.1 s |
| cluster | three nodes as network namespaces on one bridge, each with etcd and kube-apiserver %s |

`, r.config.command(), r.began.Format(time.DateOnly), int(r.took.Round(time.Minute).Minutes()),
		m.cores, float64(m.memory)/(1<<30), m.kernel, m.version, m.golang, m.keepalived, m.kubernetes)

	if missed := r.missed(); len(missed) > 0 {
		b.WriteString("**Bounds that were missed in this run:**\n\n")
		for _, name := range missed {
			b.WriteString("- " + name + "\n")
		}
	} else {
		b.WriteString("Every bound was met in this run.\n")
	}

	fmt.Fprintf(&b, `
## How long a client cannot connect

The longest time between two successful connections, median / worst of %d. A bound is for the worst.

%s
## How long two nodes answer for the address

The longest time in which every question "who has it?" (ARP, every %d ms) got two answers, the worst of %d.

%s
## At rest

%s
`, r.config.n, r.gapTable(), ask.Milliseconds(), r.config.n, r.twoTable(), r.restTable())

	fmt.Fprintf(&b, `## How it was measured

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
`, span(events()[4].watch), span(events()[5].watch), r.config.rest, m.cores)
	if r.repeated > 0 {
		fmt.Fprintf(&b, "\n%d samples were taken again because the lab did not bring their event about.\n", r.repeated)
	}
	return b.String()
}
