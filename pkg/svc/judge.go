package svc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/ha"
	"kube-vip.io/kube-vip/pkg/names"
	"kube-vip.io/kube-vip/pkg/pool"
)

// judge decides about a World as every instance does that starts in it.
type judge struct {
	o       Options
	locks   Locks
	w       World
	cluster Cluster
	book    *book
	known   map[string]*entry
	users   map[netip.Addr]map[string]struct{}
	leases  map[types.NamespacedName]*coordinationv1.Lease
	nodes   map[string]*corev1.Node
	members map[string]ha.Seen
	others  []string // the live members that care for Services
}

func newJudge(o Options, locks Locks, w World) *judge {
	if o.Elsewhere == nil {
		o.Elsewhere = func(netip.Addr) (string, bool) { return "", false }
	}
	j := &judge{o: o, locks: locks, w: w, cluster: clusterOf(w.Nodes, w.CIDRs), book: newBook(), known: map[string]*entry{},
		users: map[netip.Addr]map[string]struct{}{}, leases: map[types.NamespacedName]*coordinationv1.Lease{},
		nodes: map[string]*corev1.Node{}, members: map[string]ha.Seen{}}
	for _, n := range w.Nodes {
		j.nodes[n.Name] = n
	}
	// Where both are, the members' Leases are beside the control plane's.
	members := cmp.Or(locks.ControlPlane.Namespace, locks.Group.Namespace)
	for _, l := range w.Leases {
		j.leases[types.NamespacedName{Namespace: l.Namespace, Name: l.Name}] = l
		if m, ok := ha.SeenIn(l); ok && l.Namespace == members {
			j.members[m.Node] = m
			if m.Live(w.Now) && m.Serves(locks.Group.Name) {
				j.others = append(j.others, m.Node)
			}
		}
	}
	if w.Pools != nil {
		pools, _ := pool.Parse(w.Pools.Data)
		j.book.SetPools(pools)
	}
	services := slices.SortedFunc(slices.Values(w.Services), earlier)
	for _, s := range services {
		recall(j.book, s, j.plan(s, Endpoints{}, "", false)) // addresses do not depend on endpoints
	}
	for _, s := range services {
		j.seat(s)
	}
	return j
}

// seat gives a Service what it is to have, beside those that were seated before.
func (j *judge) seat(s *corev1.Service) {
	p := j.plan(s, Endpoints{}, "", false)
	if !p.Ours {
		return
	}
	name := key(s)
	j.book.set(tenant(s), p.Addrs)
	j.known[name] = &entry{addrs: p.Addrs, own: p.Own, lease: p.Lease, born: s.CreationTimestamp.Time}
	for _, a := range p.Addrs {
		if j.users[a] == nil {
			j.users[a] = map[string]struct{}{}
		}
		j.users[a][name] = struct{}{}
	}
}

// plan is what a Service comes to on a node, the one that holds its addresses or another.
func (j *judge) plan(s *corev1.Service, e Endpoints, node string, holds bool) Plan {
	members := j.muster(node)
	return plan(s, j.o, Facts{
		Endpoints: e, Cluster: j.cluster, Node: node, Holds: holds, Unfit: deferring(members, ""), Members: members,
		Interface: j.book.Pools().Interface(s.Namespace), Names: func(name string) (names.Resolution, bool) { r, is := j.w.Names[name]; return r, is },
		Clash: func(addr netip.Addr) string { return j.book.clash(tenant(s), addr) },
	})
}

// muster lists the live members as a node sees them, itself first. What it lacks itself counts as what it has told.
func (j *judge) muster(node string) []Member {
	member := func(name string) Member {
		m := memberOf(name, j.nodes[name], j.o.Exclude)
		m.Lacks = j.members[name].Lacks
		return m
	}
	list := []Member{member(node)}
	for _, other := range j.others {
		if other != node {
			list = append(list, member(other))
		}
	}
	return list
}

// endpoints sums up those of the Service that is explained, without those on a node that is gone.
func (j *judge) endpoints(gone string) Endpoints {
	if j.w.Older != nil {
		o := j.w.Older.DeepCopy()
		for i := range o.Subsets {
			o.Subsets[i].Addresses = slices.DeleteFunc(o.Subsets[i].Addresses, func(a corev1.EndpointAddress) bool {
				return gone != "" && a.NodeName != nil && *a.NodeName == gone
			})
		}
		return fromEndpoints(o)
	}
	if j.w.NotKnown["endpointslices"] != nil || j.w.NotKnown["endpoints"] != nil {
		return Endpoints{}
	}
	var left []*discoveryv1.EndpointSlice
	for _, s := range j.w.Slices {
		s = s.DeepCopy()
		s.Endpoints = slices.DeleteFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
			return gone != "" && e.NodeName != nil && *e.NodeName == gone
		})
		left = append(left, s)
	}
	return fromSlices(left)
}

// Kinds of Leases.
const (
	KindLeader       = "leader"        // one for all Services
	KindService      = "service"       // the Service's own
	KindControlPlane = "control-plane" // the control plane's
	KindRoutes       = "routes"        // none: every node that can holds the addresses, and routers choose
)

// lockOf is the Lease that an address is held under.
func (j *judge) lockOf(addr netip.Addr) (lease types.NamespacedName, kind string) {
	if j.o.Everywhere != "" {
		return lease, KindRoutes
	}
	if _, elsewhere := j.o.Elsewhere(addr); elsewhere {
		return j.locks.ControlPlane, KindControlPlane
	}
	if own, _ := tenureOf(j.users[addr], j.known, j.o.Mandate); own != (types.NamespacedName{}) {
		return own, KindService
	}
	return j.locks.Group, KindLeader
}

// sharers are the other Services that have addr.
func (j *judge) sharers(addr netip.Addr, but string) []string {
	var list []string
	for name := range j.users[addr] {
		if name != but {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Lock is who holds a Lease.
type Lock struct {
	// Lease is its namespace and name; empty of the kind that is none.
	Lease string `json:"lease"`
	Kind  string `json:"kind"`
	// Known is false when the Lease could not be read. Holder is who it names, Live whether that still counts; if not, Why
	// says why nobody holds it.
	Known   bool       `json:"known"`
	Holder  string     `json:"holder,omitempty"`
	Live    bool       `json:"live"`
	Why     string     `json:"why,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Renewed *time.Time `json:"renewed,omitempty"`
	// Takeover is after how many seconds without a renewal another may have it.
	Takeover float64 `json:"takeoverSeconds,omitempty"`
}

// LockAt reads a Lease out of a World.
func LockAt(w World, lease types.NamespacedName, kind string, usual time.Duration) Lock {
	i := slices.IndexFunc(w.Leases, func(l *coordinationv1.Lease) bool { return l.Namespace == lease.Namespace && l.Name == lease.Name })
	if i < 0 {
		return lockFrom(w, nil, lease, kind, usual)
	}
	return lockFrom(w, w.Leases[i], lease, kind, usual)
}

func (j *judge) lock(lease types.NamespacedName, kind string) Lock {
	if kind == KindRoutes {
		known := j.w.NotKnown["leases"] == nil
		return Lock{Kind: kind, Known: known, Live: known}
	}
	return lockFrom(j.w, j.leases[lease], lease, kind, j.locks.Duration)
}

func lockFrom(w World, l *coordinationv1.Lease, lease types.NamespacedName, kind string, usual time.Duration) Lock {
	t := ha.TenureOf(l, usual)
	k := Lock{Lease: lease.String(), Kind: kind, Known: true, Holder: t.Holder, Live: t.Live(w.Now)}
	switch {
	case w.NotKnown["leases"] != nil, l == nil && w.NotKnown["leases of other namespaces"] != nil:
		k.Known, k.Why = false, "not known: Leases could not be read"
	case l == nil:
		k.Why = "there is no Lease " + k.Lease
	case t.Holder == "":
		k.Why = "the Lease " + k.Lease + " names nobody"
	default:
		k.Takeover = t.Takeover().Seconds()
		if !t.Since.IsZero() {
			k.Since = &t.Since
		}
		if !t.Renewed.IsZero() {
			k.Renewed = &t.Renewed
		}
		if !k.Live {
			k.Why = fmt.Sprintf("%s has not renewed the Lease %s for %s", t.Holder, k.Lease, w.Now.Sub(t.Renewed).Round(time.Second))
		}
	}
	return k
}

// Candidate is a node, and whether it may hold what a Lease is for.
type Candidate struct {
	Node string `json:"node"`
	// May says that it may; if not, Why says why not. It may be said with a reservation, too.
	May bool   `json:"may"`
	Why string `json:"why,omitempty"`
	// Rank is its place among those that may hold, 0 for the first: who tries first for a Lease of a Service's own. Nil where
	// there is no such order.
	Rank *int `json:"rank,omitempty"`
	// Instance says that a kube-vip runs there, Known that one ever did.
	Instance bool `json:"instance"`
	Known    bool `json:"known"`
	Holds    bool `json:"holds"`
}

// candidates are all nodes and members, those first that may hold, by their rank.
func (j *judge) candidates(s *corev1.Service, e Endpoints, k Lock) []Candidate {
	names := map[string]bool{}
	for n := range j.nodes {
		names[n] = true
	}
	for n := range j.members {
		names[n] = true
	}
	var list []Candidate
	for node := range names {
		list = append(list, j.candidate(s, e, k, node))
	}
	slices.SortFunc(list, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Node, b.Node))
	})
	return list
}

func order(c Candidate) int {
	switch {
	case c.May:
		return 0
	case c.Instance:
		return 1
	}
	return 2
}

func rank(c Candidate) int {
	if c.Rank == nil {
		return 0
	}
	return *c.Rank
}

func (j *judge) candidate(s *corev1.Service, e Endpoints, k Lock, node string) Candidate {
	m, known := j.members[node]
	c := Candidate{Node: node, Known: known, Holds: k.Live && k.Holder == node}
	switch {
	case j.w.NotKnown["leases"] != nil:
		c.Why = "not known: Leases could not be read"
		return c
	case !known:
		c.Why = "no kube-vip runs there"
		return c
	case m.Stopped:
		c.Why = "kube-vip has stopped there"
		return c
	case !m.Live(j.w.Now):
		c.Why = fmt.Sprintf("kube-vip there was last heard of %s ago", j.w.Now.Sub(m.Heard).Round(time.Second))
		return c
	}
	c.Instance = true
	if !m.Serves(j.locks.Group.Name) {
		c.Why = "kube-vip there does not care for Services"
		return c
	}
	p := j.plan(s, e, node, c.Holds)
	if k.Kind == KindService && p.Candidate {
		c.Rank = new(newRanking().rank(k.Lease, j.muster(node)[0], p.Rivals, preferred(s)))
	}
	c.May, c.Why = p.Candidate, p.Reason
	c.Holds = c.Holds || c.May && k.Kind == KindRoutes
	if c.May && k.Kind == KindControlPlane && m.Health != ha.Healthy {
		c.May = m.Health == ha.Unhealthy
		c.Why = "it is " + m.Health.String() + ": " + m.Reason
		if c.May {
			c.Why += "; it holds only while no other is healthy"
		}
	}
	return c
}

// Succession is what would happen if a node died.
type Succession struct {
	Node string `json:"node"`
	// Next are the nodes that may take over: the first of them if InTurn, else any.
	Next   []string `json:"next"`
	InTurn bool     `json:"inTurn"`
	// Takeover is after how many seconds without a renewal.
	Takeover float64 `json:"takeoverSeconds"`
	// Then is what becomes of the Service when the cluster has counted out the endpoints of the node; empty when nothing
	// more happens.
	Then string `json:"then,omitempty"`
}

// succession is what would happen if the holder of a Lease died. Endpoints on it stay for a while.
func (j *judge) succession(s *corev1.Service, k Lock, candidates []Candidate) []Succession {
	if !k.Live || k.Kind == KindRoutes {
		return nil
	}
	x := Succession{Node: k.Holder, Next: []string{}, InTurn: k.Kind == KindService, Takeover: k.Takeover}
	for _, c := range candidates {
		if c.May && c.Node != k.Holder {
			x.Next = append(x.Next, c.Node)
		}
	}
	e := j.endpoints("")
	if p := j.plan(s, j.endpoints(k.Holder), "", false); !p.Announced && e.here(k.Holder) && len(x.Next) > 0 {
		x.Then = p.Reason
	}
	return []Succession{x}
}

// supplied is what the pools have for a Service that wants something, or why they have nothing; both may be empty.
func (j *judge) supplied(s *corev1.Service, p Plan) (text, why string) {
	switch provider := j.leases[types.NamespacedName{Namespace: PoolNamespace, Name: providerLease}]; {
	case j.o.Pools == PoolsOff:
		return "", p.Reason + ": " + poolsAreOff
	case j.o.Pools == PoolsAuto && provider != nil && provides(provider, j.w.Now):
		return "", p.Reason + ": " + providerSupplies
	case j.w.NotKnown["configmaps"] != nil:
		return "", p.Reason + "; it is not known what the pools have"
	}
	answer, err := j.book.Allocate(wish(s, j.o, j.cluster, func(netip.Addr) bool { return false }))
	if err != nil {
		return "", oneLine(err)
	}
	if slices.Equal(answer.Addrs, p.Addrs) {
		if answer.Lacking != nil {
			return oneLine(answer.Lacking), ""
		}
		return "", ""
	}
	return "the leader gives it " + commas(answer.Addrs) + " of " + j.book.Pools().Key(s.Namespace) +
		" next, or another if somebody on the network has that", ""
}

// under says what a Lease is for.
func under(kind string, s *corev1.Service, o Options, shared []string) string {
	switch {
	case kind == KindRoutes:
		return "every node that can serve it announces it, and routers choose among those"
	case kind == KindControlPlane:
		return "the address is the control plane's, too"
	case kind == KindLeader && (o.PerService || s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal):
		return "it shares its address with a Service of the leader's"
	case kind == KindLeader:
		return "one for all Services: its holder is the leader"
	case len(shared) > 0:
		return "that of the oldest of the Services that share the address"
	case strings.TrimSpace(s.Annotations[LeaseAnnotation]) != "":
		return "annotation " + LeaseAnnotation
	case s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
		return "its own, for externalTrafficPolicy is Local"
	}
	return "its own: each Service has one (svc_placement)"
}
