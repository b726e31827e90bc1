package cp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/vip"
)

// link makes a link: "3 eth0 up default4 default6 10.0.0.11/24 fd00::11/64".
func link(s string) vip.Link {
	var l vip.Link
	if _, err := fmt.Sscan(s, &l.Index, &l.Name); err != nil {
		panic(err)
	}
	l.Loopback = l.Name == "lo"
	for _, w := range strings.Fields(s)[2:] {
		switch w {
		case "up":
			l.Up = true
		case "default4":
			l.DefaultRoute4 = true
		case "default6":
			l.DefaultRoute6 = true
		default:
			l.Addrs = append(l.Addrs, netip.MustParsePrefix(w))
		}
	}
	return l
}

func linksOf(list ...string) []vip.Link {
	var links []vip.Link
	for _, s := range list {
		links = append(links, link(s))
	}
	return links
}

// at is the place of a VIP as a string.
func at(v vip.VIP) string { return fmt.Sprintf("%s on %s", v.Prefix, v.Link) }

func TestNodeAddrs(t *testing.T) {
	links := linksOf(
		"1 lo up 127.0.0.1/8 ::1/128 172.31.0.1/32",
		"4 cni0 up 10.244.0.1/24 fe80::3/64",
		"5 eth0 up default4 10.0.0.11/24 10.0.0.10/32 fd00::11/64 fe80::1/64",
	)
	got := nodeAddrs(links, []netip.Addr{netip.MustParseAddr("10.0.0.10")})
	var names []string
	for _, a := range got {
		names = append(names, a.String())
	}
	if diff := cmp.Diff([]string{"10.0.0.11", "fd00::11", "172.31.0.1", "10.244.0.1"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	var many []vip.Link
	for i := range 100 {
		many = append(many, link(fmt.Sprintf("%d veth%d up 10.1.%d.1/24", i+1, i, i)))
	}
	slices.Reverse(many)
	if n := len(nodeAddrs(many, nil)); n != 8 {
		t.Errorf("%d addresses to dial, want 8", n)
	}
}
