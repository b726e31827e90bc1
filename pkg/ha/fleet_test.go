package ha

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var fleetMinutes = flag.Int("fleet-minutes", 1, "how long a thousand Leases are at rest")

var slow = Timing{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}

// ledger knows which node has which mandate at each moment, and complains when two have one.
type ledger struct {
	mu         sync.Mutex // guards the fields below
	until      map[string]map[string]time.Time
	moves      int
	violations []string
	grants     map[string]int // per node and mandate
	offTakes   time.Duration
	told       map[string][]string // per node
}

func newLedger() *ledger {
	return &ledger{until: map[string]map[string]time.Time{}, told: map[string][]string{}, grants: map[string]int{}}
}

// of is a node's Granter.
func (l *ledger) of(node string) *page { return &page{ledger: l, node: node} }

type page struct {
	*ledger
	node string
	dead bool // its process was killed: nothing it says is heard
}

func (p *page) Grant(mandate string, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return
	}
	now := time.Now()
	nodes := p.until[mandate]
	if nodes == nil {
		nodes = map[string]time.Time{}
		p.until[mandate] = nodes
	}
	for other, u := range nodes {
		if other != p.node && u.After(now) {
			p.violations = append(p.violations, fmt.Sprintf("%s: %s is granted to %s, and %s has it", clock(), mandate, p.node, other))
		}
	}
	if !nodes[p.node].After(now) {
		p.moves++
		p.told[p.node] = append(p.told[p.node], "grant "+mandate)
	}
	nodes[p.node] = until
	p.grants[p.node+mandate]++
}

// Revoke leaves the mandate with the node until it is off.
func (p *page) Revoke(mandate string) func(context.Context) error {
	p.mu.Lock()
	takes, grants := p.offTakes, p.grants[p.node+mandate]
	p.mu.Unlock()
	return func(context.Context) error {
		time.Sleep(takes + time.Millisecond)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.dead || p.grants[p.node+mandate] != grants { // or it is granted again
			return nil
		}
		if !p.until[mandate][p.node].IsZero() {
			p.told[p.node] = append(p.told[p.node], "off "+mandate)
		}
		delete(p.until[mandate], p.node)
		return nil
	}
}

// count is how many mandates each node has.
func (l *ledger) count() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := map[string]int{}
	for _, nodes := range l.until {
		for node, until := range nodes {
			if until.After(time.Now()) {
				count[node]++
			}
		}
	}
	return count
}

func (l *ledger) all() (n int) {
	for _, held := range l.count() {
		n += held
	}
	return n
}

func (l *ledger) moved() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moves
}

func (l *ledger) said(node string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.told[node])
}

func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.violations) > 0 {
		t.Errorf("%d times two nodes had one mandate: %s", len(l.violations), l.violations[0])
	}
}

// vessel is a Fleet that runs on a node.
type vessel struct {
	*Fleet
	*notebook // for its log
	name      string
	page      *page
	renewals  *apiClient
	watches   *apiClient
	cancel    context.CancelFunc
	result    chan error
}

func (v *vessel) stop(t *testing.T) error {
	t.Helper()
	v.cancel()
	return <-v.result
}

// set impairs both ways to the API.
func (v *vessel) set(fault outage) {
	v.renewals.set(fault)
	v.watches.set(fault)
	if fault == refused {
		v.watches.cut()
	}
}

// kill leaves the API and the node as the process has left them.
func (v *vessel) kill() {
	v.set(refused)
	v.page.mu.Lock()
	defer v.page.mu.Unlock()
	v.page.dead = true
}

func newVessel(s *apiServer, l *ledger, name string, change func(*FleetOptions)) *vessel {
	seed := fnv.New64a()
	seed.Write([]byte(name))
	v := &vessel{notebook: &notebook{}, name: name, page: l.of(name), renewals: newAPIClient(s, seed.Sum64(), nil), watches: newAPIClient(s, seed.Sum64()+1, nil), result: make(chan error, 1)}
	o := FleetOptions{Identity: name, Timing: fast, Renewals: v.renewals, Watches: v.watches, Granter: v.page, Log: v.notebook.log()}
	if change != nil {
		change(&o)
	}
	v.Fleet = NewFleet(o)
	return v
}

func (v *vessel) sail(t *testing.T) *vessel {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v.cancel = cancel
	go func() {
		v.result <- v.Run(ctx)
		close(v.result)
	}()
	t.Cleanup(func() { v.stop(t) })
	return v
}

func launch(t *testing.T, s *apiServer, l *ledger, name string, change func(*FleetOptions)) *vessel {
	t.Helper()
	return newVessel(s, l, name, change).sail(t)
}

func web(i int) Candidacy {
	return Candidacy{Namespace: "default", Name: fmt.Sprintf("kubevip-web-%d", i)}
}

func (v *vessel) stand(t *testing.T, c Candidacy) {
	t.Helper()
	if err := v.Stand(c); err != nil {
		t.Fatal(err)
	}
}

// rankOf is a node's rank for a Lease, by a hash as a caller may use it.
func rankOf(c Candidacy, node string, nodes []string) (rank int) {
	weight := func(node string) uint64 {
		h := fnv.New64a()
		h.Write([]byte(c.Mandate() + "/" + node))
		x := h.Sum64() // FNV of strings that differ in the end only differs in the low bits only
		x ^= x >> 33
		x *= 0xff51afd7ed558ccd
		return x ^ x>>33
	}
	for _, other := range nodes {
		if weight(other) > weight(node) {
			rank++
		}
	}
	return rank
}

// squadron is some nodes that stand for the same Leases.
func squadron(t *testing.T, s *apiServer, l *ledger, nodes, leases int, change func(*FleetOptions)) (list []*vessel) {
	t.Helper()
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprintf("node-%d", i+1))
	}
	for _, name := range names {
		v := newVessel(s, l, name, change)
		for i := range leases {
			c := web(i)
			c.Rank = rankOf(c, name, names)
			v.stand(t, c)
		}
		list = append(list, v)
	}
	for _, v := range list {
		v.sail(t)
	}
	return list
}

// bestHas is how many Leases are held by the node that is first in rank for them.
func bestHas(l *ledger, nodes []*vessel, leases int) (n int) {
	var names []string
	for _, v := range nodes {
		names = append(names, v.name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range leases {
		for node, until := range l.until[web(i).Mandate()] {
			if until.After(time.Now()) && rankOf(web(i), node, names) == 0 {
				n++
			}
		}
	}
	return n
}

func calls(list []*vessel) map[string]int {
	sum := map[string]int{}
	for _, v := range list {
		for _, c := range []*apiClient{v.renewals, v.watches} {
			for verb, n := range c.count() {
				sum[verb] += n
			}
		}
	}
	return sum
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func leaseOf(t *testing.T, s *apiServer, c Candidacy) *coordinationv1.Lease {
	t.Helper()
	lease, err := s.get(c.key())
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// A hundred Leases on three nodes: nothing is asked, and each is renewed once a second, evenly over the second.
func TestFleetAtRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 100
		s, l := newAPIServer(), newLedger()
		nodes := squadron(t, s, l, 3, leases, nil)
		within(t, 2*time.Second, "every Lease is held", func() bool { return l.all() == leases })
		time.Sleep(3 * time.Second)
		moves := l.moved()
		before := calls(nodes)
		for tenth := range 300 {
			updates := calls(nodes)["update"]
			time.Sleep(100 * time.Millisecond)
			if n := calls(nodes)["update"] - updates; n < 5 || n > 15 {
				t.Errorf("tenth %d: %d renewals, want 10 or so", tenth, n)
			}
		}
		after := calls(nodes)
		if n := after["update"] - before["update"]; n > 30*leases+3 || n < 30*leases-leases {
			t.Errorf("%d renewals in 30 s, want 100 a second and no more", n)
		}
		before["update"] = after["update"]
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("calls at rest, beside renewals (-before +after):\n%s", diff)
		}
		if l.moved() != moves || l.all() != leases {
			t.Errorf("%d moves at rest; %d are held", l.moved()-moves, l.all())
		}
		l.check(t)
	})
}

// After a node died another one has taken all that it had at once, and renews it evenly all the same.
func TestFleetSpreadsWhatItTookAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 100
		s, l := newAPIServer(), newLedger()
		dying := launch(t, s, l, "node-1", nil)
		for i := range leases {
			dying.stand(t, web(i))
		}
		within(t, 2*time.Second, "the first node has all", func() bool { return l.count()["node-1"] == leases })
		heir := launch(t, s, l, "node-2", nil)
		for i := range leases {
			heir.stand(t, web(i))
		}
		time.Sleep(time.Second)
		dying.set(refused)
		within(t, fast.Lease+time.Second, "the second node has all", func() bool { return l.count()["node-2"] == leases })
		time.Sleep(fast.Retry)
		for tenth := range 50 {
			updates := heir.renewals.count()["update"]
			time.Sleep(100 * time.Millisecond)
			if n := heir.renewals.count()["update"] - updates; n < 5 || n > 15 {
				t.Errorf("tenth %d: %d renewals, want 10 or so", tenth, n)
			}
		}
		l.check(t)
	})
}

// A thousand Leases of the usual timing: no call is held back, nothing moves. An hour of it: -fleet-minutes=60.
func TestFleetOfAThousand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 1000
		s, l := newAPIServer(), newLedger()
		nodes := squadron(t, s, l, 3, leases, func(o *FleetOptions) { o.Timing = slow })
		within(t, 5*time.Second, "every Lease is held", func() bool { return l.all() == leases })
		time.Sleep(3 * time.Second)
		moves, before, held := l.moved(), calls(nodes), l.count()
		rest := time.Duration(*fleetMinutes) * time.Minute
		time.Sleep(rest)
		after := calls(nodes)
		want := leases * int(rest/slow.Retry)
		if n := after["update"] - before["update"]; n > want+leases || n < want-leases {
			t.Errorf("%d renewals in %s, want %d", n, rest, want)
		}
		before["update"] = after["update"]
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("calls at rest, beside renewals (-before +after):\n%s", diff)
		}
		if l.moved() != moves {
			t.Errorf("%d moves at rest", l.moved()-moves)
		}
		l.check(t)
		for _, v := range nodes {
			if n := v.count("level=WARN") + v.count("level=ERROR"); n > 0 {
				t.Errorf("%s complained:\n%s", v.name, v.text.String()[:2000])
			}
		}
		began := time.Now()
		for _, v := range nodes {
			v.cancel()
		}
		for _, v := range nodes {
			if err := v.stop(t); err != nil {
				t.Error(err)
			}
		}
		t.Logf("held %v; stopped within %s", held, time.Since(began))
		if d := time.Since(began); d > time.Second {
			t.Errorf("stopping took %s", d)
		}
		if l.all() > 0 {
			t.Errorf("%v are held after all stopped", l.count())
		}
	})
}

// Three nodes that start together share three hundred Leases.
func TestFleetsSpread(t *testing.T) {
	for _, starts := range []string{"together", "with every Lease there and free"} {
		t.Run(starts, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const leases = 300
				s, l := newAPIServer(), newLedger()
				if starts != "together" {
					for i := range leases {
						lease := record("", 0, 0)
						lease.Namespace, lease.Name, lease.ResourceVersion = "default", web(i).Name, ""
						if _, err := s.create(lease); err != nil {
							t.Fatal(err)
						}
					}
				}
				nodes := squadron(t, s, l, 3, leases, nil)
				within(t, 3*time.Second, "every Lease is held", func() bool { return l.all() == leases })
				for node, n := range l.count() {
					if n > leases/3*5/4 || n < leases/3*3/4 {
						t.Errorf("%s has %d of %d", node, n, leases)
					}
				}
				if n := bestHas(l, nodes, leases); n < leases*9/10 {
					t.Errorf("%d of %d Leases are on the node that is the best for them", n, leases)
				}
				l.check(t)
				t.Log(l.count(), calls(nodes))
			})
		})
	}
}

// The first in rank gets a Lease that is free, whoever saw it first.
func TestFleetRank(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 20
		s, l := newAPIServer(), newLedger()
		var nodes []*vessel
		for i := range 3 {
			nodes = append(nodes, launch(t, s, l, fmt.Sprintf("node-%d", i+1), nil))
		}
		rank := func(ranks ...int) {
			for i, rank := range ranks {
				for j := range leases {
					c := web(j)
					c.Rank = rank
					nodes[i].stand(t, c)
				}
			}
		}
		rank(1, 2, 0)
		within(t, 200*time.Millisecond, "the best ranked has all", func() bool { return l.count()["node-3"] == leases })
		time.Sleep(time.Second)
		rank(2, 0, 1) // a better candidate is no reason to let go
		time.Sleep(10 * time.Second)
		if l.count()["node-3"] != leases || l.moved() != leases {
			t.Errorf("%d moves to %v", l.moved()-leases, l.count())
		}
		for j := range leases {
			nodes[2].Leave("default", web(j).Name)
		}
		within(t, 200*time.Millisecond, "the new best has all", func() bool { return l.count()["node-2"] == leases })
		l.check(t)
	})
}

// A node whose watches show nothing for ten seconds keeps what it has.
func TestFleetWithoutItsFeed(t *testing.T) {
	for _, fault := range []outage{refused, hangs, deaf} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const leases = 60
				s, l := newAPIServer(), newLedger()
				nodes := squadron(t, s, l, 2, leases, nil)
				within(t, 2*time.Second, "every Lease is held", func() bool { return l.all() == leases })
				time.Sleep(2 * time.Second)
				moves := l.moved()
				nodes[0].watches.set(fault)
				if fault == refused {
					nodes[0].watches.cut()
				}
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					if l.all() != leases {
						t.Fatalf("%v are held", l.count())
					}
				}
				nodes[0].watches.set(up)
				time.Sleep(20 * time.Second)
				steady := calls(nodes)
				time.Sleep(20 * time.Second)
				now := calls(nodes)
				steady["update"] = now["update"]
				if diff := cmp.Diff(steady, now); diff != "" {
					t.Errorf("calls when all is well again (-before +after):\n%s", diff)
				}
				if l.moved() != moves {
					t.Errorf("%d moves", l.moved()-moves)
				}
				if fault == refused && (nodes[0].count("level=WARN", "the Leases can not be seen") != 1 || nodes[0].count("level=INFO", "can be seen again") != 1) {
					t.Errorf("want it said once, and once when it is over:\n%s", nodes[0].text.String())
				}
				// What happened meanwhile is known: what another gives up is taken.
				if err := nodes[1].stop(t); err != nil {
					t.Error(err)
				}
				within(t, time.Second, "all are taken", func() bool { return l.count()["node-1"] == leases })
				l.check(t)
			})
		})
	}
}

// A thousand Leases are stood for and left, again and again: nothing of them stays.
func TestFleetLeavesNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 1000
		s, l := newAPIServer(), newLedger()
		registry := prometheus.NewRegistry()
		v := launch(t, s, l, "node-1", func(o *FleetOptions) { o.Registerer, o.Timing, o.CallsPerSecond = registry, slow, 1000 })
		time.Sleep(time.Second)
		measure := func() (goroutines int, heap uint64) {
			synctest.Wait()
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return runtime.NumGoroutine(), m.HeapAlloc
		}
		round := func() {
			for i := range leases {
				v.stand(t, web(i))
			}
			within(t, 5*time.Second, "all are held", func() bool { return l.all() == leases })
			if n := len(gather(t, registry)); n != 2*leases+1 {
				t.Errorf("%d metrics while %d Leases are held", n, leases)
			}
			for i := range leases {
				v.Leave("default", web(i).Name)
			}
			within(t, 3*time.Second, "none is held", func() bool { return l.all() == 0 })
			time.Sleep(time.Second)
			for i := range leases {
				lease := leaseOf(t, s, web(i))
				if *lease.Spec.HolderIdentity != "" {
					t.Fatalf("%s is still %q's", lease.Name, *lease.Spec.HolderIdentity)
				}
				if err := s.delete(key(lease)); err != nil { // by the garbage collector, as its owner is gone
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			// What the API server and the ledger remember is not the Fleet's.
			s.mu.Lock()
			s.history = nil
			s.mu.Unlock()
			l.mu.Lock()
			clear(l.until)
			clear(l.told)
			clear(l.grants)
			l.mu.Unlock()
			v.Fleet.mu.Lock()
			seats := len(v.seats)
			v.Fleet.mu.Unlock()
			feed := v.company.feed
			feed.mu.Lock()
			known, gone, readers := len(feed.leases), len(feed.gone), len(feed.readers)
			feed.mu.Unlock()
			turns := v.company.turns
			turns.mu.Lock()
			defer turns.mu.Unlock()
			p := turns.pace
			if seats+known+gone+readers+p.busy+p.claiming+p.held+len(p.duties)+len(p.claims) > 0 {
				t.Errorf("left: %d seats, %d Leases, %d gone, %d readers, pace %+v", seats, known, gone, readers, p)
			}
			if n := len(gather(t, registry)); n != 1 {
				t.Errorf("%d metrics are left, want the histogram of all alone", n)
			}
			v.notebook.mu.Lock()
			defer v.notebook.mu.Unlock()
			v.text.Reset()
		}
		round() // what is made for the first time stays
		goroutines, heap := measure()
		for range 3 {
			round()
		}
		goroutinesNow, heapNow := measure()
		t.Logf("%d goroutines and %d KiB, %d and %d KiB after three thousand more", goroutines, heap>>10, goroutinesNow, heapNow>>10)
		if goroutinesNow > goroutines {
			t.Errorf("%d goroutines, before %d", goroutinesNow, goroutines)
		}
		if heapNow > heap+heap/4+1<<20 {
			t.Errorf("%d KiB, before %d", heapNow>>10, heap>>10)
		}
	})
}

// Stopping is bounded in time, however many Leases there are and however the API is.
func TestFleetStops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		leases int
		before func(*vessel)
		within time.Duration
		err    string
		left   int // Leases that are left to expire, at most
	}{
		{"well", 1000, func(*vessel) {}, 500 * time.Millisecond, "", 0},
		{"slow", 300, func(v *vessel) { v.renewals.slow(400 * time.Millisecond) }, stopDeadline, "", 0},
		{"refused", 1000, func(v *vessel) { v.set(refused) }, stopDeadline, "1000 Leases are left to expire", 1000},
		{"hangs", 1000, func(v *vessel) { v.set(hangs) }, stopDeadline, "1000 Leases are left to expire", 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, l := newAPIServer(), newLedger()
				v := launch(t, s, l, "node-1", func(o *FleetOptions) { o.Timing, o.CallsPerSecond = slow, 500 })
				for i := range tt.leases {
					v.stand(t, web(i))
				}
				within(t, 5*time.Second, "all are held", func() bool { return l.all() == tt.leases })
				time.Sleep(3 * time.Second)
				tt.before(v)
				v.renewals.most()
				began := time.Now()
				err := v.stop(t)
				d := time.Since(began)
				t.Logf("stopped within %s: %v", d, err)
				if d > tt.within {
					t.Errorf("took %s, want %s at most", d, tt.within)
				}
				if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Run returned %v, want %q", err, tt.err)
				}
				if l.all() > 0 {
					t.Errorf("%d are still on the node", l.all())
				}
				if n := v.renewals.most(); n > DefaultCallsInFlight {
					t.Errorf("%d calls at once", n)
				}
				left := 0
				for i := range tt.leases {
					if *leaseOf(t, s, web(i)).Spec.HolderIdentity != "" {
						left++
					}
				}
				if left > tt.left {
					t.Errorf("%d are left to expire", left)
				}
				if list := leftOfFleet(); len(list) > 0 {
					t.Errorf("after Run returned there run still:\n%s", strings.Join(list, "\n\n"))
				}
				if v.Stand(web(0)) != nil {
					t.Error("Stand fails after Run")
				}
				v.Leave("default", web(0).Name)
			})
		})
	}
}

func leftOfFleet() []string {
	return slices.DeleteFunc(left(), func(g string) bool { return strings.Contains(g, "TestFleet") })
}

// An API that takes half a second for each call gets no more of them at once than it may, and nobody loses a Lease.
func TestFleetOnASlowAPI(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 300
		s, l := newAPIServer(), newLedger()
		v := launch(t, s, l, "node-1", func(o *FleetOptions) { o.Timing = slow })
		for i := range leases {
			v.stand(t, web(i))
		}
		within(t, 5*time.Second, "all are held", func() bool { return l.all() == leases })
		time.Sleep(3 * time.Second)
		v.renewals.slow(time.Second) // and 0.5 s in the mean
		time.Sleep(time.Minute)
		if l.all() != leases || l.moved() != leases {
			t.Errorf("%d are held, after %d moves", l.all(), l.moved())
		}
		if n := v.renewals.most(); n > DefaultCallsInFlight || n < DefaultCallsInFlight/2 {
			t.Errorf("%d calls at once, want %d at most, and about that", n, DefaultCallsInFlight)
		}
		l.check(t)
	})
}

// The API is away for longer than a mandate, or answers nobody: when it is back all are held again, within the time
// that the calls need, and the log has a few lines about it.
func TestFleetAfterAnOutage(t *testing.T) {
	for _, fault := range []outage{refused, hangs, lossy} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const leases = 300
				s, l := newAPIServer(), newLedger()
				nodes := squadron(t, s, l, 3, leases, nil)
				within(t, 3*time.Second, "every Lease is held", func() bool { return l.all() == leases })
				time.Sleep(2 * time.Second)
				for _, v := range nodes {
					v.set(fault)
				}
				time.Sleep(20 * time.Second)
				if l.all() > 0 {
					t.Errorf("%d are held without an API", l.all())
				}
				for _, v := range nodes {
					v.set(up)
				}
				// A watch whose answer was lost is waited for.
				within(t, watchTimeout+fast.Lease+4*time.Second, "every Lease is held again", func() bool { return l.all() == leases })
				l.check(t)
				for _, v := range nodes {
					for _, line := range []struct {
						most  int
						parts []string
					}{{12, []string{"level=WARN"}}, {0, []string{"level=ERROR"}}, {1, []string{"level=INFO", "the API answers for the Leases again"}}} {
						if n := v.count(line.parts...); n > line.most {
							t.Errorf("%s: %d lines of %v", v.name, n, line.parts)
						}
					}
				}
			})
		})
	}
}

// More Leases than can be renewed in time are not taken, and nobody loses what is held for their sake.
func TestFleetTakesNoMoreThanItCanKeep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases, most = 200, 150 // a renewal every 1.5 s at the latest
		s, l := newAPIServer(), newLedger()
		v := launch(t, s, l, "node-1", func(o *FleetOptions) { o.CallsPerSecond = 100 })
		for i := range leases {
			v.stand(t, web(i))
		}
		time.Sleep(20 * time.Second)
		moves := l.moved()
		if l.all() != most || moves != most {
			t.Errorf("%d are held after %d moves, want %d", l.all(), moves, most)
		}
		updates := v.renewals.count()["update"]
		time.Sleep(20 * time.Second)
		if n := v.renewals.count()["update"] - updates; n > 20*100+10 || n < 20*90 {
			t.Errorf("%d renewals in 20 s, want as many as are allowed", n)
		}
		if l.all() != most || l.moved() != moves {
			t.Errorf("%d are held after %d moves, want no move", l.all(), l.moved()-moves)
		}
		if n := v.count("level=ERROR", "no more Leases are taken than can be renewed in time", "leases=150", "vip_retryperiod to 2"); n != 1 {
			t.Errorf("said %d times, want once:\n%s", n, v.text.String())
		}
		if n := v.count("level=WARN", "could not hold every Lease", "vip_retryperiod to 2"); n != 1 {
			t.Errorf("warned %d times, want once", n)
		}
		// Another node takes the others.
		other := launch(t, s, l, "node-2", nil)
		for i := range leases {
			other.stand(t, web(i))
		}
		within(t, time.Second, "all are held", func() bool { return l.all() == leases })
		l.check(t)
	})
}

func TestFleetOwnsItsLeases(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		v := launch(t, s, l, "node-1", nil)
		owner := func(uid types.UID) *metav1.OwnerReference {
			return &metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: "web", UID: uid}
		}
		c := Candidacy{Namespace: "default", Name: "kubevip-web", Owner: owner("1"), Labels: map[string]string{"a": "b"}}
		v.stand(t, c)
		want := func(what string, owner *metav1.OwnerReference) {
			t.Helper()
			lease := leaseOf(t, s, c)
			if diff := cmp.Diff([]metav1.OwnerReference{*owner}, lease.OwnerReferences); diff != "" || lease.Labels["a"] != "b" || *lease.Spec.HolderIdentity != "node-1" {
				t.Errorf("%s: Lease %v; owners (-want +got):\n%s", what, lease, diff)
			}
		}
		time.Sleep(100 * time.Millisecond)
		want("created", owner("1"))
		if err := s.edit(c.key(), func(l *coordinationv1.Lease) { l.OwnerReferences, l.Labels = nil, nil }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(fast.Retry + 100*time.Millisecond)
		want("after somebody removed it", owner("1"))
		c.Owner = owner("2")
		v.stand(t, c)
		time.Sleep(fast.Retry + 100*time.Millisecond)
		want("after its owner was made again", owner("2"))
		if l.moved() != 1 {
			t.Errorf("%d moves", l.moved())
		}
		// A Lease that is another's is not touched.
		other := launch(t, s, l, "node-2", nil)
		stranger := c
		stranger.Owner = owner("3")
		other.stand(t, stranger)
		time.Sleep(3 * time.Second)
		want("while another stands too", owner("2"))
	})
}

// Log lines and metrics, beside an Election of the control plane that has the same registry.
func TestFleetLogsAndMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 50
		s, l := newAPIServer(), newLedger()
		registry := prometheus.NewPedanticRegistry()
		plane := run(t, s, "node-1", func(o *Options) { o.Registerer = registry })
		var mu sync.Mutex
		led := map[string][]Lead{}
		first := launch(t, s, l, "node-1", func(o *FleetOptions) {
			o.Registerer = registry
			o.Led = func(mandate string, l Lead) {
				mu.Lock()
				defer mu.Unlock()
				led[mandate] = append(led[mandate], l)
			}
		})
		for i := range leases {
			first.stand(t, web(i))
		}
		time.Sleep(time.Second)
		second := launch(t, s, l, "node-2", nil)
		for i := range leases {
			second.stand(t, web(i))
		}
		time.Sleep(5 * time.Second)
		metrics := gather(t, registry)
		for name, want := range map[string]float64{
			`kube_vip_is_leader{lease_name=plndr-cp-lock,node=node-1}`:                     1,
			`kube_vip_leader_election_transitions_total{lease_name=plndr-cp-lock}`:         1,
			`kube_vip_is_leader{lease_name=default/kubevip-web-7,node=node-1}`:             1,
			`kube_vip_leader_election_transitions_total{lease_name=default/kubevip-web-7}`: 1,
		} {
			if metrics[name] != want {
				t.Errorf("%s is %g, want %g", name, metrics[name], want)
			}
		}
		if metrics[`kube_vip_lease_renew_duration_seconds{lease_name=plndr-cp-lock}`] < 5 || metrics[`kube_vip_lease_renew_duration_seconds{}`] < 5*leases {
			t.Errorf("renewals are not counted: %v", metrics)
		}
		if n := len(metrics); n != 3+2*leases+1 {
			t.Errorf("%d metrics", n)
		}
		first.Leave("default", web(7).Name)
		time.Sleep(time.Second)
		metrics = gather(t, registry)
		for name := range metrics {
			if strings.Contains(name, "kubevip-web-7,") || strings.Contains(name, "kubevip-web-7}") {
				t.Errorf("%s is there after the Lease was left", name)
			}
		}
		if err := errors.Join(plane.stop(t), first.stop(t)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if n := len(gather(t, registry)); n != 4 {
			t.Errorf("%d metrics after all ended, want those of the control plane and the histogram", n)
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]Lead{{Held: true, Why: Founded}, {}}, led[web(3).Mandate()]); diff != "" || len(led) != leases {
			t.Errorf("Led was told of %d mandates; of one (-want +got):\n%s", len(led), diff)
		}
		for _, want := range []struct {
			on    *vessel
			count int
			parts []string
		}{
			{first, 1, []string{"level=INFO", `msg="standing for Leases"`, `namespace="all namespaces"`, "id=node-1"}},
			{first, leases, []string{"level=INFO", `msg="this node holds the Lease"`}},
			{first, leases, []string{"level=INFO", `msg="this node does not hold the Lease any more"`, "why=stopping"}},
			{first, 1 + 2*leases, []string{"level=INFO"}},
			{second, 1 + leases, []string{"level=INFO"}},
			{second, leases, []string{"level=DEBUG", `msg="Beginning cluster membership"`}},
			{second, leases, []string{"level=DEBUG", `msg="new leader elected: node-1"`}},
			{first, 0, []string{"level=WARN"}},
			{second, 0, []string{"level=WARN"}},
		} {
			if got := want.on.count(want.parts...); got != want.count {
				t.Errorf("%s: %d log lines with %q, want %d", want.on.name, got, want.parts, want.count)
			}
		}
	})
}

func TestFleetRefuses(t *testing.T) {
	v := newVessel(newAPIServer(), newLedger(), "node-1", func(o *FleetOptions) {
		o.Namespace = "default"
		o.Reserved = func(namespace, name string) bool { return name == simLease || strings.HasPrefix(name, MemberPrefix) }
	})
	for _, tt := range []struct{ namespace, name, want string }{
		{"default", "kubevip-web", ""},
		{"", "kubevip-web", "namespace and name are required"},
		{"default", "", "namespace and name are required"},
		{"other", "kubevip-web", "only Leases in default are watched"},
		{"default", simLease, "used otherwise"},
		{"default", MemberPrefix + "web", "used otherwise"},
	} {
		err := v.Stand(Candidacy{Namespace: tt.namespace, Name: tt.name})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s/%s: %v, want %q", tt.namespace, tt.name, err, tt.want)
		}
	}
	v = newVessel(newAPIServer(), newLedger(), "node-1", func(o *FleetOptions) { o.Timing.Retry = 0 })
	if err := v.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "above zero") {
		t.Errorf("Run with a timing that can not work: %v", err)
	}
}

// Doing it twice is doing it once; leaving and standing again in one breath is a new beginning; what was stood for
// before Run counts.
func TestFleetStandAndLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		v := newVessel(s, l, "node-1", nil)
		c := web(0)
		v.stand(t, web(1))
		v.Leave("default", web(1).Name)
		v.stand(t, c)
		v.Leave("default", "never stood for")
		v.sail(t)
		time.Sleep(100 * time.Millisecond)
		if diff := cmp.Diff([]string{"grant " + c.Mandate()}, l.said("node-1")); diff != "" {
			t.Fatalf("the Granter was told (-want +got):\n%s", diff)
		}
		steady := v.renewals.count()
		for range 100 {
			v.stand(t, c)
		}
		time.Sleep(500 * time.Millisecond)
		if now := v.renewals.count(); now["update"] > steady["update"]+1 {
			t.Errorf("standing again costs %d calls", now["update"]-steady["update"])
		}

		l.offTakes = 300 * time.Millisecond
		v.Leave("default", c.Name)
		v.Leave("default", c.Name)
		time.Sleep(200 * time.Millisecond)
		if lease := leaseOf(t, s, c); *lease.Spec.HolderIdentity != "node-1" {
			t.Errorf("given up while the address is still there: %v", lease.Spec)
		}
		v.stand(t, c)
		v.Leave("default", c.Name)
		v.stand(t, c)
		time.Sleep(500 * time.Millisecond)
		if diff := cmp.Diff([]string{"grant " + c.Mandate(), "off " + c.Mandate(), "grant " + c.Mandate()}, l.said("node-1")); diff != "" {
			t.Errorf("the Granter was told (-want +got):\n%s", diff)
		}
		c.Health, c.Reason = Unable, "the link is down"
		v.stand(t, c)
		time.Sleep(400 * time.Millisecond)
		if lease := leaseOf(t, s, c); l.all() != 0 || *lease.Spec.HolderIdentity != "" {
			t.Errorf("a node that is not able has it still: %v", lease.Spec)
		}
		if n := v.renewals.count()["get"]; n > 0 {
			t.Errorf("%d reads", n)
		}
		if n := v.count("level=WARN") + v.count("level=ERROR"); n > 0 {
			t.Errorf("complained:\n%s", v.text.String())
		}
		v.Leave("default", c.Name)
		time.Sleep(time.Second)
		v.Fleet.mu.Lock()
		defer v.Fleet.mu.Unlock()
		if len(v.seats) > 0 {
			t.Errorf("%d seats are left", len(v.seats))
		}
	})
}

// A process that was killed and is started again at once finds its Leases by its list, and goes on.
func TestFleetRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const leases = 100
		s, l := newAPIServer(), newLedger()
		rank := func(v *vessel, rank int) {
			for i := range leases {
				c := web(i)
				c.Rank = rank
				v.stand(t, c)
			}
		}
		first := launch(t, s, l, "node-1", nil)
		rank(first, 0)
		within(t, 2*time.Second, "all are held", func() bool { return l.count()["node-1"] == leases })
		other := launch(t, s, l, "node-2", nil)
		rank(other, 1)
		time.Sleep(2 * time.Second)
		first.kill()
		moves := l.moved()
		again := launch(t, s, l, "node-1", nil)
		rank(again, 5)
		time.Sleep(time.Second)
		if n := again.renewals.count(); n["get"] > 0 || n["create"] > 0 || n["update"] < leases {
			t.Errorf("calls after the start: %v; want updates alone", n)
		}
		time.Sleep(time.Minute)
		if l.moved() != moves || l.count()["node-1"] != leases {
			t.Errorf("%d moves, %v", l.moved()-moves, l.count())
		}
		l.check(t)
	})
}

// An instance of the existing kube-vip is on the same lock: its Lease has no label and no owner, and it is seen all
// the same, without a read.
func TestFleetBesideClientGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		old := elect(t, s, "old", fast)
		time.Sleep(time.Second)
		v := launch(t, s, l, "node-1", nil)
		c := Candidacy{Namespace: simNamespace, Name: simLease}
		v.stand(t, c)
		time.Sleep(time.Minute)
		if !old.leading() || l.all() > 0 || len(v.renewals.count()) > 0 {
			t.Errorf("the old one leads: %t, we have %v, after calls %v", old.leading(), l.count(), v.renewals.count())
		}
		if h, ok := v.Holder(c.Namespace, c.Name); !ok || h.Identity != "old" || time.Since(h.Renewed) > 3*time.Second || time.Until(h.Expires) < time.Second || time.Until(h.Expires) > 5*time.Second {
			t.Errorf("holder %+v, %t", h, ok)
		}
		old.stop()
		within(t, 100*time.Millisecond, "taken after a release", func() bool { return l.count()["node-1"] == 1 })
		if h, _ := v.Holder(c.Namespace, c.Name); h.Identity != "node-1" {
			time.Sleep(20 * time.Millisecond)
			if h, _ = v.Holder(c.Namespace, c.Name); h.Identity != "node-1" {
				t.Errorf("holder %+v", h)
			}
		}
		node := record("node-7", 0, 0)
		node.Namespace, node.ResourceVersion = "kube-node-lease", ""
		member := record("node-7", 0, 0)
		member.Name, member.ResourceVersion, member.Labels = MemberPrefix+"node-7", "", map[string]string{MemberLabel: "true"}
		for _, l := range []*coordinationv1.Lease{node, member} {
			if _, err := s.create(l); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for _, k := range []types.NamespacedName{{Namespace: "default", Name: "nothing"}, key(node), key(member)} {
			if h, ok := v.Holder(k.Namespace, k.Name); ok {
				t.Errorf("%s is held by %+v; want it not watched", k, h)
			}
		}
	})
}

// While no Lease is held nothing happens, and that is no reason to begin the watch again; while one is held it is.
func TestFleetBeginsASilentFeedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		v := launch(t, s, l, "node-1", nil)
		c := web(0)
		c.Health, c.Reason = Unable, "for now"
		v.stand(t, c)
		time.Sleep(time.Second)
		before := v.watches.count()
		time.Sleep(time.Hour)
		if diff := cmp.Diff(before, v.watches.count()); diff != "" {
			t.Errorf("calls while nothing happens (-before +after):\n%s", diff)
		}
		v.watches.set(deaf)
		c.Health = Healthy
		v.stand(t, c)
		time.Sleep(12 * time.Second)
		v.watches.set(up)
		time.Sleep(time.Second)
		if after := v.watches.count(); after["list"] != before["list"]+2 {
			t.Errorf("%v calls after %v; want two more lists", after, before)
		}
		if h, ok := v.Holder(c.Namespace, c.Name); !ok || h.Identity != "node-1" || l.moved() != 1 {
			t.Errorf("holder %+v; %d moves", h, l.moved())
		}
	})
}

// The API server has forgotten where the watch was: it is begun again with a list.
func TestFleetFeedExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		v := launch(t, s, l, "node-1", nil)
		v.stand(t, web(0))
		time.Sleep(time.Second)
		v.watches.slow(400 * time.Millisecond)
		v.watches.cut()
		before := v.watches.count()
		within(t, time.Second, "a list", func() bool { return v.watches.count()["list"] > before["list"] })
		within(t, time.Second, "a watch", func() bool {
			noise := types.NamespacedName{Namespace: "default", Name: "noise"}
			s.create(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: noise.Namespace, Name: noise.Name}})
			for range historyLength { // until the end of the list is not in the history any more
				s.edit(noise, func(l *coordinationv1.Lease) { l.Annotations = map[string]string{"at": l.ResourceVersion} })
			}
			return v.watches.count()["watch"] > before["watch"]
		})
		v.watches.slow(wellLatency)
		time.Sleep(3 * time.Second)
		if v.count("watching the Leases ended", "too old resource version") == 0 || v.count("level=WARN") > 0 {
			t.Errorf("want it begun again without a warning:\n%s", v.text.String())
		}
		other := launch(t, s, l, "node-2", nil)
		other.stand(t, web(0))
		time.Sleep(time.Second)
		if err := v.stop(t); err != nil {
			t.Error(err)
		}
		within(t, 100*time.Millisecond, "the other has it", func() bool { return l.count()["node-2"] == 1 })
	})
}

// An unhealthy node gives its Leases up for a healthy one, and keeps them while there is none.
func TestFleetUnhealthy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, l := newAPIServer(), newLedger()
		launchWith := func(name string) (*vessel, *attendee) {
			m := attend(t, s, name, "services")
			m.SetHealth(Healthy, "")
			return launch(t, s, l, name, func(o *FleetOptions) { o.Members, o.Group = m.Members, "services" }), m
		}
		one, members := launchWith("node-1")
		for i := range 10 {
			one.stand(t, web(i))
		}
		time.Sleep(time.Second)
		unwell := func() {
			members.SetHealth(Unhealthy, "why")
			for i := range 10 {
				c := web(i)
				c.Health, c.Reason = Unhealthy, "why"
				one.stand(t, c)
			}
		}
		unwell()
		time.Sleep(10 * time.Second)
		if l.count()["node-1"] != 10 {
			t.Errorf("nobody else is there, and it has let go: %v", l.count())
		}
		two, _ := launchWith("node-2")
		for i := range 10 {
			two.stand(t, web(i))
		}
		within(t, 2*time.Second, "the healthy one has all", func() bool { return l.count()["node-2"] == 10 })
		l.check(t)
	})
}
