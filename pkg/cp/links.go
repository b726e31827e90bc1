package cp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Links reads the interfaces of this node. *vip.Netlink does.
type Links interface {
	Links() ([]vip.Link, error)
}

// Placement says how a VIP gets its link and its prefix length.
type Placement struct {
	// Interface pins the link. Empty means the link whose subnet holds the VIP, else the default route's. A
	// loopback carries the VIP and leaves it to be announced from the link that would be found if this were empty.
	Interface string
	// AllowInterfaceNotUp accepts a link that is not up.
	AllowInterfaceNotUp bool
	// Global gives a VIP on a loopback the global scope.
	Global bool
	// Bits4 and Bits6 are the prefix lengths; 0 means 32 and 128.
	Bits4, Bits6 int
}

// ParseSubnet reads the setting vip_subnet: "24", "/24", "64" or "24,64". The lengths that it does not give are 32
// and 128: a single value beyond 32 is IPv6's, any other is IPv4's. Empty gives the host lengths of both.
func ParseSubnet(s string) (bits4, bits6 int, err error) {
	bits4, bits6 = 32, 128
	if strings.TrimSpace(s) == "" {
		return bits4, bits6, nil
	}
	fields := strings.Split(s, ",")
	if len(fields) > 2 {
		return 0, 0, fmt.Errorf("vip_subnet: %q has more than an IPv4 and an IPv6 prefix length: write 32,128 for example", s)
	}
	var lengths []int
	for _, f := range fields {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(f), "/"))
		if err != nil || n < 1 || n > 128 {
			return 0, 0, fmt.Errorf("vip_subnet: %q is not a prefix length: write 32, 128 or 32,128 for example", f)
		}
		lengths = append(lengths, n)
	}
	switch {
	case len(lengths) == 1 && lengths[0] > 32:
		bits6 = lengths[0]
	case len(lengths) == 1:
		bits4 = lengths[0]
	case lengths[0] > 32:
		return 0, 0, fmt.Errorf("vip_subnet: the first of %q is IPv4's prefix length and at most 32: write 32,128 for example", s)
	default:
		bits4, bits6 = lengths[0], lengths[1]
	}
	return bits4, bits6, nil
}

// OwnAddress is an error when addr belongs to this node itself. It does not judge an address without a subnet, /32
// or /128: that may as well be a VIP which another program left behind, and the vip.Table says so when it meets it.
func OwnAddress(addr netip.Addr, links []vip.Link) error {
	for _, l := range links {
		for _, p := range l.Addrs {
			if p.Addr() == addr && !p.IsSingleIP() {
				return fmt.Errorf("address: %s is this node's own address on %s; a VIP must be an address that no node has", addr, l.Name)
			}
		}
	}
	return nil
}

// Resolve finds the place of addr on this node. When there is none, the error says why and what to do, and the VIP
// has an empty Link. When the place is known and cannot be used now - its interface is not there or not up - both
// are returned: the VIP belongs there and this node cannot carry it.
func Resolve(addr netip.Addr, p Placement, links []vip.Link) (vip.VIP, error) {
	at, err := p.resolve(addr, []netip.Addr{addr}, links)
	if err != nil {
		return at.vip, err
	}
	return at.vip, p.usable(at.vip, links)
}

// A place is where a VIP is, and what made it so.
type place struct {
	vip vip.VIP
	// bySubnet says that Via was found because its subnet holds the VIP.
	bySubnet bool
}

// follow resolves addrs again, given the places that they had before, and says what keeps this node from carrying
// them and how many it can carry. Every place that is known is returned, those with a problem too: a VIP stays claimed where it belongs, so
// that it is back as soon as its interface is.
//
// Places are sticky in one respect: a VIP whose subnet was seen on a link does not wander off to the default
// route's link when that link or its address goes away, since the VIP's network is not there; and one that
// followed a default route stays when the route goes, since its link is still there.
func (p Placement) follow(addrs []netip.Addr, links []vip.Link, before []place) (places []place, usable int, problems []error) {
	var vips []netip.Addr
	for _, addr := range addrs {
		// What is placed already is a VIP; only on the way to its place may it turn out to be something else.
		if _, had := find(before, addr); !had {
			if err := OwnAddress(addr, links); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		vips = append(vips, addr)
	}
	for _, addr := range vips {
		prev, had := find(before, addr)
		at, err := p.resolve(addr, vips, links)
		if had && (at.vip.Via == "" || prev.bySubnet && !at.bySubnet) {
			at, err = prev, nil
			if prev.bySubnet {
				err = fmt.Errorf("no interface's subnet contains %s any more; it was on %s", addr, prev.vip.Via)
			}
		}
		if at.vip.Link != "" {
			places = append(places, at)
			err = cmp.Or(err, p.usable(at.vip, links))
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		usable++
	}
	return places, usable, problems
}

func (p Placement) resolve(addr netip.Addr, vips []netip.Addr, links []vip.Link) (place, error) {
	v := vip.VIP{Prefix: p.prefix(addr)}
	if p.Interface != "" {
		l, ok := byName(links, p.Interface)
		v.Link = p.Interface
		if !ok || !l.Loopback {
			v.Via = p.Interface
			return place{vip: v}, nil
		}
		v.Global = p.Global
	}

	via, bySubnet, err := found(addr, vips, links)
	if err != nil {
		if v.Link != "" {
			return place{}, fmt.Errorf("vip_interface %s: %w: there is nothing to announce it from", p.Interface, err)
		}
		return place{}, fmt.Errorf("%w: set vip_interface", err)
	}
	v.Via = via.Name
	if v.Link == "" {
		v.Link = via.Name
	}
	return place{vip: v, bySubnet: bySubnet}, nil
}

func (p Placement) prefix(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(addr, cmp.Or(p.Bits4, 32))
	}
	return netip.PrefixFrom(addr, cmp.Or(p.Bits6, 128))
}

// usable says why v cannot be carried by its links now.
func (p Placement) usable(v vip.VIP, links []vip.Link) error {
	for _, name := range slices.Compact([]string{v.Link, v.Via}) {
		l, ok := byName(links, name)
		switch {
		case !ok && name == p.Interface:
			return fmt.Errorf("vip_interface: this node has no interface %q; it has %s", name, names(links))
		case !ok:
			return fmt.Errorf("interface %s of %s is gone", name, v)
		case !l.Up && !l.Loopback && !p.AllowInterfaceNotUp:
			return fmt.Errorf("interface %s of %s is not up: it is set down or has no carrier", name, v)
		}
	}
	return nil
}

// found looks for the link whose subnet holds addr, the longest prefix first, else for the default route's. A VIP's
// own prefix says nothing about the network of the link that it is on.
func found(addr netip.Addr, vips []netip.Addr, links []vip.Link) (link vip.Link, bySubnet bool, err error) {
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		return vip.Link{}, false, fmt.Errorf("%s is a link-local address, and every interface has its subnet", addr)
	}
	type candidate struct {
		link vip.Link
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
		return vip.Link{}, false, fmt.Errorf("no interface's subnet contains %s and there is no default route", addr)
	}
	// Two links in one network: one that works before one that does not, then the older one.
	c := slices.MinFunc(best, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(down(a.link), down(b.link)), cmp.Compare(a.link.Index, b.link.Index))
	})
	return c.link, c.rank > 1, nil
}

func down(l vip.Link) int {
	if l.Up {
		return 0
	}
	return 1
}

func find(places []place, addr netip.Addr) (place, bool) {
	i := slices.IndexFunc(places, func(at place) bool { return at.vip.Addr() == addr })
	if i < 0 {
		return place{}, false
	}
	return places[i], true
}

func byName(links []vip.Link, name string) (vip.Link, bool) {
	i := slices.IndexFunc(links, func(l vip.Link) bool { return l.Name == name })
	if i < 0 {
		return vip.Link{}, false
	}
	return links[i], true
}

// names lists the links that a VIP may be put on, for a message: a node has hundreds with pods on it.
func names(links []vip.Link) string {
	const most = 8
	var list []string
	for i, l := range slices.SortedFunc(slices.Values(links), func(a, b vip.Link) int { return cmp.Compare(a.Index, b.Index) }) {
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

// nodeAddrs are the addresses of this node at which an API server may listen, those of the default route's link
// first. VIPs are not among them: one that has just moved away would be another node's server.
func nodeAddrs(links []vip.Link, vips []netip.Addr) []netip.Addr {
	const most = 8 // each is dialled while the server is down, and its bind address is an early one
	sorted := slices.SortedFunc(slices.Values(links), func(a, b vip.Link) int {
		return cmp.Or(cmp.Compare(uplink(b), uplink(a)), cmp.Compare(a.Index, b.Index))
	})
	var addrs []netip.Addr
	for _, l := range sorted {
		for _, p := range l.Addrs {
			if a := p.Addr(); a.IsGlobalUnicast() && !slices.Contains(vips, a) && len(addrs) < most {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

func uplink(l vip.Link) int {
	if l.DefaultRoute4 || l.DefaultRoute6 {
		return 1
	}
	return 0
}

// joined is problems in one line.
func joined(problems []error) string {
	if len(problems) == 0 {
		return ""
	}
	return strings.ReplaceAll(errors.Join(problems...).Error(), "\n", "; ")
}
