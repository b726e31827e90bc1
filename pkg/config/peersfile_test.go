package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// everything is a peers file with each field.
const everything = `# Peers of the two racks.
peers:
- address: 10.0.1.1
  as: 65000
  password: "0123"
  port: 1179
  passive: true
  multihop: true
  ttl: 5
  sourceIP: 10.0.0.1
  families: [ipv6, ipv4]
  nextHop: {mode: fixed, ipv4: 10.0.0.1, ipv6: "2001:db8::1"}
  nodeSelector: {rack: a, zone: "1"}
  holdTime: 9
  keepaliveInterval: 3s
  connectRetry: 1
  gracefulRestart: {enable: true, restartTime: 60}
  bfd: {enable: true, minRx: 50, minTx: 100ms, multiplier: 5}
  communities: [65000:100, no-export, blue]
  largeCommunities: [65000:1:2]
  localPref: 200
  med: 0
  prepend: 2
  aggregationLength4: 24
  aggregationLength6: 64
- interface: eth1
  passwordSecret: {namespace: vips, name: bgp, key: tor}
  ttlSecurity: 1
  nodeSelector: rack in (b),!edge
- address: Router.example.com
  as: 4294967295
  passwordSecret: {name: tor}
  sourceInterface: eth0
  port: null
communities:
  blue: 65000:1:7
`

// peersFiles are texts to begin a fuzzing with.
func peersFiles(tb testing.TB) []string {
	tb.Helper()
	list := []string{everything}
	for _, f := range peerFields() {
		list = append(list, "peers: [{address: 10.0.1.1, as: 1, "+f.name+": "+f.example+"}]")
	}
	return list
}

func TestPeersFile(t *testing.T) {
	file, err := ParsePeersFile([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	got, err := BGP{HoldTime: 30 * time.Second, KeepaliveInterval: 10 * time.Second}.PeersWith(file)
	if err != nil {
		t.Fatal(err)
	}
	want := []Peer{
		{
			Address: "10.0.1.1", AS: 65000, Password: "0123", Multihop: true, TTL: 5, Port: 1179, SourceIP: addr("10.0.0.1"), Families: []string{"ipv4", "ipv6"},
			NextHop: NextHop{NextHopFixed, addr("10.0.0.1"), addr("2001:db8::1")}, NodeSelector: "rack=a,zone=1", HoldTime: 9 * time.Second, KeepaliveInterval: 3 * time.Second,
			ConnectRetry: time.Second, GracefulRestart: GracefulRestart{true, time.Minute}, BFD: BFD{true, 50 * ms, 100 * ms, 5}, Passive: true,
			Communities: []string{"65000:100", "65535:65281"}, LargeCommunities: []string{"65000:1:7", "65000:1:2"}, LocalPref: num(200), MED: num(0), Prepend: 2,
			AggregationLength4: 24, AggregationLength6: 64,
		},
		filled(func(p *Peer) {
			p.Interface, p.PasswordSecret, p.TTLSecurity, p.NodeSelector = "eth1", SecretRef{"vips", "bgp", "tor"}, 1, "!edge,rack in (b)"
			both(p)
		}),
		filled(func(p *Peer) {
			p.Address, p.AS, p.PasswordSecret, p.SourceInterface = "router.example.com", 4294967295, SecretRef{Name: "tor", Key: "password"}, "eth0"
		}),
	}
	if diff := samePeers(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(CommunityNames{"blue": "65000:1:7"}, file.Communities); diff != "" {
		t.Errorf("communities (-want +got):\n%s", diff)
	}
}

// Each field is documented, and everything has it. The example of the documentation can be read.
func TestPeerFields(t *testing.T) {
	for _, f := range peerFields() {
		t.Run(f.name, func(t *testing.T) {
			if f.usage == "" || f.example == "" || (f.bind == nil) == (len(f.fields) == 0) {
				t.Errorf("something is missing: %+v", f)
			}
			if !strings.Contains(everything, f.name+": ") {
				t.Error("the test's file does not have it")
			}
			for _, inner := range f.fields {
				if !strings.Contains(everything, inner.name+": ") {
					t.Errorf("the test's file does not have %s", inner.name)
				}
			}
			base := map[string]string{"address": "", "interface": "", "as": "address: 10.0.1.1, "}
			prefix, ok := base[f.name]
			if !ok {
				prefix = "address: 10.0.1.1, as: 1, "
			} else if f.name == "address" {
				prefix = "as: 1, "
			}
			if _, err := ParsePeersFile([]byte("peers: [{" + prefix + f.name + ": " + f.example + "}]")); err != nil {
				t.Errorf("the example: %v", err)
			}
		})
	}
}

func TestPeersFileErrors(t *testing.T) {
	peer := func(fields string) string { return "peers: [{address: 10.0.1.1, as: 1, " + fields + "}]" }
	const who = "peer 1 (10.0.1.1): "
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"only a comment", "# later\n", nil},
		{"no peers", "peers:\ncommunities:\n", nil},
		{"a list", "- a", []string{"want a mapping with peers, communities or both at the top"}},
		{"not YAML", "peers: a: b", []string{"yaml: mapping values are not allowed in this context"}},
		{"two documents", "peers: []\n---\npeers: []", []string{"there is more than one YAML document"}},
		{"a key twice", "peers: []\npeers: []", []string{`yaml: unmarshal errors: line 2: key "peers" already set in map`}},
		{"a field twice", "peers:\n- address: 10.0.1.1\n  as: 1\n  as: 2\n", []string{`yaml: unmarshal errors: line 4: key "as" already set in map`}},
		{"another key", "peer: []", []string{`"peer": want peers and communities only`}},
		{"a mapping of peers", "peers: {a: b}", []string{"peers: want a list"}},
		{"a word for a peer", "peers: [10.0.1.1:65000, {}]", []string{"peer 1: want a mapping of fields to values", "peer 2: want a mapping of fields to values"}},
		{"an unknown field", peer("Multihop: true, holdtime: 9, x: 1"), []string{
			who + "Multihop: there is no field of this name; did you mean multihop?", who + "holdtime: there is no field of this name; did you mean holdTime?", who + "x: there is no field of this name",
		}},
		{"an unknown field inside", peer("bfd: {enabled: true}"), []string{who + "bfd.enabled: there is no field of this name; did you mean enable?"}},
		{"no address", "peers: [{as: 1}, {address: 10.0.1.1}, {interface: eth0, address: 10.0.1.1}]", []string{
			"peer 1: address is missing, or interface for an unnumbered peer",
			"peer 2 (10.0.1.1): as is missing: want a number from 1 to 4294967295",
			"peer 3 (unnumbered:eth0): address and interface exclude each other: interface is for an unnumbered peer",
			"peer 3 (unnumbered:eth0): as is missing",
		}[:3]},
		{"an address that is none", "peers: [{address: 10.0.1.256, as: 0}]", []string{
			`peer 1: address: "10.0.1.256" is neither an IP address nor a host name`, `peer 1: as: "0" is not a whole number from 1 to 4294967295`,
		}},
		{"an empty interface", `peers: [{interface: "", as: 1}]`, []string{"peer 1: interface: it is empty: want the name of an interface"}},
		{"lists and mappings", peer("port: [179], families: ipv4, bfd: true, multihop: {a: b}, nextHop: [fixed]"), []string{
			who + "port: want one value, not a list", who + "multihop: want a plain value, not a mapping", who + "families: want a list",
			who + "nextHop: want a mapping of fields to values", who + "bfd: want a mapping of fields to values",
		}},
		{"a password that is a number", peer("password: 0123"), []string{who + "password: want a text: write it in quotes"}},
		{"a long password", peer("password: " + strings.Repeat("s3cret", 14)), []string{who + "password: password is longer than 80 bytes"}},
		{"two passwords", peer("password: s3cret, passwordSecret: {name: a}"), []string{who + "password and passwordSecret exclude each other: keep one of them"}},
		{"bad references", peer(`passwordSecret: {namespace: a.b, name: A, key: "a/b"}`), []string{
			who + `passwordSecret.namespace: "a.b" is not the name of a namespace`, who + `passwordSecret.name: "A" is not the name of a Secret`,
			who + `passwordSecret.key: "a/b" is not a key of a Secret: want letters, digits, '-', '_' and '.'`,
		}},
		{"a password that YAML takes for something else", peer("password: *s3cret"), []string{"yaml: unknown anchor *** referenced"}},
		{"a password with a type", peer("password: !!int s3cret"), []string{"yaml: cannot decode !!str *** as a !!int"}},
		{"sources", peer("sourceIP: 10.0.0.1, sourceInterface: eth0"), []string{who + "sourceIP and sourceInterface exclude each other: keep one of them"}},
		{"a source of the other family", peer("sourceIP: 2001:db8::1"), []string{who + "sourceIP 2001:db8::1 is not of the family of the address"}},
		{"a source of an unnumbered peer", "peers: [{interface: eth0, sourceInterface: eth0}]", []string{
			"peer 1 (unnumbered:eth0): an unnumbered peer has neither sourceIP nor sourceInterface: its interface is both",
		}},
		{"TTLs", peer("ttlSecurity: 1, multihop: true"), []string{who + "ttlSecurity and multihop exclude each other: ttlSecurity says how many hops there may be"}},
		{"TTLs, too", peer("ttlSecurity: 1, ttl: 5"), []string{who + "ttlSecurity and ttl exclude each other: with ttlSecurity packets leave with a TTL of 255 (RFC 5082 section 3)"}},
		{"TTLs out of range", peer("ttlSecurity: 255"), []string{who + `ttlSecurity: "255" is not a whole number from 1 to 254`}},
		{"timers", peer("holdTime: 9, keepaliveInterval: 9"), []string{who + "keepaliveInterval 9s must be less than holdTime 9s"}},
		{"a hold time", peer("holdTime: 2, keepaliveInterval: 1"), []string{who + "holdTime must be 0 or at least 3 (RFC 4271 section 4.2)"}},
		{"parts of seconds", peer("connectRetry: 0.5"), []string{who + `connectRetry: "0.5" is not a whole number of seconds from 1 to 65535`}},
		{"a restart time", peer("gracefulRestart: {restartTime: 4096}"), []string{who + `gracefulRestart.restartTime: "4096" is not a whole number of seconds from 1 to 4095`}},
		{"BFD", peer("bfd: {enable: true, minRx: 9, minTx: 61s, multiplier: 0}"), []string{
			who + `bfd.minRx: "9" is not a number of milliseconds from 10 to 60000`, who + `bfd.minTx: "61s" is not a number of milliseconds from 10 to 60000`,
			who + `bfd.multiplier: "0" is not a whole number from 1 to 255`,
		}},
		{"families", peer("families: [ipv4, ipv5]"), []string{who + `families: "ipv5" is not one of ipv4, ipv6`}},
		{"no families", peer("families: []"), []string{who + "families: it is empty: leave it out, or want ipv4, ipv6 or both"}},
		{"a family twice", peer("families: [ipv4, ipv4]"), []string{who + `families: "ipv4" is given twice`}},
		{"a next hop", peer(`nextHop: {mode: auto, ipv4: "2001:db8::1"}`), []string{
			who + `nextHop.mode: "auto" is not one of fixed, auto_sourceip, auto_sourceif`, who + `nextHop.ipv4: "2001:db8::1" is not an IPv4 address, as the next hop of IPv4 routes is`,
		}},
		{"a label that is a number", peer("nodeSelector: {rack: 1}"), []string{who + "nodeSelector: want a mapping of labels to texts (numbers and true go in quotes)"}},
		{"communities", peer("communities: [65000:1:2], largeCommunities: [65000:1]"), []string{
			who + `communities: "65000:1:2" is a large community: those have a list of their own`, who + `largeCommunities: "65000:1" is not a large community: want three numbers such as 65000:1:2`,
		}},
		{"numbers", peer("localPref: -1, med: 4294967296, prepend: 33, aggregationLength4: 33, aggregationLength6: 0"), []string{
			who + `localPref: "-1" is not a whole number from 0 to 4294967295`, who + `med: "4294967296" is not a whole number from 0 to 4294967295`, who + `prepend: "33" is not a whole number from 0 to 32`,
			who + `aggregationLength4: "33" is not a whole number from 1 to 32`, who + `aggregationLength6: "0" is not a whole number from 1 to 128`,
		}},
		{"names of communities", `communities: {no-export: "1:1", a: "1"}`, []string{
			`communities: a: "1" is not a community: want two numbers up to 65535 such as 65000:100, or three up to 4294967295 such as 65000:1:2; no-export is the name of a well-known community`,
		}},
		{"a list of communities", "communities: [a]", []string{"communities: want a mapping of names to communities"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParsePeersFile([]byte(test.text))
			if diff := cmp.Diff(test.want, lines(err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("a password is in %v", err)
			}
		})
	}

	_, err := ParsePeersFile([]byte(peer(`nodeSelector: "a in ("`)))
	if err == nil || !strings.HasPrefix(err.Error(), who+"nodeSelector: ") {
		t.Errorf("got %v", err)
	}
}
