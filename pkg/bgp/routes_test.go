package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kube-vip.io/kube-vip/pkg/vip"
)

func TestRoutes(t *testing.T) {
	med, pref := uint32(5), uint32(50)
	hop := netip.MustParseAddr("192.0.2.1")
	own := map[netip.Addr]*Attributes{
		netip.MustParseAddr("10.0.0.1"): {MED: &med, Communities: []uint32{2, 1}},
		netip.MustParseAddr("10.0.0.5"): {Prepend: new(uint32(0))},
		netip.MustParseAddr("10.0.1.1"): {Aggregate4: 24},
		netip.MustParseAddr("10.0.1.2"): {Aggregate4: 24, MED: &med},
	}
	for name, c := range map[string]struct {
		present []string
		peer    Peer
		leaving []string
		want    string
	}{
		"nothing":                           {peer: Peer{IPv4: true}},
		"one family":                        {present: []string{"10.0.0.9", "fd00::1"}, peer: Peer{IPv4: true}, want: "10.0.0.9/32"},
		"the other":                         {present: []string{"10.0.0.9", "fd00::1"}, peer: Peer{IPv6: true}, want: "fd00::1/128"},
		"a next hop":                        {present: []string{"10.0.0.9"}, peer: Peer{IPv4: true, NextHop4: hop}, want: "10.0.0.9/32 via 192.0.2.1"},
		"its own besides the peer's":        {present: []string{"10.0.0.1"}, peer: Peer{IPv4: true, Attributes: Attributes{Communities: []uint32{1}, LocalPref: &pref}}, want: "10.0.0.1/32 med 5 pref 50 [1 2]"},
		"no prepend in place of the peer's": {present: []string{"10.0.0.5"}, peer: Peer{IPv4: true, Attributes: Attributes{Prepend: new(uint32(3))}}, want: "10.0.0.5/32 prepend 0"},
		"parts of one prefix":               {present: []string{"10.0.1.1", "10.0.1.2"}, peer: Peer{IPv4: true}, want: "10.0.1.0/24"},
		"parts of the peer's prefix":        {present: []string{"10.0.0.9", "10.0.9.9"}, peer: Peer{IPv4: true, Attributes: Attributes{Aggregate4: 16}}, want: "10.0.0.0/16"},
		"a length that is everything":       {present: []string{"10.0.0.9"}, peer: Peer{IPv4: true, Attributes: Attributes{Aggregate4: 32}}, want: "10.0.0.9/32"},
		"leaving":                           {present: []string{"10.0.0.1"}, peer: Peer{IPv4: true}, leaving: []string{"10.0.0.1"}, want: "10.0.0.1/32 med 4294967295 pref 0 [2 1 4294901760]"},
		"leaving one of two":                {present: []string{"10.0.0.1", "10.0.0.9"}, peer: Peer{IPv4: true}, leaving: []string{"10.0.0.9"}, want: "10.0.0.1/32 med 5 [2 1]\n10.0.0.9/32 med 4294967295 pref 0 [4294901760]"},
		"leaving one part of a prefix":      {present: []string{"10.0.1.1", "10.0.1.2"}, peer: Peer{IPv4: true}, leaving: []string{"10.0.1.1"}, want: "10.0.1.0/24 med 5"},
	} {
		t.Run(name, func(t *testing.T) {
			var present []vip.VIP
			for _, a := range c.present {
				addr := netip.MustParseAddr(a)
				present = append(present, vip.VIP{Prefix: netip.PrefixFrom(addr, addr.BitLen())})
			}
			got := routes(present, func(a netip.Addr) *Attributes { return own[a] }, c.peer, func(a netip.Addr) bool { return slices.Contains(c.leaving, a.String()) })
			var lines []string
			for _, prefix := range slices.SortedFunc(maps.Keys(got), netip.Prefix.Compare) {
				r := got[prefix]
				line := prefix.String()
				if r.nextHop.IsValid() {
					line += " via " + r.nextHop.String()
				}
				if r.MED != nil {
					line += fmt.Sprint(" med ", *r.MED)
				}
				if r.LocalPref != nil {
					line += fmt.Sprint(" pref ", *r.LocalPref)
				}
				if r.Prepend != nil {
					line += fmt.Sprint(" prepend ", *r.Prepend)
				}
				if len(r.Communities) > 0 {
					line += fmt.Sprint(" ", r.Communities)
				}
				lines = append(lines, line)
			}
			if text := strings.Join(lines, "\n"); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}

func TestFace(t *testing.T) {
	prefixes := func(list ...string) (all []netip.Prefix) {
		for _, p := range list {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	links := []vip.Link{
		{Name: "lo", Addrs: prefixes("127.0.0.1/8")},
		{Name: "eth0", Addrs: prefixes("192.0.2.1/24", "fe80::1/64", "2001:db8::1/64")},
		{Name: "eth1", AltNames: []string{"uplink"}, Addrs: prefixes("192.0.2.65/26", "fe80::2/64")},
	}
	for name, c := range map[string]struct {
		mode string
		peer Peer
		want string // the next hops and families
		err  string
	}{
		"none":                    {peer: Peer{IPv4: true}, want: "invalid IP invalid IP true false"},
		"fixed":                   {mode: ModeFixed, peer: Peer{IPv4: true, IPv6: true, NextHop6: netip.MustParseAddr("2001:db8::9")}, want: "invalid IP 2001:db8::9 true true"},
		"by the source address":   {mode: ModeSourceAddress, peer: Peer{IPv4: true, IPv6: true, Source: netip.MustParseAddr("192.0.2.1")}, want: "192.0.2.1 2001:db8::1 true true"},
		"by the source interface": {mode: ModeSourceInterface, peer: Peer{IPv4: true, IPv6: true, SourceInterface: "eth0"}, want: "192.0.2.1 2001:db8::1 true true"},
		"it has one family": {mode: ModeSourceInterface, peer: Peer{IPv4: true, IPv6: true, SourceInterface: "uplink"}, want: "192.0.2.65 invalid IP true false",
			err: "interface eth1 has no global IPv6 address"},
		"no source address":  {mode: ModeSourceAddress, peer: Peer{IPv4: true}, want: "invalid IP invalid IP true false", err: "needs a source address (bgp_sourceip)"},
		"whose address":      {mode: ModeSourceAddress, peer: Peer{Source: netip.MustParseAddr("192.0.2.7")}, want: "invalid IP invalid IP false false", err: "no interface has the source address 192.0.2.7"},
		"no such interface":  {mode: ModeSourceInterface, peer: Peer{SourceInterface: "eth7"}, want: "invalid IP invalid IP false false", err: `no interface "eth7"`},
		"no interface given": {mode: ModeSourceInterface, want: "invalid IP invalid IP false false", err: `no interface ""`},
		"no such mode":       {mode: "best", want: "invalid IP invalid IP false false", err: `"best" is none of`},
	} {
		t.Run(name, func(t *testing.T) {
			p := c.peer
			err := p.Face(c.mode, links)
			if got := fmt.Sprintf("%s %s %t %t", p.NextHop4, p.NextHop6, p.IPv4, p.IPv6); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}
