package svc

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Cluster is what a Service's address must keep clear of. Its zero value knows nothing and refuses nothing.
type Cluster struct {
	nodes    map[netip.Addr]string // whose address it is
	pods     map[netip.Prefix]string
	services map[netip.Prefix]string // by the name of the ServiceCIDR
}

// clusterOf reads the objects. What can not be read in them is left out: it is not for us to judge.
func clusterOf(nodes []*corev1.Node, cidrs []*networkingv1.ServiceCIDR) Cluster {
	c := Cluster{nodes: map[netip.Addr]string{}, pods: map[netip.Prefix]string{}, services: map[netip.Prefix]string{}}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				c.nodes[addr.Unmap()] = n.Name
			}
		}
		for _, text := range slices.Concat(n.Spec.PodCIDRs, []string{n.Spec.PodCIDR}) {
			if p, err := netip.ParsePrefix(text); err == nil {
				c.pods[p.Masked()] = n.Name
			}
		}
	}
	for _, s := range cidrs {
		for _, text := range s.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				c.services[p.Masked()] = s.Name
			}
		}
	}
	return c
}

func (c Cluster) equal(o Cluster) bool {
	return maps.Equal(c.nodes, o.nodes) && maps.Equal(c.pods, o.pods) && maps.Equal(c.services, o.services)
}

// refuse says why no Service may have addr; it has no Code when one may.
func (c Cluster) refuse(addr netip.Addr) Refusal {
	if node, ok := c.nodes[addr]; ok {
		return refuse(RefusedNodeAddress, fmt.Sprintf("it is an address of node %s", node))
	}
	for p, node := range c.pods {
		if p.Contains(addr) {
			return refuse(RefusedPodNetwork, fmt.Sprintf("it is in %s, the pods' network on node %s (spec.podCIDRs)", p, node))
		}
	}
	for p, name := range c.services {
		if p.Contains(addr) {
			return refuse(RefusedServiceNetwork, fmt.Sprintf("it is in %s, the cluster IPs' network (ServiceCIDR %s)", p, name))
		}
	}
	return Refusal{}
}

// outside says why addr is not to be had when only these ranges are allowed; it has no Code when it may be had.
func outside(addr netip.Addr, allowed []netip.Prefix) Refusal {
	if len(allowed) == 0 || slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return Refusal{}
	}
	return refuse(RefusedNotAllowed, fmt.Sprintf("it is in none of the allowed ranges %s (vip_allowed_ranges)", join(allowed)))
}
