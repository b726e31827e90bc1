package lab

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// TestFRRChange has what is typed into FRR for a change, so that sessions of which nothing has changed stay.
func TestFRRChange(t *testing.T) {
	one := Neighbor{Addr: netip.MustParseAddr("10.10.0.11"), AS: 65001, Password: "a"}
	some := Neighbor{Range: netip.MustParsePrefix("10.10.0.0/24"), AS: 65001}
	base := RouterOptions{AS: 65000, MaxPaths: 16, ID: netip.MustParseAddr("10.10.0.200"), Neighbors: []Neighbor{one}}
	with := func(neighbors ...Neighbor) RouterOptions {
		o := base
		o.Neighbors = neighbors
		return o
	}
	edit := func(n Neighbor, change func(*Neighbor)) Neighbor {
		change(&n)
		return n
	}
	for _, tt := range []struct {
		name     string
		from, to RouterOptions
		want     []string
	}{
		{"nothing", base, base, nil},
		{"another password", base, with(edit(one, func(n *Neighbor) { n.Password = "b" })),
			[]string{"router bgp 65000; neighbor 10.10.0.11 password b"}},
		{"no password", base, with(edit(one, func(n *Neighbor) { n.Password = "" })),
			[]string{"router bgp 65000; no neighbor 10.10.0.11 password"}},
		{"times and both families", base, with(edit(one, func(n *Neighbor) { n.Hold, n.Family = 3*time.Second, Dual })), []string{
			"router bgp 65000; neighbor 10.10.0.11 timers 1 3",
			"router bgp 65000; address-family ipv6 unicast; neighbor 10.10.0.11 activate",
			"router bgp 65000; address-family ipv6 unicast; neighbor 10.10.0.11 soft-reconfiguration inbound",
		}},
		{"BFD", base, with(edit(one, func(n *Neighbor) { n.BFD = &BFDIntervals{Transmit: 50 * time.Millisecond} })), []string{
			"bfd; profile t50-r300-m3; transmit-interval 50",
			"bfd; profile t50-r300-m3; receive-interval 300",
			"bfd; profile t50-r300-m3; detect-multiplier 3",
			"router bgp 65000; neighbor 10.10.0.11 bfd",
			"router bgp 65000; neighbor 10.10.0.11 bfd profile t50-r300-m3",
		}},
		{"another AS of its own", base, with(edit(one, func(n *Neighbor) { n.LocalAS = 64999 })),
			[]string{"router bgp 65000; neighbor 10.10.0.11 local-as 64999 no-prepend replace-as"}},
		{"graceful restart", base, with(edit(one, func(n *Neighbor) { n.GracefulRestart = true })), []string{
			"router bgp 65000; no neighbor 10.10.0.11 graceful-restart-disable",
			"router bgp 65000; neighbor 10.10.0.11 graceful-restart-helper",
		}},
		{"nobody", base, with(), []string{"router bgp 65000; no neighbor 10.10.0.11"}},
		{"no range", with(one, some), base, []string{
			"router bgp 65000; no bgp listen range 10.10.0.0/24 peer-group range-10.10.0.0/24",
			"router bgp 65000; no neighbor range-10.10.0.0/24 peer-group",
		}},
		{"a route and a line", base, func() RouterOptions {
			o := base
			o.Announce, o.Extra = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, []string{"route-map x permit 10"}
			return o
		}(), []string{"router bgp 65000; address-family ipv4 unicast; network 0.0.0.0/0", "route-map x permit 10"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, commands := range frrChange(tt.from, tt.to) {
				got = append(got, strings.Join(commands, "; "))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFRRRoute(t *testing.T) {
	const shown = `{"aspath":{"string":"65001 65001","segments":[{"type":"as-sequence","list":[65001,65001]}],"length":2},
"origin":"incomplete","metric":33,"locPrf":200,"valid":true,"stale":true,"multipath":true,"bestpath":{"overall":true,"selectionReason":"Older Path"},
"community":{"string":"65001:7 no-export graceful-shutdown","list":["65001:7","noExport","gracefulShutdown"]},
"extendedCommunity":{"string":"RT:65001:5 SoO:1.2.3.4:6 LB:65001:125000 (1.000 Mbps)"},
"largeCommunity":{"string":"65001:1:2 65001:3:4","list":["65001:1:2","65001:3:4"]},
"nexthops":[{"ip":"fd00:10:10::201","afi":"ipv6","scope":"global"},{"ip":"fe80::1","afi":"ipv6","scope":"link-local","used":true}],
"peer":{"peerId":"fe80::1","routerId":"10.10.0.201","interface":"eth0","type":"external"}}`
	var p frrPath
	must(t, json.Unmarshal([]byte(shown), &p))
	want := Route{
		Prefix: netip.MustParsePrefix("10.30.0.1/32"), From: netip.MustParseAddr("fe80::1%eth0"),
		NextHops: []netip.Addr{netip.MustParseAddr("fd00:10:10::201"), netip.MustParseAddr("fe80::1")},
		Origin:   "incomplete", ASPath: []uint32{65001, 65001}, LocalPref: 200, MED: 33,
		Communities:      []string{"65001:7", "65535:65281", "65535:0"},
		LargeCommunities: []string{"65001:1:2", "65001:3:4"},
		ExtCommunities:   []string{"rt:65001:5", "ro:1.2.3.4:6", "lb:65001:125000"},
		Best:             true, Multipath: true, Stale: true,
	}
	if diff := cmp.Diff(want, p.route(want.Prefix), compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBIRDRoutes(t *testing.T) {
	const shown = `BIRD 2.0.12 ready.
Table master6:
fd00:30::1/128       unicast [n_one 2026-11-26 21:08:20.481] * (100) [AS65001i]
	via fd00:10:10::200 on eth0
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 65001 65002
	BGP.next_hop: fd00:10:10::200 fe80::6401:deff:fe8e:d6a5
	BGP.med: 5
	BGP.local_pref: 100
	BGP.community: (65001,7) (65535,65281)
	BGP.ext_community: (rt, 65001, 5) (unknown 0x4004, 65001, 1207182336) (generic, 0x4fde9, 0x47f42400)
	BGP.large_community: (65001, 1, 2)
                     unicast [n_two 2026-11-26 21:08:21.481] (100) [AS65001?]
	via fd00:10:10::201 on eth0
	Type: BGP univ
	BGP.origin: Incomplete
	BGP.as_path: 65001
	BGP.next_hop: fd00:10:10::201
	BGP.local_pref: 0
                     unreachable [announce_ipv6 21:08:18.562] (200)
	Type: static univ
`
	prefix := netip.MustParsePrefix("fd00:30::1/128")
	one, two := netip.MustParseAddr("fd00:10:10::200"), netip.MustParseAddr("fd00:10:10::201")
	got, err := birdRoutes(shown, prefix, map[string]netip.Addr{"n_one": one, "n_two": two})
	must(t, err)
	want := []Route{
		{
			Prefix: prefix, From: one, NextHops: []netip.Addr{one, netip.MustParseAddr("fe80::6401:deff:fe8e:d6a5")},
			Origin: "IGP", ASPath: []uint32{65001, 65002}, LocalPref: 100, MED: 5,
			Communities: []string{"65001:7", "65535:65281"}, LargeCommunities: []string{"65001:1:2"},
			ExtCommunities: []string{"rt:65001:5", "lb:65001:125000", "lb:65001:125000"},
			Best:           true, Multipath: true,
		},
		{Prefix: prefix, From: two, NextHops: []netip.Addr{two}, Origin: "incomplete", ASPath: []uint32{65001}},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBIRDSessions(t *testing.T) {
	const shown = `BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     2026-11-26 21:08:18.562347  

n_one      BGP        ---        up     2026-11-26 21:08:44.325483  Established   
  BGP state:          Established
    Neighbor address: fe80::1%eth0
    Neighbor AS:      65000
    Local AS:         65001
    Local capabilities
      Multiprotocol
        AF announced: ipv4
      Long-lived graceful restart
    Neighbor capabilities
      Multiprotocol
        AF announced: ipv4 ipv6
      Route refresh
      Extended next hop
        IPv6 nexthop: ipv4
      4-octet AS numbers
      Enhanced refresh
      Hostname: vm
    Session:          external AS4
    Hold timer:       178.873/180
    Keepalive timer:  53.067/60
  Channel ipv4
    Routes:         2 imported, 1 exported, 0 preferred
  Channel ipv6
    Routes:         1 imported, 1 exported, 0 preferred

n_two      BGP        ---        start  2026-11-26 21:08:45.325483  Active        Socket: Connection reset by peer
  BGP state:          Active
    Neighbor address: 10.10.0.202
    Neighbor AS:      65002
    Last error:       Socket: Connection reset by peer

n_range    BGP        ---        start  2026-11-26 21:08:45.325483  Passive       
  BGP state:          Passive
    Neighbor range:   10.10.0.0/24
`
	got, err := birdSessions(shown)
	must(t, err)
	want := []Session{
		{
			Peer: netip.MustParseAddr("fe80::1%eth0"), Name: "n_one", AS: 65000, State: "Established",
			Since: time.Date(2026, 11, 26, 21, 8, 44, 325483000, time.UTC), Hold: 180 * time.Second, Keepalive: 60 * time.Second,
			Capabilities: []string{"4-octet AS", "IPv4", "IPv6", "enhanced route refresh", "extended next hop", "route refresh"}, Accepted: 3,
		},
		{Peer: netip.MustParseAddr("10.10.0.202"), Name: "n_two", AS: 65002, State: "Active", Reason: "Socket: Connection reset by peer"},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBIRDChanges(t *testing.T) {
	const log = `2026-11-26 21:08:18.562347 <INFO> Started
2026-11-26 21:08:19.045579 <TRACE> n_one: Incoming connection from 10.10.0.200 (port 45040) accepted
2026-11-26 21:08:19.047958 <TRACE> n_one: BGP session established
2026-11-26 21:08:20.489122 <RMT> n_one: Received: Hold timer expired
2026-11-26 21:08:20.489123 <TRACE> n_one: BGP session closed
2026-11-26 21:08:21.489123 <TRACE> n_one: BGP session closed
2026-11-26 21:08:22.248771 <TRACE> n_one: Connecting to 10.10.0.200 from local address 10.10.0.201
2026-11-26 21:08:22.250024 <TRACE> n_one: BGP session established
2026-11-26 21:08:24.740000 <TRACE> n_eth0: Incoming connection from fe80::1%eth0 (port 41521) accepted
2026-11-26 21:08:24.740000 <TRACE> n_eth0_1: Starting
2026-11-26 21:08:24.741000 <TRACE> n_eth0_1: BGP session established
`
	got, err := birdChanges([]byte(log))
	must(t, err)
	peer := netip.MustParseAddr("10.10.0.200")
	at := func(s, us int) time.Time { return time.Date(2026, 11, 26, 21, 8, s, us*1000, time.UTC) }
	want := []SessionChange{
		{Time: at(19, 47958), Peer: peer, Name: "n_one", Up: true},
		{Time: at(20, 489123), Peer: peer, Name: "n_one", Reason: "Received: Hold timer expired"},
		{Time: at(22, 250024), Peer: peer, Name: "n_one", Up: true},
		{Time: at(24, 741000), Peer: netip.MustParseAddr("fe80::1%eth0"), Name: "n_eth0_1", Up: true},
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
