package pool

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shown is everything that p says, a line each.
func shown(p Pools) []string {
	var lines []string
	for _, namespace := range slices.Sorted(maps.Keys(p.pools)) {
		of := p.pools[namespace]
		line := namespace + " has " + of.key
		for _, s := range slices.Concat(of.spans[IPv4], of.spans[IPv6]) {
			line += " " + s.String()
		}
		if of.empty() {
			line += " lacking " + of.lacking
		}
		lines = append(lines, line)
	}
	for _, namespace := range slices.Sorted(maps.Keys(p.shares)) {
		lines = append(lines, fmt.Sprintf("%s shares %t", namespace, p.shares[namespace]))
	}
	for _, namespace := range slices.Sorted(maps.Keys(p.interfaces)) {
		lines = append(lines, fmt.Sprintf("%s by %q", namespace, p.interfaces[namespace]))
	}
	if p.direction == down {
		lines = append(lines, "from the highest")
	}
	return lines
}

func TestParse(t *testing.T) {
	type data = map[string]string
	const forms = "; write a network (192.168.0.0/24), a range (192.168.0.10-192.168.0.20) or one address"
	tests := []struct {
		name     string
		data     data
		want     []string
		problems []string
	}{
		{name: "nothing"},
		{
			name: "networks",
			data: data{"cidr-global": "192.168.0.200/29", "cidr-finance": "192.168.0.224/28,10.0.0.8/30", "cidr-v6": "2001:db8::10/124"},
			want: []string{
				"finance has cidr-finance 10.0.0.8-10.0.0.11 192.168.0.224-192.168.0.239",
				"global has cidr-global 192.168.0.200-192.168.0.207",
				"v6 has cidr-v6 2001:db8::10-2001:db8::1f",
			},
		},
		{
			name: "ranges",
			data: data{"range-global": "192.168.0.200-192.168.0.202", "range-dev": "2001:db8::10-2001:db8::14,2001:db8::20-2001:db8::24"},
			want: []string{
				"dev has range-dev 2001:db8::10-2001:db8::14 2001:db8::20-2001:db8::24",
				"global has range-global 192.168.0.200-192.168.0.202",
			},
		},
		{
			name: "both families, in any order",
			data: data{"cidr-a": "2001:db8::10/126,192.168.0.200/30", "range-b": "10.1.0.1-10.1.0.2,fd00::1-fd00::2"},
			want: []string{
				"a has cidr-a 192.168.0.200-192.168.0.203 2001:db8::10-2001:db8::13",
				"b has range-b 10.1.0.1-10.1.0.2 fd00::1-fd00::2",
			},
		},
		{
			name: "entries that overlap or touch are one",
			data: data{"cidr-a": "192.168.0.200/30,192.168.0.200/29", "range-b": "10.0.0.10-10.0.0.11,10.0.0.10-10.0.0.13,10.0.0.14-10.0.0.20,10.0.0.15-10.0.0.16,10.0.0.22-10.0.0.23"},
			want: []string{
				"a has cidr-a 192.168.0.200-192.168.0.207",
				"b has range-b 10.0.0.10-10.0.0.20 10.0.0.22-10.0.0.23",
			},
		},
		{
			name: "ranges and addresses under cidr-, networks under range-, space and empty entries",
			data: data{"cidr-a": " 10.0.0.1 - 10.0.0.3 , 10.0.1.0/30,,10.0.2.7,\n", "range-b": "10.2.0.0/31"},
			want: []string{
				"a has cidr-a 10.0.0.1-10.0.0.3 10.0.1.0-10.0.1.3 10.0.2.7",
				"b has range-b 10.2.0.0-10.2.0.1",
			},
		},
		{
			name: "a network written by another address than its first",
			data: data{"cidr-global": "192.168.0.220/29"},
			want: []string{"global has cidr-global 192.168.0.216-192.168.0.223"},
			problems: []string{
				"+cidr-global: 192.168.0.220/29: 192.168.0.220 is not the first address of this network, and all of it counts: 192.168.0.216-192.168.0.223; write 192.168.0.216/29, or a range",
			},
		},
		{
			name: "cidr- counts, and range- of the same namespace does not",
			data: data{"cidr-a": "10.0.0.8/30", "range-a": "10.1.0.1-10.1.0.2", "range-global": "10.2.0.1-10.2.0.2", "cidr-global": "10.3.0.8/30"},
			want: []string{"a has cidr-a 10.0.0.8-10.0.0.11", "global has cidr-global 10.3.0.8-10.3.0.11"},
			problems: []string{
				"-range-a: it does not count, since cidr-a is there; move its entries to cidr-a, where ranges may stand, too",
				"-range-global: it does not count, since cidr-global is there; move its entries to cidr-global, where ranges may stand, too",
			},
		},
		{
			name:     "range- counts where cidr- has no good entry",
			data:     data{"cidr-a": "ten", "range-a": "10.1.0.1-10.1.0.2"},
			want:     []string{"a has range-a 10.1.0.1-10.1.0.2"},
			problems: []string{"-cidr-a: ten: ten is not an IP address" + forms},
		},
		{
			name: "a bad entry disables no good one",
			data: data{"cidr-a": "10.0.0.8/30,10.0.0.300/30,10.0.0.12/33,10.0.0.16/30,x/24,10.0.0.0/024,10.0.0.0/-1,10.0.0.1/24-10.0.0.9/24"},
			want: []string{"a has cidr-a 10.0.0.8-10.0.0.11 10.0.0.16-10.0.0.19"},
			problems: []string{
				"-cidr-a: 10.0.0.300/30: 10.0.0.300 is not an IP address" + forms,
				"-cidr-a: 10.0.0.12/33: its prefix length is not a number from 0 to 32" + forms,
				"-cidr-a: x/24: x is not an IP address" + forms,
				"-cidr-a: 10.0.0.0/024: its prefix length is not a number from 0 to 32" + forms,
				"-cidr-a: 10.0.0.0/-1: its prefix length is not a number from 0 to 32" + forms,
				"-cidr-a: 10.0.0.1/24-10.0.0.9/24: its prefix length is not a number from 0 to 32" + forms,
			},
		},
		{
			name: "bad ranges",
			data: data{"range-a": "10.0.0.9-10.0.0.1,10.0.0.1-fd00::1,10.0.0.1-20,10.0.0.1-,-10.0.0.1,10.0.0.1-10.0.0.2-10.0.0.3,fd00::1-2"},
			want: []string{"a has range-a lacking 10.0.0.9-10.0.0.1: its end is before its start"},
			problems: []string{
				"-range-a: 10.0.0.9-10.0.0.1: its end is before its start; write 10.0.0.1-10.0.0.9",
				"-range-a: 10.0.0.1-fd00::1: a range can not go from one address family to the other; write a range for each family",
				"-range-a: 10.0.0.1-20: 20 is not an IP address; write 10.0.0.1-10.0.0.20",
				"-range-a: 10.0.0.1-: an address is missing" + forms,
				"-range-a: -10.0.0.1: an address is missing" + forms,
				"-range-a: 10.0.0.1-10.0.0.2-10.0.0.3: 10.0.0.2-10.0.0.3 is not an IP address" + forms,
				"-range-a: fd00::1-2: 2 is not an IP address" + forms,
			},
		},
		{
			name: "bad networks of IPv6, zones, mapped addresses",
			data: data{"cidr-a": "fd00::/129,fe80::1%eth0/64,fe80::1%eth0,::ffff:10.0.0.1,::ffff:10.0.0.0/120,fd00::8/125"},
			want: []string{"a has cidr-a fd00::8-fd00::f"},
			problems: []string{
				"-cidr-a: fd00::/129: its prefix length is not a number from 0 to 128" + forms,
				"-cidr-a: fe80::1%eth0/64: fe80::1%eth0 has a zone; leave %eth0 out, and name the interface by interface-<namespace>",
				"-cidr-a: fe80::1%eth0: fe80::1%eth0 has a zone; leave %eth0 out, and name the interface by interface-<namespace>",
				"-cidr-a: ::ffff:10.0.0.1: ::ffff:10.0.0.1 is an IPv4 address written as IPv6; write it as IPv4: 10.0.0.1",
				"-cidr-a: ::ffff:10.0.0.0/120: ::ffff:10.0.0.0 is an IPv4 address written as IPv6; write it as IPv4: 10.0.0.0",
			},
		},
		{
			name: "addresses that no host has",
			data: data{"cidr-a": "0.0.0.0/0,127.0.0.1,223.0.0.0-224.0.0.1,255.255.255.255,::/0,::1,::,ff02::/64,::fffe:0:0/95,10.0.0.8/30"},
			want: []string{"a has cidr-a 10.0.0.8-10.0.0.11"},
			problems: []string{
				"-cidr-a: 0.0.0.0/0: it holds addresses out of 0.0.0.0/8 (this network, RFC 1122), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: 127.0.0.1: it holds addresses out of 127.0.0.0/8 (loopback, RFC 1122), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: 223.0.0.0-224.0.0.1: it holds addresses out of 224.0.0.0/4 (multicast, RFC 5771), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: 255.255.255.255: it holds addresses out of 255.255.255.255/32 (broadcast, RFC 919), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: ::/0: it holds addresses out of ::/128 (the unspecified address, RFC 4291), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: ::1: it holds addresses out of ::1/128 (the loopback address, RFC 4291), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: ::: it holds addresses out of ::/128 (the unspecified address, RFC 4291), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: ff02::/64: it holds addresses out of ff00::/8 (multicast, RFC 4291), which no host on a network can have; write networks and ranges without them",
				"-cidr-a: ::fffe:0:0/95: it holds addresses out of ::ffff:0:0/96 (IPv4-mapped addresses, RFC 4291), which no host on a network can have; write networks and ranges without them",
			},
		},
		{
			name: "DHCP",
			data: data{"cidr-global": "0.0.0.0/32", "cidr-a": "0.0.0.0,10.0.0.8/30"},
			want: []string{
				"a has cidr-a 10.0.0.8-10.0.0.11",
				"global has cidr-global lacking 0.0.0.0/32: it asks for addresses from DHCP, which are not supported by this version",
			},
			problems: []string{
				"-cidr-a: 0.0.0.0: it asks for addresses from DHCP, which are not supported by this version" + forms,
				"-cidr-global: 0.0.0.0/32: it asks for addresses from DHCP, which are not supported by this version" + forms,
			},
		},
		{
			name: "a list of nothing, and of addresses that are not given out",
			data: data{"cidr-a": "", "range-b": " , ", "cidr-c": "10.0.0.255,10.0.1.0/32,10.0.2.0/31,fd00::/128"},
			want: []string{
				"a has cidr-a lacking it lists nothing",
				"b has range-b lacking it lists nothing",
				"c has cidr-c 10.0.2.0-10.0.2.1",
			},
			problems: []string{
				"-cidr-a: it lists nothing" + forms,
				"-cidr-c: 10.0.0.255: it has no address that is given out: " + reservedText + " are not; list others",
				"-cidr-c: 10.0.1.0/32: it has no address that is given out: " + reservedText + " are not; list others",
				"-cidr-c: fd00::/128: it has no address that is given out: " + reservedText + " are not; list others",
				"-range-b: it lists nothing" + forms,
			},
		},
		{
			name: "the ends of networks are left out",
			data: data{"skip-end-ips-in-cidr": "true", "cidr-a": "10.0.0.8/30,10.0.1.8/31,10.0.2.8/32,10.0.3.8-10.0.3.11,fd00::10/126,10.0.4.0/25,10.0.4.128/25"},
			want: []string{"a has cidr-a 10.0.0.9-10.0.0.10 10.0.1.8-10.0.1.9 10.0.2.8 10.0.3.8-10.0.3.11 10.0.4.1-10.0.4.126 10.0.4.129-10.0.4.254 fd00::10-fd00::13"},
		},
		{
			name: "huge",
			data: data{"cidr-a": "10.0.0.0/8,2001:db8::/32", "cidr-b": "fd00::/8"},
			want: []string{
				"a has cidr-a 10.0.0.0-10.255.255.255 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
				"b has cidr-b fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			},
		},
		{
			name: "everything else",
			data: data{
				"search-order": "desc", "skip-end-ips-in-cidr": "False", "allow-share-global": "true", "allow-share-a": " false\n",
				"interface-global": "eth0", "interface-a": "bond0.12", "interface-b": "",
			},
			want: []string{"a shares false", "global shares true", `a by "bond0.12"`, `b by ""`, `global by "eth0"`, "from the highest"},
		},
		{name: "the default order", data: data{"search-order": "asc"}},
		{
			name: "everything else, wrong",
			data: data{
				"search-order": "DESC", "skip-end-ips-in-cidr": "on", "allow-share-a": "yes", "interface-a": "eth0/1",
				"interface-b": "a-name-that-is-too-long", "interface-c": "eth 0", "interface-d": "..", "interface-e": "eth\x00",
			},
			want: []string{"a shares false"},
			problems: []string{
				"-allow-share-a: yes: it is neither true nor false, and counts as false; write true or false",
				"-interface-a: eth0/1: no interface can have this name; write the name of one, at most 15 characters without space and without a slash",
				"-interface-b: a-name-that-is-too-long: no interface can have this name; write the name of one, at most 15 characters without space and without a slash",
				"-interface-c: eth 0: no interface can have this name; write the name of one, at most 15 characters without space and without a slash",
				"-interface-d: ..: no interface can have this name; write the name of one, at most 15 characters without space and without a slash",
				`-interface-e: "eth\x00": no interface can have this name; write the name of one, at most 15 characters without space and without a slash`,
				"-search-order: DESC: it is neither asc nor desc, and counts as asc; write asc or desc",
				"-skip-end-ips-in-cidr: on: it is neither true nor false, and counts as false; write true or false",
			},
		},
		{
			name: "keys that are none",
			data: data{"cidr-": "10.0.0.8/30", "cidr-A": "10.0.0.8/30", "range--a": "10.0.0.8/30", "allow-shared-dev": "true", "cdir-global": "10.0.0.8/30", "search-order-a": "desc"},
			problems: []string{
				"-allow-shared-dev: there is no such key; write allow-share-dev",
				"-cdir-global: there is no such key; the keys are cidr-<namespace>, range-<namespace>, allow-share-<namespace>, interface-<namespace>, search-order, skip-end-ips-in-cidr",
				`-cidr-: "" can not be the name of a namespace; write cidr-<namespace>, or cidr-global for all that have none of their own`,
				`-cidr-A: "A" can not be the name of a namespace; write cidr-<namespace>, or cidr-global for all that have none of their own`,
				`-range--a: "-a" can not be the name of a namespace; write range-<namespace>, or range-global for all that have none of their own`,
				"-search-order-a: there is no such key; the keys are cidr-<namespace>, range-<namespace>, allow-share-<namespace>, interface-<namespace>, search-order, skip-end-ips-in-cidr",
			},
		},
		{
			name: "pools that overlap",
			data: data{
				"cidr-global": "10.0.0.0/24,10.9.0.8/30,10.9.1.8/30", "range-a": "10.0.0.10-10.0.0.20,10.9.0.9", "range-b": "10.0.0.15-10.0.1.20", "cidr-c": "10.0.1.20",
				"cidr-d": "fd00::10/124", "cidr-e": "fd00::1f",
				"range-global": "10.0.1.0/24", // does not count, so it overlaps nothing
			},
			want: []string{
				"a has range-a 10.0.0.10-10.0.0.20 10.9.0.9",
				"b has range-b 10.0.0.15-10.0.1.20",
				"c has cidr-c 10.0.1.20",
				"d has cidr-d fd00::10-fd00::1f",
				"e has cidr-e fd00::1f",
				"global has cidr-global 10.0.0.0-10.0.0.255 10.9.0.8-10.9.0.11 10.9.1.8-10.9.1.11",
			},
			problems: []string{
				"+cidr-e: fd00::1f: cidr-d has fd00::1f as well (fd00::10/124); each address is given out once, to whichever namespace asks first; write each address under one key only",
				"+range-a: 10.0.0.10-10.0.0.20: cidr-global has 10.0.0.10-10.0.0.20 as well (10.0.0.0/24); each address is given out once, to whichever namespace asks first; write each address under one key only",
				"+range-b: 10.0.0.15-10.0.1.20: cidr-global has 10.0.0.15-10.0.0.255 as well (10.0.0.0/24); each address is given out once, to whichever namespace asks first; write each address under one key only",
				"+range-b: 10.0.0.15-10.0.1.20: range-a has 10.0.0.15-10.0.0.20 as well (10.0.0.10-10.0.0.20); each address is given out once, to whichever namespace asks first; write each address under one key only",
				"+range-b: 10.0.0.15-10.0.1.20: cidr-c has 10.0.1.20 as well (10.0.1.20); each address is given out once, to whichever namespace asks first; write each address under one key only",
				"-range-global: it does not count, since cidr-global is there; move its entries to cidr-global, where ranges may stand, too",
			},
		},
		{
			name: "an entry that is not to be printed",
			data: data{"cidr-a": "10.0.0.8/30\n10.0.0.12/30,\xff"},
			want: []string{`a has cidr-a lacking "10.0.0.8/30\n10.0.0.12/30": its prefix length is not a number from 0 to 32`},
			problems: []string{
				`-cidr-a: "10.0.0.8/30\n10.0.0.12/30": its prefix length is not a number from 0 to 32` + forms,
				`-cidr-a: "\xff": "\xff" is not an IP address` + forms,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pools, problems := Parse(tt.data)
			if diff := cmp.Diff(tt.want, shown(pools)); diff != "" {
				t.Errorf("pools (-want +got):\n%s", diff)
			}
			var got []string
			for _, p := range problems {
				got = append(got, map[bool]string{true: "+", false: "-"}[p.Counts]+p.String())
			}
			if diff := cmp.Diff(tt.problems, got); diff != "" {
				t.Errorf("problems, + those that count all the same (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManyProblems(t *testing.T) {
	_, problems := Parse(map[string]string{"cidr-a": strings.Repeat("x,", 100)})
	if len(problems) != problemLimit+1 || problems[problemLimit].String() != "cidr-a: and 80 problems more" {
		t.Errorf("%d problems, the last is %q", len(problems), problems[len(problems)-1])
	}

	data := map[string]string{}
	for i := range 100 {
		data[fmt.Sprintf("cidr-n%d", i)] = "10.0.0.0/24"
	}
	if _, problems := Parse(data); len(problems) != overlapLimit {
		t.Errorf("%d overlaps are told of, want %d", len(problems), overlapLimit)
	}
}

// TestLookups is what a namespace gets of keys that are its own, and of those that are everybody's.
func TestLookups(t *testing.T) {
	pools, problems := Parse(map[string]string{
		"cidr-global": "10.0.0.0/24", "range-own": "10.1.0.1-10.1.0.9", "cidr-bad": "x",
		"allow-share-global": "true", "allow-share-own": "false",
		"interface-global": "eth0", "interface-own": "eth1", "interface-none": "",
	})
	if len(problems) != 1 {
		t.Errorf("problems %v, want the one of cidr-bad", problems)
	}
	alone, _ := Parse(map[string]string{"cidr-own": "10.0.0.0/24"})
	tests := []struct {
		name, namespace string
		pools           Pools
		key, link       string
		shares          bool
	}{
		{"its own", "own", pools, "range-own", "eth1", false}, // although cidr-global is there, too
		{"everybody's", "other", pools, "cidr-global", "eth0", true},
		{"its own has no good entry", "bad", pools, "cidr-bad", "eth0", true},
		{"its own interface is none", "none", pools, "cidr-global", "", true},
		{"a namespace with the name global", "global", pools, "cidr-global", "eth0", true},
		{"none", "other", alone, "", "", false},
		{"the zero value", "own", Pools{}, "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.pools.Key(tt.namespace); got != tt.key {
				t.Errorf("key %q, want %q", got, tt.key)
			}
			if got := tt.pools.Interface(tt.namespace); got != tt.link {
				t.Errorf("interface %q, want %q", got, tt.link)
			}
			if got := tt.pools.Shares(tt.namespace); got != tt.shares {
				t.Errorf("shares %t, want %t", got, tt.shares)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	for _, k := range Keys() {
		if k.Name == "" || k.Values == "" || k.Effect == "" || k.read == nil {
			t.Errorf("the row of %q is not complete", k.Name)
		}
	}
}
