package filter

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
)

// written is g as text.
func written(g guards) map[string]string {
	all := map[string]string{}
	for addr, ports := range g {
		all[addr.String()] = fmt.Sprint(ports)
	}
	return all
}

func TestPortKey(t *testing.T) {
	for _, c := range []struct {
		addr string
		port Port
		want string
	}{
		{"10.0.0.10", Port{TCP, 80}, "0a00000a" + "06000000" + "00500000"},
		{"fd00::10", Port{UDP, 65535}, "fd000000000000000000000000000010" + "11000000" + "ffff0000"},
	} {
		addr := netip.MustParseAddr(c.addr)
		key := portKey(addr, c.port)
		if got := hex.EncodeToString(key); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.addr, c.port, got, c.want)
		}
		gotAddr, gotPort, ok := familyOf(addr).readPortKey(key)
		if !ok || gotAddr != addr || gotPort != c.port {
			t.Errorf("%s %s: read as %s %s %t", c.addr, c.port, gotAddr, gotPort, ok)
		}
	}
}

func TestPlan(t *testing.T) {
	two := []Rule{open("10.0.0.10", "80/tcp", "443/tcp"), open("fd00::10", "53/udp")}
	for _, c := range []struct {
		name       string
		have, want []Rule
		stale      bool
		plan       string
	}{
		{name: "nothing at all", plan: "nothing"},
		{name: "the same", have: two, want: two, plan: "nothing"},
		{name: "the first", want: two, plan: "rebuild +2 vips +3 ports"},
		{name: "the last", have: two, plan: "remove"},
		{name: "something was left, nothing is wanted", stale: true, plan: "remove"},
		{name: "something was left, something is wanted", want: two, stale: true, plan: "rebuild +2 vips +3 ports"},
		{name: "somebody changed it", have: two, want: two, stale: true, plan: "rebuild +2 vips +3 ports"},
		{name: "one address more", have: two, want: append(slices.Clone(two), open("10.0.0.11", "1/tcp")), plan: "+1 vips +1 ports"},
		{name: "one address less", have: two, want: two[1:], plan: "-1 vips -2 ports"},
		{name: "a port more", have: two[:1], want: []Rule{open("10.0.0.10", "80/tcp", "443/tcp", "81/tcp")}, plan: "+1 ports"},
		{name: "a port less", have: two[:1], want: []Rule{open("10.0.0.10", "443/tcp")}, plan: "-1 ports"},
		{name: "another port", have: two[:1], want: []Rule{open("10.0.0.10", "443/udp", "80/tcp")}, plan: "+1 ports -1 ports"},
	} {
		t.Run(c.name, func(t *testing.T) {
			have, _ := merge(c.have)
			want, _ := merge(c.want)
			if got := told(plan(have, want, c.stale)); got != c.plan {
				t.Errorf("%s, want %s", got, c.plan)
			}
		})
	}
}

// told is a change in words.
func told(c change) (words string) {
	if c.nothing() {
		return "nothing"
	}
	if c.remove {
		words += " remove"
	}
	if c.rebuild {
		words += " rebuild"
	}
	for _, some := range []struct {
		sign string
		elements
	}{{"+", c.add}, {"-", c.del}} {
		vips := len(some.elements["ipv4-vips"]) + len(some.elements["ipv6-vips"])
		if vips > 0 {
			words += fmt.Sprintf(" %s%d vips", some.sign, vips)
		}
		if ports := some.count() - vips; ports > 0 {
			words += fmt.Sprintf(" %s%d ports", some.sign, ports)
		}
	}
	return words[1:]
}

// TestPlanWalk goes from guards to guards at random, and every plan has to lead there.
func TestPlanWalk(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	k := newFake()
	have := guards(nil)
	for step := range 3000 {
		var rules []Rule
		for range r.IntN(6) {
			rule := Rule{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(5))})}
			if r.IntN(2) == 0 {
				rule.Addr = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.IntN(5))})
			}
			for range r.IntN(4) {
				rule.Ports = append(rule.Ports, Port{[]Protocol{TCP, UDP, SCTP}[r.IntN(3)], uint16(1 + r.IntN(3))})
			}
			rules = append(rules, rule)
		}
		want, err := merge(rules)
		if err != nil {
			t.Fatal(err)
		}
		stale := r.IntN(10) == 0
		if stale {
			k.table = nil
		}
		if err := k.apply(plan(have, want, stale)); err != nil {
			t.Fatalf("step %d, from %v to %v: %v", step, have, want, err)
		}
		if what := difference(t, k, rules); what != "" {
			t.Fatalf("step %d, from %v to %v: %s", step, have, want, what)
		}
		if again := plan(want, want, false); !again.nothing() {
			t.Fatalf("step %d: what is there is to be changed: %s", step, told(again))
		}
		have = want
	}
}

// TestDiffers takes a table as it has to be and changes one thing.
func TestDiffers(t *testing.T) {
	have, _ := merge(some())
	good := func() sight {
		k := newFake()
		if err := k.apply(plan(nil, have, false)); err != nil {
			t.Fatal(err)
		}
		s, err := k.look(true)
		if err != nil {
			t.Fatal(err)
		}
		// The kernel lists sets and chains in any order.
		s.sets, s.chains = slices.Clone(s.sets), slices.Clone(s.chains)
		slices.Reverse(s.sets)
		slices.Reverse(s.chains)
		return s
	}
	element := func(key ...byte) nftables.SetElement { return nftables.SetElement{Key: key} }
	for _, c := range []struct {
		name   string
		change func(*sight)
		want   string
	}{
		{"as it has to be", func(*sight) {}, ""},
		{"elements not read", func(s *sight) { s.elements = nil }, ""},
		{"gone", func(s *sight) { *s = sight{absent: true} }, "the table is gone"},
		{"flags", func(s *sight) { s.flags = 1 }, "the table has flags 0x1"},
		{"a set less", func(s *sight) { s.sets = s.sets[1:] }, "other sets"},
		{"a set of another kind", func(s *sight) {
			other := *s.sets[0]
			other.Interval = true
			s.sets[0] = &other
		}, "other sets"},
		{"a chain less", func(s *sight) { s.chains = s.chains[1:] }, "other chains"},
		{"another priority", func(s *sight) {
			other := *s.chains[1]
			other.Priority = nftables.ChainPriorityFilter
			s.chains[1] = &other
		}, "other chains"},
		{"a rule less", func(s *sight) { s.rules = s.rules[1:] }, "other rules"},
		{"rules in another order", func(s *sight) {
			s.rules = slices.Clone(s.rules)
			s.rules[0], s.rules[1] = s.rules[1], s.rules[0]
		}, "other rules"},
		{"an address less", func(s *sight) { s.elements["ipv4-vips"] = s.elements["ipv4-vips"][1:] }, "other elements"},
		{"an address more", func(s *sight) {
			s.elements["ipv4-vips"] = append(s.elements["ipv4-vips"], element(10, 0, 0, 99))
		}, "other elements"},
		{"another address", func(s *sight) { s.elements["ipv4-vips"][0] = element(10, 0, 0, 99) }, "other elements"},
		{"a port less", func(s *sight) { s.elements["ipv6-ports"] = nil }, "other elements"},
		{"another port", func(s *sight) {
			s.elements["ipv6-ports"][0] = element(portKey(netip.MustParseAddr("fd00::10"), Port{TCP, 22})...)
		}, "other elements"},
		{"an element that is none", func(s *sight) { s.elements["ipv6-ports"][0] = element(1, 2, 3) }, "other elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			c.change(&s)
			if diff := cmp.Diff(c.want, newLayout(DefaultTable).differs(have, s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := newLayout(DefaultTable).differs(nil, good()); got != "there is a table" {
		t.Errorf("with nothing wanted: %q", got)
	}
	if got := newLayout(DefaultTable).differs(nil, sight{absent: true}); got != "" {
		t.Errorf("with nothing wanted and nothing there: %q", got)
	}
}

// TestListing is the table as operators see it.
func TestListing(t *testing.T) {
	t.Parallel()
	n := newReal(t)
	g, _ := merge([]Rule{open("10.0.0.10", "80/tcp", "443/tcp"), open("fd00::10", "80/tcp", "53/udp")})
	if err := n.apply(plan(nil, g, false)); err != nil {
		t.Fatal(err)
	}
	const want = `table inet kube-vip {
	set ipv4-vips {
		type ipv4_addr
	}

	set ipv6-vips {
		type ipv6_addr
	}

	set ipv4-ports {
		type ipv4_addr . inet_proto . inet_service
	}

	set ipv6-ports {
		type ipv6_addr . inet_proto . inet_service
	}

	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		iif "lo" accept
		ip daddr @ipv4-vips goto guarded
		ip6 daddr @ipv6-vips goto guarded
	}

	chain guarded {
		ct direction reply accept
		ct state related accept
		meta l4proto icmp accept
		meta l4proto ipv6-icmp accept
		ip daddr . meta l4proto . th dport @ipv4-ports accept
		ip6 daddr . meta l4proto . th dport @ipv6-ports accept
		counter packets 0 bytes 0 drop
	}
}
`
	if diff := cmp.Diff(want, n.nft(t, "list table inet kube-vip", "--terse")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
