package ha

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

const (
	// DefaultCallsPerSecond is what one instance asks of the API at most, unless FleetOptions say otherwise.
	DefaultCallsPerSecond = 200
	// DefaultCallsInFlight likewise: what the API server's priority level for leader election lets one user have
	// under way and queued is some 220, for all instances together (k8s.io/apiserver, flowcontrol/bootstrap).
	DefaultCallsInFlight = 50
)

// FleetOptions configure a Fleet. Every field without "may" in its comment is required.
type FleetOptions struct {
	Identity string // of this instance: the node's name
	Timing   Timing // of every Lease
	// Renewals and Watches are the same Leases by different clients, so that a renewal never waits behind a watch.
	// A rate limit of the client for Renewals must be above CallsPerSecond.
	Renewals coordinationclient.LeasesGetter
	Watches  coordinationclient.LeasesGetter
	// Namespace is the one that all Leases are in; may be empty, which means that they may be in any: then Leases are
	// listed and watched in all.
	Namespace string
	Granter   Granter
	// Reserved says which Leases are somebody else's, an Election's or a member's; may be nil.
	Reserved func(namespace, name string) bool
	// Members say, under Group, whether another member is healthy; may be nil, and then one who is Unhealthy holds and
	// stands as if it were well.
	Members *Members
	Group   string
	// CallsPerSecond and CallsInFlight bound the calls to the API; may be zero for DefaultCallsPerSecond and
	// DefaultCallsInFlight. As many Leases are held at most as can be renewed in time then (Timing.Pace).
	CallsPerSecond float64
	CallsInFlight  int
	// Keeper has mandates go on while the API does not answer; nil ends them when their time is up.
	Keeper *Keeper
	// Led is called when this instance becomes or ceases to be the holder of a mandate; may be nil. It must not block.
	Led func(mandate string, lead Lead)
	Log *slog.Logger
	// Registerer gets the metrics; may be nil.
	Registerer prometheus.Registerer
}

// Candidacy is this instance's for one Lease. Namespace and Name are required.
type Candidacy struct {
	Namespace string
	Name      string
	// Owner is written to the Lease while it is ours, so that it is deleted with its owner; may be nil. It should not
	// block its owner's deletion, which not everybody may ask for.
	Owner *metav1.OwnerReference
	// Labels likewise.
	Labels map[string]string
	// Rank is this instance's among the candidates, from 0 for the best: it says who tries first for a Lease that is
	// free or has expired. A holder keeps what it has, whatever its rank.
	Rank   int
	Health Health
	Reason string // for Health
}

// Mandate is what the Granter is told: namespace and name, with a slash between.
func (c Candidacy) Mandate() string { return c.key().String() }

func (c Candidacy) key() types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// Holder is who holds a Lease, as this instance saw it last.
type Holder struct {
	Identity string    // empty when nobody does
	Renewed  time.Time // when it was renewed, on its holder's clock
	Expires  time.Time // when others may take it unless it is renewed, on ours
}

// Fleet stands for many Leases at once. It has an Election for each; they share one list and watch, and one client
// whose calls they make by turns. Its methods may be called from any goroutine, and do not block.
type Fleet struct {
	o       FleetOptions
	metrics *fleetMetrics
	company company
	prepare func(*Election) // of each before it begins; for tests

	mu      sync.Mutex // guards the fields below
	seats   map[types.NamespacedName]*seat
	context context.Context // of the Elections; nil before Run
	over    bool            // Run ends: nothing is begun any more
	told    weight          // what weigh has said last
	work    sync.WaitGroup
	expired []error // of Elections that left a Lease to expire when Run ended
}

// seat is the Fleet's for one Lease.
type seat struct {
	wanted   *Candidacy // nil once it was left
	election *Election  // nil while there is none
	leave    context.CancelFunc
}

// NewFleet returns a Fleet that has not begun.
func NewFleet(o FleetOptions) *Fleet {
	o.CallsPerSecond = cmp.Or(o.CallsPerSecond, DefaultCallsPerSecond)
	o.CallsInFlight = cmp.Or(o.CallsInFlight, DefaultCallsInFlight)
	shared := &line{}
	return &Fleet{
		o:       o,
		metrics: newFleetMetrics(o.Identity, o.Registerer),
		company: company{
			feed:      newFeed(o.Log, o.Timing.Lease, rand.N[time.Duration], shared),
			turns:     newTurns(pace{perSecond: o.CallsPerSecond, inFlight: o.CallsInFlight, most: o.Timing.most(o.CallsPerSecond)}),
			silences:  newWoes(o.Log, "the API answers for the Leases again"),
			namesakes: newWoes(o.Log, "no other instance holds Leases under this node's name any more"),
			phases:    &phases{epoch: time.Now(), period: o.Timing.Retry},
			line:      shared,
		},
		prepare: func(*Election) {},
		seats:   map[types.NamespacedName]*seat{},
	}
}

// Stand has this instance stand for a Lease, or stand differently from now on. It may be called before Run. The error
// says that this Lease can not be stood for at all. c is not to be changed afterwards.
func (f *Fleet) Stand(c Candidacy) error {
	switch {
	case c.Namespace == "" || c.Name == "":
		return fmt.Errorf("stand for Lease %s: namespace and name are required", c.key())
	case f.o.Namespace != "" && c.Namespace != f.o.Namespace:
		return fmt.Errorf("stand for Lease %s: only Leases in %s are watched", c.key(), f.o.Namespace)
	case f.o.Reserved != nil && f.o.Reserved(c.Namespace, c.Name):
		return fmt.Errorf("stand for Lease %s: it is used otherwise by kube-vip", c.key())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seats[c.key()]
	if s == nil {
		s = &seat{}
		f.seats[c.key()] = s
	}
	left := s.wanted == nil
	s.wanted = &c
	switch {
	case s.election == nil:
		f.begin(c.key(), s)
	case !left: // one that is being left ends, and another begins then
		s.election.stand(standing{c.Rank, c.Owner, c.Labels})
		s.election.SetHealth(c.Health, c.Reason)
	}
	f.weigh()
	return nil
}

// Leave ends this instance's candidacy: what it holds is taken off the node, then the Lease is given up, and then it
// is forgotten. That takes at most stopDeadline, and Leave does not wait for it.
func (f *Fleet) Leave(namespace, name string) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch s := f.seats[key]; {
	case s == nil:
	case s.election == nil:
		delete(f.seats, key)
	default:
		s.wanted = nil
		s.leave()
	}
}

// Holder says who holds a Lease, of any that is watched; false if there is no such Lease. It is as late as the watch.
func (f *Fleet) Holder(namespace, name string) (Holder, bool) {
	return f.company.feed.holder(types.NamespacedName{Namespace: namespace, Name: name})
}

// Run stands until ctx ends; then it takes every address off, gives every Lease up and returns, within stopDeadline.
// Its error says that the Timing is none to work with, which it finds out at once, or which Leases are left to expire.
// Run is called once.
func (f *Fleet) Run(ctx context.Context) error {
	if err := f.o.Timing.Validate(); err != nil {
		return err
	}
	where := cmp.Or(f.o.Namespace, "all namespaces")
	f.o.Log.Info("standing for Leases", "namespace", where, "id", f.o.Identity)
	// The feed goes on until everybody has given up what is theirs.
	feeding, endFeed := context.WithCancel(context.WithoutCancel(ctx))
	var work sync.WaitGroup
	defer work.Wait()
	defer endFeed()
	work.Go(func() { f.company.feed.run(feeding, f.o.Watches.Leases(f.o.Namespace)) })
	if f.o.Members != nil {
		defer f.o.Members.subscribe(f.o.Group, f.hint)()
	}
	f.open(ctx)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.company.turns.crowded:
			most := f.company.turns.pace.most
			_, err := f.o.Timing.Pace(most+1, f.o.CallsPerSecond)
			f.o.Log.Error("no more Leases are taken than can be renewed in time", "leases", most, "err", err)
		}
	}
	return f.close()
}

// open begins what was stood for before Run.
func (f *Fleet) open(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.context = ctx
	for key, s := range f.seats {
		f.begin(key, s)
	}
}

// close waits until every Election has ended.
func (f *Fleet) close() error {
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.work.Wait()
	f.company.turns.close()
	if n := len(f.expired); n > 0 {
		return fmt.Errorf("%d Leases are left to expire, one of them: %w", n, f.expired[0])
	}
	return nil
}

// begin begins an Election for a seat. Called with mu held.
func (f *Fleet) begin(key types.NamespacedName, s *seat) {
	if f.context == nil || f.over {
		return
	}
	c := s.wanted
	options := Options{
		Namespace: c.Namespace, Name: c.Name, Mandate: c.Mandate(), Identity: f.o.Identity, Timing: f.o.Timing,
		Labels: c.Labels, Owner: c.Owner, Rank: c.Rank,
		Renewals: f.o.Renewals, Granter: f.o.Granter, Members: f.o.Members, Keeper: f.o.Keeper, Log: f.o.Log,
	}
	if f.o.Led != nil {
		options.Led = func(lead Lead) { f.o.Led(options.Mandate, lead) }
	}
	e := newElection(options)
	e.line = f.company.line
	e.company, e.turn, e.group, e.routine = &f.company, f.company.turns.join(), f.o.Group, slog.LevelDebug
	e.metrics = f.metrics.of(options.Mandate)
	e.SetHealth(c.Health, c.Reason)
	f.prepare(e)
	ctx, leave := context.WithCancel(f.context)
	s.election, s.leave = e, leave
	f.work.Go(func() {
		err := e.Run(ctx)
		leave()
		f.ended(key, s, err)
	})
}

// ended forgets an Election that has ended, and begins another if one is wanted again.
func (f *Fleet) ended(key types.NamespacedName, s *seat, err error) {
	s.election.turn.leave()
	if err != nil {
		s.election.log.Warn("the Lease is not given up", "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.metrics.forget(key.String())
	s.election = nil
	if f.over || f.context.Err() != nil {
		if err != nil {
			f.expired = append(f.expired, err)
		}
		return
	}
	if s.wanted != nil {
		f.begin(key, s)
		return
	}
	delete(f.seats, key)
}

// weight is what a number of Leases means to one who would have to hold them all.
type weight struct {
	leases int
	heavy  bool // they can not be renewed as often as the retry period says
	over   bool // they can not be renewed in time
}

// weigh says once, and again for twice as many, that this instance could not keep all the Leases that it stands for
// should it have to, or not renew them as often as the retry period says. Called with mu held.
func (f *Fleet) weigh() {
	leases := len(f.seats)
	every, err := f.o.Timing.Pace(leases, f.o.CallsPerSecond)
	now := weight{leases: leases, heavy: every > f.o.Timing.Retry, over: err != nil}
	if !now.heavy || now.over == f.told.over && now.leases < 2*f.told.leases || f.told.over && !now.over {
		return
	}
	f.told = now
	if now.over {
		f.o.Log.Warn("this node could not hold every Lease that it stands for", "leases", leases, "err", err)
		return
	}
	f.o.Log.Info("should this node hold every Lease that it stands for, it renews each less often than vip_retryperiod says",
		"leases", leases, "every", every.Round(time.Millisecond), "enough", math.Ceil(every.Seconds()))
}

// hint has every Election look at what Members say.
func (f *Fleet) hint() {
	f.mu.Lock()
	elections := make([]*Election, 0, len(f.seats))
	for _, s := range f.seats {
		if s.election != nil {
			elections = append(elections, s.election)
		}
	}
	f.mu.Unlock()
	for _, e := range elections {
		e.hint()
	}
}
