package ha

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"
)

var (
	seeds     = flag.Int("seeds", defaultSeeds, "how many seeds the simulation runs")
	firstSeed = flag.Uint64("first-seed", 1, "the first of them")
	oneSeed   = flag.Uint64("seed", 0, "run the simulation with this seed alone, and print what happens")
)

const (
	simNamespace = "kube-system"
	simLease     = "plndr-cp-lock"
	// kernelLate is by how much the kernel's timer may take an address away late (measured: 0.22 s).
	kernelLate = 220 * time.Millisecond
	// watchBound is how long two nodes may have the address after a stranger emptied the Lease under a holder that
	// is well: until a watch has told it and its address is off. A holder that can not be told keeps the address
	// until its mandate ends.
	watchBound = 100 * time.Millisecond
	// wellLatency is a request's at most, there and back, when all is well.
	wellLatency = 10 * time.Millisecond
)

var simKey = types.NamespacedName{Namespace: simNamespace, Name: simLease}

// fleetKeys are the Leases that Fleets stand for.
var fleetKeys = []types.NamespacedName{{Namespace: "default", Name: "kubevip-web"}, {Namespace: "other", Name: "kubevip-web"}, {Namespace: "other", Name: "kubevip-mail"}}

// segment is the network that the nodes share: it knows who has the address at each moment.
type segment struct {
	note func(string, ...any)

	mu         sync.Mutex           // guards the fields below
	since      map[string]time.Time // per node, when it got the address
	until      map[string]time.Time // and when its kernel takes it away
	violations []string
	moves      int
	// excuse says why two nodes may have the address just now; empty if they may not.
	excuse func(first, second string, since time.Time) string
	// announced is told of a node that gets the address; may be nil.
	announced func(by string)
}

func (s *segment) put(node string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.until[node].After(now) {
		s.moves++
		s.since[node] = now
		s.note("%s has the address", node)
		if s.announced != nil {
			s.announced(node)
		}
	}
	s.until[node] = until
	for other, u := range s.until {
		if other == node || !u.After(now) {
			continue
		}
		first, second := other, node
		if s.since[node].Before(s.since[other]) {
			first, second = node, other
		}
		why := s.excuse(first, second, s.since[first])
		s.note("%s has the address, and %s as well (%s)", first, second, why)
		if why == "" {
			s.violations = append(s.violations, fmt.Sprintf("%s: %s has the address, and %s as well", clock(), first, second))
		}
	}
}

func (s *segment) remove(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until[node].After(time.Now()) {
		s.note("%s takes the address off", node)
	}
	delete(s.until, node)
}

// have lists the nodes that have the address.
func (s *segment) have() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for node, until := range s.until {
		if until.After(time.Now()) {
			list = append(list, node)
		}
	}
	slices.Sort(list)
	return list
}

func (s *segment) moved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moves
}

func clock() string { return time.Now().Format("04:05.000") }

// tables is a Granter of several mandates.
type tables map[string]*table

var _ Granter = tables(nil)

func (t tables) Grant(mandate string, until time.Time) { t[mandate].Grant(mandate, until) }

func (t tables) Revoke(mandate string) func(context.Context) error { return t[mandate].Revoke(mandate) }

func (t tables) impair(stuck, busy bool) {
	for _, table := range t {
		table.impair(stuck, busy)
	}
}

// table is a Granter that does what vip.Table does, on a segment: one goroutine that compares, an address that the
// kernel takes away by itself, and nothing without the process.
type table struct {
	node    string
	segment *segment
	gate    *gate
	rng     *rand.Rand
	wake    chan struct{}

	mu     sync.Mutex // guards the fields below
	known  bool
	until  time.Time
	asked  int
	seen   int
	passed chan struct{}
	left   error
	stuck  bool // the address can not be taken off
	busy   bool // a pass takes its time
}

func newTable(node string, s *segment, g *gate, seed uint64) *table {
	return &table{node: node, segment: s, gate: g, rng: rand.New(rand.NewPCG(seed, 2)), wake: make(chan struct{}, 1), passed: make(chan struct{})}
}

var _ Granter = (*table)(nil)

func (t *table) Grant(_ string, until time.Time) {
	t.gate.wait()
	t.tell(until)
}

func (t *table) Revoke(string) func(context.Context) error {
	t.gate.wait()
	mine := t.tell(time.Time{})
	return func(ctx context.Context) error {
		for {
			t.gate.wait()
			t.mu.Lock()
			seen, passed, left := t.seen, t.passed, t.left
			t.mu.Unlock()
			if seen >= mine {
				return left
			}
			select {
			case <-passed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (t *table) tell(until time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.until = true, until
	t.asked++
	t.hint()
	return t.asked
}

func (t *table) hint() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *table) impair(stuck, busy bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stuck, t.busy = stuck, busy
	t.hint()
}

func (t *table) run(ctx context.Context) {
	for {
		t.gate.wait()
		if !t.gate.alive() {
			<-ctx.Done()
			return
		}
		next := t.pass()
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
			time.Sleep(t.delay())
		case <-time.After(next):
		}
	}
}

// delay is how long system calls take.
func (t *table) delay() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := 3 * time.Millisecond
	if t.busy {
		most = 500 * time.Millisecond
	}
	return time.Duration(t.rng.Int64N(int64(most)))
}

func (t *table) pass() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left = nil
	next := time.Second
	valid := time.Until(t.until)
	switch {
	case !t.known:
	case valid > 0:
		whole := max(time.Second, (valid + time.Second - 1).Truncate(time.Second))
		t.segment.put(t.node, time.Now().Add(whole+time.Duration(t.rng.Int64N(int64(kernelLate)))))
		next = min(next, valid)
	case t.stuck:
		t.left = errors.New("netlink: operation not permitted")
	default:
		t.segment.remove(t.node)
	}
	t.seen = t.asked
	close(t.passed)
	t.passed = make(chan struct{})
	return next
}

// process is one life of kube-vip on a node.
type process struct {
	node     string
	began    time.Time
	gate     *gate
	renewals *apiClient
	watches  *apiClient
	tables   tables
	election *Election // nil if there is a fleet
	fleet    *Fleet
	members  *Members
	ear      *ear // nil unless the simulation keeps
	cancel   context.CancelFunc
	done     chan struct{} // closed when Run of Election and Members have returned
	err      error         // Run's

	mu        sync.Mutex // guards sightings
	sightings []sighted
}

// sighted is who a process saw in the Lease, and when.
type sighted struct {
	lease  types.NamespacedName
	holder string
	at     time.Time
}

func (p *process) saw(l *coordinationv1.Lease) {
	if strings.HasPrefix(l.Name, MemberPrefix) || l.Spec.HolderIdentity == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sightings = append(p.sightings, sighted{key(l), *l.Spec.HolderIdentity, time.Now()})
}

// knew says whether the process had seen, before a time, the Lease that holder has had since.
func (p *process) knew(lease types.NamespacedName, holder string, since, before time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.sightings, func(s sighted) bool {
		return s.lease == lease && s.holder == holder && s.at.Before(before) && s.at.After(since.Add(-time.Second))
	})
}

// holders lists whom the process saw in the Lease after a time.
func (p *process) holders(lease types.NamespacedName, after time.Time) (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sightings {
		if s.lease == lease && s.at.After(after) {
			list = append(list, s.holder)
		}
	}
	return list
}

// node is a machine: what outlives a process.
type node struct {
	name string

	mu      sync.Mutex // guards the fields below
	proc    *process   // nil between two lives
	health  Health
	fault   outage
	latency time.Duration
	jam     bool      // its address can not be taken off
	busy    bool      // its address is put on and taken off late
	trouble time.Time // when something was wrong with it last
	ranks   []int     // per lock
	away    []bool    // per lock: it does not stand for it
}

// well says that nothing is wrong with the node that could keep it from hearing of a change at once.
func (n *node) well() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil && n.proc.gate.running() && n.fault == up && n.latency <= wellLatency && !n.jam && !n.busy &&
		time.Since(n.trouble) > 5*time.Second && time.Since(n.proc.began) > 5*time.Second
}

func (n *node) life() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// sim is one run of the simulation.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	seed    uint64
	timing  Timing
	tamper  func(*core, time.Time) decision // decides with a rule broken; nil means core.decide
	server  *apiServer
	fleets  bool // every process is a Fleet
	keeps   bool // mandates go on while the API does not answer
	locks   []*lock
	segment *segment // of the first
	nodes   []*node
	lives   uint64
	verbose bool
	errs    []string
	lost    time.Time // when answers were lost last

	mu      sync.Mutex // guards the fields below
	log     []string
	started []*process
}

// lock is a Lease and the address that goes with it.
type lock struct {
	s       *sim
	number  int
	key     types.NamespacedName
	mandate string
	*segment

	loose []intervention // a stranger emptied or deleted the Lease; guarded by sim.mu
}

// intervention is a stranger's: the Lease does not protect its holder any more.
type intervention struct {
	at      time.Time
	deleted bool
}

func newSim(t *testing.T, seed uint64, nodes int, timing Timing) *sim {
	s := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), timing: timing, server: newAPIServer()}
	s.addLock(simKey, simLease)
	s.segment = s.locks[0].segment
	for i := range nodes {
		s.nodes = append(s.nodes, &node{name: fmt.Sprintf("node-%d", i+1), latency: wellLatency, ranks: []int{0}, away: []bool{false}})
	}
	return s
}

// ranked gives every node a rank for every Lease. Ranks are opinions: two nodes may have the same.
func (s *sim) ranked() *sim {
	for _, n := range s.nodes {
		for i := range n.ranks {
			n.ranks[i] = s.rng.IntN(len(s.nodes))
		}
	}
	return s
}

// newFleetSim has Fleets instead of Elections.
func newFleetSim(t *testing.T, seed uint64, nodes int, timing Timing) *sim {
	s := newSim(t, seed, nodes, timing)
	s.fleets, s.locks = true, nil
	for _, k := range fleetKeys {
		s.addLock(k, k.String())
	}
	s.segment = s.locks[0].segment
	for _, n := range s.nodes {
		n.ranks, n.away = make([]int, len(s.locks)), make([]bool, len(s.locks))
	}
	return s.ranked()
}

func (s *sim) addLock(key types.NamespacedName, mandate string) {
	l := &lock{s: s, number: len(s.locks), key: key, mandate: mandate}
	l.segment = &segment{since: map[string]time.Time{}, until: map[string]time.Time{}, excuse: l.excuse,
		note: func(format string, args ...any) { s.note(mandate+": "+format, args...) }}
	s.locks = append(s.locks, l)
}

func (s *sim) anyLock() *lock { return s.locks[s.rng.IntN(len(s.locks))] }

func (s *sim) violations() (list []string) {
	for _, l := range s.locks {
		list = append(list, l.segment.violations...)
	}
	return list
}

func (s *sim) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, clock()+" "+fmt.Sprintf(format, args...))
}

func (s *sim) node(name string) *node {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no " + name)
}

// excuse says whether a stranger's hand is why second has the address while first, since, has it still. Nothing but
// an emptied Lease, or a deleted one that was made again by somebody who did not know its holder, is an excuse, and
// not for long.
func (l *lock) excuse(first, second string, since time.Time) string {
	s := l.s
	bound := watchBound
	if !s.node(first).well() {
		bound = s.timing.Renew + kernelRounding + kernelLate
	}
	s.mu.Lock()
	loose, lives := slices.Clone(l.loose), slices.Clone(s.started)
	s.mu.Unlock()
	var taker *process // which may have been killed since
	for _, p := range lives {
		if p.node == second {
			taker = p
		}
	}
	for _, by := range loose {
		ago := time.Since(by.at)
		switch {
		case ago > bound:
		case !by.deleted:
			return "the Lease was emptied by hand " + ago.String() + " ago"
		case !taker.knew(l.key, first, since, by.at):
			return "the Lease was deleted by hand " + ago.String() + " ago, and " + second + " did not know its holder"
		}
		for _, between := range taker.holders(l.key, by.at) {
			for _, p := range lives {
				if by.deleted && ago <= bound && p.node == between && between != first && !p.knew(l.key, first, since, by.at) {
					return "the Lease was deleted by hand " + ago.String() + " ago, and " + between + " did not know its holder"
				}
			}
		}
	}
	return ""
}

// start begins a life on n.
func (s *sim) start(n *node) {
	s.lives++
	seed := s.seed<<16 + s.lives
	g := &gate{}
	p := &process{node: n.name, began: time.Now(), gate: g, done: make(chan struct{})}
	p.renewals, p.watches = newAPIClient(s.server, seed, g), newAPIClient(s.server, seed+1<<40, g)
	for _, c := range []*apiClient{p.renewals, p.watches} {
		c.seen = p.saw
	}
	p.tables = tables{}
	for i, l := range s.locks {
		p.tables[l.mandate] = newTable(n.name, l.segment, g, seed+uint64(i)<<48)
	}
	log := slog.New(slog.DiscardHandler)
	if s.verbose {
		log = slog.New(slog.NewTextHandler(simWriter{s}, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})).With("on", n.name)
	}
	p.members = NewMembers(MembersOptions{Namespace: simNamespace, Identity: n.name, Groups: []string{simLease}, Version: "sim",
		Leases: p.watches, Watches: p.watches, Log: log})
	rng := rand.New(rand.NewPCG(seed, 3))
	var mu sync.Mutex
	jitter := func(d time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(rng.Int64N(int64(d)))
	}
	p.members.jitter = jitter
	prepare := func(e *Election) {
		e.jitter = jitter
		if s.tamper != nil {
			e.choose = func(now time.Time) decision { return s.tamper(&e.core, now) }
		}
	}
	var stand func(context.Context) error
	if s.fleets {
		p.fleet = NewFleet(FleetOptions{Identity: n.name, Timing: s.timing, Renewals: p.renewals, Watches: p.watches,
			Granter: p.tables, Members: p.members, Group: simLease, Keeper: s.keeper(p), Log: log})
		p.fleet.company.feed.jitter, p.fleet.prepare = jitter, prepare
		stand = p.fleet.Run
	} else {
		p.election = NewElection(Options{Namespace: simNamespace, Name: simLease, Identity: n.name, Timing: s.timing, Rank: n.ranks[0],
			Renewals: p.renewals, Watches: p.watches, Granter: p.tables, Members: p.members, AwaitHealth: true, Keeper: s.keeper(p), Log: log})
		prepare(p.election)
		stand = p.election.Run
	}
	n.mu.Lock()
	n.proc = p
	fault, latency, jam, busy := n.fault, n.latency, n.jam, n.busy
	n.mu.Unlock()
	p.impair(fault, latency)
	p.tables.impair(jam, busy)
	s.mu.Lock()
	s.started = append(s.started, p)
	s.mu.Unlock()
	s.note("%s starts", n.name)

	ctx, cancel := context.WithCancel(s.t.Context())
	p.cancel = cancel
	tables, endTable := context.WithCancel(s.t.Context())
	var work, runs sync.WaitGroup
	for _, t := range p.tables {
		work.Go(func() { t.run(tables) })
	}
	runs.Go(func() { p.members.Run(ctx) })
	runs.Go(func() { p.err = stand(ctx) })
	word := time.Duration(s.rng.Int64N(int64(time.Second))) // the first word on health
	runs.Go(func() {
		select {
		case <-time.After(word):
			p.setHealth(s, n)
		case <-ctx.Done():
		}
	})
	go func() {
		runs.Wait()
		endTable()
		work.Wait()
		close(p.done)
	}()
}

type simWriter struct{ s *sim }

func (w simWriter) Write(b []byte) (int, error) {
	w.s.note("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// setHealth tells the process how its machine is and, of a Fleet, what it stands for.
func (p *process) setHealth(s *sim, n *node) {
	const why = "the simulation says so"
	n.mu.Lock()
	defer n.mu.Unlock()
	p.members.SetHealth(n.health, why)
	if p.election != nil {
		p.election.SetHealth(n.health, why)
		return
	}
	for i, l := range s.locks {
		if n.away[i] {
			p.fleet.Leave(l.key.Namespace, l.key.Name)
			continue
		}
		err := p.fleet.Stand(Candidacy{Namespace: l.key.Namespace, Name: l.key.Name, Rank: n.ranks[i], Health: n.health, Reason: why})
		if err != nil {
			panic(err)
		}
	}
}

func (p *process) impair(fault outage, latency time.Duration) {
	for _, c := range []*apiClient{p.renewals, p.watches} {
		c.slow(latency)
		c.set(fault)
		if fault == refused {
			c.cut()
		}
	}
}

// change changes something about the machine, and tells the process that runs there.
func (s *sim) change(n *node, f func()) {
	n.mu.Lock()
	f()
	n.trouble = time.Now()
	p, fault, latency, jam, busy := n.proc, n.fault, n.latency, n.jam, n.busy
	n.mu.Unlock()
	if p == nil {
		return
	}
	p.impair(fault, latency)
	p.tables.impair(jam, busy)
	p.setHealth(s, n)
}

// end takes the process away from the machine. It is told to stop, or killed.
func (s *sim) end(n *node, kill bool) *process {
	p := n.life()
	if p == nil {
		return nil
	}
	if kill { // kill -9: the process is gone, the kernel has the address still
		s.note("%s is killed", n.name)
		p.gate.kill()
	} else {
		s.note("%s is told to stop", n.name)
		p.gate.resume()
	}
	p.cancel()
	n.mu.Lock()
	n.proc = nil
	n.mu.Unlock()
	return p
}

// watchdog sees a process that ended without being told to.
func (s *sim) watchdog() {
	for _, n := range s.nodes {
		p := n.life()
		if p == nil {
			continue
		}
		select {
		case <-p.done:
			s.errs = append(s.errs, fmt.Sprintf("%s: Run on %s returned by itself: %v", clock(), n.name, p.err))
			n.mu.Lock()
			n.proc = nil
			n.mu.Unlock()
		default:
		}
	}
}

// between is a random duration.
func (s *sim) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.rng.Int64N(int64(b-a)))
}

// anyNode is the one that has the address, half of the time.
func (s *sim) anyNode() *node {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if have := s.anyLock().have(); s.rng.IntN(2) == 0 && len(have) > 0 {
		n = s.node(have[0])
	}
	return n
}

// later does f at a later time of the simulation, in the simulation's own goroutine.
type later struct {
	at time.Time
	f  func()
}

// faults are what may happen, each with a weight. They return how it is undone and after how long; nil if nothing
// is to be undone.
var faults = []struct {
	weight int
	do     func(*sim) (undo func(), after time.Duration)
}{
	{4, func(s *sim) (func(), time.Duration) { // killed; kubelet starts it again, or somebody does much later
		n := s.anyNode()
		if s.end(n, true) == nil {
			return nil, 0
		}
		return func() { s.startIfDown(n) }, []time.Duration{s.between(50*time.Millisecond, time.Second), s.between(time.Second, 20*time.Second)}[s.rng.IntN(2)]
	}},
	{2, func(s *sim) (func(), time.Duration) { // SIGTERM
		n := s.anyNode()
		p := s.end(n, false)
		if p == nil {
			return nil, 0
		}
		return func() { <-p.done; s.startIfDown(n) }, s.between(100*time.Millisecond, 10*time.Second)
	}},
	{3, func(s *sim) (func(), time.Duration) { // SIGSTOP, SIGCONT
		n := s.anyNode()
		p := n.life()
		if p == nil {
			return nil, 0
		}
		s.note("%s is paused", n.name)
		p.gate.pause()
		return func() {
			s.note("%s resumes", n.name)
			s.change(n, func() {})
			p.gate.resume()
		}, s.between(10*time.Millisecond, 12*time.Second)
	}},
	{4, func(s *sim) (func(), time.Duration) { // one node's way to the API
		n, fault := s.anyNode(), []outage{refused, hangs, lossy, deaf}[s.rng.IntN(4)]
		s.note("%s: API %d", n.name, fault)
		s.change(n, func() { n.fault = fault })
		return func() { s.answersLost(fault); s.note("%s: API up", n.name); s.change(n, func() { n.fault = up }) }, s.between(100*time.Millisecond, 12*time.Second)
	}},
	{2, func(s *sim) (func(), time.Duration) { // everybody's
		fault := []outage{refused, hangs, lossy}[s.rng.IntN(3)]
		s.note("everybody: API %d", fault)
		for _, n := range s.nodes {
			s.change(n, func() { n.fault = fault })
		}
		return func() {
			s.note("everybody: API up")
			s.answersLost(fault)
			for _, n := range s.nodes {
				s.change(n, func() { n.fault = up })
			}
		}, s.between(100*time.Millisecond, 15*time.Second)
	}},
	{3, func(s *sim) (func(), time.Duration) { // slow etcd
		latency := s.between(100*time.Millisecond, 2500*time.Millisecond)
		s.note("API slow: %s", latency)
		for _, n := range s.nodes {
			s.change(n, func() { n.latency = latency })
		}
		return func() {
			s.note("API fast")
			for _, n := range s.nodes {
				s.change(n, func() { n.latency = wellLatency })
			}
		}, s.between(time.Second, 12*time.Second)
	}},
	{2, func(s *sim) (func(), time.Duration) { // an API server ends its watches
		n := s.anyNode()
		if p := n.life(); p != nil {
			s.note("%s: watches end", n.name)
			s.change(n, func() {})
			p.watches.cut()
		}
		return nil, 0
	}},
	{2, func(s *sim) (func(), time.Duration) { // kubectl delete
		l := s.anyLock()
		l.note("Lease deleted: %v", s.server.delete(l.key))
		l.intervene(true)
		return nil, 0
	}},
	{2, func(s *sim) (func(), time.Duration) { // kubectl edit
		l := s.anyLock()
		l.note("Lease emptied: %v", s.server.edit(l.key, func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = new("") }))
		l.intervene(false)
		return nil, 0
	}},
	{2, func(s *sim) (func(), time.Duration) { // a foreign holder that never renews
		l := s.anyLock()
		l.note("Lease stolen: %v", s.server.edit(l.key, func(l *coordinationv1.Lease) {
			l.Spec.HolderIdentity = new("stranger")
			l.Spec.LeaseDurationSeconds = new(int32(s.timing.Lease / time.Second))
		}))
		return nil, 0
	}},
	{2, func(s *sim) (func(), time.Duration) { // somebody's annotation
		l := s.anyLock()
		l.note("Lease annotated: %v", s.server.edit(l.key, func(l *coordinationv1.Lease) {
			l.Annotations = map[string]string{"note": clock()}
		}))
		return nil, 0
	}},
	{4, func(s *sim) (func(), time.Duration) { // an API server falls ill, a link goes down
		n, h := s.anyNode(), []Health{Healthy, Healthy, Unhealthy, Unhealthy, Unable}[s.rng.IntN(5)]
		s.note("%s is %s", n.name, h)
		s.change(n, func() { n.health = h })
		return nil, 0
	}},
	{4, func(s *sim) (func(), time.Duration) { // for a moment only
		n, h := s.anyNode(), []Health{Unhealthy, Unable}[s.rng.IntN(2)]
		s.note("%s is %s", n.name, h)
		s.change(n, func() { n.health = h })
		return func() { s.note("%s is healthy", n.name); s.change(n, func() { n.health = Healthy }) }, s.between(time.Millisecond, 3*time.Second)
	}},
	{3, func(s *sim) (func(), time.Duration) { // for less than that, on a node whose answers get lost
		n := s.anyNode()
		s.note("%s is unable, its answers get lost", n.name)
		s.change(n, func() { n.health, n.fault = Unable, lossy })
		return func() {
			s.note("%s is healthy, API up", n.name)
			s.answersLost(lossy)
			s.change(n, func() { n.health, n.fault = Healthy, up })
		}, s.between(time.Millisecond, 500*time.Millisecond)
	}},
	{2, func(s *sim) (func(), time.Duration) { // a machine that has no time: changes of addresses take longer
		n := s.anyNode()
		s.note("%s is busy", n.name)
		s.change(n, func() { n.busy = true })
		return func() { s.note("%s is not busy", n.name); s.change(n, func() { n.busy = false }) }, s.between(time.Second, 15*time.Second)
	}},
	{1, func(s *sim) (func(), time.Duration) { // the address can not be taken off
		n := s.anyNode()
		s.note("%s: address stuck", n.name)
		s.change(n, func() { n.jam = true })
		return func() { s.note("%s: address free", n.name); s.change(n, func() { n.jam = false }) }, s.between(100*time.Millisecond, 8*time.Second)
	}},
	{3, func(s *sim) (func(), time.Duration) { // no endpoint of a Service on a node, for a while
		if !s.fleets {
			return nil, 0
		}
		n, l := s.anyNode(), s.anyLock()
		l.note("%s leaves", n.name)
		s.change(n, func() { n.away[l.number] = true })
		return func() {
			l.note("%s stands again", n.name)
			s.change(n, func() { n.away[l.number], n.ranks[l.number] = false, s.rng.IntN(len(s.nodes)) })
		}, []time.Duration{s.between(0, 20*time.Millisecond), s.between(time.Millisecond, 10*time.Second)}[s.rng.IntN(2)]
	}},
	{1, func(s *sim) (func(), time.Duration) { // a member Lease deleted
		n := s.anyNode()
		s.note("%s: member Lease deleted: %v", n.name, s.server.delete(types.NamespacedName{Namespace: simNamespace, Name: MemberPrefix + n.name}))
		return nil, 0
	}},
}

func (s *sim) answersLost(fault outage) {
	if fault == lossy {
		s.lost = time.Now()
	}
}

func (s *sim) startIfDown(n *node) {
	if n.life() == nil {
		s.start(n)
	}
}

func (l *lock) intervene(deleted bool) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.loose = append(l.loose, intervention{time.Now(), deleted})
}

func (s *sim) happen() (func(), time.Duration) {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	pick := s.rng.IntN(total)
	for _, f := range faults {
		if pick -= f.weight; pick < 0 {
			return f.do(s)
		}
	}
	panic("unreachable")
}

// chaos has things happen for a while, and undoes what is to be undone.
func (s *sim) chaos(d time.Duration) {
	end := time.Now().Add(d)
	next := time.Now().Add(s.between(0, 8*time.Second))
	var todo []later
	for time.Now().Before(end) {
		s.watchdog()
		slices.SortStableFunc(todo, func(a, b later) int { return a.at.Compare(b.at) })
		if len(todo) > 0 && !todo[0].at.After(next) {
			time.Sleep(time.Until(todo[0].at))
			todo[0].f()
			todo = todo[1:]
			continue
		}
		time.Sleep(time.Until(next))
		if undo, after := s.happen(); undo != nil {
			todo = append(todo, later{time.Now().Add(after), undo})
		}
		// Faults come in bursts, so that they meet.
		next = time.Now().Add([]time.Duration{s.between(time.Millisecond, time.Second), s.between(time.Second, 6*time.Second)}[s.rng.IntN(2)])
	}
	for _, l := range todo {
		l.f()
	}
}

// heal makes everything well but health. Somebody is able to hold.
func (s *sim) heal() {
	s.note("everything is well")
	dead := s.rng.IntN(len(s.nodes)) // some stay down
	for i, n := range s.nodes {
		if p := n.life(); p != nil {
			p.gate.resume()
		} else if i >= dead {
			s.start(n)
		}
		s.change(n, func() {
			n.fault, n.latency, n.jam, n.busy = up, wellLatency, false, false
			clear(n.away)
		})
	}
	var alive []*node
	for _, n := range s.nodes {
		if n.life() != nil {
			alive = append(alive, n)
		}
	}
	if n := alive[s.rng.IntN(len(alive))]; n.health == Unable {
		s.change(n, func() { n.health = []Health{Healthy, Unhealthy}[s.rng.IntN(2)] })
	}
}

// decimate kills a healthy node for good while the others are unhealthy.
func (s *sim) decimate() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	s.note("%s is healthy, the others are not; it will be killed", n.name)
	for _, other := range s.nodes {
		s.startIfDown(other)
		s.change(other, func() { other.health = Unhealthy })
	}
	s.change(n, func() { n.health = Healthy })
	s.until(s.between(0, 15*time.Second), func() bool { return false })
	s.end(n, true)
}

// best is the best health of a process that runs.
func (s *sim) best() Health {
	best := Unable
	for _, n := range s.nodes {
		if n.life() != nil {
			best = min(best, n.health)
		}
	}
	return best
}

func (s *sim) errorf(format string, args ...any) {
	s.note(format, args...)
	s.errs = append(s.errs, clock()+": "+fmt.Sprintf(format, args...))
}

// until waits, at most so long, until what is true.
func (s *sim) until(d time.Duration, what func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(20 * time.Millisecond) {
		s.watchdog()
		if what() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func (l *lock) holder() string {
	lease, err := l.s.server.get(l.key)
	if err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// held says that exactly one node has the address, that the Lease names it, and that it lives.
func (l *lock) held() bool {
	have := l.have()
	return len(have) == 1 && have[0] == l.holder() && l.s.node(have[0]).life() != nil
}

// holder is the first Lease's.
func (s *sim) holder() string { return s.locks[0].holder() }

// held says that every address is held.
func (s *sim) held() bool {
	return !slices.ContainsFunc(s.locks, func(l *lock) bool { return !l.held() })
}

// state is who has what.
func (s *sim) state() string {
	var list []string
	for _, l := range s.locks {
		list = append(list, fmt.Sprintf("%s: the address is on %v, the Lease is %q's", l.mandate, l.have(), l.holder()))
	}
	return strings.Join(list, "; ")
}

// holders are those of all Leases, moves how often their addresses moved.
func (s *sim) holders() (holders []string, moves int) {
	for _, l := range s.locks {
		holders, moves = append(holders, l.holder()), moves+l.moved()
	}
	return holders, moves
}

// settle checks what must be once all is well.
func (s *sim) settle() {
	// A healthy node takes the Lease when it has expired; an unhealthy one waits as long again for a healthy one
	// that may be gone.
	soon := s.timing.Lease + 1500*time.Millisecond + time.Duration(len(s.nodes))*rankStep
	if s.best() == Unhealthy {
		soon += s.timing.Lease
	}
	if s.keeps { // the holder may speak up first, and then the wire is asked
		soon += max(s.timing.Renew, 2*s.timing.Retry) + time.Second
	}
	aftermath := s.timing.Lease // a call that hung may still cost a mandate
	if time.Since(s.lost) < watchTimeout {
		soon += watchTimeout // a call whose answer was lost is still waited for
		aftermath += watchTimeout
	}
	if !s.until(soon, s.held) {
		s.errorf("no single holder within %s: %s", soon, s.state())
	}
	s.until(aftermath, func() bool { return false })
	// By now everybody knows everybody's health.
	best := func() bool {
		holders, _ := s.holders()
		return s.held() && !slices.ContainsFunc(holders, func(h string) bool { return s.node(h).health != s.best() })
	}
	if !s.until(memberPeriod+2*s.timing.Lease, best) {
		s.errorf("a Lease is held on a node that is not %s: %s", s.best(), s.state())
	}
	holders, moves := s.holders()
	s.until(2*memberPeriod, func() bool { return false })
	if nowHolders, now := s.holders(); now != moves || !s.held() || !slices.Equal(holders, nowHolders) {
		s.errorf("addresses moved %d times from %v to %v while nothing happened", now-moves, holders, nowHolders)
	}
}

// finish stops everything and checks that nothing is left.
func (s *sim) finish() {
	var stopped []*process
	for _, n := range s.nodes {
		if p := s.end(n, false); p != nil {
			stopped = append(stopped, p)
		}
	}
	began := time.Now()
	for _, p := range stopped {
		<-p.done
		if p.err != nil {
			s.errorf("stop: %v", p.err)
		}
	}
	if d := time.Since(began); d > time.Second {
		s.errorf("stopping took %s", d)
	}
	if slices.ContainsFunc(s.locks, func(l *lock) bool { return l.holder() != "" || len(l.have()) > 0 }) {
		s.errorf("after all stopped: %s", s.state())
	}
	for _, p := range s.started {
		<-p.done
	}
	time.Sleep(5 * time.Second) // requests that nobody waits for arrive
}

// timings are those that seeds are run with.
var timings = []Timing{
	{Lease: 5 * time.Second, Renew: 3 * time.Second, Retry: time.Second},
	{Lease: 3 * time.Second, Renew: 2 * time.Second, Retry: 500 * time.Millisecond}, // as tight as is allowed
	{Lease: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second},
}

// simulate runs one seed and returns what was wrong.
func simulate(t *testing.T, seed uint64, make func(t *testing.T, seed uint64, nodes int, timing Timing) *sim, tamper func(*core, time.Time) decision) (wrong []string) {
	synctest.Test(t, func(t *testing.T) {
		shape := rand.New(rand.NewPCG(seed, 9))
		s := make(t, seed, 3+shape.IntN(3), timings[shape.IntN(len(timings))])
		s.verbose = *oneSeed != 0
		s.tamper = tamper
		for _, n := range s.nodes {
			s.start(n)
		}
		s.chaos(time.Minute)
		s.heal()
		if s.rng.IntN(4) == 0 {
			s.decimate()
		}
		s.settle()
		s.finish()
		wrong = append(s.errs, s.violations()...)
		if s.verbose {
			t.Log("\n" + strings.Join(s.log, "\n"))
		}
	})
	return wrong
}

// TestSimulation lets a group of nodes live through a minute in which anything may happen, and checks that no two
// nodes ever have the address, that no Run ends by itself, and that afterwards one node holds, the right one, for
// good. A seed that fails can be looked at with -seed; it mostly, not always, runs the same way again.
func TestSimulation(t *testing.T) {
	t.Parallel()
	first, n := *firstSeed, *seeds
	if *oneSeed != 0 {
		first, n = *oneSeed, 1
	}
	for _, kind := range []struct {
		name string
		make func(t *testing.T, seed uint64, nodes int, timing Timing) *sim
	}{
		{"elections", newSim},
		{"ranked elections", func(t *testing.T, seed uint64, nodes int, timing Timing) *sim {
			return newSim(t, seed, nodes, timing).ranked()
		}},
		{"fleets", newFleetSim},
		{"keeping elections", newKeepingSim},
		{"keeping fleets", newKeepingFleetSim},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+uint64(n); seed++ {
				if wrong := simulate(t, seed, kind.make, nil); len(wrong) > 0 {
					t.Errorf("-seed=%d:\n%s", seed, strings.Join(wrong, "\n"))
				}
			}
		})
	}
}

// TestSimulationCanFail switches the rules off, one at a time. A rule that no seed misses is not needed, or not tested.
func TestSimulationCanFail(t *testing.T) {
	for _, rule := range []struct {
		name    string
		keeping bool   // the rule is of simulations that keep
		wants   string // part of what the failing seed says
		broken  func(*core, time.Time) decision
	}{
		{"who takes the Lease of one that fell silent waits for the wire", true, "as well", func(c *core, now time.Time) decision {
			c.keep.wary = false
			return c.decide(now)
		}},
		{"a mandate that was over does not go on", true, "as well", func(c *core, now time.Time) decision {
			if c.keep.on && c.ours() && !c.until.IsZero() && !c.until.After(now) {
				c.until = now.Add(keepFor)
			}
			return c.decide(now)
		}},
		{"the Lease is given up only after the address is off", false, "as well", func(c *core, now time.Time) decision {
			c.off = true
			return c.decide(now)
		}},
		{"a mandate ends before the Lease does", false, "as well", func(c *core, now time.Time) decision {
			c.timing.Renew = c.timing.Lease + time.Second
			return c.decide(now)
		}},
		{"another's Lease is taken only when it has expired", false, "as well", func(c *core, now time.Time) decision {
			c.grace = -c.timing.Lease / 2
			return c.decide(now)
		}},
		{"a deleted Lease is waited for as if it were there", false, "as well", func(c *core, now time.Time) decision {
			if c.orphaned {
				c.lease, c.orphaned = nil, false
			}
			return c.decide(now)
		}},
		{"a Lease that is not ours ends the mandate", false, "as well", func(c *core, now time.Time) decision {
			if !c.renewed.IsZero() {
				c.until = c.renewed.Add(c.timing.Renew)
			}
			return c.decide(now)
		}},
		{"a mandate that was revoked needs a new renewal", false, "as well", func(c *core, now time.Time) decision {
			until := c.until
			d := c.decide(now)
			if d.verdict == revoked {
				c.until = until
			}
			return d
		}},
		{"an unhealthy node does not hold while a healthy one exists", false, "that is not healthy", func(c *core, now time.Time) decision {
			c.others = time.Time{}
			return c.decide(now)
		}},
		{"an unhealthy node takes the Lease if nobody healthy does", false, "no single holder", func(c *core, now time.Time) decision {
			d := c.decide(now)
			c.alone = time.Time{}
			return d
		}},
		{"an unable node does not hold", false, "that is not", func(c *core, now time.Time) decision {
			if c.health == Unable {
				c.health = Healthy
			}
			return c.decide(now)
		}},
		{"a stopping node gives the Lease up", false, "after all stopped", func(c *core, now time.Time) decision {
			d := c.decide(now)
			if c.stopping && c.off {
				d.write, d.done = writeNothing, true
			}
			return d
		}},
	} {
		for kind, make := range map[string]func(t *testing.T, seed uint64, nodes int, timing Timing) *sim{
			"election": newSim, "fleet": newFleetSim, "keeping election": newKeepingSim, "keeping fleet": newKeepingFleetSim,
		} {
			if rule.keeping != strings.HasPrefix(kind, "keeping") {
				continue
			}
			t.Run(rule.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				const most = 400
				for seed := uint64(1); seed <= most; seed++ {
					if wrong := strings.Join(simulate(t, seed, make, rule.broken), "\n"); strings.Contains(wrong, rule.wants) {
						t.Logf("seed %d: %s", seed, wrong)
						return
					}
				}
				t.Errorf("without it, %d seeds find nothing wrong", most)
			})
		}
	}
}
