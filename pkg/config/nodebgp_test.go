package config

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestPeersFromAnnotations(t *testing.T) {
	complete := map[string]string{"p/node-asn": "65000", "p/src-ip": "10.0.0.1", "p/peer-asn": "65530", "p/peer-ip": "169.254.255.1,169.254.255.2"}
	with := func(change ...string) map[string]string {
		m := maps.Clone(complete)
		for _, c := range change {
			key, value, keep := strings.Cut(c, "=")
			if keep {
				m["p/"+key] = value
			} else {
				delete(m, "p/"+key)
			}
		}
		return m
	}
	node := func(peers ...Peer) NodeBGP {
		return NodeBGP{AS: 65000, SourceIP: addr("10.0.0.1"), RouterID: addr("10.0.0.1"), Peers: peers}
	}
	plain := func(addresses ...string) (list []Peer) {
		for _, a := range addresses {
			list = append(list, Peer{Address: a, AS: 65530})
		}
		return list
	}
	for _, test := range []struct {
		name    string
		notes   map[string]string
		want    NodeBGP
		missing []string
		err     []string
	}{
		{name: "plain", notes: complete, want: node(plain("169.254.255.1", "169.254.255.2")...)},
		{
			name: "numbered", want: node(Peer{Address: "169.254.255.1", AS: 65530, Password: "pa:ss,wo rd", Multihop: true}),
			notes: map[string]string{
				"p/bgp-peers-0-node-asn": "65000", "p/bgp-peers-0-src-ip": "10.0.0.1", "p/bgp-peers-0-peer-asn": "65530", "p/bgp-peers-0-peer-ip": "169.254.255.1",
				"p/bgp-peers-0-bgp-pass": "cGE6c3Msd28gcmQ=", "p/bgp-peers-0-peer-multi-hop": "true", "p/bgp-peers-1-node-asn": "7", "other/node-asn": "8",
			},
		},
		{name: "both forms that agree", notes: with("bgp-peers-0-node-asn=65000", "bgp-peers-0-peer-ip=169.254.255.2,2001:DB8::1"), want: node(plain("169.254.255.1", "169.254.255.2", "2001:db8::1")...)},
		{
			name:  "in the order of numbers",
			notes: with("peer-ip", "bgp-peers-10-peer-ip=10.0.0.10", "bgp-peers-9-peer-ip=10.0.0.9", "bgp-peers-007-peer-ip=10.0.0.7", "bgp-peers-99999999999999999999999-peer-ip=10.0.0.99", "bgp-peers--peer-ip=x", "bgp-peers-a-peer-ip=x"),
			want:  node(plain("10.0.0.7", "10.0.0.9", "10.0.0.10", "10.0.0.99")...),
		},
		{name: "space", notes: with("node-asn= 65000 ", "peer-ip= 169.254.255.1 , 169.254.255.2"), want: node(plain("169.254.255.1", "169.254.255.2")...)},
		{name: "a password with a line feed", notes: with("bgp-pass=cAo=", "peer-ip=10.0.0.2"), want: node(Peer{Address: "10.0.0.2", AS: 65530, Password: "p"})},
		{name: "an IPv6 source", notes: with("src-ip=2001:db8::9", "peer-ip=2001:db8::1"), want: NodeBGP{AS: 65000, SourceIP: addr("2001:db8::9"), Peers: plain("2001:db8::1")}},

		{name: "nothing", missing: []string{"p/node-asn", "p/src-ip", "p/peer-asn", "p/peer-ip"}},
		{name: "some", notes: with("src-ip", "peer-ip="), missing: []string{"p/src-ip", "p/peer-ip"}},

		{name: "what cannot be read", notes: with("node-asn=0", "src-ip=x", "peer-asn=4294967296", "peer-ip=a_b,,10.0.0.1", "bgp-pass=s3cret", "peer-multi-hop=yes"), err: []string{
			`annotation p/node-asn: "0" is not a number from 1 to 4294967295`,
			`annotation p/src-ip: "x" is not an IP address`,
			`annotation p/peer-asn: "4294967296" is not a number from 1 to 4294967295`,
			`annotation p/bgp-pass: it is not base64`,
			`annotation p/peer-multi-hop: "yes" is not true or false`,
			`annotation p/peer-ip: peer 1: "a_b" is neither an IP address nor a host name`,
			`annotation p/peer-ip: peer 2: "" is neither an IP address nor a host name`,
		}},
		{name: "both forms that differ", notes: with("bgp-peers-0-node-asn=1", "src-ip"), missing: []string{"p/src-ip"},
			err: []string{"annotation p/node-asn: p/bgp-peers-0-node-asn says something else: keep one of them"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, missing, err := PeersFromAnnotations("p", test.notes)
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.missing, missing); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.err, lines(err)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

// Peers of a node have the timers and attributes of the settings, and the node's own address.
func TestPeersOf(t *testing.T) {
	l := given{environ: []string{"bgp_peers=10.9.9.9:9", "bgp_sourceif=eth0", "bgp_hold_time=9", "bgp_keepalive_interval=3", "bgp_communities=blue,green", "bgp_community_names=blue=1:1"}}.mustLoad(t)
	got, err := l.Config.BGP.PeersOf(NodeBGP{AS: 65000, SourceIP: addr("10.0.0.1"), Peers: []Peer{{Address: "10.0.1.1", AS: 65530, Password: "p"}}}, PeersFile{Communities: CommunityNames{"green": "2:2"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Peer{filled(func(p *Peer) {
		p.Address, p.AS, p.Password, p.SourceIP = "10.0.1.1", 65530, "p", addr("10.0.0.1")
		p.HoldTime, p.KeepaliveInterval, p.Communities = 9*time.Second, 3*time.Second, []string{"1:1", "2:2"}
		four(p)
	})}
	if diff := samePeers(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
