package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// identity checks that what Set accepts, it accepts again in its canonical form and renders alike.
func identity(t *testing.T, name, text string) (Config, bool) {
	t.Helper()
	s, ok := find(name)
	if !ok {
		t.Fatalf("there is no setting %s", name)
	}
	var a, b Config
	if err := s.Value(&a).Set(text); err != nil {
		if err.Error() == "" || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%q: the error does not take one line: %q", text, err)
		}
		return a, false
	}
	if err := s.Value(&b).Set(s.Value(&a).String()); err != nil {
		t.Fatalf("%q: Set(String()): %v", text, err)
	}
	if diff := sameConfig(a, b); diff != "" {
		t.Fatalf("%q: (-want +got):\n%s", text, diff)
	}
	return a, true
}

func FuzzAddresses(f *testing.F) {
	for _, text := range append(texts["address"], "fe80::1%eth0", "10.0.0.1/24", "[::1]:80", "a..b", "1.2.3.4.", "::ffff:1.2.3.4") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := identity(t, "address", text)
		if !ok {
			return
		}
		list := c.ControlPlane.Addresses
		for i, one := range list {
			if a, err := netip.ParseAddr(one); err == nil {
				if a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.Zone() != "" || a.Is4In6() || a.String() != one {
					t.Errorf("%q was accepted", one)
				}
			} else if !isSubdomain(one) {
				t.Errorf("%q was accepted", one)
			}
			if slices.Contains(list[:i], one) {
				t.Errorf("%q is there twice", one)
			}
		}
	})
}

func FuzzRanges(f *testing.F) {
	for _, text := range append(texts["vipAllowedRanges"], "10.0.0.5/24", "::ffff:1.2.3.4", "fe80::%eth0/64", "10.0.0.0/024", ",") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := identity(t, "vipAllowedRanges", text)
		if !ok {
			return
		}
		for i, r := range c.Services.AllowedRanges {
			if r != r.Masked() || r.Addr().Is4In6() || slices.Contains(c.Services.AllowedRanges[:i], r) {
				t.Errorf("%s was accepted", r)
			}
		}
	})
}

func FuzzSubnet(f *testing.F) {
	for _, text := range append(texts["vipSubnet"], "/32", "auto", "128,32", "+5", "032") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := identity(t, "vipSubnet", text)
		if !ok {
			return
		}
		for _, a := range []netip.Addr{addr("10.0.0.1"), addr("2001:db8::1")} {
			if bits := c.Network.Bits(a); bits < 1 || bits > a.BitLen() {
				t.Errorf("%q: %d bits for %s", text, bits, a)
			}
		}
	})
}

func FuzzLeaseAnnotations(f *testing.F) {
	for _, text := range append(texts["leaseAnnotations"], `{"a":1}`, "null", "{}", "[]", `{"a":"b","a":"c"}`, `{"a":null}`, "{\"a\":\"\xff\"}") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := identity(t, "leaseAnnotations", text)
		if ok && c.Election.LeaseAnnotations != nil && len(c.Election.LeaseAnnotations) == 0 {
			t.Error("no annotations are not nil")
		}
	})
}

func FuzzPeers(f *testing.F) {
	for _, text := range append(texts["bgppeers"], "10.0.0.1:1:p,x", "[::1:1:p", "unnumbered:eth0:1:p", ":::", "10.0.0.1:1:p::mpbgp_ipv6=2001:db8:::", "10.0.0.1:1::::mpbgp_ipv6=[::1]:true;;;",
		"10.0.0.1:1:::;;;", "10.0.0.1:1:;;;:mpbgp_", "[fe80::1%eth0]:1", "a.b:1:mpbgp_:true", "10.0.0A0:1:::mpbgp_nexthop;") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := identity(t, "bgppeers", text)
		if !ok {
			return
		}
		for _, peer := range splitList(c.BGP.Peers.String()) {
			if _, fields, err := cutPeer(peer); err != nil || len(fields) > fieldPassword && fields[fieldPassword] != "" && fields[fieldPassword] != "***" {
				t.Errorf("%q is shown of %q", peer, text)
			}
		}
		c.BGP.AS = 1
		list, err := c.BGP.PeerList()
		if err != nil {
			oneLineEach(t, err)
			return
		}
		for i, p := range list {
			sound(t, p)
			// What is shown of a peer is that peer, but for the password.
			shown, err := parsePeer(splitList(c.BGP.Peers.String())[i])
			if err != nil {
				t.Fatalf("%q is shown of %q: %v", c.BGP.Peers.String(), text, err)
			}
			again, err := c.BGP.complete([]draft{shown}, nil)
			if err != nil {
				t.Fatal(err)
			}
			again[0].Password = p.Password
			if diff := samePeers([]Peer{p}, again); diff != "" {
				t.Errorf("%q is shown of %q (-want +got):\n%s", c.BGP.Peers.String(), text, diff)
			}
		}
	})
}

// sound checks what every peer is, wherever it comes from.
func sound(t *testing.T, p Peer) {
	t.Helper()
	bad := func(what string) { t.Errorf("%s: %+v", what, struct{ Peer Peer }{p}) }
	if (p.Address == "") == (p.Interface == "") {
		bad("want an address or an interface")
	}
	if p.Address != "" {
		if host, err := peerHost(p.Address); err != nil || host != p.Address {
			bad("the address is not canonical")
		}
	}
	if p.AS == 0 && p.Interface == "" || p.Port == 0 || len(p.Password) > maxPassword {
		bad("AS, port or password")
	}
	if p.SourceIP.IsValid() && (p.SourceInterface != "" || !p.takes(p.SourceIP)) {
		bad("the source address does not fit")
	}
	if p.HoldTime != 0 && (p.HoldTime < minHoldTime || p.KeepaliveInterval >= p.HoldTime || p.KeepaliveInterval <= 0) {
		bad("the timers do not fit")
	}
	if p.BFD != (BFD{}) && (!p.BFD.Enable || p.BFD.MinRx < minBFDInterval || p.BFD.MinTx < minBFDInterval || p.BFD.Multiplier == 0) {
		bad("BFD is half on")
	}
	if p.NextHop.Mode == NextHopFixed && !p.NextHop.IPv4.IsValid() && !p.NextHop.IPv6.IsValid() {
		bad("the next hop is not there")
	}
	for _, c := range p.Communities {
		if value, large, err := parseCommunity(c); err != nil || large || value != c {
			bad("community " + c)
		}
	}
	for _, c := range p.LargeCommunities {
		if value, large, err := parseCommunity(c); err != nil || !large || value != c {
			bad("large community " + c)
		}
	}
}

// oneLineEach checks that what is wrong takes one line each.
func oneLineEach(t *testing.T, err error) {
	t.Helper()
	for line := range strings.Lines(err.Error()) {
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, " ") {
			t.Errorf("an error does not take one line: %q", err)
		}
	}
}

func FuzzPeersFile(f *testing.F) {
	for _, text := range append(peersFiles(f), "{}", "null", "peers:", "peers: {}", "peers: [a]", "peers: [{as: 1e3}]", "peers: [{address: &a b, password: *a}]", "peers: [{password: !!int s3cret}]",
		"peers: [{nodeSelector: {a: 1}}]", "communities: {a: [1]}", `peers: [{interface: "a\nb"}]`, "peers: [{nodeSelector: \"a in (\"}]", "--- 1\n--- 2", "peers: [{bfd: [1], nextHop: x, families: ipv4}]", "? {a: b}\n: c") {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParsePeersFile(data)
		if err != nil {
			oneLineEach(t, err)
			return
		}
		for name, value := range file.Communities {
			if _, _, err := file.Communities.Resolve(name); err != nil {
				t.Errorf("%s: %s: %v", name, value, err)
			}
		}
		list, err := BGP{HoldTime: 30 * time.Second, KeepaliveInterval: 10 * time.Second}.PeersWith(file)
		if err != nil {
			oneLineEach(t, err)
			return
		}
		for _, p := range list {
			sound(t, p)
		}
		if _, err := OnNode(list, map[string]string{"a": "b"}); err != nil {
			oneLineEach(t, err)
		}
	})
}

func FuzzPeersFromAnnotations(f *testing.F) {
	f.Add("65000", "10.0.0.1", "65001", "0", "10.0.0.2,10.0.0.3", "cA==", "true")
	f.Add("0", "::1", "x", "00000000000000000000000000000000001", ",", "p", "")
	f.Fuzz(func(t *testing.T, as, source, peerAS, number, peer, password, hop string) {
		notes := map[string]string{
			"x/node-asn": as, "x/bgp-peers-0-src-ip": source, "x/peer-asn": peerAS, "x/bgp-peers-" + number + "-peer-ip": peer, "x/bgp-peers-1-peer-ip": peer,
			"x/bgp-pass": password, "x/peer-multi-hop": hop, "x/" + number: peer,
		}
		node, missing, err := PeersFromAnnotations("x", notes)
		if err != nil {
			oneLineEach(t, err)
		}
		if err != nil || len(missing) > 0 {
			if node.AS != 0 || len(node.Peers) > 0 {
				t.Errorf("beside missing %v and %v there is %+v", missing, err, node)
			}
			return
		}
		list, err := BGP{HoldTime: 30 * time.Second, KeepaliveInterval: 10 * time.Second, SourceInterface: "eth0"}.PeersOf(node, PeersFile{})
		if err != nil || len(list) == 0 || node.AS == 0 || !node.SourceIP.IsValid() {
			t.Fatalf("%+v: %v", node, err)
		}
		for _, p := range list {
			sound(t, p)
		}
	})
}

func FuzzCommunities(f *testing.F) {
	for _, text := range []string{"1:1,no-export", "1:2:3", "a=1:1,b=1:2:3", `{"a":"1:1"}`, `{"a":"1:1","a":"1:2"}`, "=", ",", "a=="} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		identity(t, "bgpCommunities", text)
		identity(t, "bgpLargeCommunities", text)
		c, ok := identity(t, "bgpCommunityNames", text)
		for name := range c.BGP.CommunityNames {
			if value, _, err := c.BGP.CommunityNames.Resolve(name); !ok || err != nil || value != c.BGP.CommunityNames[name] {
				t.Errorf("%q: %q, %v", name, value, err)
			}
		}
	})
}

func FuzzSpans(f *testing.F) {
	for _, text := range []string{"5", "5s", "0.2", "200ms", "1h", "1e3", "+1", ".5", "5 ", "9999999999999", "1s1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		identity(t, "leaseDuration", text)
		identity(t, "controlPlaneHealthCheckPeriodSeconds", text)
		identity(t, "arpRate", text)
	})
}

func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"address: [10.0.0.1, a]\narp: true\n", `{"port": 1, "leaseAnnotations": {"a": "b"}}`, "a: &a [*a]", "a: 1\na: 2", "--- x\n--- y", "? a\n: b", "1: 2", "a: !!binary aGk=", "{}", "null", "a: 2001-01-01", "a: .inf",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, err := parseFile(data)
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("the error does not take one line: %q", err)
		}
		if err == nil {
			for key, text := range values {
				for _, s := range Settings() {
					if strings.EqualFold(s.Key, key) {
						identity(t, s.Name, text)
					}
				}
			}
		}
	})
}
