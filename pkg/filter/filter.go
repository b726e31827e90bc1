// Package filter lets only declared ports and ICMP reach the addresses of Services on this node, by nftables.
//
// A Filter is told which ports of which addresses pass (Rules). It keeps one table in the kernel, by default
// "inet kube-vip", and nothing else of the ruleset is read or touched. A change of the Rules is one transaction: there
// is no moment at which an address that stays is open, or a port that stays is closed. What others do to
// the table is found within a tick, by the generation of the ruleset, and put right. The table goes when Run ends.
//
// # Where in a packet's path
//
// The table's chain is called in prerouting, after conntrack and before the destination NAT: kube-proxy sends what is for a
// Service on to a pod there, in whichever of its modes, so that neither input nor forward see the VIP any more. What
// follows from that:
//
//   - Whoever sends by way of the network is filtered: other hosts, and pods on this node too, except those in the
//     host's network. The node itself is not: what it sends to a VIP on itself comes in by lo.
//   - A packet is filtered by its address, whether or not that is on the node, so Rules may come before
//     the address and go after it. A node that only routes packets to the VIP filters them just so.
//   - All ICMP and ICMPv6 passes: echo, path MTU discovery, neighbour discovery. ARP is not IP.
//   - Return traffic passes: of connections that begin here and have a VIP as their source, as egress by a VIP has.
//   - Connections to a port that is not declared any more, or was not when the Rules came, are cut.
//   - IP fragments are put together before we see them (conntrack needs that), so that they have ports.
//   - NodePorts and the node's own servers do not answer at a guarded address.
//   - Other IP protocols (ESP, GRE, IP in IP) do not reach a guarded address.
//   - What never comes to netfilter is not filtered: XDP and tc programs that do a Service's load balancing, as
//     Cilium's replacement of kube-proxy, see packets before.
//
// # A start with what is left
//
// A table that an earlier life left (kill -9) still filters, and the addresses of that life may still be there, too. It is
// left alone until the first Set, and then becomes the new table without a gap, or goes. Run's end removes it in any case.
package filter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// DefaultTable is the name of the table unless Options say otherwise.
const DefaultTable = "kube-vip"

const (
	// tick is the time between two looks at the generation of the ruleset: what somebody did to our table is put
	// right within it. There is no monitor: the kernel builds a message for every element that anybody adds when one
	// listens, and 10 000 VIPs of our own would overrun it.
	tick = time.Second
	// share is the part of the time, one in so many, that may be spent on reading elements because others
	// change the ruleset. kube-proxy may do so every second, and 10 000 VIPs take a moment to read.
	share = 50
	// slowest is the longest pause before a transaction that failed is tried again.
	slowest = 30 * time.Second
	// endTries and endPause bound how hard Run tries to remove the table before it returns.
	endTries = 3
	endPause = 100 * time.Millisecond
	// quarrel is the time in which a second repair is not worth a second warning.
	quarrel = time.Minute
)

// Options say how a Filter works. The zero value is usable.
type Options struct {
	// Table is the table's name; "" means DefaultTable. Two Filters on one node need two names.
	Table string
	// Log is where changes are told; nil means nowhere.
	Log *slog.Logger
	// Registerer gets the metrics; nil means that they are kept for nobody.
	Registerer prometheus.Registerer
}

// Filter makes the kernel filter as it was told. Its methods may be called from any goroutine, before and
// while Run works.
type Filter struct {
	kernel    kernel
	layout    layout
	log       *slog.Logger
	addresses prometheus.Gauge
	upToDate  prometheus.Gauge
	repairs   prometheus.Counter

	wake chan struct{} // holds at most one token: something was told
	done chan struct{} // closed when Run has returned

	mu     sync.Mutex // guards the fields below; never held across a system call
	want   guards
	asked  uint64        // counts the calls of Set
	tried  uint64        // the last Set that was put into the kernel, or failed to be
	err    error         // what became of it
	passed chan struct{} // closed and made anew after each pass

	// Owned by Run. have is what is in the table as far as our own transactions tell; nil without a table. It is
	// the kernel's truth while the ruleset's generation is the one that is noted here, and checked when it is not.
	have      guards
	applied   uint64 // the Set that have comes from
	noted     uint32
	known     bool      // there is a generation noted
	stale     bool      // what is there is not have: make it anew
	readAfter time.Time // elements are not read before
	begun     bool      // the table was looked at once
	failures  int       // in a row
	reported  string    // the last error that was logged
	repaired  time.Time // when a repair was last warned of
}

// New returns a Filter without Rules. Run does the work.
func New(o Options) *Filter {
	l := newLayout(cmp.Or(o.Table, DefaultTable))
	f := &Filter{
		kernel: nfTables{layout: l},
		layout: l,
		log:    cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
		passed: make(chan struct{}),
		addresses: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kube_vip_filter_addresses",
			Help: "Addresses of which only declared ports can be reached, as they are in the kernel.",
		}),
		upToDate: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kube_vip_filter_up_to_date",
			Help: "1 when the kernel filters as it is to; 0 when it can not be made to, or nothing is known yet.",
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kube_vip_filter_repairs_total",
			Help: "How often our nftables table was not as we left it and was made anew.",
		}),
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(f.addresses, f.upToDate, f.repairs)
	}
	return f
}

// Set says what is to be filtered from now on, instead of what was told before; doing it twice is the same as doing
// it once. Run puts it into the kernel within milliseconds, and Wait waits for that. Without Rules there is no table.
// Until the first Set nothing is done.
//
// The error names what cannot be guarded as it is; everything else is.
func (f *Filter) Set(rules []Rule) error {
	want, err := merge(rules)
	f.mu.Lock()
	f.want = want
	f.asked++
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return err
}

// Wait waits until what was Set last has been put into the kernel. Its error says why that failed - Run goes on
// trying - or that ctx or Run ended first.
func (f *Filter) Wait(ctx context.Context) error {
	f.mu.Lock()
	mine := f.asked
	f.mu.Unlock()
	done := f.done
	for {
		f.mu.Lock()
		tried, err, passed := f.tried, f.err, f.passed
		f.mu.Unlock()
		if tried >= mine {
			return err
		}
		if done == nil {
			return errors.New("wait for the filter: it is not running any more")
		}
		select {
		case <-passed:
		case <-done:
			done = nil // what the last pass did counts
		case <-ctx.Done():
			return fmt.Errorf("wait for the filter: %w", ctx.Err())
		}
	}
}

// Run filters and repairs until ctx ends; then it removes the table, and its error says why that failed.
// Whatever else fails is logged, once, and tried again. Afterwards nothing of it runs. It works once.
func (f *Filter) Run(ctx context.Context) error {
	defer close(f.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.wake:
			timer.Reset(f.pass())
		case <-timer.C:
			timer.Reset(f.pass())
		}
	}
	return f.end()
}

// end removes the table.
func (f *Filter) end() (err error) {
	for try := range endTries {
		if try > 0 {
			time.Sleep(endPause)
		}
		if err = f.kernel.apply(change{remove: true}); err == nil {
			f.have = nil
			f.addresses.Set(0)
			return nil
		}
	}
	if !f.known {
		return nil // we never got to see a ruleset, which was told
	}
	return err
}

// pass compares once and repairs. It returns in how long it is to be called again.
func (f *Filter) pass() time.Duration {
	f.mu.Lock()
	want, asked := f.want, f.asked
	f.mu.Unlock()
	if asked == 0 {
		return tick
	}

	err := f.match(want, asked)
	f.report(err, len(want) > 0)

	f.mu.Lock()
	f.tried, f.err = asked, err
	close(f.passed)
	f.passed = make(chan struct{})
	f.mu.Unlock()

	if err == nil {
		f.failures = 0
		f.upToDate.Set(1)
		return tick
	}
	f.upToDate.Set(0)
	f.failures++
	return min(tick<<min(f.failures-1, 8), slowest)
}

// match makes the table what is wanted by the Set of that number.
func (f *Filter) match(want guards, asked uint64) error {
	generation, err := f.kernel.generation()
	if err != nil {
		return err
	}
	if !f.stale && (!f.known || generation != f.noted) {
		if err := f.check(generation); err != nil {
			return err
		}
	}
	if asked == f.applied && !f.stale {
		return nil
	}
	c := plan(f.have, want, f.stale)
	if c.nothing() {
		f.applied = asked
		return nil
	}
	err = f.kernel.apply(c)
	if errors.Is(err, unix.ENOENT) && !c.rebuild {
		// An element that was to go is not there, or the table went just now.
		f.tell(err.Error())
		c = plan(f.have, want, true)
		err = f.kernel.apply(c)
	}
	if err != nil {
		f.stale = true
		return err
	}
	f.log.Info("the addresses and ports that can be reached changed",
		"addresses", len(want), "ports", want.ports(), "added", c.add.count(), "removed", c.del.count(), "anew", c.rebuild)
	if c.rebuild || c.remove || f.known && generation == f.noted {
		// This was our transaction. If there was another since we asked, the number is too small, and we will look.
		f.known, f.noted = true, generation+1
	}
	f.have, f.applied, f.stale = want, asked, false
	f.addresses.Set(float64(len(want)))
	return nil
}

// check finds out whether the table is what we left, since the ruleset has a generation that is not ours.
func (f *Filter) check(generation uint32) error {
	begin := time.Now()
	// Tables, chains and rules are read at every generation, elements when their time has come.
	elements := len(f.have) > 0 && !begin.Before(f.readAfter)
	seen, err := f.kernel.look(elements)
	if err != nil {
		return err
	}
	if elements {
		f.readAfter = begin.Add(share * time.Since(begin))
	}
	what := f.layout.differs(f.have, seen)
	if what != "" {
		f.stale = true
		f.tell(what)
	} else if elements || len(f.have) == 0 {
		f.known, f.noted = true, generation
	}
	f.begun = true
	return nil
}

// tell logs that the table is not what we left.
func (f *Filter) tell(what string) {
	if !f.begun {
		f.log.Info("an earlier life left its table; it is replaced or removed")
		return
	}
	f.repairs.Inc()
	if now := time.Now(); now.Sub(f.repaired) >= quarrel {
		f.repaired = now
		f.log.Warn("somebody changed our nftables table; it is made anew", "found", what)
		return
	}
	f.log.Debug("somebody changed our nftables table again; it is made anew", "found", what)
}

// report logs an error once, and its end.
func (f *Filter) report(err error, wanted bool) {
	news := ""
	if err != nil {
		news = fmt.Sprint(wanted, err)
	}
	if news == f.reported {
		return
	}
	f.reported = news
	switch {
	case err == nil:
		f.log.Info("the filter of Service addresses is up to date again")
	case wanted:
		f.log.Warn("the filter of Service addresses is not up to date", "err", err)
	default: // a node that filters nothing needs no nftables
		f.log.Debug("the filter of Service addresses has nothing to do and could not", "err", err)
	}
}
