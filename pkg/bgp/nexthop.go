package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Modes of finding the next hop of the family that is not the session's.
const (
	ModeFixed           = "fixed"         // it is given
	ModeSourceAddress   = "auto_sourceip" // an address of the interface that has the source address
	ModeSourceInterface = "auto_sourceif" // an address of the source interface
)

// Face fills in the next hops that a mode asks for, from this node's interfaces. An empty mode leaves them to the session. Its
// error says what is missing; the family that lacks a next hop is left out then.
func (p *Peer) Face(mode string, links []vip.Link) error {
	var on *vip.Link
	switch mode {
	case ModeFixed:
		return p.faceFixed()
	case "":
		at, err := netip.ParseAddr(p.Host)
		if err != nil || at.Is4() == p.IPv4 && at.Is4() != p.IPv6 {
			return nil // the session's own family alone, or a peer whose address is not known yet
		}
		mode = "for both families"
		on = find(links, func(l vip.Link) bool {
			return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Contains(at.WithZone("")) })
		})
		if on == nil {
			p.alone()
			return fmt.Errorf("families: no interface is in the network of %s: mpbgp_nexthop must say where routes of the other family lead; they are left out", at)
		}
	case ModeSourceAddress:
		if !p.Source.IsValid() {
			return fmt.Errorf("mpbgp_nexthop %s needs a source address (bgp_sourceip)", mode)
		}
		on = find(links, func(l vip.Link) bool {
			return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return a.Addr() == p.Source })
		})
		if on == nil {
			p.alone()
			return fmt.Errorf("mpbgp_nexthop %s: no interface has the source address %s", mode, p.Source)
		}
	case ModeSourceInterface:
		on = find(links, func(l vip.Link) bool {
			return l.Name == p.SourceInterface || p.SourceInterface != "" && slices.Contains(l.AltNames, p.SourceInterface)
		})
		if on == nil {
			p.alone()
			return fmt.Errorf("mpbgp_nexthop %s: there is no interface %q (bgp_sourceif)", mode, p.SourceInterface)
		}
	default:
		return fmt.Errorf("mpbgp_nexthop %q is none of %s, %s, %s", mode, ModeFixed, ModeSourceAddress, ModeSourceInterface)
	}
	for _, a := range on.Addrs {
		switch addr := a.Addr(); {
		case addr.IsLinkLocalUnicast(), addr.IsLoopback():
		case addr.Is4() && !p.NextHop4.IsValid():
			p.NextHop4 = addr
		case addr.Is6() && !p.NextHop6.IsValid():
			p.NextHop6 = addr
		}
	}
	return p.faced(mode, on)
}

// alone leaves the family out that is not the session's.
func (p *Peer) alone() {
	if at, err := netip.ParseAddr(p.Host); err == nil {
		p.IPv4, p.IPv6 = at.Is4() && p.IPv4, at.Is6() && p.IPv6
	}
}

// faceFixed leaves a family out that is not the session's and has no next hop.
func (p *Peer) faceFixed() error {
	at, err := netip.ParseAddr(p.Host)
	switch {
	case err == nil && at.Is4() && p.IPv6 && !p.NextHop6.IsValid():
		p.IPv6 = false
		return fmt.Errorf("mpbgp_nexthop %s: mpbgp_ipv6 does not say where IPv6 routes lead; they are left out", ModeFixed)
	case err == nil && at.Is6() && p.IPv4 && !p.NextHop4.IsValid():
		p.IPv4 = false
		return fmt.Errorf("mpbgp_nexthop %s: mpbgp_ipv4 does not say where IPv4 routes lead; they are left out", ModeFixed)
	}
	return nil
}

// faced judges the next hops that were found on a link.
func (p *Peer) faced(mode string, on *vip.Link) error {
	if p.Source.Is4() {
		p.NextHop4 = p.Source
	} else if p.Source.Is6() {
		p.NextHop6 = p.Source
	}
	if p.IPv4 && !p.NextHop4.IsValid() {
		p.IPv4 = false
		return fmt.Errorf("mpbgp_nexthop %s: interface %s has no IPv4 address for routes to lead to; they are left out", mode, on.Name)
	}
	if p.IPv6 && !p.NextHop6.IsValid() {
		p.IPv6 = false
		return fmt.Errorf("mpbgp_nexthop %s: interface %s has no global IPv6 address for routes to lead to; they are left out", mode, on.Name)
	}
	return nil
}

func find(links []vip.Link, fits func(vip.Link) bool) *vip.Link {
	if i := slices.IndexFunc(links, fits); i >= 0 {
		return &links[i]
	}
	return nil
}
