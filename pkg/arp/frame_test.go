package arp

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The layouts are those of RFC 826 (packet format), RFC 8200 §3 and RFC 4861 §4.4 and §4.6.1, written out by
// hand; the ICMPv6 checksums were computed by another program.
func TestAnnouncement(t *testing.T) {
	station := Station{
		MAC:       MAC{0x02, 0, 0, 0, 0, 0x01},
		LinkLocal: netip.MustParseAddr("fe80::1"),
	}
	router := station
	router.Router = true

	const (
		ethernetARP  = "ffffffffffff 020000000001 0806"
		ethernetIPv6 = "333300000001 020000000001 86dd"
		padding      = "000000000000000000000000000000000000" // to 60 bytes, the least that Ethernet carries
		ipv6Header   = "6 00 00000 0020 3a ff fe800000000000000000000000000001 ff020000000000000000000000000001"
	)
	for _, test := range []struct {
		name    string
		station Station
		addr    string
		want    []string
	}{
		{
			"IPv4: ARP in request form, then in reply form", station, "10.0.0.10",
			[]string{
				ethernetARP + "0001 0800 06 04 0001" + "020000000001 0a00000a" + "000000000000 0a00000a" + padding,
				ethernetARP + "0001 0800 06 04 0002" + "020000000001 0a00000a" + "020000000001 0a00000a" + padding,
			},
		},
		{
			"IPv6", station, "2001:db8::10",
			[]string{ethernetIPv6 + ipv6Header + "88 00 2854 20000000" + "20010db8000000000000000000000010" + "02 01 020000000001"},
		},
		{
			"IPv6 from a node that forwards", router, "2001:db8::10",
			[]string{ethernetIPv6 + ipv6Header + "88 00 a853 a0000000" + "20010db8000000000000000000000010" + "02 01 020000000001"},
		},
		{
			"IPv6 link-local", station, "fe80::10",
			[]string{ethernetIPv6 + ipv6Header + "88 00 578c 20000000" + "fe800000000000000000000000000010" + "02 01 020000000001"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			frames, err := announcement(test.station, netip.MustParseAddr(test.addr))
			if err != nil {
				t.Fatal(err)
			}
			var want, got []string
			for _, w := range test.want {
				want = append(want, strings.ReplaceAll(w, " ", ""))
			}
			for _, f := range frames {
				got = append(got, hex.EncodeToString(f))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("frames (-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnnouncementRefusesWhatIsNoAddress(t *testing.T) {
	frames, err := announcement(Station{LinkLocal: netip.MustParseAddr("fe80::1")}, netip.Addr{})
	if err == nil {
		t.Errorf("frames %x, want an error", frames)
	}
}
