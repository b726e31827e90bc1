package svc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"kube-vip.io/kube-vip/pkg/names"
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
	// names are the entries that are names, and open says that one of them has not been looked up yet.
	names []string
	open  bool
}

// Names says what a name stands for; false until it has been looked up for the first time. A nil Names knows nothing.
type Names func(name string) (names.Resolution, bool)

// requested reads what s asks for. The status says nothing: it is written by whoever holds the Service. But as long as a
// name has no address, the Service keeps what we have given it, and that is known from there after a start.
func requested(s *corev1.Service, resolve Names) request {
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
	lost := false // a name has no address
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		addr, err := netip.ParseAddr(entry)
		addrs, no := []netip.Addr{addr.Unmap()}, unusable(addr, families)
		if err != nil {
			addrs, no = r.ask(entry, families, resolve)
			lost = lost || len(addrs) == 0
		}
		if no.Code != "" {
			r.refused = append(r.refused, no.of(entry))
			continue
		}
		r.add(addrs)
	}
	if lost && len(r.names) > 0 {
		r.add(slices.DeleteFunc(given(s), func(a netip.Addr) bool { return unusable(a, families).Code != "" }))
	}
	return r
}

// unusable says why nobody could have addr, or not with these families; it has no Code when one could.
func unusable(addr netip.Addr, families []corev1.IPFamily) Refusal {
	switch {
	case addr.Zone() != "":
		return refuse(RefusedZone, "it has a zone: write it without, and name the interface by the annotation "+InterfaceAnnotation)
	case addr.IsUnspecified():
		return refuse(RefusedDHCP, "addresses from DHCP are not supported by this version")
	case addr.IsLoopback() || addr.IsMulticast() || addr.Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return refuse(RefusedNotUnicast, "it is not a unicast address that a network could reach")
	case !slices.Contains(families, family(addr.Unmap())):
		return refuse(RefusedFamily, fmt.Sprintf("the Service has only %s (spec.ipFamilies)", families[0]))
	}
	return Refusal{}
}

// add adds addresses that are not there yet.
func (r *request) add(addrs []netip.Addr) {
	for _, a := range addrs {
		if !slices.Contains(r.addrs, a) {
			r.addrs = append(r.addrs, a)
		}
	}
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
