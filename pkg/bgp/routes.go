package bgp

import (
	"net/netip"

	"kube-vip.io/kube-vip/pkg/vip"
)

// route is what a peer is to be told of one prefix.
type route struct {
	prefix  netip.Prefix
	nextHop netip.Addr // not valid: the session's own address
	*detail
}

// detail is what routes have in common: thousands have the same.
type detail struct {
	Attributes
	key string // the same for details that are alike
}

func (r route) equal(o route) bool {
	return r.prefix == o.prefix && r.nextHop == o.nextHop && r.key == o.key
}

// routes is what a peer is to be told, by prefix: present are the VIPs of this node, in order, and of says what one of them
// asks for, nil for nothing. VIPs that are part of one prefix are told of once, as the first of them asks.
func routes(present []vip.VIP, of func(netip.Addr) *Attributes, p Peer, leaving bool) map[netip.Prefix]route {
	out := make(map[netip.Prefix]route, len(present))
	details := map[*Attributes]*detail{}
	for _, v := range present {
		addr := v.Addr()
		hop, all, some := p.NextHop4, p.IPv4, 0
		if addr.Is6() {
			hop, all = p.NextHop6, p.IPv6
		}
		if !all {
			continue
		}
		own := of(addr)
		d := details[own]
		if d == nil {
			d = &detail{Attributes: p.Attributes}
			if own != nil {
				d.Attributes = d.over(*own)
			}
			if leaving {
				d.Attributes = d.Attributes.leaving()
			}
			d.key = d.text()
			details[own] = d
		}
		if some = d.Aggregate4; addr.Is6() {
			some = d.Aggregate6
		}
		bits := addr.BitLen()
		if some > 0 && some < bits {
			bits = some
		}
		prefix := netip.PrefixFrom(addr, bits).Masked()
		if _, told := out[prefix]; !told {
			out[prefix] = route{prefix, hop, d}
		}
	}
	return out
}
