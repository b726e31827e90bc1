package svc

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Explanation is everything that decides about one Service, and what comes of it.
type Explanation struct {
	// Service is its namespace and name. Verdict is the whole in one sentence.
	Service string `json:"service"`
	Verdict string `json:"verdict"`

	Type          string    `json:"type"`
	Class         string    `json:"class"` // "none" without one
	TrafficPolicy string    `json:"externalTrafficPolicy,omitempty"`
	Created       time.Time `json:"created"`

	// Ours says that kube-vip cares for it, Announced that its addresses are to be held. Why says why not.
	Ours      bool   `json:"ours"`
	Announced bool   `json:"announced"`
	Why       string `json:"why,omitempty"`

	// Addresses are what it is to have, and From where they are written.
	Addresses []HeldAddress `json:"addresses"`
	From      string        `json:"from,omitempty"`
	Refused   []Refusal     `json:"refused,omitempty"`
	// Pool is what the pools have for it, when it wants something of them.
	Pool      string    `json:"pool,omitempty"`
	Endpoints Readiness `json:"endpoints"`
	Status    Status    `json:"status"`

	// Leader is who writes the status where nobody is to hold addresses.
	Leader Lock `json:"leader"`
	// Holdings are the Leases under which its addresses are held: one, unless addresses are shared.
	Holdings []Holding `json:"holdings"`

	// But are contradictions between what is to be, what is said, and what is.
	But []string `json:"but"`
	// NotKnown is what could not be read, and why not.
	NotKnown []string `json:"notKnown"`

	placement vip.Placement
}

// Placement is where the addresses go on a node.
func (x Explanation) Placement() vip.Placement { return x.placement }

// HeldAddress is one of a Service's addresses.
type HeldAddress struct {
	Address netip.Addr `json:"address"`
	// SharedWith are the other Services that have it.
	SharedWith []string `json:"sharedWith,omitempty"`
	// Lease is the one that it is held under; empty when the Service is refused that, or every node announces it.
	Lease string `json:"lease"`
}

// Readiness is where a Service has endpoints: the nodes that have ready ones, and those whose best ones are
// terminating and still serve.
type Readiness struct {
	Known       bool     `json:"known"`
	Any         bool     `json:"any"`
	Ready       []string `json:"ready,omitempty"`
	Terminating []string `json:"terminating,omitempty"`
}

// Status is what the Service says of itself, in the words of whoever wrote it last.
type Status struct {
	Addresses []string `json:"addresses"`
	// Host is the annotation kube-vip.io/vipHost.
	Host string `json:"vipHost,omitempty"`
	// Announced, Reason, Message and Since are those of the condition; Announced is empty when there is none.
	Announced string     `json:"announced,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	Message   string     `json:"message,omitempty"`
	Since     *time.Time `json:"since,omitempty"`
}

// Holding is a Lease, what it is for, and who may hold it.
type Holding struct {
	Lock
	// For says why it is this Lease.
	For        string       `json:"for"`
	Addresses  []netip.Addr `json:"addresses"`
	Candidates []Candidate  `json:"candidates"`
	IfDied     []Succession `json:"ifDied"`
}

// Explain says everything about the Service, which must be in the World. It is pure. Of the Options it uses the
// Mandate, Elsewhere, Everywhere, PerService, Reserved, Rules, Allowed, Placement, Exclude, ReadOnly and Pools.
func Explain(o Options, locks Locks, w World, service types.NamespacedName) (Explanation, error) {
	i := slices.IndexFunc(w.Services, func(s *corev1.Service) bool { return key(s) == service.String() })
	if i < 0 {
		return Explanation{}, fmt.Errorf("there is no Service %s", service)
	}
	s, j := w.Services[i], newJudge(o, locks, w)
	endpoints := j.endpoints("")
	p := j.plan(s, endpoints, "", false)
	x := Explanation{
		Service: key(s), Type: string(s.Spec.Type), Class: "none", TrafficPolicy: string(s.Spec.ExternalTrafficPolicy),
		Created: s.CreationTimestamp.Time, Ours: p.Ours, Announced: p.Announced, Why: p.Reason, From: p.From, Refused: p.Refused,
		Addresses: []HeldAddress{}, Endpoints: readinessOf(endpoints), Status: statusOf(s), Leader: j.lock(locks.Group, KindLeader),
		Holdings: []Holding{}, But: []string{}, NotKnown: NotKnown(w),
		placement: placementOf(s, o.Placement, j.book.Pools().Interface(s.Namespace)),
	}
	if s.Spec.LoadBalancerClass != nil {
		x.Class = *s.Spec.LoadBalancerClass
	}
	if p.Announced {
		x.Why = "" // what is left is about a node
	}
	if p.Wanting {
		var why string
		if x.Pool, why = j.supplied(s, p); why != "" && !p.Announced {
			x.Why = why
		}
	}
	if p.Ours {
		j.holdings(&x, s, p, endpoints)
		x.But = j.contradictions(s, p, x)
	}
	x.Verdict = x.verdict()
	return x, nil
}

// holdings adds the addresses and the Leases that they are held under.
func (j *judge) holdings(x *Explanation, s *corev1.Service, p Plan, endpoints Endpoints) {
	for _, a := range p.Addrs {
		lease, kind := j.lockOf(a)
		shared := j.sharers(a, x.Service)
		name := ""
		if kind != KindRoutes {
			name = lease.String()
		}
		x.Addresses = append(x.Addresses, HeldAddress{Address: a, SharedWith: shared, Lease: name})
		if !p.Announced {
			if p.leaseless() {
				x.Addresses[len(x.Addresses)-1].Lease = ""
			}
			continue
		}
		if i := slices.IndexFunc(x.Holdings, func(h Holding) bool { return h.Kind == kind && h.Lease == name }); i >= 0 {
			x.Holdings[i].Addresses = append(x.Holdings[i].Addresses, a)
			continue
		}
		h := Holding{Lock: j.lock(lease, kind), For: under(kind, s, j.o, shared), Addresses: []netip.Addr{a}}
		h.Candidates = j.candidates(s, endpoints, h.Lock)
		h.IfDied = j.succession(s, h.Lock, h.Candidates)
		x.Holdings = append(x.Holdings, h)
	}
}

// contradictions are between what is planned, the Leases, and what the Service says.
func (j *judge) contradictions(s *corev1.Service, p Plan, x Explanation) []string {
	list := []string{}
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, h := range x.Holdings {
		if h.Kind == KindRoutes {
			continue
		}
		if _, member := j.members[h.Holder]; h.Live && !member {
			say("%s holds the Lease %s, and no such instance is known: another program, or an older kube-vip", h.Holder, h.Lease)
		}
		if i := slices.IndexFunc(h.Candidates, func(c Candidate) bool { return c.Node == h.Holder }); h.Live && i >= 0 && !h.Candidates[i].May {
			say("%s holds the Lease %s, and may not: %s", h.Holder, h.Lease, h.Candidates[i].Why)
		}
	}
	for _, key := range unread(s) {
		say("the annotation %s is none that this version reads", key)
	}
	st := x.Status
	if j.o.ReadOnly {
		return list // nobody writes what follows
	}
	switch {
	case st.Announced == "":
		say("its status has no condition %s: nobody has written one yet; the log of the holder says why, if this stays", ConditionAnnounced)
		return list
	case p.Announced && st.Reason == ReasonNoneLeft && len(x.Holdings) > 0 && !x.Holdings[0].Live: // so it is
	case p.Announced && st.Announced != string(corev1.ConditionTrue):
		say("its condition says %s: %s", st.Reason, st.Message)
	case st.Announced != string(corev1.ConditionTrue):
	case !p.Announced, len(x.Holdings) > 0 && x.Holdings[0].Known && !x.Holdings[0].Live:
		say("its condition still says: %s", st.Message)
	}
	if len(x.Holdings) > 0 && x.Holdings[0].Live && x.Holdings[0].Kind != KindRoutes && st.Host != x.Holdings[0].Holder && st.Announced == string(corev1.ConditionTrue) {
		say("the Lease names %s, and the annotation %s %s", x.Holdings[0].Holder, HostAnnotation, cmp.Or(st.Host, "nobody"))
	}
	want := []string{}
	if p.Announced {
		for _, a := range p.Addrs {
			want = append(want, a.String())
		}
	}
	if !slices.Equal(want, st.Addresses) && (st.Announced == string(corev1.ConditionTrue) || len(st.Addresses) > 0) {
		say("its status lists %s, and it is to have %s", orNone(strings.Join(st.Addresses, ", ")), orNone(strings.Join(want, ", ")))
	}
	return list
}

// verdict is the whole in one sentence.
func (x Explanation) verdict() string {
	switch {
	case !x.Ours:
		return "kube-vip leaves it alone: " + x.Why
	case !x.Announced:
		text := "it is not announced: " + x.Why
		if x.Pool != "" {
			text += "; " + x.Pool
		}
		return text
	}
	var parts []string
	for _, h := range x.Holdings {
		addrs := join(h.Addresses)
		switch {
		case h.Live && h.Kind == KindRoutes:
			parts = append(parts, h.announcers())
		case h.Live && x.Status.Announced == "False":
			parts = append(parts, fmt.Sprintf("%s holds the Lease, and %s is not announced: %s", h.Holder, addrs, x.Status.Message))
		case h.Live:
			parts = append(parts, fmt.Sprintf("%s holds %s", h.Holder, addrs))
		case !h.Known:
			parts = append(parts, fmt.Sprintf("it is not known who holds %s: Leases could not be read", addrs))
		case !slices.ContainsFunc(h.Candidates, func(c Candidate) bool { return c.May }) && len(h.Candidates) > 0:
			parts = append(parts, fmt.Sprintf("nobody holds %s: no node may, see the candidates; %s", addrs, h.Why))
		default:
			parts = append(parts, fmt.Sprintf("nobody holds %s: %s", addrs, h.Why))
		}
	}
	if len(x.Refused) > 0 {
		parts = append(parts, "refused "+join(x.Refused))
	}
	return strings.Join(parts, "; ")
}

// announcers says which nodes announce the addresses, where all do that can.
func (h Holding) announcers() string {
	var nodes []string
	for _, c := range h.Candidates {
		if c.Holds {
			nodes = append(nodes, c.Node)
		}
	}
	if len(nodes) == 0 {
		return fmt.Sprintf("no node announces %s: see the candidates", join(h.Addresses))
	}
	return fmt.Sprintf("announced by %s: %s", few(nodes), join(h.Addresses))
}

func readinessOf(e Endpoints) Readiness {
	r := Readiness{Known: e.known, Any: e.any()}
	for _, node := range slices.Sorted(maps.Keys(e.nodes)) {
		switch e.nodes[node] {
		case ready:
			r.Ready = append(r.Ready, node)
		case terminating:
			r.Terminating = append(r.Terminating, node)
		}
	}
	return r
}

func statusOf(s *corev1.Service) Status {
	st := Status{Addresses: []string{}, Host: s.Annotations[HostAnnotation]}
	for _, i := range s.Status.LoadBalancer.Ingress {
		st.Addresses = append(st.Addresses, cmp.Or(i.IP, i.Hostname))
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, ConditionAnnounced); c != nil {
		st.Announced, st.Reason, st.Message = string(c.Status), c.Reason, c.Message
		if !c.LastTransitionTime.IsZero() {
			st.Since = &c.LastTransitionTime.Time
		}
	}
	return st
}

// without says what is not known without a kind of objects.
func without(kind string) string {
	switch kind {
	case "services":
		return "which other Services have an address"
	case "endpointslices", "endpoints":
		return "whether it has endpoints, and where"
	case "nodes":
		return "which nodes there are, and their labels, addresses and pod networks"
	case "servicecidrs":
		return "the cluster IPs' network"
	case "configmaps":
		return "the pools"
	case "leases":
		return "who holds, and where kube-vip runs"
	}
	return kind
}

// NotKnown says what a look at the API did not show, and why not.
func NotKnown(w World) []string {
	list := []string{}
	for _, kind := range slices.Sorted(maps.Keys(w.NotKnown)) {
		list = append(list, fmt.Sprintf("%s: read %s: %v", without(kind), kind, w.NotKnown[kind]))
	}
	return list
}
