package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func samePeers(want, got []Peer) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty())
}

// filled is a peer with nothing but defaults, changed.
func filled(change func(*Peer)) Peer {
	p := Peer{
		Port: 179, HoldTime: 30 * time.Second, KeepaliveInterval: 10 * time.Second, ConnectRetry: 5 * time.Second,
		AggregationLength4: 32, AggregationLength6: 128,
	}
	change(&p)
	return p
}

// lines are those of an error, none of nil.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func four(p *Peer) { p.Families = []string{FamilyIPv4} }

func six(p *Peer) { p.Families = []string{FamilyIPv6} }

func both(p *Peer) { p.Families = []string{FamilyIPv4, FamilyIPv6} }

func num(n uint32) *uint32 { return &n }

const ms = time.Millisecond

// One peer of bgp_peers, as it is written and as it is.
func TestPeerStrings(t *testing.T) {
	for _, test := range []struct {
		text string
		want Peer
	}{
		{"10.0.1.1:65000::false", filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 65000; four(p) })},
		{" 10.0.1.1:65000 ", filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 65000; four(p) })},
		{"10.0.1.1:4294967295:pass word:true:1179", filled(func(p *Peer) {
			p.Address, p.AS, p.Password, p.Multihop, p.Port = "10.0.1.1", 4294967295, "pass word", true, 1179
			four(p)
		})},
		{"[2001:DB8:0::1]:65000", filled(func(p *Peer) { p.Address, p.AS = "2001:db8::1", 65000; six(p) })},
		{"[fe80::1%eth0]:65000:p", filled(func(p *Peer) { p.Address, p.AS, p.Password = "fe80::1%eth0", 65000, "p"; six(p) })},
		{"Router.Example.com.:65000", filled(func(p *Peer) { p.Address, p.AS = "router.example.com", 65000 })},
		{"unnumbered:eth0", filled(func(p *Peer) { p.Interface = "eth0"; both(p) })},
		{"unnumbered:eth0.100:65000:p", filled(func(p *Peer) { p.Interface, p.AS, p.Password = "eth0.100", 65000, "p"; both(p) })},
		{"10.0.1.1:1:::179:mpbgp_nexthop=fixed;mpbgp_ipv4=10.0.0.2;mpbgp_ipv6=[2001:db8::2]:true;100;200;5", filled(func(p *Peer) {
			p.Address, p.AS = "10.0.1.1", 1
			p.NextHop = NextHop{NextHopFixed, addr("10.0.0.2"), addr("2001:db8::2")}
			p.BFD = BFD{true, 100 * ms, 200 * ms, 5}
			both(p)
		})},
		// The IPv6 address of mpbgp without brackets, before and at the end of its field.
		{"10.0.1.1:1::::mpbgp_ipv6=2001:db8::2;mpbgp_nexthop=fixed", filled(func(p *Peer) {
			p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::2")}
			both(p)
		})},
		{"10.0.1.1:1::::mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8::2:true;;;", filled(func(p *Peer) {
			p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::2")}
			p.BFD = BFD{true, 300 * ms, 300 * ms, 3}
			both(p)
		})},
		{"10.0.1.1:1::::mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8:::", filled(func(p *Peer) {
			p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::")}
			both(p)
		})},
		{"10.0.1.1:1::::mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8::", filled(func(p *Peer) {
			p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::")}
			both(p)
		})},
		{"10.0.1.1:1:::::enable;50;;", filled(func(p *Peer) {
			p.Address, p.AS, p.BFD = "10.0.1.1", 1, BFD{true, 50 * ms, 300 * ms, 3}
			four(p)
		})},
		{"10.0.1.1:1:::::false;50;50;3", filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 1; four(p) })},
		{"10.0.1.1:1::::::", Peer{}}, // one too many
		// Without the port's place.
		{"10.0.1.1:1:p:true:mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8::2:true;;;", filled(func(p *Peer) {
			p.Address, p.AS, p.Password, p.Multihop = "10.0.1.1", 1, "p", true
			p.NextHop, p.BFD = NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::2")}, BFD{true, 300 * ms, 300 * ms, 3}
			both(p)
		})},
		{"10.0.1.1:1::false:mpbgp_nexthop=fixed;mpbgp_ipv6=[2001:db8::2]:", filled(func(p *Peer) {
			p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::2")}
			both(p)
		})},
		{"10.0.1.1:1:::true;10;60000;255", filled(func(p *Peer) {
			p.Address, p.AS, p.BFD = "10.0.1.1", 1, BFD{true, 10 * ms, time.Minute, 255}
			four(p)
		})},
		{"10.0.1.1:1::::true;10;10;1", filled(func(p *Peer) {
			p.Address, p.AS, p.BFD = "10.0.1.1", 1, BFD{true, 10 * ms, 10 * ms, 1}
			four(p)
		})},
		// A field of mpbgp is none of bfd, be there no value in it.
		{"10.0.1.1:1:::mpbgp_nexthop;", filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 1; four(p) })},
		{"10.0.1.1:1::::mpbgp_nexthop;", filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 1; four(p) })},
		{"10.0.1.1:1:mpbgp_x:mpbgp_y", Peer{}}, // in the places of the password and of multihop
		{"10.0.1.1:1:mpbgp_x", filled(func(p *Peer) { p.Address, p.AS, p.Password = "10.0.1.1", 1, "mpbgp_x"; four(p) })},
		{"10.0.1.1:1:;;;", filled(func(p *Peer) { p.Address, p.AS, p.Password = "10.0.1.1", 1, ";;;"; four(p) })},
	} {
		t.Run(test.text, func(t *testing.T) {
			l, err := given{args: []string{"--bgppeers=" + test.text}}.load(t)
			if wrong := test.want.Port == 0; wrong || err != nil {
				if (err != nil) != wrong {
					t.Errorf("got %v", err)
				}
				return
			}
			got, err := l.Config.BGP.PeerList()
			if err != nil {
				t.Fatal(err)
			}
			if diff := samePeers([]Peer{test.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// All peers of the settings, with what the settings say of each of them.
func TestPeerList(t *testing.T) {
	for _, test := range []struct {
		name    string
		environ []string
		file    string // of peers
		want    []Peer
		err     []string
	}{
		{name: "none"},
		{
			name: "from everywhere", environ: []string{"bgp_peers=10.0.1.1:65000", "bgp_peeraddress=10.0.1.2", "bgp_peeras=65002", "bgp_peerpass=a:b", "bgp_multihop=true"},
			file: "peers: [{address: 10.0.1.3, as: 65003}]",
			want: []Peer{
				filled(func(p *Peer) { p.Address, p.AS = "10.0.1.1", 65000; four(p) }),
				filled(func(p *Peer) { p.Address, p.AS, p.Password, p.Multihop = "10.0.1.2", 65002, "a:b", true; four(p) }),
				filled(func(p *Peer) { p.Address, p.AS = "10.0.1.3", 65003; four(p) }),
			},
		},
		{
			name: "defaults", environ: []string{
				"bgp_peers=10.0.1.1:1", "bgp_sourceip=10.0.0.1", "bgp_hold_time=9", "bgp_keepalive_interval=3", "mpbgp_nexthop=auto_sourceip", "bgp_graceful_restart=true", "bgp_prepend=2",
				"bgp_communities=no-export,65000:007,blue", "bgp_large_communities=green", "bgp_community_names=blue=65000:1:2,green=1:1", "bgp_local_pref=0", "bgp_med=50", "bgp_password_secret=vips/bgp",
			},
			file: `peers:
- {address: 10.0.1.2, as: 2}
- {address: 10.0.1.3, as: 3, password: "p", sourceInterface: eth1, nextHop: {mode: auto_sourceif}, families: [ipv4], holdTime: 0, gracefulRestart: {enable: false}, communities: [], largeCommunities: [red],
   localPref: 7, med: 0, prepend: 0}
- {address: 10.0.1.4, as: 4, nextHop: {mode: fixed, ipv6: "2001:db8::1"}, holdTime: 60, gracefulRestart: {enable: true, restartTime: 120}, passwordSecret: {key: four}}
communities: {red: "1:2:3"}
`,
			want: func() (want []Peer) {
				base := func(a string, as uint32) Peer {
					return filled(func(p *Peer) {
						p.Address, p.AS, p.SourceIP, p.NextHop.Mode = a, as, addr("10.0.0.1"), NextHopSourceIP
						p.HoldTime, p.KeepaliveInterval, p.GracefulRestart, p.Prepend = 9*time.Second, 3*time.Second, GracefulRestart{true, 9 * time.Second}, 2
						p.Communities, p.LargeCommunities = []string{"65535:65281", "65000:7", "1:1"}, []string{"65000:1:2"}
						p.LocalPref, p.MED, p.PasswordSecret = num(0), num(50), SecretRef{Namespace: "vips", Name: "bgp"}
						both(p)
					})
				}
				third := base("10.0.1.3", 3)
				third.Password, third.PasswordSecret, third.SourceIP, third.SourceInterface, third.NextHop.Mode = "p", SecretRef{}, netip.Addr{}, "eth1", NextHopSourceInterface
				third.HoldTime, third.KeepaliveInterval, third.GracefulRestart, third.Prepend = 0, 0, GracefulRestart{}, 0
				third.Communities, third.LargeCommunities, third.LocalPref, third.MED = nil, []string{"1:2:3"}, num(7), num(0)
				four(&third)
				fourth := base("10.0.1.4", 4)
				fourth.NextHop = NextHop{Mode: NextHopFixed, IPv6: addr("2001:db8::1")}
				fourth.HoldTime, fourth.KeepaliveInterval, fourth.GracefulRestart = time.Minute, 3*time.Second, GracefulRestart{true, 2 * time.Minute}
				fourth.PasswordSecret.Key = "four"
				return []Peer{base("10.0.1.1", 1), base("10.0.1.2", 2), third, fourth}
			}(),
		},
		{
			name: "a source address for its family alone", environ: []string{"bgp_peers=10.0.1.1:1,[2001:db8::1]:1,router:1,unnumbered:eth1", "bgp_sourceip=10.0.0.1"},
			want: []Peer{
				filled(func(p *Peer) { p.Address, p.AS, p.SourceIP = "10.0.1.1", 1, addr("10.0.0.1"); four(p) }),
				filled(func(p *Peer) { p.Address, p.AS = "2001:db8::1", 1; six(p) }),
				filled(func(p *Peer) { p.Address, p.AS, p.SourceIP = "router", 1, addr("10.0.0.1") }),
				filled(func(p *Peer) { p.Interface = "eth1"; both(p) }),
			},
		},
		{
			name: "next hops, each by its own name", environ: []string{"bgp_peers=10.0.1.1:1::::mpbgp_ipv6=2001:db8::9,10.0.1.2:1", "mpbgp_nexthop=fixed", "mpbgp_ipv6=2001:db8::1", "mpbgp_ipv4=10.0.0.1"},
			want: []Peer{
				filled(func(p *Peer) {
					p.Address, p.AS, p.NextHop = "10.0.1.1", 1, NextHop{NextHopFixed, addr("10.0.0.1"), addr("2001:db8::9")}
					both(p)
				}),
				filled(func(p *Peer) {
					p.Address, p.AS, p.NextHop = "10.0.1.2", 1, NextHop{NextHopFixed, addr("10.0.0.1"), addr("2001:db8::1")}
					both(p)
				}),
			},
		},
		{
			name: "timers", environ: []string{"bgp_keepalive_interval=2"}, file: `peers:
- {address: 10.0.1.1, as: 1, holdTime: 10}
- {address: 10.0.1.2, as: 1, holdTime: 3s}
- {address: 10.0.1.3, as: 1, keepaliveInterval: 29}
- {address: 10.0.1.4, as: 1, holdTime: 90, keepaliveInterval: 1m, connectRetry: 1}
`,
			want: []Peer{
				filled(func(p *Peer) {
					p.Address, p.AS, p.HoldTime, p.KeepaliveInterval = "10.0.1.1", 1, 10*time.Second, 2*time.Second
					four(p)
				}),
				filled(func(p *Peer) {
					p.Address, p.AS, p.HoldTime, p.KeepaliveInterval = "10.0.1.2", 1, 3*time.Second, time.Second
					four(p)
				}),
				filled(func(p *Peer) { p.Address, p.AS, p.KeepaliveInterval = "10.0.1.3", 1, 29*time.Second; four(p) }),
				filled(func(p *Peer) {
					p.Address, p.AS, p.HoldTime, p.KeepaliveInterval, p.ConnectRetry = "10.0.1.4", 1, 90*time.Second, time.Minute, time.Second
					four(p)
				}),
			},
		},
		{
			name: "what is on by being there", environ: []string{"bgp_graceful_restart=true"}, file: `peers:
- {address: 10.0.1.1, as: 1, bfd: {}, gracefulRestart: {restartTime: 5}}
- {address: 10.0.1.2, as: 1, bfd: {enable: false, minRx: 50}, gracefulRestart: {enable: false}}
`,
			want: []Peer{
				filled(func(p *Peer) {
					p.Address, p.AS, p.BFD, p.GracefulRestart = "10.0.1.1", 1, BFD{true, 300 * ms, 300 * ms, 3}, GracefulRestart{true, 5 * time.Second}
					four(p)
				}),
				filled(func(p *Peer) { p.Address, p.AS = "10.0.1.2", 1; four(p) }),
			},
		},
		{
			name: "one address on different nodes", file: "peers: [{address: 10.0.1.1, as: 1, nodeSelector: {rack: a}}, {address: 10.0.1.1, as: 2, nodeSelector: rack=b}]",
			want: []Peer{
				filled(func(p *Peer) { p.Address, p.AS, p.NodeSelector = "10.0.1.1", 1, "rack=a"; four(p) }),
				filled(func(p *Peer) { p.Address, p.AS, p.NodeSelector = "10.0.1.1", 2, "rack=b"; four(p) }),
			},
		},

		{name: "twice", environ: []string{"bgp_peers=10.0.1.1:1,[2001:db8::1]:1,10.0.1.1:2,unnumbered:eth0,unnumbered:eth0:1", "bgp_peeraddress=2001:DB8::1"},
			file: "peers: [{address: 10.0.1.1, as: 1, nodeSelector: rack=a}]",
			err: []string{
				"peer 10.0.1.1 is given twice: as peer 1 of bgp_peers and as peer 3 of bgp_peers",
				"peer unnumbered:eth0 is given twice: as peer 4 of bgp_peers and as peer 5 of bgp_peers",
				"peer 2001:db8::1 is given twice: as peer 2 of bgp_peers and as bgp_peeraddress",
				"peer 10.0.1.1 is given twice: as peer 1 of bgp_peers and as peer 1 of the peers file",
			}},
		{name: "a source of the other family for auto_sourceip", environ: []string{"bgp_peers=[2001:db8::1]:1", "bgp_sourceip=10.0.0.1", "mpbgp_nexthop=auto_sourceip"},
			err: []string{"peer 2001:db8::1: the next hop auto_sourceip needs a source address of the family of the session"}},
		{name: "no source for auto_sourceif", environ: []string{"bgp_peers=10.0.1.1:1::::mpbgp_nexthop=auto_sourceif"},
			err: []string{"peer 10.0.1.1: the next hop auto_sourceif needs a source interface"}},
		{name: "no address for fixed", environ: []string{"bgp_peers=10.0.1.1:1::::mpbgp_nexthop=fixed"},
			err: []string{"peer 10.0.1.1: the next hop fixed needs an address: mpbgp_ipv4, mpbgp_ipv6 or both"}},
		{name: "an address without fixed", environ: []string{"bgp_peers=10.0.1.1:1::::mpbgp_ipv4=10.0.0.1"},
			err: []string{"peer 10.0.1.1: mpbgp_ipv4 and mpbgp_ipv6 are for the next hop fixed"}},
		{name: "timers that do not fit", environ: []string{"bgp_keepalive_interval=9", "bgp_hold_time=20"}, file: "peers: [{address: 10.0.1.1, as: 1, keepaliveInterval: 20}]",
			err: []string{"peer 10.0.1.1: keepaliveInterval 20s must be less than holdTime 20s"}},
		{name: "a community that nobody knows", environ: []string{"bgp_peers=10.0.1.1:1", "bgp_communities=no-exprot"},
			err: []string{`peer 10.0.1.1: communities: there is no community "no-exprot"; did you mean no-export?`}},
		{name: "a name with two values", environ: []string{"bgp_community_names=a=1:1,b=2:2"}, file: `communities: {a: "1:2", b: "2:2"}`,
			err: []string{"the community a is 1:1 in bgp_community_names and 1:2 in the peers file"}},
		{name: "a key without a Secret", file: "peers: [{address: 10.0.1.1, as: 1, passwordSecret: {key: a}}]",
			err: []string{"peer 10.0.1.1: passwordSecret has no name, and bgp_password_secret is not set"}},
		{name: "a single peer without an AS", environ: []string{"bgp_peeraddress=10.0.1.1", "bgp_peeras=0"},
			err: []string{"peer 10.0.1.1: as is missing: want a number from 1 to 4294967295"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			environ := test.environ
			if test.file != "" {
				path := filepath.Join(t.TempDir(), "peers.yaml")
				if err := os.WriteFile(path, []byte(test.file), 0o600); err != nil {
					t.Fatal(err)
				}
				environ = append(environ, "bgp_peers_file="+path)
			}
			got, err := given{environ: environ}.mustLoad(t).Config.BGP.PeerList()
			if diff := cmp.Diff(test.err, lines(err)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if diff := samePeers(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A peer that was completed is not another one's when it is changed.
func TestPeersAreTheirOwn(t *testing.T) {
	l := given{environ: []string{"bgp_peers=10.0.1.1:1,10.0.1.2:1", "bgp_communities=1:1", "bgp_med=5"}}.mustLoad(t)
	got, err := l.Config.BGP.PeerList()
	if err != nil {
		t.Fatal(err)
	}
	got[0].Communities[0], *got[0].MED = "x", 7
	if got[1].Communities[0] != "1:1" || *got[1].MED != 5 || *l.Config.BGP.MED != 5 || l.Config.BGP.Communities[0] != "1:1" {
		t.Errorf("got %+v and %+v", got[1].Communities, l.Config.BGP)
	}
}

func TestReadPeersFile(t *testing.T) {
	b := BGP{PeersFile: filepath.Join(t.TempDir(), "none.yaml")}
	if _, err := b.PeerList(); err == nil || err.Error() != "read peers file: open "+b.PeersFile+": no such file or directory" {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(b.PeersFile, []byte("peers: [{as: 1}, {}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := b.PeerList()
	want := []string{
		"peers file " + b.PeersFile + ": peer 1: address is missing, or interface for an unnumbered peer",
		"peers file " + b.PeersFile + ": peer 2: want a mapping of fields to values",
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOnNode(t *testing.T) {
	file, err := ParsePeersFile([]byte(`peers:
- {address: 10.0.1.1, as: 1, nodeSelector: {rack: a}}
- {address: 10.0.1.1, as: 2, nodeSelector: "rack in (b, c)"}
- {address: 10.0.1.2, as: 3}
- {address: 10.0.1.3, as: 4, nodeSelector: "!edge"}
`))
	if err != nil {
		t.Fatal(err)
	}
	peers, err := BGP{}.PeersWith(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		labels map[string]string
		want   string
	}{
		{nil, "[3 4]"},
		{map[string]string{"rack": "a"}, "[1 3 4]"},
		{map[string]string{"rack": "c", "edge": ""}, "[2 3]"},
	} {
		here, err := OnNode(peers, test.labels)
		if err != nil {
			t.Fatal(err)
		}
		var as []uint32
		for _, p := range here {
			as = append(as, p.AS)
		}
		if got := fmt.Sprint(as); got != test.want {
			t.Errorf("%v: want %s, got %s", test.labels, test.want, got)
		}
	}
	peers[1].NodeSelector = "!x"
	_, err = OnNode(peers, map[string]string{"rack": "a"})
	if want := "peer 10.0.1.1: more than one nodeSelector of it matches the labels of this node"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestPasswordIn(t *testing.T) {
	bgp := SecretRef{Name: "bgp"}
	for _, test := range []struct {
		name      string
		peer      Peer
		data      map[string]string
		want, err string
	}{
		{"by address", Peer{Address: "10.0.1.1", PasswordSecret: bgp}, map[string]string{"10.0.1.1": "a", "password": "b"}, "a", ""},
		{"by an IPv6 address", Peer{Address: "2001:db8::1", PasswordSecret: bgp}, map[string]string{"2001-db8--1": "a", "password": "b"}, "a", ""},
		{"by a link", Peer{Interface: "eth0@x", PasswordSecret: bgp}, map[string]string{"eth0-x": "a"}, "a", ""},
		{"for all", Peer{Address: "10.0.1.1", PasswordSecret: bgp}, map[string]string{"password": "b\n"}, "b", ""},
		{"an empty one for this peer", Peer{Address: "10.0.1.1", PasswordSecret: bgp}, map[string]string{"10.0.1.1": "", "password": "b"}, "", ""},
		{"none", Peer{Address: "10.0.1.1", PasswordSecret: bgp}, map[string]string{"10.0.1.2": "a"}, "", ""},
		{"by key", Peer{Address: "10.0.1.1", PasswordSecret: SecretRef{Name: "bgp", Key: "tor"}}, map[string]string{"10.0.1.1": "a", "tor": "c\r\n"}, "c", ""},
		{"by a key that is not there", Peer{Address: "10.0.1.1", PasswordSecret: SecretRef{Name: "bgp", Key: "tor"}}, map[string]string{"10.0.1.1": "a", "password": "b"},
			"", "the Secret bgp has no key tor"},
		{"too long", Peer{Address: "10.0.1.1", PasswordSecret: bgp}, map[string]string{"password": strings.Repeat("s", 81)},
			"", "key password of the Secret bgp: password is longer than 80 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			data := map[string][]byte{}
			for k, v := range test.data {
				data[k] = []byte(v)
			}
			got, err := test.peer.PasswordIn(data)
			if got.Reveal() != test.want || strings.Join(lines(err), "\n") != test.err {
				t.Errorf("want %q and %q, got %q and %v", test.want, test.err, got.Reveal(), err)
			}
		})
	}
}

// Nothing that prints settings prints a password, whatever it prints them with.
func TestSecretsDoNotPrint(t *testing.T) {
	l := given{environ: []string{"bgp_peerpass=s3cret", "bgp_peeraddress=10.0.1.1", "bgp_peers=10.0.1.2:1:s3cret"}}.mustLoad(t)
	peers, err := l.Config.BGP.PeerList()
	if err != nil {
		t.Fatal(err)
	}
	if len(peers) != 2 || peers[0].Password.Reveal() != "s3cret" || peers[1].Password.Reveal() != "s3cret" {
		t.Fatal("the passwords are not there")
	}
	type bare Peer // without its String
	for name, v := range map[string]any{
		"secret": Secret("s3cret"), "pointer": &peers[0], "peer": peers[0], "bare": bare(peers[0]), "list": peers, "config": l.Config, "BGP": &l.Config.BGP, "text": l.Config.BGP.Peers,
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "s3cret") || strings.Contains(got, "733363") {
				t.Errorf("%s as %s: %s", name, verb, got)
			}
		}
		var b strings.Builder
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		if strings.Contains(b.String(), "s3cret") {
			t.Errorf("%s in a log: %s", name, b.String())
		}
		if data, err := json.Marshal(v); err != nil || strings.Contains(string(data), "s3cret") {
			t.Errorf("%s as JSON: %s, %v", name, data, err)
		}
	}
	if got := fmt.Sprint(Secret("")); got != "" {
		t.Errorf("no password prints as %q", got)
	}
}

func TestResolveCommunity(t *testing.T) {
	names := CommunityNames{"backup": "65000:50", "Blue": "65000:1:7"}
	for _, test := range []struct{ in, want, err string }{
		{"65000:100", "65000:100", ""},
		{"0:0", "0:0", ""},
		{"065000:00100", "65000:100", ""},
		{"4294967295:0:1", "4294967295:0:1 large", ""},
		{"no-export", "65535:65281", ""},
		{"NO-EXPORT", "65535:65281", ""},
		{"graceful-shutdown", "65535:0", ""},
		{"backup", "65000:50", ""},
		{"Blue", "65000:1:7 large", ""},
		{"blue", "", `there is no community "blue"; did you mean Blue?`},
		{"teal", "", `there is no community "teal"`},
		{"", "", `"" is neither a community such as 65000:100 nor a name of one`},
		{"7", "", `"7" is neither a community such as 65000:100 nor a name of one`},
		{"65536:1", "", `"65536:1" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
		{"1:2:3:4", "", `"1:2:3:4" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
		{"-1:2", "", `"-1:2" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
		{"1:", "", `"1:" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2`},
	} {
		got, large, err := names.Resolve(test.in)
		if large {
			got += " large"
		}
		if got != test.want || strings.Join(lines(err), "\n") != test.err {
			t.Errorf("%q: want %q and %q, got %q and %v", test.in, test.want, test.err, got, err)
		}
	}
	for name, value := range wellKnown {
		if got, large, err := CommunityNames(nil).Resolve(name); got != value || large || err != nil {
			t.Errorf("%s: %q, %t, %v", name, got, large, err)
		}
	}
}
