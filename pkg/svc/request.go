package svc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// request is what a Service's owner asks for.
type request struct {
	addrs []netip.Addr // in order, none twice
	// from is where they are written, as a user would name it; empty when no address is asked for.
	from string
	// allocated says that a pool gave them.
	allocated bool
	// refused are entries that can not be had, whatever else happens.
	refused []Refusal
}

// Refusal is an address that a Service is not to have, and why.
type Refusal struct {
	// Entry is what was asked for, as it was written.
	Entry  string `json:"entry"`
	Reason string `json:"reason"`
}

func (r Refusal) String() string { return r.Entry + ": " + r.Reason }

// requested reads what s asks for. The status says nothing: it is written by whoever holds the Service.
func requested(s *corev1.Service) request {
	text, from := s.Annotations[AddressesAnnotation], "annotation "+AddressesAnnotation
	if strings.TrimSpace(text) == "" {
		text, from = s.Spec.LoadBalancerIP, "spec.loadBalancerIP"
	}
	if strings.TrimSpace(text) == "" {
		return request{}
	}
	r := request{from: from, allocated: text == s.Annotations[AllocatedAnnotation]}
	if r.allocated {
		r.from = "pool that gave " + text
	}
	families := familiesOf(s)
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		addr, err := netip.ParseAddr(entry)
		reason := ""
		switch {
		case entry == "":
			continue
		case err != nil:
			reason = "it is not an IP address; names are not resolved for Services by this version"
		case addr.Zone() != "":
			reason = "it has a zone: write it without, and name the interface by the annotation " + InterfaceAnnotation
		case addr.IsUnspecified():
			reason = "addresses from DHCP are not supported by this version"
		case addr.IsLoopback() || addr.IsMulticast() || addr.Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			reason = "it is not a unicast address that a network could reach"
		case !slices.Contains(families, family(addr.Unmap())):
			reason = fmt.Sprintf("the Service has only %s (spec.ipFamilies)", families[0])
		}
		if reason != "" {
			r.refused = append(r.refused, Refusal{entry, reason})
			continue
		}
		if addr = addr.Unmap(); !slices.Contains(r.addrs, addr) {
			r.addrs = append(r.addrs, addr)
		}
	}
	return r
}

func family(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// familiesOf are the address families of s, in its order. A Service out of an old API server names none, and has the
// one of its cluster IP.
func familiesOf(s *corev1.Service) []corev1.IPFamily {
	if len(s.Spec.IPFamilies) > 0 {
		return s.Spec.IPFamilies
	}
	if addr, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil {
		return []corev1.IPFamily{family(addr)}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
}
