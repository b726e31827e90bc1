package vip

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Placement says how VIPs get their links and their prefix lengths.
type Placement struct {
	// Interface pins the link, by its name or one of its alternative names. Empty means the link whose subnet holds
	// the VIP, else the default route's. A loopback carries the VIP and leaves it to be announced from the link that
	// would be found if this were empty.
	Interface string
	// Setting is what Interface is set by, as its user spells it in an error; empty means vip_interface.
	Setting string
	// AllowInterfaceNotUp accepts a link that is not up.
	AllowInterfaceNotUp bool
	// Routed says that routes lead here, and not a network's neighbours: a VIP on a loopback needs no interface to be
	// announced from.
	Routed bool
	// Detached has a VIP on no interface at all, unless Interface names one.
	Detached bool
	// Global gives a VIP on a loopback the global scope.
	Global bool
	// Bits4 and Bits6 are the prefix lengths; 0 means 32 and 128.
	Bits4, Bits6 int
}

// A Place is where a VIP is, and what made it so.
type Place struct {
	VIP
	// BySubnet says that Via was found because its subnet holds the VIP.
	BySubnet bool
}

// OwnAddress is an error when addr belongs to this node itself. It does not judge an address without a subnet, /32
// or /128: that may as well be a VIP which another program left behind, and the Table says so when it meets it.
func OwnAddress(addr netip.Addr, links []Link) error {
	for _, l := range links {
		for _, p := range l.Addrs {
			if p.Addr() == addr && !p.IsSingleIP() {
				return fmt.Errorf("%s is this node's own address on %s; a VIP must be an address that no node has", addr, l.Name)
			}
		}
	}
	return nil
}

// Resolve finds the place of addr on this node. When there is none, the error says why and what to do, and the VIP
// has an empty Link. When the place is known and cannot be used now - its interface is not there or not up - both
// are returned: the VIP belongs there and this node cannot carry it.
func Resolve(addr netip.Addr, p Placement, links []Link) (VIP, error) {
	at, err := p.resolve(addr, []netip.Addr{addr}, links)
	if err != nil {
		return at.VIP, err
	}
	return at.VIP, p.usable(at.VIP, links)
}

// Follow resolves addrs again, given the places that they had before by the same Placement, and says what keeps this
// node from carrying them and how many it can carry. Every place that is known is returned, those with a problem too:
// a VIP stays claimed where it belongs, so that it is back as soon as its interface is.
//
// Places are sticky: a VIP whose subnet was seen on a link does not wander off to the default route's link when that
// link or its address goes away, since the VIP's network is not there; one that followed a default route stays when
// the route goes, since its link is still there; and one that is pinned stays on the link that had the name.
func (p Placement) Follow(addrs []netip.Addr, links []Link, before []Place) (places []Place, usable int, problems []error) {
	var vips []netip.Addr
	for _, addr := range addrs {
		// What is placed already is a VIP; only on the way to its place may it turn out to be something else.
		if _, had := placeOf(before, addr); !had {
			if err := OwnAddress(addr, links); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		vips = append(vips, addr)
	}
	for _, addr := range vips {
		prev, had := placeOf(before, addr)
		at, err := p.resolve(addr, vips, links)
		switch {
		case had && !p.there(links):
			at, err = prev, nil
		case had && (at.Via == "" || prev.BySubnet && !at.BySubnet):
			at, err = prev, nil
			if prev.BySubnet {
				err = fmt.Errorf("no interface's subnet contains %s any more; it was on %s", addr, prev.Via)
			}
		}
		if at.Link != "" {
			places = append(places, at)
			err = cmp.Or(err, p.usable(at.VIP, links))
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		usable++
	}
	return places, usable, problems
}

func (p Placement) resolve(addr netip.Addr, vips []netip.Addr, links []Link) (Place, error) {
	v := VIP{Prefix: p.prefix(addr)}
	if p.Interface != "" {
		l, ok := linkByName(links, p.Interface)
		// Until the link is there, what it is called is all that is known of it.
		v.Link = cmp.Or(l.Name, p.Interface)
		v.Global = ok && l.Loopback && p.Global
		if !ok || !l.Loopback || p.Routed {
			v.Via = v.Link
			return Place{VIP: v}, nil
		}
	} else if p.Detached {
		v.Link, v.Via = Detached, Detached
		return Place{VIP: v}, nil
	}

	via, bySubnet, err := network(addr, vips, links)
	if err != nil {
		if v.Link != "" {
			return Place{}, fmt.Errorf("%s %s: %w: there is nothing to announce it from", p.setting(), p.Interface, err)
		}
		return Place{}, fmt.Errorf("%w: set %s", err, p.setting())
	}
	v.Via = via.Name
	if v.Link == "" {
		v.Link = via.Name
	}
	return Place{VIP: v, BySubnet: bySubnet}, nil
}

// there says that the interface is there, if one is pinned.
func (p Placement) there(links []Link) bool {
	_, ok := linkByName(links, p.Interface)
	return ok || p.Interface == ""
}

func (p Placement) setting() string { return cmp.Or(p.Setting, "vip_interface") }

func (p Placement) prefix(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(addr, cmp.Or(p.Bits4, 32))
	}
	return netip.PrefixFrom(addr, cmp.Or(p.Bits6, 128))
}

// usable says why v cannot be carried by its links now.
func (p Placement) usable(v VIP, links []Link) error {
	if !p.there(links) {
		return fmt.Errorf("%s: this node has no interface %q; it has %s", p.setting(), p.Interface, linkNames(links))
	}
	if v.Link == Detached {
		return nil
	}
	for _, name := range slices.Compact([]string{v.Link, v.Via}) {
		l, ok := linkByName(links, name)
		switch {
		case !ok:
			return fmt.Errorf("interface %s of %s is gone", name, v)
		case !l.Up && !l.Loopback && !p.AllowInterfaceNotUp:
			return fmt.Errorf("interface %s of %s is not up: it is set down or has no carrier", name, v)
		}
	}
	return nil
}

// network looks for the link whose subnet holds addr, the longest prefix first, else for the default route's. A VIP's
// own prefix says nothing about the network of the link that it is on.
func network(addr netip.Addr, vips []netip.Addr, links []Link) (link Link, bySubnet bool, err error) {
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		return Link{}, false, fmt.Errorf("%s is a link-local address, and every interface has its subnet", addr)
	}
	type candidate struct {
		link Link
		rank int
	}
	var best []candidate
	for _, l := range links {
		if l.Loopback {
			continue
		}
		for _, p := range l.Addrs {
			if p.Contains(addr) && !slices.Contains(vips, p.Addr()) {
				best = append(best, candidate{l, 2 + p.Bits()})
			}
		}
		// A node with only one family's default route has one uplink, and both families' VIPs belong there.
		switch four, six := l.DefaultRoute4, l.DefaultRoute6; {
		case addr.Is4() && four, addr.Is6() && six:
			best = append(best, candidate{l, 1})
		case four, six:
			best = append(best, candidate{l, 0})
		}
	}
	if len(best) == 0 {
		return Link{}, false, fmt.Errorf("no interface's subnet contains %s and there is no default route", addr)
	}
	down := func(l Link) int {
		if l.Up {
			return 0
		}
		return 1
	}
	// Two links in one network: one that works before one that does not, then the older one.
	c := slices.MinFunc(best, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(down(a.link), down(b.link)), cmp.Compare(a.link.Index, b.link.Index))
	})
	return c.link, c.rank > 1, nil
}

func placeOf(places []Place, addr netip.Addr) (Place, bool) {
	i := slices.IndexFunc(places, func(at Place) bool { return at.Addr() == addr })
	if i < 0 {
		return Place{}, false
	}
	return places[i], true
}

// linkByName finds a link by its name or an alternative one; the kernel gives no name to two links.
func linkByName(links []Link, name string) (Link, bool) {
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name || slices.Contains(l.AltNames, name) })
	if i < 0 {
		return Link{}, false
	}
	return links[i], true
}

// linkNames lists the links that a VIP may be put on, for a message: a node has hundreds with pods on it.
func linkNames(links []Link) string {
	const most = 8
	var list []string
	for i, l := range slices.SortedFunc(slices.Values(links), func(a, b Link) int { return cmp.Compare(a.Index, b.Index) }) {
		if i == most {
			list = append(list, fmt.Sprintf("%d more", len(links)-most))
			break
		}
		list = append(list, l.Name)
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
