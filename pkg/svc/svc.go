// Package svc gives Services of type LoadBalancer their virtual IP addresses.
//
// What a Service is to have is decided by plan, which is pure: the Service, its endpoints, the nodes and the settings
// go in; its addresses, or the reason why it has none, come out. A Controller watches the objects, makes plans, turns
// them into claims in the vip.Table, and, on the node that holds a Service's addresses, writes its status. Who
// holds is decided by package ha: all Services whose every node will do are held together under the group's Lease,
// any other under a Lease of its own.
package svc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Claimer is told which VIPs belong to whom. *vip.Table is one.
type Claimer interface {
	Claim(owner, mandate string, vips []vip.VIP)
	Unclaim(owner string)
}

var _ Claimer = (*vip.Table)(nil)

// Links reads the interfaces of this node. *vip.Netlink does.
type Links interface {
	Links() ([]vip.Link, error)
}

// Options configure a Controller. Every field without "may" in its comment is required.
type Options struct {
	// Node is this node's name, as in Leases and Node objects.
	Node string
	// Mandate is the one under which the group's Services are held: the name of its Lease.
	Mandate string
	// Elsewhere says that an address is held under another mandate, since it is the control plane's, too; may be nil.
	Elsewhere func(addr netip.Addr) (mandate string, ok bool)
	// Everywhere, unless it is empty, is the mandate under which every node that can serve a Service holds its addresses, for
	// routers to choose among them. Nobody stands for a Lease of a Service's own then; who leads the group gives out
	// addresses and writes statuses as ever.
	Everywhere string
	// PerService gives each Service a Lease of its own. Without it only those have one that not every node can serve,
	// and with OnDemand those that ask for it.
	PerService, OnDemand bool
	// Leases are stood for by this.
	Leases Leases
	// Reserved says which Leases are none of Services' own, but the groups' or the members'; may be nil.
	Reserved func(namespace, name string) bool
	// Others lists the other nodes on which kube-vip runs; may be nil. Lacks is told, at the start and whenever it
	// changes, what this node has no place for, for the Others of the others; may be nil. Neither must block.
	Others func() []Peer
	Lacks  func(list []string)
	Rules  Rules
	// Allowed are the only ranges that a Service's address may be in; none allows all.
	Allowed []netip.Prefix
	// Endpoints has the older Endpoints read in place of EndpointSlices.
	Endpoints bool
	// Placement says where VIPs go that a Service does not place itself.
	Placement vip.Placement
	// Exclude keeps Services off nodes with the label node.kubernetes.io/exclude-from-external-load-balancers, unless
	// they are of the control plane.
	Exclude bool
	// Fit is told, once all Services were looked at and whenever it changes, whether this node may hold the group's
	// addresses, and if not, why not; may be nil. It must not block.
	Fit func(ok bool, reason string)
	// Vacant says that nobody holds the group's Lease, as this node sees it; nil means that somebody may. It must not block.
	Vacant func() bool
	// Complete is called once all Services were looked at and claimed for the first time; may be nil. It must not block.
	Complete func()
	// Guard is told which ports of Services' addresses may be reached, before they are claimed and until they have gone;
	// nil guards nothing.
	Guard Guard
	// Traits is told, before a Service's addresses are claimed, of its annotations that begin with TraitsPrefix, without
	// that, and of how many ready endpoints it has on this node; of a Service that is gone it is told no address. Its
	// error, about an annotation, is told to the Service's user. It must not block, and may be nil.
	Traits func(service string, addrs []netip.Addr, traits map[string]string, endpoints int) error
	// Drain is for how long a node that is cordoned, excluded or not ready, and could serve a Service goes on to hold its addresses where
	// every node does, and Drained is told of it at the beginning, and when it stays after all; may be nil. It must not block.
	Drain   time.Duration
	Drained func(addrs []netip.Addr, on bool)
	// Also are the ports that an address has besides that is held under another mandate: no Service gets them there.
	Also []pool.Port
	// ReadOnly keeps the Controller from writing anything to a Service.
	ReadOnly bool

	// Pools says whether addresses are given out of the pools in the ConfigMap kubevip, and Prober tells whether the
	// wire has somebody with such an address already.
	Pools  PoolMode
	Prober Prober
	// Resolver looks up the names that Services ask for, nil means net.DefaultResolver; DNSMode says which families of a
	// name count, beside those of the Service. To First all do, as to Dual.
	Resolver names.Resolver
	DNSMode  names.Mode

	Claimer Claimer
	Links   Links
	// Client reads and watches, Writer writes statuses, and Events writes those: each by connections and a rate limit
	// of its own.
	Client, Writer, Events kubernetes.Interface

	Log *slog.Logger
	// Registerer gets the metrics; may be nil.
	Registerer prometheus.Registerer
}

// linksEvery is the time between two looks at the interfaces when nothing hints at a change.
const linksEvery = 10 * time.Second

// Controller makes the node and the Services' statuses match what the Services ask for. Its exported methods may be
// called from any goroutine, before and while Run works, and do not block.
type Controller struct {
	o         Options
	log       *slog.Logger
	sources   *sources
	queue     workqueue.TypedRateLimitingInterface[string]
	writer    *writer
	supply    *supply
	directory *directory
	metrics   *metrics
	stir      chan struct{} // holds at most one token: an interface may have changed

	mu      sync.Mutex // guards the fields below
	led     map[string]lead
	present []vip.VIP // as the Table told it last
	here    map[netip.Addr]struct{}
	users   map[netip.Addr]map[string]struct{} // the Services that are to have an address
	stands  map[string]map[string]struct{}     // by mandate, the Services for whose sake this node stands for it

	// The fields below belong to the worker.
	cluster Cluster
	unfit   string // why this node leaves the group's Services to others
	at      footing
	ranking *ranking
	links   []vip.Link
	known   map[string]*entry
	book    *book

	guard guardian

	poolVersion  string
	poolProblems []pool.Problem
	poolsTold    bool      // by Events, since this node leads
	counted      time.Time // when the pools were counted last
}

// entry is what the worker remembers of a Service that is ours.
type entry struct {
	addrs  []netip.Addr           // as planned
	owners []string               // of the claims made for it
	stands []types.NamespacedName // the Leases that this node stands for on its behalf
	own    bool                   // it is to have a Lease of its own
	lease  types.NamespacedName   // which; empty when it is refused that, or has none
	born   time.Time
	wasOwn bool                 // own when others were told of it
	was    types.NamespacedName // lease likewise
	places []vip.Place
	group  bool // it is to be held under the group's Lease

	lacks     []string // what this node has no place for
	noPlace   string   // and why
	placeless bool
	nowhere   time.Time // since when no node can hold it; zero while one can

	leaving time.Time // when this node has left its addresses to others; zero while it does not

	exposure exposure
	cleared  []netip.Addr // the Guard was told of

	mandate string    // under which its first address is held; empty before it was to be held
	since   time.Time // when it came under that from another; zero if it did not
	state   State     // as counted
	codes   []RefusalCode

	said    string // the last reason that was logged
	trying  bool   // addresses out of a pool are being tried
	awaited string // the version of the Service from which they were written: the next one has them
	failed  bool   // they could not be tried or written, and will be again
	failure string // why, as it was logged last
}

// New returns a Controller that claims nothing. Run does the work.
func New(o Options) *Controller {
	if o.Elsewhere == nil {
		o.Elsewhere = func(netip.Addr) (string, bool) { return "", false }
	}
	if o.Fit == nil {
		o.Fit = func(bool, string) {}
	}
	if o.Vacant == nil {
		o.Vacant = func() bool { return false }
	}
	if o.Drained == nil {
		o.Drained = func([]netip.Addr, bool) {}
	}
	if o.Lacks == nil {
		o.Lacks = func([]string) {}
	}
	if o.Complete == nil {
		o.Complete = func() {}
	}
	if o.Traits == nil {
		o.Traits = func(string, []netip.Addr, map[string]string, int) error { return nil }
	}
	c := &Controller{
		o: o, log: o.Log, metrics: newMetrics(o.Registerer),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		stir:  make(chan struct{}, 1),
		led:   map[string]lead{}, here: map[netip.Addr]struct{}{}, users: map[netip.Addr]map[string]struct{}{}, stands: map[string]map[string]struct{}{},
		known: map[string]*entry{}, book: newBook(), ranking: newRanking(),
	}
	c.sources = newSources(o, c.all)
	c.writer = newWriter(o, c.sources, c.metrics)
	c.supply = newSupply(o, func(key string) { c.queue.Add(key) }, func(s *corev1.Service, text string) {
		c.writer.events.Note(s, ReasonAllocated, text)
	})
	c.directory = newDirectory(o, func(key string) { c.queue.Add(key) })
	return c
}

// Hint says that an interface may have changed.
func (c *Controller) Hint() {
	select {
	case c.stir <- struct{}{}:
	default: // a token is there already
	}
}

// Review has every Service looked at again: what Options.Traits makes of it may have changed.
func (c *Controller) Review() { c.all() }

// Led says that this node holds a mandate, or does not any more.
func (c *Controller) Led(mandate string, l ha.Lead) {
	c.mu.Lock()
	c.led[mandate] = lead{l, time.Now()}
	if !l.Held {
		delete(c.led, mandate)
	}
	for key := range c.stands[mandate] {
		c.queue.Add(key)
	}
	c.mu.Unlock()
	if !strings.Contains(mandate, "/") { // it is no Lease of a Service's own: nearly every Service is held under the same mandate
		c.queue.Add(poolKey)
		c.all()
	}
}

// Sync takes note of which VIPs are on this node: a vip.Table calls it as one of its Speakers.
func (c *Controller) Sync(present []vip.VIP) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Equal(present, c.present) {
		return nil
	}
	gone := false
	now := make(map[netip.Addr]struct{}, len(present))
	for _, v := range present {
		now[v.Addr()] = struct{}{}
		if _, was := c.here[v.Addr()]; !was {
			c.wake(v.Addr())
		}
	}
	for addr := range c.here {
		if _, is := now[addr]; !is {
			c.wake(addr)
			gone = true
		}
	}
	if gone && c.o.Guard != nil {
		c.queue.Add(guardKey)
	}
	c.present, c.here = present, now
	return nil
}

// Contested warns of a host that answers for an address as this node does, on each Service that has it.
func (c *Controller) Contested(addr netip.Addr, mac net.HardwareAddr) {
	c.mu.Lock()
	keys := slices.Sorted(maps.Keys(c.users[addr]))
	c.mu.Unlock()
	for _, key := range keys {
		if s := c.sources.service(key); s != nil {
			c.writer.events.Warn(s, ReasonInUse, fmt.Sprintf("%s is in use by another host, with the hardware address %s, as well as by node %s: some neighbours reach that host", addr, mac, c.o.Node))
		}
	}
}

// wake has every Service looked at that is to have addr. mu is held.
func (c *Controller) wake(addr netip.Addr) {
	for key := range c.users[addr] {
		c.queue.Add(key)
	}
}

// all has every Service looked at.
func (c *Controller) all() {
	for _, key := range c.sources.services.informer.GetStore().ListKeys() {
		c.queue.Add(key)
	}
}

// Run works until ctx ends. When it returns nothing of it runs; claims stay as they are.
func (c *Controller) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work.Go(func() { c.sources.run(ctx) })
	if err := c.sources.wait(ctx); err != nil {
		return nil // told to stop
	}
	if err := c.follow(); err != nil {
		return err
	}
	c.look()
	c.pools()
	c.cluster = c.sources.cluster()
	c.at.members = c.muster()
	c.unfit = deferring(c.at.members, "")
	work.Go(func() { c.directory.run(ctx) })
	c.begin()
	c.guard.stale = true // what an earlier life left is not for ever
	c.guardSoon(ctx)
	c.o.Complete()
	c.assess()
	work.Go(func() { c.writer.run(ctx) })
	work.Go(func() { <-ctx.Done(); c.queue.ShutDown() })
	work.Go(func() { c.lookAgain(ctx) })
	work.Go(func() { c.mind(ctx) })
	work.Go(func() { c.supply.run(ctx, func() bool { return c.leads(c.o.Mandate) }, c.all) })
	c.work(ctx)
	return nil
}

// Keys in the queue that are no Service's.
const (
	lookKey    = "\x00links"
	clusterKey = "\x00cluster"
	poolKey    = "\x00pools"
	guardKey   = "\x00guard"
)

func (c *Controller) work(ctx context.Context) {
	for {
		key, over := c.queue.Get()
		if over {
			return
		}
		c.handle(ctx, key)
		c.queue.Done(key)
	}
}

// handle does what one key of the queue asks for.
func (c *Controller) handle(ctx context.Context, key string) {
	began := time.Now()
	switch key {
	case lookKey:
		changed := c.look()
		if changed {
			c.all()
		}
		c.guardAgain(changed)
	case clusterKey:
		c.surroundings()
	case poolKey:
		c.pools()
	case guardKey:
		c.guardDue()
	default:
		c.reconcile(key)
		c.metrics.reconciled(time.Since(began))
	}
	c.assessSoon()
	c.guardSoon(ctx)
	c.count()
}

// count shows how full the pools are, at most once in a second.
func (c *Controller) count() {
	if c.queue.Len() == 0 || time.Since(c.counted) > time.Second {
		c.counted = time.Now()
		c.metrics.pools(c.book.Stats())
	}
}

// surroundings looks at the nodes and networks again.
func (c *Controller) surroundings() {
	if now := c.sources.cluster(); !now.equal(c.cluster) {
		c.cluster = now
		c.all()
	}
	c.assess()
}

// lookAgain has the interfaces looked at when something hints at a change, and now and then.
func (c *Controller) lookAgain(ctx context.Context) {
	ticker := time.NewTicker(linksEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.stir:
		}
		c.queue.AddAfter(lookKey, 50*time.Millisecond) // a pod that starts has hints by the dozen
	}
}

// look reads the interfaces and says whether they changed.
func (c *Controller) look() bool {
	links, err := c.o.Links.Links()
	if err != nil {
		c.log.Warn("interfaces could not be listed", "err", err)
		return false
	}
	same := slices.EqualFunc(links, c.links, func(a, b vip.Link) bool {
		return a.Index == b.Index && a.Name == b.Name && a.Up == b.Up && a.Loopback == b.Loopback && slices.Equal(a.AltNames, b.AltNames) &&
			slices.Equal(a.Addrs, b.Addrs) && a.DefaultRoute4 == b.DefaultRoute4 && a.DefaultRoute6 == b.DefaultRoute6
	})
	c.links = links
	return !same
}

// follow has the queue told of every change.
func (c *Controller) follow() error {
	tell := func(to *source, enqueue func(o any)) error {
		if to == nil {
			return nil
		}
		_, err := to.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: enqueue, UpdateFunc: func(_, o any) { enqueue(o) }, DeleteFunc: enqueue})
		if err != nil {
			return fmt.Errorf("watch %s: %w", to.kind, err)
		}
		return nil
	}
	byName := func(o any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			c.queue.Add(key)
		}
	}
	ofSlice := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		keys, _ := serviceOfSlice(o)
		for _, key := range keys {
			c.queue.Add(key)
		}
	}
	ofCluster := func(any) { c.queue.Add(clusterKey) }
	ofPools := func(any) { c.queue.Add(poolKey) }
	return errors.Join(tell(c.sources.services, byName), tell(c.sources.endpoints, byName), tell(c.sources.slices, ofSlice),
		tell(c.sources.nodes, ofCluster), tell(c.sources.cidrs, ofCluster), tell(c.sources.maps, ofPools))
}

// firstCome lists all Services in the order in which they have a right to their addresses: those that have one before
// those that only ask, then the older before the younger.
func (c *Controller) firstCome() []*corev1.Service {
	var list []*corev1.Service
	for _, o := range c.sources.services.informer.GetStore().List() {
		list = append(list, o.(*corev1.Service))
	}
	slices.SortFunc(list, earlier)
	return list
}

// begin looks at every Service for the first time.
func (c *Controller) begin() {
	list := c.firstCome()
	for _, s := range list {
		recall(c.book, s, plan(s, c.o, c.facts(key(s), s, &entry{})))
	}
	for _, s := range list {
		c.reconcile(key(s))
	}
}

// recall has the book know what a Service is announced with already, before anybody is given what he asks for besides: one
// that has an address, and was refused another, is not to take that from who has it.
func recall(b *book, s *corev1.Service, p Plan) {
	has := given(s)
	if kept := slices.DeleteFunc(slices.Clone(p.Addrs), func(a netip.Addr) bool { return !slices.Contains(has, a) }); len(kept) > 0 {
		b.set(tenant(s), kept)
	}
}

func key(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

// reconcile makes one Service's claims and status what they are to be.
func (c *Controller) reconcile(key string) {
	s := c.sources.service(key)
	r := c.known[key]
	if s == nil {
		c.forget(key, r)
		c.writer.forget(key)
		return
	}
	if r == nil {
		r = &entry{}
	}
	p := plan(s, c.o, c.facts(key, s, r))
	if !p.Ours {
		were := r.addrs
		c.forget(key, r)
		if c.leads(c.o.Mandate) || c.deputy() {
			c.writer.want(key, shown{}, were)
		}
		return
	}
	c.metrics.enter(s.Namespace, c.known[key] == nil)
	c.known[key] = r
	c.directory.want(key, p.Names)
	if p.Wanting {
		if p = p.supplied(c.provide(s, r, p)); p.Reason == "" && !p.Announced {
			return // it is not over
		}
	} else {
		r.trying = false // what was tried is written
		delete(c.book.hungry, key)
	}
	if !r.failed {
		c.queue.Forget(key)
	}
	r.failed = false
	r.own, r.lease, r.born = p.Own, p.Lease, s.CreationTimestamp.Time
	c.at.stale = r.lack(p) || c.at.stale
	if !p.Nowhere {
		r.nowhere = time.Time{}
	} else if r.nowhere.IsZero() {
		r.nowhere = time.Now()
	}
	c.remark(key, s)
	unheard := c.expose(r, exposureOf(s), p.Addrs)
	c.use(key, s, r, p)
	if one := (settled{s, r, p}); unheard {
		c.carryLater(key, one)
	} else {
		c.carry(key, one)
	}
}

// carry makes the claims, and the Service's status, what was planned.
func (c *Controller) carry(key string, is settled) {
	s, r, p := is.service, is.entry, is.plan
	delete(c.guard.waiting, key)
	r.cleared = p.Addrs
	if err := c.o.Traits(key, p.Addrs, traits(s), p.Endpoints); err != nil {
		p.Note = oneLine(err)
	}
	problem := errors.Join(c.claim(key, s, r, p), c.stand(key, s, r, p))
	if !p.Open { // nothing is said of a name before it has been looked up
		c.metrics.count(r, p)
		c.say(key, r, p, problem)
	}
	c.show(key, r, p, problem)
}

func (c *Controller) facts(key string, s *corev1.Service, r *entry) Facts {
	c.mu.Lock()
	holds := len(r.addrs) > 0
	for _, a := range r.addrs {
		_, is := c.here[a]
		holds = holds && is
	}
	c.mu.Unlock()
	return Facts{
		Endpoints: c.sources.endpointsOf(key), Cluster: c.cluster, Names: c.directory.resolution, Node: c.o.Node, Holds: holds, Unfit: c.unfit,
		Members: c.at.members, Links: c.links, Places: r.places, Interface: c.book.Pools().Interface(s.Namespace),
		Clash: func(addr netip.Addr) string { return c.book.clash(tenant(s), addr) },
	}
}

// use notes what the Service is to have.
func (c *Controller) use(key string, s *corev1.Service, r *entry, p Plan) {
	if !r.trying && r.awaited != s.ResourceVersion { // what is being tried, or on its way, is the Service's already
		for _, waiting := range c.book.set(tenant(s), p.Addrs) {
			c.queue.Add(waiting)
		}
	}
	if slices.Equal(r.addrs, p.Addrs) && r.wasOwn == r.own && r.was == r.lease {
		return
	}
	r.wasOwn, r.was = r.own, r.lease
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range slices.Concat(r.addrs, p.Addrs) {
		c.wake(a) // who holds may depend on who shares
	}
	c.unuse(key, r.addrs)
	r.addrs = p.Addrs
	for _, a := range r.addrs {
		if c.users[a] == nil {
			c.users[a] = map[string]struct{}{}
		}
		c.users[a][key] = struct{}{}
	}
}

// unuse is called with mu held.
func (c *Controller) unuse(key string, addrs []netip.Addr) {
	for _, a := range addrs {
		delete(c.users[a], key)
		if len(c.users[a]) == 0 {
			delete(c.users, a)
		}
	}
}

// forget takes the claims of a Service back and gives its addresses to those who wait for them.
func (c *Controller) forget(key string, r *entry) {
	c.supply.forget(key)
	if r == nil {
		return
	}
	for _, owner := range r.owners {
		c.o.Claimer.Unclaim(owner)
	}
	c.leave(key, r, nil)
	_ = c.o.Traits(key, nil, nil, 0)
	c.directory.want(key, nil)
	c.mu.Lock()
	for _, a := range r.addrs {
		c.wake(a)
	}
	c.unuse(key, r.addrs)
	c.mu.Unlock()
	for _, waiting := range c.book.forget(key) {
		c.queue.Add(waiting)
	}
	if c.known[key] != nil {
		c.metrics.leave(key, r)
	}
	delete(c.known, key)
	delete(c.guard.waiting, key)
	c.at.stale, c.guard.stale = true, true
}

// claim claims the Service's addresses, and says what keeps this node from carrying them.
func (c *Controller) claim(key string, s *corev1.Service, r *entry, p Plan) error {
	if c.lingers(key, r, p) {
		return nil
	}
	byMandate := map[string][]vip.VIP{}
	var problems []error
	if p.Candidate {
		at := c.placement(s)
		r.places, _, problems = at.Follow(p.Addrs, c.links, r.places)
		for _, place := range r.places {
			m := c.mandateOf(place.VIP.Addr())
			byMandate[m] = append(byMandate[m], place.VIP)
		}
	}
	var owners []string
	for mandate, vips := range byMandate {
		owner := "svc/" + key + "@" + mandate
		owners = append(owners, owner)
		c.o.Claimer.Claim(owner, mandate, vips)
	}
	for _, owner := range r.owners {
		if !slices.Contains(owners, owner) {
			c.o.Claimer.Unclaim(owner)
		}
	}
	r.owners = owners
	return errors.Join(problems...)
}

// lingers says that this node goes on to hold the Service's addresses for a while, so that routers go to others first.
func (c *Controller) lingers(key string, r *entry, p Plan) bool {
	switch {
	case p.Candidate && !r.leaving.IsZero():
		r.leaving = time.Time{}
		c.o.Drained(p.Addrs, false)
	case p.Candidate || !p.Leaves || c.o.Drain == 0 || len(r.owners) == 0 || c.o.Everywhere == "":
	case !r.holds(p.Addrs): // what is held is not the Service's any more
	case !r.leaving.IsZero() && !c.alone(p.Addrs):
		c.o.Drained(p.Addrs, false) // another Service has come to share it, and may stay
		r.leaving = time.Now()
	case !r.leaving.IsZero():
		return time.Now().Before(r.leaving)
	case c.alone(p.Addrs):
		r.leaving = time.Now().Add(c.o.Drain)
		c.log.Info("this node leaves a Service to others", "service", key, "in", c.o.Drain, "why", p.Reason)
		c.o.Drained(p.Addrs, true)
		c.queue.AddAfter(key, c.o.Drain)
		return true
	}
	return false
}

// holds says that what was claimed for the Service is just that.
func (r *entry) holds(addrs []netip.Addr) bool {
	return len(r.places) == len(addrs) && !slices.ContainsFunc(r.places, func(p vip.Place) bool { return !slices.Contains(addrs, p.VIP.Addr()) })
}

// alone says that no two Services share one of the addresses: one of them may stay.
func (c *Controller) alone(addrs []netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return len(c.users[a]) > 1 })
}

// placement is where the Service's addresses go.
func (c *Controller) placement(s *corev1.Service) vip.Placement {
	return placementOf(s, c.o.Placement, c.book.Pools().Interface(s.Namespace))
}

func (c *Controller) leads(mandate string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.led[mandate].Held
}

// say logs what came of a Service when that changed.
func (c *Controller) say(key string, r *entry, p Plan, problem error) {
	text := p.Reason
	if problem != nil {
		text = oneLine(problem)
	}
	if text == "" {
		text = p.Short
	}
	if text == "" && len(p.Refused) > 0 {
		text = "refused " + p.refusals()
	}
	if text == "" {
		text = p.Note
	}
	if text == r.said {
		return
	}
	r.said = text
	if text != "" {
		c.log.Info("Service is not announced as it asks", "service", key, "why", text)
		return
	}
	c.log.Info("Service is announced as it asks", "service", key, "addresses", join(p.Addrs), "from", p.From)
}

// show has the status written if this is the node to do it: the one that holds the first address, or, when no node is
// to hold it, the one that leads the group, or its deputy.
func (c *Controller) show(key string, r *entry, p Plan, problem error) {
	if c.o.Everywhere != "" {
		c.showEverywhere(key, r, p)
		return
	}
	mandate := c.o.Mandate
	if len(p.Addrs) > 0 && p.Announced {
		mandate = c.mandateOf(p.Addrs[0])
		r.under(mandate)
	}
	leads := c.leads(mandate)
	if !leads && (mandate != c.o.Mandate || !c.deputy()) {
		c.writer.drop(key)
		return
	}
	if p.Open {
		return
	}
	if !leads && p.Announced {
		c.writer.want(key, shown{ours: true, reason: ReasonNoneLeft, message: c.at.noneLeft()}, nil)
		return
	}
	if p.Nowhere && !c.vacant(key, r, p) {
		return
	}
	if !p.Candidate && p.Announced && c.standsFor(mandate) {
		problem = errors.New(p.Reason) // it shares a Lease with others that this node can hold
	}
	if !p.Announced || problem != nil {
		c.writer.want(key, c.absent(p, problem), nil)
		return
	}
	there := true
	for _, a := range p.Addrs {
		there = there && (c.mandateOf(a) != mandate || c.has(a))
	}
	if !there {
		return // not yet; or it was just lost, and the next holder has the word
	}
	w := p.announced("node " + c.o.Node + " holds " + join(p.Addrs))
	w.host, w.move = c.o.Node, c.how(r)
	c.writer.want(key, w, nil)
}

// showEverywhere is show where every node that can holds the addresses: the leader has the word, or its deputy. It goes by
// who can, as all nodes see it; whether one of them does not is for that one to tell.
func (c *Controller) showEverywhere(key string, r *entry, p Plan) {
	if !c.leads(c.o.Mandate) && !c.deputy() {
		c.writer.drop(key)
		return
	}
	if rest := nowhereFor - time.Since(r.nowhere); p.Nowhere && rest > 0 {
		c.queue.AddAfter(key, rest)
		return
	}
	switch {
	case p.Open:
	case !p.Announced:
		c.writer.want(key, c.absent(p, nil), nil)
	case len(p.Nodes) == 1:
		c.writer.want(key, p.announced("node "+p.Nodes[0]+" announces "+join(p.Addrs)), nil)
	default:
		c.writer.want(key, p.announced(fmt.Sprintf("%d nodes announce %s: %s", len(p.Nodes), join(p.Addrs), few(p.Nodes))), nil)
	}
}

// absent is what a status says of a Service whose addresses are not held.
func (c *Controller) absent(p Plan, problem error) shown {
	reason, message := ReasonWithdrawn, p.Reason
	switch {
	case problem != nil:
		reason, message = ReasonNotPlaced, "node "+c.o.Node+": "+oneLine(problem)
	case p.Nowhere:
		reason = ReasonNotPlaced
	case p.state() == StateRefused:
		reason = ReasonRefused
	case len(p.Addrs) == 0:
		reason = cmp.Or(p.Because, ReasonNoAddress)
	}
	return shown{ours: true, reason: reason, message: message}
}

// announced is what a status says of a Service whose addresses are held, as text tells.
func (p Plan) announced(text string) shown {
	w := shown{ours: true, addrs: p.Addrs, announced: true, reason: ReasonAnnounced, message: text}
	switch {
	case p.Short != "" && len(p.Refused) == 0:
		w.reason, w.message = cmp.Or(p.Because, ReasonNoAddress), w.message+"; "+p.Short
	case p.Short != "":
		w.reason, w.message = ReasonRefused, w.message+"; "+p.Short
	case len(p.Refused) > 0:
		w.reason, w.message = ReasonRefused, w.message+"; refused "+p.refusals()
	case p.Note != "":
		w.reason, w.message = ReasonBadAnnotation, w.message+"; "+p.Note
	}
	return w
}

// has says whether addr is on this node.
func (c *Controller) has(addr netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, is := c.here[addr]
	return is
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Addresses lists every address that some Service is to have.
func (c *Controller) Addresses() []netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.users))
}
