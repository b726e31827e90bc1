package svc

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Refusal is an address, or a Lease, that a Service is not to have, and why.
type Refusal struct {
	// Entry is what was asked for, as it was written.
	Entry string `json:"entry"`
	// Code is the kind of the Reason.
	Code   RefusalCode `json:"code"`
	Reason string      `json:"reason"`
}

func (r Refusal) String() string { return r.Entry + ": " + r.Reason }

// refuse is a Refusal of something that is still to be named.
func refuse(code RefusalCode, reason string) Refusal { return Refusal{Code: code, Reason: reason} }

func (r Refusal) of(entry string) Refusal {
	r.Entry = entry
	return r
}

// clash says which port of a Service is another's on an address that is held under another mandate: were it taken there,
// the API servers could not be reached any more. It is empty when there is none.
func (o Options) clash(s *corev1.Service, addr netip.Addr) string {
	if o.Elsewhere == nil {
		return ""
	}
	if _, elsewhere := o.Elsewhere(addr); !elsewhere {
		return ""
	}
	for _, p := range tenant(s).Ports {
		if slices.Contains(o.Also, p) {
			return fmt.Sprintf("the control plane has %s on %s already", p, addr)
		}
	}
	return ""
}

// RefusalCode is a kind of reason for a Refusal: what metrics count by.
type RefusalCode string

// The codes.
const (
	RefusedSyntax         RefusalCode = "not-an-address"
	RefusedZone           RefusalCode = "zone"
	RefusedDHCP           RefusalCode = "dhcp"
	RefusedNotUnicast     RefusalCode = "not-unicast"
	RefusedFamily         RefusalCode = "family"
	RefusedName           RefusalCode = "name"
	RefusedNodeAddress    RefusalCode = "node-address"
	RefusedPodNetwork     RefusalCode = "pod-network"
	RefusedServiceNetwork RefusalCode = "cluster-ip-network"
	RefusedNotAllowed     RefusalCode = "not-allowed"
	RefusedClash          RefusalCode = "clash"
	RefusedLease          RefusalCode = "lease" // and with it all addresses
)

// Label is one value of a metric's label.
type Label struct {
	Value string
	// Means goes on from "counts a Service", in the words of the documentation.
	Means string
}

// RefusalCodes is the table of codes.
func RefusalCodes() []Label {
	return []Label{
		{string(RefusedSyntax), "that asks for what is neither an address nor a name"},
		{string(RefusedZone), "that asks for an address with a zone"},
		{string(RefusedDHCP), "that asks for an address from DHCP"},
		{string(RefusedNotUnicast), "that asks for a loopback, multicast or broadcast address"},
		{string(RefusedFamily), "that asks for an address, or a name with one, of a family that it has not"},
		{string(RefusedName), "whose name has no address, or can not be looked up"},
		{string(RefusedNodeAddress), "that asks for a node's address"},
		{string(RefusedPodNetwork), "that asks for an address of the pods' networks"},
		{string(RefusedServiceNetwork), "that asks for an address of the cluster IPs' network"},
		{string(RefusedNotAllowed), "that asks for an address outside the allowed ranges"},
		{string(RefusedClash), "one of whose ports another Service, or the control plane, has on the address"},
		{string(RefusedLease), "whose annotation `" + LeaseAnnotation + "` names a Lease that it can not have"},
	}
}
