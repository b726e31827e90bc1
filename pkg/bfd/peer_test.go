package bfd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var addr = netip.MustParseAddr

func TestComplete(t *testing.T) {
	for _, tc := range []struct {
		name  string
		peers []Peer
		want  string // of the error
	}{
		{"nobody", nil, ""},
		{"alike but for what tells them apart", []Peer{
			{Key: "a", Remote: addr("10.0.0.2")},
			{Key: "b", Remote: addr("10.0.0.2"), Multihop: true, Local: addr("10.0.0.1"), MinTTL: 250},
			{Key: "c", Remote: addr("10.0.0.2"), Multihop: true, Local: addr("10.0.0.3")},
			{Key: "d", Remote: addr("fe80::1%eth0")},
			{Key: "e", Remote: addr("fe80::1"), Interface: "eth1"},
		}, ""},
		{"two at one place", []Peer{
			{Key: "a", Remote: addr("10.0.0.2"), Interface: "eth0"},
			{Key: "b", Remote: addr("::ffff:10.0.0.2"), Local: addr("10.0.0.1")},
		}, "peers a and b are at the same address 10.0.0.2"},
		{"twice", []Peer{{Key: "a", Remote: addr("10.0.0.2")}, {Key: "a", Remote: addr("10.0.0.3")}}, "peer a is there twice"},
		{"no address", []Peer{{Key: "a"}}, "peer a: remote address invalid IP is not that of a host"},
		{"no host", []Peer{{Key: "a", Remote: addr("ff02::1%eth0")}}, "peer a: remote address ff02::1%eth0 is not that of a host"},
		{"on no link", []Peer{{Key: "a", Remote: addr("fe80::1")}}, "peer a: remote address fe80::1 is of a link: name its interface"},
		{"on two links", []Peer{{Key: "a", Remote: addr("fe80::1%eth0"), Interface: "eth1"}}, "peer a: remote address fe80::1%eth0 is not of interface eth1"},
		{"behind a router and on the link", []Peer{{Key: "a", Remote: addr("fe80::1%eth0"), Multihop: true}},
			"peer a: remote address fe80::1%eth0 is of a link, so he is not some hops away"},
		{"two families", []Peer{{Key: "a", Remote: addr("10.0.0.2"), Local: addr("fd00::1")}}, "peer a: local address fd00::1 is not of the family of 10.0.0.2"},
		{"a TTL on the link, and no interval", []Peer{{Key: "a", Remote: addr("10.0.0.2"), MinTTL: 254, MinTx: -1}},
			"peer a: a least TTL is for a neighbour some hops away: the TTL of one on the link is 255\n" +
				"option MinTx is -1ns: it must be from 1µs to 1h11m34.967295s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := complete(tc.peers)
			if diff := cmp.Diff(tc.want, strings.TrimPrefix(fmt.Sprint(err), "<nil>")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is left open is filled in; a zone is the interface.
func TestDefaults(t *testing.T) {
	got, err := complete([]Peer{{Key: "a", Remote: addr("fe80::1%eth0"), MinRx: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Peer{{Key: "a", Remote: addr("fe80::1"), Interface: "eth0", MinTx: 300 * time.Millisecond, MinRx: time.Second, Multiplier: 3}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A Detector keeps what it has when it is told something that cannot be.
func TestSetRefuses(t *testing.T) {
	d := New(Options{})
	good := []Peer{{Key: "a", Remote: addr("10.0.0.2")}}
	if err := d.Set(good); err != nil {
		t.Fatal(err)
	}
	want := "set BFD peers: peer b: remote address 0.0.0.0 is not that of a host"
	if err := d.Set([]Peer{{Key: "b", Remote: addr("0.0.0.0")}}); fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if len(d.wanted) != 1 || d.wanted[0].Key != "a" {
		t.Errorf("it wants %v", d.wanted)
	}
}
