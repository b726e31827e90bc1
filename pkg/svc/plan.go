package svc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kube-vip.io/kube-vip/pkg/pool"
	"kube-vip.io/kube-vip/pkg/vip"
)

// Facts are what is known around one Service.
type Facts struct {
	Endpoints Endpoints
	Cluster   Cluster
	// Clash says why the Service may not have addr beside those that have it already; empty when it may.
	Clash func(addr netip.Addr) string
	// Names says what names stand for.
	Names Names
	// Node is this node, and Holds says that it has the Service's addresses now.
	Node  string
	Holds bool
	// Unfit says why this node may hold none of the group's addresses now; empty when it may.
	Unfit string
	// Members are the nodes on which kube-vip runs, this one first; none means that only this one is known.
	Members []Member
	// Links are this node's interfaces, and Places where the Service's addresses were on them.
	Links  []vip.Link
	Places []vip.Place
	// Interface is what interface-<namespace> of the pools says.
	Interface string
}

// Plan is what a Service comes to.
type Plan struct {
	// Ours says that the Service is ours to care for; if not, Reason says why not.
	Ours bool
	// Addrs are the addresses that it is to have, in order; From says where they are written.
	Addrs []netip.Addr
	From  string
	// Refused are the addresses that it asked for and does not get, and the Lease.
	Refused []Refusal
	// Names are the DNS names that it asks for, and Open says that one of them has not been looked up yet.
	Names []string
	Open  bool
	// Wanting says that the Service names no address, or none but what a pool gave it: it is to have what the pool has.
	Wanting bool
	// Because is the name of Reason, or of Short, when no pool could help.
	Because string
	// Announced says that its addresses are to be held by some node; if not, Reason says why not.
	Announced bool
	// Short says what it should have besides; what it has already is held all the same.
	Short string
	// Own says that the Service has a Lease of its own, since not every node can serve it. Lease is that one, or empty
	// when it is among the Refused: then nobody is to hold the addresses, which are kept for it.
	Own   bool
	Lease types.NamespacedName
	// Candidate says that this node may hold the addresses; if not, Reason says why not.
	Candidate bool
	Reason    string
	// Leaves says that it may not although it could: it is to leave them to others, and need not do that at once.
	Leaves bool
	// Rivals are the others that may hold what has a Lease of its own, as well as this node.
	Rivals []Member
	// Nodes are those that hold the addresses where all do that can, by name.
	Nodes []string
	// Nowhere says that no node can hold the addresses.
	Nowhere bool
	// Endpoints are how many ready ones it has on this node.
	Endpoints int
	// Note is what is wrong with what it says of the way it is announced, which takes nothing from it.
	Note string
	// NoPlace says what keeps this node from carrying some of the addresses, and Lacks what it would have to have;
	// Placeless says that it can carry none.
	NoPlace   string
	Lacks     []string
	Placeless bool
}

// plan is the one place where it is decided what a Service is to have. It is pure.
func plan(s *corev1.Service, o Options, f Facts) Plan {
	if ok, why := o.Rules.Ours(s); !ok {
		return Plan{Reason: why}
	}
	local := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	p := Plan{Ours: true, Own: o.Everywhere == "" && own(s, o, f), Endpoints: f.Endpoints.count[f.Node]}
	f.Holds = f.Holds && o.Everywhere == "" // where others hold the same, nothing is gained by staying
	asked := requested(s, f.Names)
	p.From, p.Refused, p.Names, p.Open = asked.from, asked.refused, asked.names, asked.open
	for _, addr := range asked.addrs {
		no := f.Cluster.refuse(addr)
		if no.Code == "" {
			no = outside(addr, o.Allowed)
		}
		if no.Code == "" {
			if clash := cmp.Or(o.clash(s, addr), f.Clash(addr)); clash != "" {
				no = refuse(RefusedClash, clash)
			}
		}
		if no.Code != "" {
			p.Refused = append(p.Refused, no.of(addr.String()))
			continue
		}
		p.Addrs = append(p.Addrs, addr)
	}
	if p.Own {
		var no Refusal
		if p.Lease, no = o.leaseOf(s); no.Code != "" {
			p.Refused = append(p.Refused, no)
			p.Reason = "refused " + p.refusals()
			return p
		}
	}
	p.Wanting = asked.from == "" || asked.allocated && (len(p.Refused) > 0 || len(p.Addrs) < len(familiesOf(s)) && dual(s))
	p.Reason = p.lacking(s)
	switch {
	case p.Reason != "" && !p.kept(s):
		return p
	case p.Reason != "":
		p.Short, p.Reason = p.Reason, ""
	}
	if s.Annotations[LeaseAnnotation] != "" && local {
		p.Reason = "the annotation " + LeaseAnnotation + " can not be kept with externalTrafficPolicy Local: not every node could hold what shares the Lease"
		return p
	}
	selector, err := selects(s)
	switch {
	case err != nil:
		p.Reason = err.Error()
		return p
	case selector != nil && s.Annotations[LeaseAnnotation] != "":
		p.Reason = "the annotation " + LeaseAnnotation + " can not be kept with the annotation " + SelectorAnnotation + ": not every node could hold what shares the Lease"
		return p
	case local && f.Endpoints.best == gone && f.Endpoints.known:
		p.Reason = "no node has a ready endpoint, and externalTrafficPolicy is Local"
		return p
	case !f.Endpoints.any() && !isTrue(s, EndpointlessAnnotation):
		p.Reason = "it has no ready endpoint; the annotation " + EndpointlessAnnotation + ": \"true\" would keep its addresses all the same"
		return p
	}
	p.Announced = true
	at := placementOf(s, o.Placement, f.Interface)
	p.settle(at, f)
	switch {
	case p.Own:
		p.elect(s, at, selector, f)
	case o.Everywhere != "":
		p.elect(s, at, selector, f)
		p.Rivals = nil
	case f.Unfit != "":
		p.Reason = f.Unfit
	default:
		p.Candidate = true
	}
	return p
}

// supplied is p with the word of the pools: why it has not all that it may, with the reason's name. Who prefers two
// families and has one is announced as it asks.
func (p Plan) supplied(because, why string) Plan {
	switch {
	case !p.Announced:
		p.Because, p.Reason = because, why
	case why != "" && p.Short == "":
		p.Because, p.Short = ReasonAnnounced, why
	case why != "":
		p.Because, p.Short = because, why
	}
	return p
}

// dual says whether s is to have addresses of more than one family.
func dual(s *corev1.Service) bool { return policyOf(s) != pool.SingleStack }

// lacking says why there is nothing to announce.
func (p Plan) lacking(s *corev1.Service) string {
	if len(p.Addrs) == 0 {
		switch {
		case len(p.Refused) > 0:
			return "refused " + p.refusals()
		case p.From == "":
			return "it asks for no address (annotation " + AddressesAnnotation + " or spec.loadBalancerIP), and no pool has given it one"
		}
		return "the " + p.From + " names no address"
	}
	if policyOf(s) == pool.RequireDualStack {
		for _, f := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			if !slices.ContainsFunc(p.Addrs, func(a netip.Addr) bool { return family(a) == f }) {
				reason := fmt.Sprintf("it has no %s address, and ipFamilyPolicy is RequireDualStack", f)
				if len(p.Refused) > 0 {
					reason += "; refused " + p.refusals()
				}
				return reason
			}
		}
	}
	return ""
}

// kept says that one of the addresses is announced already: that a second family is asked for now, or is lost, takes
// nothing away from who uses the first.
func (p Plan) kept(s *corev1.Service) bool {
	has := given(s)
	return slices.ContainsFunc(p.Addrs, func(a netip.Addr) bool { return slices.Contains(has, a) })
}

// leaseless says that the Service is refused its Lease.
func (p Plan) leaseless() bool { return slices.Contains(p.codes(), RefusedLease) }

func (p Plan) refusals() string { return join(p.Refused) }

// join lists things for a message.
func join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, x := range list {
		texts[i] = x.String()
	}
	return strings.Join(texts, ", ")
}
