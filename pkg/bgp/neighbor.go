package bgp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// neighborOn is the router at the other end of an interface: the one whose IPv6 link-local address the kernel knows, by
// its Router Advertisements if there are several.
func neighborOn(link string) (netip.Addr, error) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find interface %s: %w", link, err)
	}
	list, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the neighbours on %s: %w", link, err)
	}
	return pick(link, list)
}

// pick chooses among the neighbours on a link.
func pick(link string, list []netlink.Neigh) (netip.Addr, error) {
	var all, routers []netip.Addr
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok || !addr.IsLinkLocalUnicast() || n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) != 0 {
			continue
		}
		addr = addr.WithZone(link)
		all = append(all, addr)
		if n.Flags&netlink.NTF_ROUTER != 0 {
			routers = append(routers, addr)
		}
	}
	if len(routers) > 0 {
		all = routers
	}
	slices.SortFunc(all, netip.Addr.Compare)
	switch len(all) {
	case 0:
		return netip.Addr{}, fmt.Errorf("no router is known on %s: it must send IPv6 Router Advertisements there", link)
	case 1:
		return all[0], nil
	}
	return netip.Addr{}, fmt.Errorf("there are several neighbours on %s (%s, %s): name the peer by its address", link, all[0], all[1])
}
