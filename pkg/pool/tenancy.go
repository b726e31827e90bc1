package pool

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
)

// Port is a port of a Service.
type Port struct {
	Number uint16
	// Protocol is TCP, UDP or SCTP, as in spec.ports of a Service; empty is TCP.
	Protocol string
}

// whole stands for all ports of all protocols.
var whole = Port{}

// String is the port as kubectl shows it, 80/TCP for example.
func (p Port) String() string { return strconv.Itoa(int(p.Number)) + "/" + p.Protocol }

func (p Port) compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Number, o.Number), cmp.Compare(p.Protocol, o.Protocol))
}

// portsOf is the ports in order, none twice; whole alone when there are none.
func portsOf(ports []Port) []Port {
	if len(ports) == 0 {
		return []Port{whole}
	}
	ports = slices.Clone(ports)
	for i, p := range ports {
		ports[i].Protocol = cmp.Or(p.Protocol, "TCP")
	}
	slices.SortFunc(ports, Port.compare)
	return slices.Compact(ports)
}

// holding is that somebody has a port of an address.
type holding struct {
	port  Port
	owner string
}

func (h holding) compare(o holding) int {
	return cmp.Or(h.port.compare(o.port), cmp.Compare(h.owner, o.owner))
}

// tenancy is who has one address.
type tenancy struct {
	holdings []holding // in order, which begins with those of all ports
	closed   int       // owners beside whom no other is to be put
}

func (t *tenancy) add(h holding) {
	if i, has := slices.BinarySearchFunc(t.holdings, h, holding.compare); !has {
		t.holdings = slices.Insert(t.holdings, i, h)
	}
}

func (t *tenancy) remove(h holding) {
	if i, has := slices.BinarySearchFunc(t.holdings, h, holding.compare); has {
		t.holdings = slices.Delete(t.holdings, i, i+1)
	}
}

// from is the holdings from those of p on.
func (t *tenancy) from(p Port) []holding {
	i, _ := slices.BinarySearchFunc(t.holdings, holding{port: p}, holding.compare)
	return t.holdings[i:]
}

// has says whether somebody has this very port.
func (t *tenancy) has(p Port) bool {
	rest := t.from(p)
	return len(rest) > 0 && rest[0].port == p
}

// clash says why owner can not have these ports (as of portsOf) on addr beside the others; nil when it can.
func (t *tenancy) clash(owner string, addr netip.Addr, ports []Port) error {
	for _, h := range t.holdings {
		if h.port != whole && ports[0] != whole {
			break
		}
		if h.owner != owner {
			return clash(h.owner, h.port, ports[0], addr)
		}
	}
	for _, p := range ports {
		for _, h := range t.from(p) {
			if h.port != p {
				break
			}
			if h.owner != owner {
				return clash(h.owner, h.port, p, addr)
			}
		}
	}
	return nil
}
