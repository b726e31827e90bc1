package svc

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of Services. They are a contract with the YAML that people have.
const (
	// AddressesAnnotation lists the addresses that a Service is to have, IPv4, IPv6 and names, in order. It counts more
	// than spec.loadBalancerIP. An address out of a pool is written there, too.
	AddressesAnnotation = "kube-vip.io/loadbalancerIPs"
	// AllocatedAnnotation repeats what AddressesAnnotation says when that comes out of a pool. A Service whose owner
	// then asks for other addresses has what he asks for.
	AllocatedAnnotation = "kube-vip.io/allocated"
	// HostAnnotation is the node that holds the Service's addresses. It is written, not read.
	HostAnnotation = "kube-vip.io/vipHost"
	// IgnoreAnnotation keeps kube-vip away from a Service.
	IgnoreAnnotation = "kube-vip.io/ignore"
	// InterfaceAnnotation is the interface that carries the Service's addresses; "auto" is the one whose subnet
	// holds them.
	InterfaceAnnotation = "kube-vip.io/serviceInterface"
	// LeaseAnnotation is the Lease, name or namespace/name, under which a Service is held when each has its own. Services
	// that name the same are held by the same node. Not with externalTrafficPolicy Local, and not one of kube-vip's own
	// or of Kubernetes' namespaces.
	LeaseAnnotation = "kube-vip.io/leaseName"
	// ForceAnnotation gives a Service a Lease of its own where Options.OnDemand allows it.
	ForceAnnotation = "kube-vip.io/forcePerServiceElection"
	// SelectorAnnotation is a label selector: only nodes that match it hold the Service's addresses.
	SelectorAnnotation = "kube-vip.io/nodeSelector"
	// PreferredAnnotation is the node that tries for the Service's Lease before all others.
	PreferredAnnotation = "kube-vip.io/preferredNode"
	// UnguardedAnnotation lets everything reach the Service's addresses where Options.Guard would let only its ports.
	UnguardedAnnotation = "kube-vip.io/ignore-service-security"
	// EndpointlessAnnotation has a Service announced that has no endpoint at all; only with
	// externalTrafficPolicy Cluster.
	EndpointlessAnnotation = "kube-vip.io/allow-reconcile-without-endpoints"
)

// TraitsPrefix begins the annotations that say how the Service's addresses are announced. They are passed on as they are,
// by Options.Traits.
const TraitsPrefix = "kube-vip.io/bgp-"

// traits are a Service's annotations that begin with TraitsPrefix, without that.
func traits(s *corev1.Service) map[string]string {
	var out map[string]string
	for key, value := range s.Annotations {
		if name, is := strings.CutPrefix(key, TraitsPrefix); is {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = value
		}
	}
	return out
}

// annotationPrefix begins all of them.
const annotationPrefix = "kube-vip.io/"

// WeightAnnotation of a Node is its share of the Leases of Services: 0 to 1000, and 100 where it says nothing. A node of
// weight 0 tries after all others.
const WeightAnnotation = "kube-vip.io/weight"

// Annotation is one row of the table of annotations that concern Services: theirs, unless Values names a Node.
type Annotation struct {
	Key string
	// Values says what it may be, Effect what that does, in the words of the documentation.
	Values, Effect string
	// Written says that the program writes it.
	Written bool
}

// Annotations is the table: one row for each annotation of a Service or a Node that this package reads or writes.
func Annotations() []Annotation {
	return []Annotation{
		{Key: AddressesAnnotation, Values: "IP addresses and DNS names, separated by commas", Written: true,
			Effect: "the addresses that the Service is to have; counts more than `spec.loadBalancerIP`; what a pool gave is written here"},
		{Key: AllocatedAnnotation, Values: "as above", Written: true, Effect: "the same addresses, when they come out of a pool; take both away to have new ones"},
		{Key: IgnoreAnnotation, Values: "`true`", Effect: "kube-vip leaves the Service alone, and takes off what it had put on"},
		{Key: InterfaceAnnotation, Values: "an interface, or `auto`",
			Effect: "the interface that carries the addresses; `auto` is the one whose subnet holds them"},
		{Key: LeaseAnnotation, Values: "a Lease: name or namespace/name",
			Effect: "the Lease of a Service that has one of its own; those that name the same are held by the same node; not with `externalTrafficPolicy: Local` or a `nodeSelector`; none of kube-vip's other Leases, none in `kube-system`, `kube-node-lease` or `kube-public` but for a Service there"},
		{Key: ForceAnnotation, Values: "`true`", Effect: "the Service has a Lease of its own, where `per_service_election_on_demand` is set"},
		{Key: SelectorAnnotation, Values: "a label selector, as for `kubectl -l`", Effect: "only nodes that match it hold the addresses"},
		{Key: PreferredAnnotation, Values: "a node", Effect: "the node that tries first when the addresses are to be held anew; what is held elsewhere stays there"},
		{Key: UnguardedAnnotation, Values: "`true`",
			Effect: "with `enable_service_security`, other ports of the addresses can be reached all the same"},
		{Key: EndpointlessAnnotation, Values: "`true`",
			Effect: "the addresses stay without any endpoint; only with `externalTrafficPolicy: Cluster`"},
		{Key: WeightAnnotation, Values: "on a Node: 0 to 1000; 100 if it is not there", Effect: "the node's share of the Leases of Services; with 0 it tries after all others"},
		{Key: TraitsPrefix + "communities", Values: "communities as `65000:100`, `65000:1:2` or names, separated by commas",
			Effect: "BGP communities of the routes to the addresses, besides those of the peers"},
		{Key: TraitsPrefix + "local-pref", Values: "a number", Effect: "LOCAL_PREF of the routes, for peers of our own AS"},
		{Key: TraitsPrefix + "med", Values: "a number", Effect: "MULTI_EXIT_DISC of the routes"},
		{Key: TraitsPrefix + "prepend", Values: "0 to 32", Effect: "how often our AS is in the path besides"},
		{Key: TraitsPrefix + "aggregation-length", Values: "1 to 32", Effect: "the length of the prefix that an IPv4 address is announced as part of"},
		{Key: TraitsPrefix + "aggregation-length-v6", Values: "1 to 128", Effect: "the same for an IPv6 address"},
		{Key: HostAnnotation, Values: "a node", Written: true, Effect: "the node that holds the addresses now"},
	}
}

// unread are the annotations of a Service that look like kube-vip's and do nothing: written wrong, or of features that are
// not there.
func unread(s *corev1.Service) (keys []string) {
	for key := range s.Annotations {
		if strings.HasPrefix(key, annotationPrefix) && !slices.ContainsFunc(Annotations(), func(a Annotation) bool { return a.Key == key }) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
