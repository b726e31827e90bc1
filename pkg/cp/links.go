package cp

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"kube-vip.io/kube-vip/pkg/vip"
)

// Links reads the interfaces of this node. *vip.Netlink does.
type Links interface {
	Links() ([]vip.Link, error)
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
