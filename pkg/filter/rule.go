package filter

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Protocol is an IP protocol number (IANA "Assigned Internet Protocol Numbers") of a transport with ports.
type Protocol uint8

// The protocols that a Service can have.
const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

// String is the name as nft and Kubernetes write it, in lower case.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Port is one port that may be reached. It is comparable.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// String is 80/tcp, for example.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Number, b.Number))
}

// Rule guards one address: of what comes to it from outside this node, only these ports and ICMP pass. Without
// ports it is ICMP alone.
//
// Whoever makes Rules knows who shares an address: several Rules for one address let pass what any of them does,
// so a control plane's VIP that is also a Service's gets a Rule with the API's port. An address of which one
// Service is not to be guarded must have no Rule at all. And it must be a VIP: a node's own address has an SSH
// server and a kubelet behind it.
type Rule struct {
	Addr  netip.Addr
	Ports []Port
}

// guards are Rules merged: the ports of each guarded address, sorted and each once. They do not change once made.
type guards map[netip.Addr][]Port

// ports counts them.
func (g guards) ports() (count int) {
	for _, ports := range g {
		count += len(ports)
	}
	return count
}

// allows says whether the port of a guarded address passes.
func (g guards) allows(addr netip.Addr, port Port) bool {
	_, found := slices.BinarySearchFunc(g[addr], port, comparePorts)
	return found
}

// merge makes guards of Rules. The error names what cannot be guarded: an address that no host can have. A port
// that cannot be is not opened, and the error names it, but its address is guarded all the same.
func merge(rules []Rule) (guards, error) {
	total := 0
	for _, r := range rules {
		total += len(r.Ports)
	}
	room := make([]Port, 0, total) // one piece of memory for all
	merged := make(guards, len(rules))
	var refused []error
	for _, r := range rules {
		addr := r.Addr.Unmap().WithZone("")
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
			refused = append(refused, fmt.Errorf("guard %s: not the address of a host on a network", r.Addr))
			continue
		}
		start := len(room)
		for _, p := range r.Ports {
			switch {
			case p.Number == 0:
				refused = append(refused, fmt.Errorf("open port %s of %s: there is no port 0", p, addr))
			case p.Protocol != TCP && p.Protocol != UDP && p.Protocol != SCTP:
				refused = append(refused, fmt.Errorf("open port %s of %s: not a protocol of Services", p, addr))
			default:
				room = append(room, p)
			}
		}
		ports := room[start:len(room):len(room)]
		if others, found := merged[addr]; found {
			ports = slices.Concat(others, ports)
		}
		slices.SortFunc(ports, comparePorts)
		merged[addr] = slices.Compact(ports)
	}
	return merged, errors.Join(refused...)
}
