package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readLink makes a link: "3 eth0 up default4 default6 10.0.0.11/24 fd00::11/64 altname=enp1s0".
func readLink(s string) Link {
	var l Link
	if _, err := fmt.Sscan(s, &l.Index, &l.Name); err != nil {
		panic(err)
	}
	l.Loopback = l.Name == "lo"
	for _, w := range strings.Fields(s)[2:] {
		alt, isAlt := strings.CutPrefix(w, "altname=")
		switch {
		case isAlt:
			l.AltNames = append(l.AltNames, alt)
		case w == "up":
			l.Up = true
		case w == "default4":
			l.DefaultRoute4 = true
		case w == "default6":
			l.DefaultRoute6 = true
		default:
			l.Addrs = append(l.Addrs, netip.MustParsePrefix(w))
		}
	}
	return l
}

func linksOf(list ...string) []Link {
	var links []Link
	for _, s := range list {
		links = append(links, readLink(s))
	}
	return links
}

// whereabouts is the place of a VIP as a string: its prefix, link, via and scope.
func whereabouts(v VIP) string {
	s := fmt.Sprintf("%s on %s", v.Prefix, v.Link)
	if v.Link == "" {
		return "nowhere"
	}
	if v.Via != v.Link {
		s += " via " + v.Via
	}
	if v.Global {
		s += " global"
	}
	return s
}

func TestResolve(t *testing.T) {
	const lo = "1 lo up 127.0.0.1/8 ::1/128"
	const eth0 = "2 eth0 up default4 10.0.0.11/24 fd00::11/64 fe80::1/64"
	const eth1 = "3 eth1 up 10.0.0.12/16 192.168.1.2/24 altname=enp1s0 altname=enx525400123456"
	tests := []struct {
		name      string
		addr      string
		placement Placement
		links     []string
		want      string
		err       string
	}{
		{name: "subnet", addr: "10.0.0.10", links: []string{lo, eth0}, want: "10.0.0.10/32 on eth0"},
		{name: "subnet of IPv6", addr: "fd00::10", links: []string{lo, eth1, eth0}, want: "fd00::10/128 on eth0"},
		{name: "longest prefix", addr: "10.0.0.10", links: []string{lo, eth1, eth0}, want: "10.0.0.10/32 on eth0"},
		{name: "another subnet than the default route's", addr: "10.0.5.10", links: []string{lo, eth0, eth1}, want: "10.0.5.10/32 on eth1"},
		{name: "default route", addr: "172.16.0.10", links: []string{lo, eth1, eth0}, want: "172.16.0.10/32 on eth0"},
		{name: "IPv6 by IPv4's default route", addr: "2001:db8::10", links: []string{lo, eth1, eth0}, want: "2001:db8::10/128 on eth0"},
		{name: "IPv4 by IPv6's default route", addr: "172.16.0.10", links: []string{lo, "2 eth0 up default6 fd00::11/64"}, want: "172.16.0.10/32 on eth0"},
		{name: "default route of the family first", addr: "2001:db8::10", links: []string{lo, eth0, "7 wan up default6 2001:db8:1::1/64"}, want: "2001:db8::10/128 on wan"},
		{name: "host addresses say nothing of a network", addr: "10.0.0.10", links: []string{lo, "2 eth0 up default4 192.168.1.2/24", "3 eth1 up 10.0.0.10/32"}, want: "10.0.0.10/32 on eth0"},
		{name: "the VIP says nothing of a network", addr: "10.0.0.10", links: []string{lo, "2 eth0 up default4 192.168.1.2/24", "3 eth1 up 10.0.0.10/24"}, want: "10.0.0.10/32 on eth0"},
		{name: "a loopback's subnet", addr: "127.0.0.10", links: []string{lo, eth0}, want: "127.0.0.10/32 on eth0"},
		{name: "two in one network: one that is up", addr: "10.0.0.10", links: []string{"2 eth0 10.0.0.11/24", "3 eth1 up 10.0.0.12/24"}, want: "10.0.0.10/32 on eth1"},
		{name: "two in one network: the older one", addr: "10.0.0.10", links: []string{"3 eth1 up 10.0.0.12/24", "2 eth0 up 10.0.0.11/24"}, want: "10.0.0.10/32 on eth0"},
		{name: "nothing", addr: "10.0.0.10", links: []string{lo, "2 eth0 up 192.168.1.2/24"}, want: "nowhere",
			err: "no interface's subnet contains 10.0.0.10 and there is no default route: set vip_interface"},
		{name: "link-local", addr: "fe80::10", links: []string{lo, eth0}, want: "nowhere",
			err: "fe80::10 is a link-local address, and every interface has its subnet: set vip_interface"},
		{name: "link-local, pinned", addr: "fe80::10", placement: Placement{Interface: "eth0"}, links: []string{lo, eth0}, want: "fe80::10/128 on eth0"},
		{name: "pinned", addr: "10.0.0.10", placement: Placement{Interface: "eth1"}, links: []string{lo, eth0, eth1}, want: "10.0.0.10/32 on eth1"},
		{name: "pinned and not there", addr: "10.0.0.10", placement: Placement{Interface: "eth9"}, links: []string{eth0, lo}, want: "10.0.0.10/32 on eth9",
			err: `vip_interface: this node has no interface "eth9"; it has lo, eth0`},
		{name: "pinned by another name", addr: "10.0.0.10", placement: Placement{Interface: "enx525400123456"}, links: []string{lo, eth0, eth1}, want: "10.0.0.10/32 on eth1"},
		{name: "a loopback by another name", addr: "10.0.0.10", placement: Placement{Interface: "loop"}, links: []string{lo + " altname=loop", eth0}, want: "10.0.0.10/32 on lo via eth0"},
		{name: "by another setting, not there", addr: "10.0.0.10", placement: Placement{Interface: "eth9", Setting: "vip_servicesinterface"}, links: []string{eth0, lo}, want: "10.0.0.10/32 on eth9",
			err: `vip_servicesinterface: this node has no interface "eth9"; it has lo, eth0`},
		{name: "by another setting, nothing", addr: "10.0.0.10", placement: Placement{Setting: "kube-vip.io/serviceInterface"}, links: []string{lo}, want: "nowhere",
			err: "no interface's subnet contains 10.0.0.10 and there is no default route: set kube-vip.io/serviceInterface"},
		{name: "by another setting, lo", addr: "10.0.0.10", placement: Placement{Interface: "lo", Setting: "vip_servicesinterface"}, links: []string{lo}, want: "nowhere",
			err: "vip_servicesinterface lo: no interface's subnet contains 10.0.0.10 and there is no default route: there is nothing to announce it from"},
		{name: "not up", addr: "10.0.0.10", links: []string{lo, "2 eth0 10.0.0.11/24"}, want: "10.0.0.10/32 on eth0",
			err: "interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier"},
		{name: "not up and allowed", addr: "10.0.0.10", placement: Placement{AllowInterfaceNotUp: true}, links: []string{lo, "2 eth0 10.0.0.11/24"}, want: "10.0.0.10/32 on eth0"},
		{name: "lo", addr: "10.0.0.10", placement: Placement{Interface: "lo"}, links: []string{lo, eth0}, want: "10.0.0.10/32 on lo via eth0"},
		{name: "lo, global", addr: "10.0.0.10", placement: Placement{Interface: "lo", Global: true}, links: []string{lo, eth0}, want: "10.0.0.10/32 on lo via eth0 global"},
		{name: "global is for loopbacks", addr: "10.0.0.10", placement: Placement{Global: true}, links: []string{lo, eth0}, want: "10.0.0.10/32 on eth0"},
		{name: "lo, the announcing link not up", addr: "10.0.0.10", placement: Placement{Interface: "lo"}, links: []string{lo, "2 eth0 10.0.0.11/24"}, want: "10.0.0.10/32 on lo via eth0",
			err: "interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier"},
		{name: "lo, nothing to announce from", addr: "10.0.0.10", placement: Placement{Interface: "lo"}, links: []string{lo}, want: "nowhere",
			err: "vip_interface lo: no interface's subnet contains 10.0.0.10 and there is no default route: there is nothing to announce it from"},
		{name: "a loopback that is down is no obstacle", addr: "10.0.0.10", placement: Placement{Interface: "lo"}, links: []string{"1 lo 127.0.0.1/8", eth0}, want: "10.0.0.10/32 on lo via eth0"},
		{name: "lo, routed", addr: "10.0.0.10", placement: Placement{Interface: "lo", Routed: true, Global: true}, links: []string{lo}, want: "10.0.0.10/32 on lo global"},
		{name: "lo of IPv6, routed", addr: "fd00::10", placement: Placement{Interface: "lo", Routed: true}, links: []string{lo}, want: "fd00::10/128 on lo"},
		{name: "detached", addr: "10.0.0.10", placement: Placement{Routed: true, Detached: true}, links: []string{lo}, want: "10.0.0.10/32 on no interface"},
		{name: "detached, and pinned", addr: "10.0.0.10", placement: Placement{Interface: "eth1", Routed: true, Detached: true}, links: []string{lo, eth0, eth1}, want: "10.0.0.10/32 on eth1"},
		{name: "prefix lengths", addr: "10.0.0.10", placement: Placement{Bits4: 24, Bits6: 64}, links: []string{lo, eth0}, want: "10.0.0.10/24 on eth0"},
		{name: "prefix lengths of IPv6", addr: "fd00::10", placement: Placement{Bits4: 24, Bits6: 64}, links: []string{lo, eth0}, want: "fd00::10/64 on eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Resolve(netip.MustParseAddr(tt.addr), tt.placement, linksOf(tt.links...))
			if whereabouts(v) != tt.want || message(err) != tt.err {
				t.Errorf("got %s, %v\nwant %s, %s", whereabouts(v), err, tt.want, tt.err)
			}
		})
	}
}

func TestPinnedNamesFewOfMany(t *testing.T) {
	var list []string
	for i := range 200 {
		list = append(list, fmt.Sprintf("%d veth%d up", 200-i, 200-i))
	}
	_, err := Resolve(netip.MustParseAddr("10.0.0.10"), Placement{Interface: "eth0"}, linksOf(list...))
	const want = `vip_interface: this node has no interface "eth0"; it has veth1, veth2, veth3, veth4, veth5, veth6, veth7, veth8, 192 more`
	if message(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// What happens to interfaces, and where the VIPs are after each change.
func TestFollow(t *testing.T) {
	const lo = "1 lo up 127.0.0.1/8"
	const eth0 = "2 eth0 up default4 10.0.0.11/24"
	const mgmt = "3 mgmt up 192.168.1.2/24"
	type step struct {
		links    []string
		want     []string // places
		usable   int
		problems string
	}
	tests := []struct {
		name      string
		addrs     string
		placement Placement
		steps     []step
	}{
		{
			name: "carrier lost and back", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo, "2 eth0 10.0.0.11/24"}, []string{"10.0.0.10/32 on eth0"}, 0, "interface eth0 of 10.0.0.10 is not up: it is set down or has no carrier"},
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
			},
		},
		{
			name: "deleted and made again", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, eth0, mgmt}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo, mgmt}, []string{"10.0.0.10/32 on eth0"}, 0, "no interface's subnet contains 10.0.0.10 any more; it was on eth0"},
				{[]string{lo, mgmt, "9 eth0"}, []string{"10.0.0.10/32 on eth0"}, 0, "no interface's subnet contains 10.0.0.10 any more; it was on eth0"},
				{[]string{lo, mgmt, "9 eth0 up default4 10.0.0.11/24"}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
			},
		},
		{
			name: "the VIP's network is gone, and another has the default route", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, eth0, mgmt}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo, "3 mgmt up default4 192.168.1.2/24"}, []string{"10.0.0.10/32 on eth0"}, 0, "no interface's subnet contains 10.0.0.10 any more; it was on eth0"},
			},
		},
		{
			name: "the subnet moves to a bridge", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo, "2 eth0 up", "5 br0 up default4 10.0.0.11/24"}, []string{"10.0.0.10/32 on br0"}, 1, ""},
			},
		},
		{
			name: "by default route, then by a subnet that comes later", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, "3 mgmt up default4 192.168.1.2/24"}, []string{"10.0.0.10/32 on mgmt"}, 1, ""},
				{[]string{lo, "3 mgmt up default4 192.168.1.2/24", "2 eth0 up 10.0.0.11/24"}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
			},
		},
		{
			name: "the default route goes, and comes back by another link", addrs: "10.0.0.10",
			steps: []step{
				{[]string{lo, "3 mgmt up default4 192.168.1.2/24"}, []string{"10.0.0.10/32 on mgmt"}, 1, ""},
				{[]string{lo, mgmt}, []string{"10.0.0.10/32 on mgmt"}, 1, ""},
				{[]string{lo}, []string{"10.0.0.10/32 on mgmt"}, 0, "interface mgmt of 10.0.0.10 is gone"},
				{[]string{lo, "4 lte up default4 100.64.0.2/24"}, []string{"10.0.0.10/32 on lte"}, 1, ""},
			},
		},
		{
			name: "pinned, deleted and made again", addrs: "10.0.0.10", placement: Placement{Interface: "eth0"},
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo}, []string{"10.0.0.10/32 on eth0"}, 0, `vip_interface: this node has no interface "eth0"; it has lo`},
				{[]string{lo, "9 eth0 up"}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
			},
		},
		{
			name: "pinned by another name, deleted and made again", addrs: "10.0.0.10", placement: Placement{Interface: "enp1s0"},
			steps: []step{
				{[]string{lo}, []string{"10.0.0.10/32 on enp1s0"}, 0, `vip_interface: this node has no interface "enp1s0"; it has lo`},
				{[]string{lo, eth0 + " altname=enp1s0"}, []string{"10.0.0.10/32 on eth0"}, 1, ""},
				{[]string{lo}, []string{"10.0.0.10/32 on eth0"}, 0, `vip_interface: this node has no interface "enp1s0"; it has lo`},
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 0, `vip_interface: this node has no interface "enp1s0"; it has lo, eth0`},
				{[]string{lo, eth0, "9 eth1 up altname=enp1s0"}, []string{"10.0.0.10/32 on eth1"}, 1, ""},
			},
		},
		{
			name: "on lo, the announcing link deleted and made again", addrs: "10.0.0.10", placement: Placement{Interface: "lo"},
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on lo via eth0"}, 1, ""},
				{[]string{lo}, []string{"10.0.0.10/32 on lo via eth0"}, 0, "no interface's subnet contains 10.0.0.10 any more; it was on eth0"},
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on lo via eth0"}, 1, ""},
			},
		},
		{
			name: "two families, one without a place", addrs: "10.0.0.10 fe80::10",
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, "fe80::10 is a link-local address, and every interface has its subnet: set vip_interface"},
			},
		},
		{
			name: "VIPs with a subnet say nothing of the network", addrs: "10.0.0.10 10.0.0.9", placement: Placement{Bits4: 24},
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/24 on eth0", "10.0.0.9/24 on eth0"}, 2, ""},
				{[]string{lo, "2 eth0 up 10.0.0.9/24", "3 mgmt up default4 10.0.0.11/16"}, []string{"10.0.0.10/24 on mgmt", "10.0.0.9/24 on mgmt"}, 2, ""},
			},
		},
		{
			name: "a node's own address beside a VIP of its network", addrs: "10.0.0.10 10.0.0.11",
			steps: []step{
				{[]string{lo, eth0}, []string{"10.0.0.10/32 on eth0"}, 1, "10.0.0.11 is this node's own address on eth0; a VIP must be an address that no node has"},
			},
		},
		{
			name: "a node's own address", addrs: "10.0.0.11",
			steps: []step{
				{[]string{lo, eth0}, nil, 0, "10.0.0.11 is this node's own address on eth0; a VIP must be an address that no node has"},
				{[]string{lo, "2 eth0 up default4 10.0.0.12/24"}, []string{"10.0.0.11/32 on eth0"}, 1, ""},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var addrs []netip.Addr
			for _, a := range strings.Fields(tt.addrs) {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			var places []Place
			for i, s := range tt.steps {
				for again := range 2 { // doing it twice is the same as doing it once
					var usable int
					var problems []error
					places, usable, problems = tt.placement.Follow(addrs, linksOf(s.links...), places)
					var got []string
					for _, p := range places {
						got = append(got, whereabouts(p.VIP))
					}
					if diff := cmp.Diff(s.want, got); diff != "" {
						t.Errorf("step %d.%d: places (-want +got):\n%s", i, again, diff)
					}
					if inOneLine(problems) != s.problems || usable != s.usable {
						t.Errorf("step %d.%d: %d usable, %q; want %d, %q", i, again, usable, inOneLine(problems), s.usable, s.problems)
					}
				}
			}
		})
	}
}

func TestOwnAddress(t *testing.T) {
	links := linksOf("1 lo up 127.0.0.1/8 ::1/128 10.0.0.30/32", "2 eth0 up 10.0.0.11/24 10.0.0.20/32 fd00::11/64")
	tests := []struct{ addr, want string }{
		{"10.0.0.11", "10.0.0.11 is this node's own address on eth0; a VIP must be an address that no node has"},
		{"fd00::11", "fd00::11 is this node's own address on eth0; a VIP must be an address that no node has"},
		{"127.0.0.1", "127.0.0.1 is this node's own address on lo; a VIP must be an address that no node has"},
		{"10.0.0.10", ""},
		{"10.0.0.20", ""}, // left behind by somebody
		{"10.0.0.30", ""},
	}
	for _, tt := range tests {
		if got := message(OwnAddress(netip.MustParseAddr(tt.addr), links)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.addr, got, tt.want)
		}
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func inOneLine(problems []error) string {
	return strings.ReplaceAll(message(errors.Join(problems...)), "\n", "; ")
}
