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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"kube-vip.io/kube-vip/pkg/ha"
)

// LeasePrefix and a Service's name make the name of its own Lease, which is in its namespace.
const LeasePrefix = "kubevip-"

// Leases stands for Leases. *ha.Fleet does.
type Leases interface {
	Stand(ha.Candidacy) error
	Leave(namespace, name string)
	Holder(namespace, name string) (ha.Holder, bool)
}

var _ Leases = (*ha.Fleet)(nil)

// namespacesOfKubernetes have Leases by which components of the cluster elect their leaders and nodes tell that they
// live. Who may edit a Service anywhere could have kube-vip take one in the moment in which nobody holds it.
var namespacesOfKubernetes = [...]string{metav1.NamespaceSystem, corev1.NamespaceNodeLease, metav1.NamespacePublic}

// leaseOf is the Lease that s is held under when it does not belong to the group. There is none if the Refusal has a
// Code. Every node must come to the same answer, so it goes by the Service and the settings alone.
func (o Options) leaseOf(s *corev1.Service) (types.NamespacedName, Refusal) {
	text := cmp.Or(strings.TrimSpace(s.Annotations[LeaseAnnotation]), LeasePrefix+s.Name)
	lease := types.NamespacedName{Namespace: s.Namespace, Name: text}
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		lease = types.NamespacedName{Namespace: namespace, Name: name}
	}
	why := ""
	switch {
	case len(validation.IsDNS1123Label(lease.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(lease.Name)) > 0:
		why = "the annotation " + LeaseAnnotation + " is no Lease's name: write name or namespace/name, in lower-case letters, digits, dots and hyphens"
	case o.Rules.Namespace != "" && lease.Namespace != o.Rules.Namespace:
		why = fmt.Sprintf("the annotation %s may name only a Lease in %s, for others are not watched (svc_namespace): write a name alone", LeaseAnnotation, o.Rules.Namespace)
	case o.Reserved != nil && o.Reserved(lease.Namespace, lease.Name):
		why = "kube-vip uses that Lease itself: name another by the annotation " + LeaseAnnotation
	case lease.Namespace != s.Namespace && slices.Contains(namespacesOfKubernetes[:], lease.Namespace):
		why = fmt.Sprintf("the annotation %s may not name a Lease in %s, where Kubernetes has its own: write a name alone, for one in %s", LeaseAnnotation, lease.Namespace, s.Namespace)
	default:
		return lease, Refusal{}
	}
	return types.NamespacedName{}, refuse(RefusedLease, why).of(text)
}

// ownerOf is what has the Lease deleted along with its Service; nil for a Lease that has no single one.
func ownerOf(s *corev1.Service, lease types.NamespacedName) *metav1.OwnerReference {
	if lease != (types.NamespacedName{Namespace: s.Namespace, Name: LeasePrefix + s.Name}) {
		return nil
	}
	return &metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: s.Name, UID: s.UID}
}

// tenure is the Lease of its own under which an address is held, or the mandate of another kind. What is shared by
// Services has one holder, whatever their Leases: that of the group if one of them belongs to it, else the oldest's.
func (c *Controller) tenure(addr netip.Addr) (own types.NamespacedName, mandate string) {
	if mandate, ok := c.o.Elsewhere(addr); ok {
		return own, mandate
	}
	if c.o.Everywhere != "" {
		return own, c.o.Everywhere
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return tenureOf(c.users[addr], c.known, c.o.Mandate)
}

// tenureOf is tenure for an address that users are to have, of those that are known.
func tenureOf(users map[string]struct{}, known map[string]*entry, group string) (own types.NamespacedName, mandate string) {
	var first *entry
	name := ""
	for key := range users {
		r := known[key]
		if r == nil {
			continue
		}
		if !r.own {
			return own, group
		}
		if r.lease == (types.NamespacedName{}) {
			continue // it is refused one, and holds nothing
		}
		if first == nil || cmp.Or(r.born.Compare(first.born), cmp.Compare(key, name)) < 0 {
			first, name = r, key
		}
	}
	if first == nil {
		return own, group
	}
	return first.lease, first.lease.String()
}

// mandateOf is the mandate under which addr is held.
func (c *Controller) mandateOf(addr netip.Addr) string {
	_, mandate := c.tenure(addr)
	return mandate
}

// stand has this node stand for the Leases of its own that a Service's addresses are held under.
func (c *Controller) stand(key string, s *corev1.Service, r *entry, p Plan) error {
	var keep []types.NamespacedName
	var err error
	for _, addr := range p.Addrs {
		lease, mandate := c.tenure(addr)
		if lease == (types.NamespacedName{}) || !p.Candidate || slices.Contains(keep, lease) {
			continue
		}
		keep = append(keep, lease)
		c.mu.Lock()
		if c.stands[mandate] == nil {
			c.stands[mandate] = map[string]struct{}{}
		}
		c.stands[mandate][key] = struct{}{}
		c.mu.Unlock()
		health := ha.Healthy
		err = c.o.Leases.Stand(ha.Candidacy{Namespace: lease.Namespace, Name: lease.Name, Owner: ownerOf(s, lease),
			Rank: c.ranking.rank(mandate, c.at.members[0], p.Rivals, cmp.Or(c.keeper(addr, mandate), preferred(s))), Health: health})
	}
	c.leave(key, r, keep)
	r.stands = keep
	if err != nil {
		return fmt.Errorf("hold Service %s: %w", key, err)
	}
	return nil
}

// resettle is how long the node that had an address under another Lease is the first to try for the new one. It tries at
// once, and each of the others later by its rank.
const resettle = 5 * time.Second

// keeper is the node that has had addr under another Lease until a moment ago, by the status of a Service: when what
// shares an address gets another Lease, the address is to stay where it is. It is empty when nothing has changed.
func (c *Controller) keeper(addr netip.Addr, mandate string) string {
	c.mu.Lock()
	users := slices.Sorted(maps.Keys(c.users[addr]))
	c.mu.Unlock()
	for _, key := range users {
		r, s := c.known[key], c.sources.service(key)
		if r == nil || s == nil || r.addrs[0] != addr || r.mandate == "" || r.mandate == mandate && time.Since(r.since) > resettle {
			continue
		}
		if host := s.Annotations[HostAnnotation]; host != "" {
			c.queue.AddAfter(key, resettle+time.Second) // then ranks are what they are for all
			return host
		}
	}
	return ""
}

// leave ends the candidacies on behalf of a Service, but for those that are kept.
func (c *Controller) leave(key string, r *entry, keep []types.NamespacedName) {
	for _, lease := range r.stands {
		if slices.Contains(keep, lease) {
			continue
		}
		c.mu.Lock()
		delete(c.stands[lease.String()], key)
		last := len(c.stands[lease.String()]) == 0
		if last {
			delete(c.stands, lease.String())
		}
		c.mu.Unlock()
		if last {
			c.ranking.forget(lease.String())
			c.o.Leases.Leave(lease.Namespace, lease.Name)
		}
	}
	r.stands = nil
}

// standsFor says that this node stands for a Lease of Services' own.
func (c *Controller) standsFor(mandate string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.stands[mandate]) > 0
}

// remark says once that a Service asks for a Lease of its own by an annotation that does nothing.
func (c *Controller) remark(key string, s *corev1.Service) {
	if c.at.forced || c.o.OnDemand || c.o.PerService || !isTrue(s, ForceAnnotation) {
		return
	}
	c.at.forced = true
	c.log.Warn("annotation "+ForceAnnotation+" does nothing without per_service_election_on_demand: such Services are held like any other", "service", key)
}
