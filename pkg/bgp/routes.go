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
	leaving bool
	key     string // the same for details that are alike
}

func (r route) equal(o route) bool {
	return r.prefix == o.prefix && r.nextHop == o.nextHop && r.key == o.key
}

// routes is what a peer is to be told, by prefix: present are the VIPs of this node, in order, and of says what one of them
// asks for, nil for nothing. VIPs that are part of one prefix are told of once, as the first of them asks that this node
// is not about to leave.
func routes(present []vip.VIP, of func(netip.Addr) *Attributes, p Peer, leaving func(netip.Addr) bool) map[netip.Prefix]route {
	type kind struct {
		own     *Attributes
		leaving bool
	}
	out := make(map[netip.Prefix]route, len(present))
	details := map[kind]*detail{}
	for _, v := range present {
		addr := v.Addr()
		hop, all, some := p.NextHop4, p.IPv4, 0
		if addr.Is6() {
			hop, all = p.NextHop6, p.IPv6
		}
		if !all {
			continue
		}
		is := kind{of(addr), leaving(addr)}
		d := details[is]
		if d == nil {
			d = &detail{Attributes: p.Attributes, leaving: is.leaving}
			if is.own != nil {
				d.Attributes = d.over(*is.own)
			}
			if is.leaving {
				d.Attributes = d.Attributes.leaving()
			}
			d.key = d.text()
			details[is] = d
		}
		if some = d.Aggregate4; addr.Is6() {
			some = d.Aggregate6
		}
		bits := addr.BitLen()
		if some > 0 && some < bits {
			bits = some
		}
		prefix := netip.PrefixFrom(addr, bits).Masked()
		if before, told := out[prefix]; !told || before.leaving && !d.leaving {
			out[prefix] = route{prefix, hop, d}
		}
	}
	return out
}
