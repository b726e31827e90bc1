package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ports reads "80,53/UDP".
func ports(t testing.TB, text string) (list []Port) {
	t.Helper()
	for one := range strings.SplitSeq(text, ",") {
		if one == "" {
			continue
		}
		number, protocol, _ := strings.Cut(one, "/")
		p := Port{Protocol: protocol}
		if _, err := fmt.Sscan(number, &p.Number); err != nil {
			t.Fatalf("port %q: %v", one, err)
		}
		list = append(list, p)
	}
	return list
}

func addrs(text string) (list []netip.Addr) {
	for one := range strings.SplitSeq(text, ",") {
		if one != "" {
			list = append(list, netip.MustParseAddr(one))
		}
	}
	return list
}

func joined(list []netip.Addr) string {
	texts := []string{}
	for _, a := range list {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

// service is namespace/name with these ports.
func service(t testing.TB, name, of string) Service {
	t.Helper()
	namespace, _, _ := strings.Cut(name, "/")
	return Service{Name: name, Namespace: namespace, Ports: ports(t, of)}
}

func poolsOf(t testing.TB, data map[string]string) Pools {
	t.Helper()
	p, problems := Parse(data)
	for _, problem := range problems {
		if !problem.Counts {
			t.Fatal(problem)
		}
	}
	return p
}

var (
	v4, v6 = []Family{IPv4}, []Family{IPv6}
	v46    = []Family{IPv4, IPv6}
	v64    = []Family{IPv6, IPv4}
)

func TestAllocate(t *testing.T) {
	type data = map[string]string
	// has is a Service that has addresses: "name ports address,address".
	tests := []struct {
		name     string
		data     data
		has      []string
		service  string // "a/new" unless it is set
		ports    string // "80" unless it is set
		alone    bool
		families []Family
		policy   Policy
		skip     string // addresses, or "all"
		want     string
		lacking  string
		kind     error
		err      string
	}{
		{name: "the first of a network", data: data{"cidr-a": "10.0.0.8/30"}, want: "10.0.0.8"},
		{name: "the first of a range", data: data{"range-a": "10.0.0.7-10.0.0.9"}, want: "10.0.0.7"},
		{name: "a single address", data: data{"range-a": "10.0.0.7"}, want: "10.0.0.7"},
		{name: "the first that is free", data: data{"cidr-a": "10.0.0.8/29"}, has: []string{"a/x 80 10.0.0.8", "b/y 80 10.0.0.9", "a/z 80 10.0.0.11"}, want: "10.0.0.10"},
		{name: "in numerical order, whatever the list's", data: data{"cidr-a": "10.0.9.8/30,10.0.1.8/30"}, want: "10.0.1.8"},
		{name: "the last", data: data{"cidr-a": "10.0.9.8/30,10.0.1.8/30", "search-order": "desc"}, want: "10.0.9.11"},
		{
			name: "the last that is free", data: data{"cidr-a": "10.0.0.8/29,10.0.0.20/30", "search-order": "desc"},
			has: []string{"a/x 80 10.0.0.23", "b/y 80 10.0.0.22", "a/z 80 10.0.0.20,10.0.0.21"}, want: "10.0.0.15",
		},
		{name: "neither .0 nor .255", data: data{"range-a": "10.0.0.254-10.0.2.3"}, has: []string{"a/x 80 10.0.0.254"}, want: "10.0.1.1"},
		{name: "neither .255 nor .0, from the last", data: data{"range-a": "10.0.0.254-10.0.1.1", "search-order": "desc"}, has: []string{"a/x 80 10.0.1.1"}, want: "10.0.0.254"},
		{name: "not the ends of a network", data: data{"cidr-a": "10.0.0.8/30", "skip-end-ips-in-cidr": "true"}, want: "10.0.0.9"},
		{name: "not the anycast address", data: data{"cidr-a": "2001:db8::/64"}, families: v6, want: "2001:db8::1"},
		{name: "the last of a huge one", data: data{"cidr-a": "2001:db8::/64", "search-order": "desc"}, families: v6, want: "2001:db8::ffff:ffff:ffff:ffff"},
		{name: "the very last address there is", data: data{"range-a": "223.255.255.254-223.255.255.255"}, has: []string{"a/x 80 223.255.255.254"}, kind: ErrExhausted, err: "pool range-a has no IPv4 address left: Services have 1 of its 1"},

		{name: "its namespace's before everybody's", data: data{"range-a": "10.1.0.1-10.1.0.2", "cidr-global": "10.0.0.8/30"}, want: "10.1.0.1"},
		{name: "everybody's", data: data{"range-b": "10.1.0.1-10.1.0.2", "cidr-global": "10.0.0.8/30"}, want: "10.0.0.8"},
		{
			name: "its namespace's is exhausted", data: data{"range-a": "10.1.0.1-10.1.0.2", "cidr-global": "10.0.0.8/30"}, has: []string{"a/x 80 10.1.0.1", "a/y 80 10.1.0.2"},
			kind: ErrExhausted, err: "pool range-a has no IPv4 address left: Services have 2 of its 2",
		},
		{
			name: "of pools that overlap each address is given once", data: data{"range-a": "10.1.0.1-10.1.0.2", "cidr-global": "10.1.0.0/29"}, has: []string{"b/x 80 10.1.0.1"},
			want: "10.1.0.2",
		},
		{
			name: "no pool", data: data{"range-b": "10.1.0.1-10.1.0.2"},
			kind: ErrNoPool, err: "there is no pool for namespace a: none of the keys cidr-a, range-a, cidr-global and range-global is there",
		},
		{name: "no pools at all", kind: ErrNoPool, err: "there is no pool for namespace a: none of the keys cidr-a, range-a, cidr-global and range-global is there"},
		{name: "DHCP", data: data{"cidr-global": "0.0.0.0/32"}, kind: ErrNoPool, err: "pool cidr-global has no address to give: 0.0.0.0/32: it asks for addresses from DHCP, which are not supported by this version"},

		{name: "IPv6", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, families: v6, want: "fd00::8"},
		{name: "the first of two families", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, families: v64, want: "fd00::8"},
		{name: "no family is asked for", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, want: "10.0.0.8"},
		{name: "no family is asked for, and there is only IPv6", data: data{"cidr-a": "fd00::8/125"}, want: "fd00::8"},
		{name: "no IPv6", data: data{"cidr-a": "10.0.0.8/30"}, families: v6, kind: ErrNoFamily, err: "pool cidr-a has no IPv6 addresses, only IPv4"},
		{name: "no IPv4", data: data{"cidr-a": "fd00::8/125"}, families: v4, kind: ErrNoFamily, err: "pool cidr-a has no IPv4 addresses, only IPv6"},
		{name: "no IPv6, which everybody's pool has", data: data{"cidr-a": "10.0.0.8/30", "cidr-global": "fd00::8/125"}, families: v6, kind: ErrNoFamily, err: "pool cidr-a has no IPv6 addresses, only IPv4"},

		{name: "prefer both", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: PreferDualStack, families: v46, want: "10.0.0.8,fd00::8"},
		{name: "prefer both, IPv6 first", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: PreferDualStack, families: v64, want: "fd00::8,10.0.0.8"},
		{name: "prefer both, no families", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: PreferDualStack, want: "10.0.0.8,fd00::8"},
		{name: "prefer both in a cluster of one family", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: PreferDualStack, families: v6, want: "fd00::8"},
		{
			name: "prefer both, no IPv6", data: data{"cidr-a": "10.0.0.8/30"}, policy: PreferDualStack, families: v64, want: "10.0.0.8",
			lacking: "pool cidr-a has no IPv6 addresses, only IPv4",
		},
		{
			name: "prefer both, IPv4 exhausted", data: data{"cidr-a": "10.0.0.8,fd00::8/125"}, has: []string{"a/x 80 10.0.0.8"}, policy: PreferDualStack, families: v46, want: "fd00::8",
			lacking: "pool cidr-a has no IPv4 address left: Services have 1 of its 1",
		},
		{
			name: "prefer both, none", data: data{"cidr-a": "10.0.0.8"}, has: []string{"a/x 80 10.0.0.8"}, policy: PreferDualStack, families: v46, kind: ErrExhausted,
			err: "pool cidr-a has no IPv4 address left: Services have 1 of its 1, and pool cidr-a has no IPv6 addresses, only IPv4",
		},
		{name: "require both", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: RequireDualStack, families: v64, want: "fd00::8,10.0.0.8"},
		{name: "require both, one is named", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, policy: RequireDualStack, families: v6, want: "fd00::8,10.0.0.8"},
		{name: "require both, no IPv6", data: data{"cidr-a": "10.0.0.8/30"}, policy: RequireDualStack, families: v46, kind: ErrNoFamily, err: "pool cidr-a has no IPv6 addresses, only IPv4"},
		{name: "require both, no pool", policy: RequireDualStack, families: v46, kind: ErrNoPool, err: "there is no pool for namespace a: none of the keys cidr-a, range-a, cidr-global and range-global is there"},

		{name: "a stranger has the first", data: data{"cidr-a": "10.0.0.8/30"}, skip: "10.0.0.8,10.0.0.9", want: "10.0.0.10"},
		{
			name: "strangers have all that is left", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/x 80 10.0.0.8"}, skip: "10.0.0.9,10.0.0.10,10.0.0.11", kind: ErrExhausted,
			err: "pool cidr-a has no IPv4 address left: Services have 1 of its 4, and the other 3 are not to be had",
		},
		{
			name: "nothing of a huge pool is to be had", data: data{"cidr-a": "fd00::/64"}, has: []string{"a/x 80 fd00::2"}, families: v6, skip: "all", kind: ErrExhausted,
			err: "pool cidr-a has no IPv6 address left: Services have 1 of its 1.84e+19, and of the others the first 65536 that were looked at are not to be had",
		},
		{
			name: "the ports need not be others without sharing", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/x 80 10.0.0.8"}, ports: "443", want: "10.0.0.9",
		},

		{name: "shared", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 80 10.0.0.9"}, ports: "443", want: "10.0.0.9"},
		{name: "shared by the protocol", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 53 10.0.0.9"}, ports: "53/UDP", want: "10.0.0.9"},
		{name: "shared in IPv6", data: data{"cidr-a": "fd00::8/125", "allow-share-a": "true"}, has: []string{"a/x 80 fd00::a"}, ports: "443", families: v6, want: "fd00::a"},
		{
			name: "shared where all ports are free", data: data{"cidr-a": "10.0.0.8/29", "allow-share-a": "true"}, ports: "443,80",
			has: []string{"a/x 80 10.0.0.9", "a/y 443 10.0.0.10", "a/z 8080 10.0.0.12", "a/w 25 10.0.0.11,10.0.0.12", "a/v 80 10.0.0.11"}, want: "10.0.0.12",
		},
		{
			name: "shared, from the last", data: data{"cidr-a": "10.0.0.8/29", "allow-share-a": "true", "search-order": "desc"}, ports: "443",
			has: []string{"a/x 80 10.0.0.9", "a/y 80 10.0.0.10", "a/z 443 10.0.0.12"}, want: "10.0.0.10",
		},
		{name: "shared with none, for the port", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 80 10.0.0.9"}, want: "10.0.0.8"},
		{
			name: "shared with none, and nothing is free", data: data{"cidr-a": "10.0.0.9", "allow-share-a": "true"}, has: []string{"a/x 80 10.0.0.9"}, kind: ErrExhausted,
			err: "pool cidr-a has no IPv4 address left: Services have 1 of its 1; none that may be shared has the ports free",
		},
		{name: "shared with nobody of a namespace that does not share", data: data{"cidr-global": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"b/x 443 10.0.0.9"}, want: "10.0.0.8"},
		{name: "shared across namespaces that share", data: data{"cidr-global": "10.0.0.8/30", "allow-share-global": "true"}, has: []string{"b/x 443 10.0.0.9"}, want: "10.0.0.9"},
		{
			name: "shared with all or with none", data: data{"cidr-global": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"b/x 443 10.0.0.9", "a/y 25 10.0.0.9"}, want: "10.0.0.8",
		},
		{name: "its namespace does not share", data: data{"cidr-a": "10.0.0.8/30", "allow-share-global": "true", "allow-share-a": "false"}, has: []string{"b/x 443 10.0.0.9"}, want: "10.0.0.8"},
		{name: "shared only within the pool", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 443 10.9.0.9", "a/y 443 10.0.0.5", "a/z 443 fd00::1"}, want: "10.0.0.8"},
		{name: "it is to be alone", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 443 10.0.0.9"}, alone: true, want: "10.0.0.8"},
		{name: "another is to be alone", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/alone 443 10.0.0.9"}, want: "10.0.0.8"},
		{name: "it has no ports", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 443 10.0.0.9"}, ports: "none", want: "10.0.0.8"},
		{name: "another has no ports", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x none 10.0.0.9"}, want: "10.0.0.8"},
		{name: "what is shared is not to be had", data: data{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}, has: []string{"a/x 443 10.0.0.9"}, skip: "10.0.0.9", want: "10.0.0.8"},
		{name: "an address by name that is never given out is not shared", data: data{"cidr-a": "10.0.0.0/30", "allow-share-a": "true"}, has: []string{"a/x 443 10.0.0.0"}, want: "10.0.0.1"},
		{name: "both families are shared each for itself", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125", "allow-share-a": "true"}, has: []string{"a/x 443 10.0.0.9", "a/y 80 fd00::9"}, policy: RequireDualStack, want: "10.0.0.9,fd00::8"},

		{name: "it has one already", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/new 80 10.0.0.10"}, want: "10.0.0.10"},
		{name: "it has one that no pool has", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/new 80 192.168.0.1"}, want: "192.168.0.1"},
		{name: "it has one, and there is no pool", has: []string{"a/new 80 192.168.0.1"}, want: "192.168.0.1"},
		{name: "it has one of two families", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, has: []string{"a/new 80 10.0.0.10"}, families: v64, policy: PreferDualStack, want: "fd00::8,10.0.0.10"},
		{name: "it has one that is not to be had", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/new 80 10.0.0.8"}, skip: "10.0.0.8", want: "10.0.0.9"},
		{name: "another has the port on the one that it has", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/new 443 10.0.0.8", "a/x 80 10.0.0.8"}, want: "10.0.0.9"},
		{name: "it has one beside another", data: data{"cidr-a": "10.0.0.8/30"}, has: []string{"a/new 80 10.0.0.10", "a/x 443 10.0.0.10"}, want: "10.0.0.10"},
		{name: "it has both families, and is to have one", data: data{"cidr-a": "10.0.0.8/30,fd00::8/125"}, has: []string{"a/new 80 10.0.0.10,fd00::a"}, families: v6, want: "fd00::a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAllocator()
			pools, _ := Parse(tt.data)
			a.SetPools(pools)
			for _, line := range tt.has {
				words := strings.Fields(line)
				s := service(t, words[0], strings.TrimPrefix(words[1], "none"))
				s.Alone = words[0] == "a/alone"
				a.Use(s, addrs(words[2]))
			}
			of := tt.ports
			if of == "" {
				of = "80"
			}
			r := Request{Service: service(t, "a/new", strings.TrimPrefix(of, "none")), Families: tt.families, Policy: tt.policy}
			r.Alone = tt.alone
			if tt.skip != "" {
				r.Skip = func(a netip.Addr) bool { return tt.skip == "all" || slices.Contains(addrs(tt.skip), a) }
			}
			before := a.Addrs("a/new")

			answer, err := a.Allocate(r)
			if diff := cmp.Diff(tt.want, joined(answer.Addrs)); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.err, text(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.lacking, text(answer.Lacking)); diff != "" {
				t.Errorf("lacking (-want +got):\n%s", diff)
			}
			if !errors.Is(err, tt.kind) {
				t.Errorf("the error is not: %v", tt.kind)
			}
			has := tt.want
			if err != nil {
				has = joined(before)
			}
			if got := joined(a.Addrs("a/new")); got != has {
				t.Errorf("afterwards it has %q, want %q", got, has)
			}
			if again, _ := a.Allocate(r); err == nil && tt.lacking == "" && joined(again.Addrs) != tt.want {
				t.Errorf("asked again: %q, want the same", joined(again.Addrs))
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCheck(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{"cidr-a": "10.0.0.8/30"}))
	a.Use(service(t, "a/web", "80,443"), addrs("10.0.0.8,fd00::1"))
	a.Use(service(t, "b/dns", "53/UDP"), addrs("10.0.0.8"))
	a.Use(service(t, "b/all", ""), addrs("10.0.0.9"))
	a.Use(service(t, "a/first", "22"), addrs("10.0.0.10"))
	a.Use(service(t, "a/second", "22"), addrs("10.0.0.10"))
	alone := service(t, "a/alone", "80")
	alone.Alone = true
	a.Use(alone, addrs("10.0.0.11"))

	tests := []struct {
		name, service, addr, ports string
		want, other                string
	}{
		{name: "nobody has it", service: "a/new", addr: "10.0.0.12", ports: "80"},
		{name: "the ports are free", service: "c/new", addr: "10.0.0.8", ports: "8080,53"},
		{name: "a port is not", service: "c/new", addr: "10.0.0.8", ports: "8080,443", want: "Service a/web has 443/TCP on 10.0.0.8 already", other: "a/web"},
		{name: "the protocol is named", service: "c/new", addr: "10.0.0.8", ports: "443/TCP", want: "Service a/web has 443/TCP on 10.0.0.8 already", other: "a/web"},
		{name: "UDP", service: "c/new", addr: "10.0.0.8", ports: "53/UDP", want: "Service b/dns has 53/UDP on 10.0.0.8 already", other: "b/dns"},
		{name: "IPv6", service: "c/new", addr: "fd00::1", ports: "80", want: "Service a/web has 80/TCP on fd00::1 already", other: "a/web"},
		{name: "written in another way", service: "c/new", addr: "::ffff:10.0.0.8", ports: "80", want: "Service a/web has 80/TCP on 10.0.0.8 already", other: "a/web"},
		{name: "its own", service: "a/web", addr: "10.0.0.8", ports: "80,443"},
		{name: "its own, with a port more", service: "a/web", addr: "10.0.0.8", ports: "80,443,53/UDP", want: "Service b/dns has 53/UDP on 10.0.0.8 already", other: "b/dns"},
		{name: "all of it", service: "c/new", addr: "10.0.0.8", want: "Service b/dns has 53/UDP on 10.0.0.8 already, and a Service without ports takes all of its address", other: "b/dns"},
		{name: "all of its own", service: "a/web", addr: "fd00::1"},
		{name: "another has all of it", service: "c/new", addr: "10.0.0.9", ports: "80", want: "Service b/all has no ports, and so all of 10.0.0.9", other: "b/all"},
		{name: "both want all of it", service: "c/new", addr: "10.0.0.9", want: "Service b/all has no ports, and so all of 10.0.0.9", other: "b/all"},
		{name: "two have it, and the first asks", service: "a/first", addr: "10.0.0.10", ports: "22", want: "Service a/second has 22/TCP on 10.0.0.10 already", other: "a/second"},
		{name: "two have it, and the second asks", service: "a/second", addr: "10.0.0.10", ports: "22", want: "Service a/first has 22/TCP on 10.0.0.10 already", other: "a/first"},
		{name: "by name, beside one that is alone", service: "c/new", addr: "10.0.0.11", ports: "443"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := a.Check(tt.service, netip.MustParseAddr(tt.addr), ports(t, tt.ports))
			if diff := cmp.Diff(tt.want, text(err)); diff != "" {
				t.Fatalf("error (-want +got):\n%s", diff)
			}
			var clash *Error
			if is := errors.As(err, &clash) && errors.Is(err, ErrClash); is != (tt.want != "") || is && clash.Other != tt.other {
				t.Errorf("%#v does not say ErrClash and name %s", err, tt.other)
			}
		})
	}
}

// TestErrorPool is that an error says which key of the ConfigMap it is about.
func TestErrorPool(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{"range-a": "10.0.0.1"}))
	a.Use(service(t, "a/x", "80"), addrs("10.0.0.1"))
	_, err := a.Allocate(Request{Service: service(t, "a/y", "80"), Policy: RequireDualStack})
	var e *Error
	if !errors.As(err, &e) || e.Pool != "range-a" {
		t.Errorf("%#v does not name range-a", err)
	}
	if !errors.Is(err, ErrExhausted) || !errors.Is(err, ErrNoFamily) {
		t.Errorf("%v is not both of its parts", err)
	}
}

// TestLife is one story: who has what while pools and Services come and go.
func TestLife(t *testing.T) {
	a := NewAllocator()
	gets := func(name, of, want string) {
		t.Helper()
		answer, err := a.Allocate(Request{Service: service(t, name, of)})
		if got := joined(answer.Addrs); got != want || (err != nil) != (want == "") {
			t.Errorf("%s gets %q (%v), want %q", name, got, err, want)
		}
	}
	has := func(name, want string) {
		t.Helper()
		if got := joined(a.Addrs(name)); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	a.SetPools(poolsOf(t, map[string]string{"range-a": "10.0.0.1-10.0.0.2"}))
	gets("a/one", "80", "10.0.0.1")
	gets("a/two", "80", "10.0.0.2")
	gets("a/three", "80", "")
	a.Release("a/one")
	has("a/one", "")
	gets("a/three", "80", "10.0.0.1") // who asks next
	gets("a/one", "80", "")
	a.Release("a/nobody")

	// The pool is edited away: nobody loses anything, and nothing of it is given any more.
	a.SetPools(poolsOf(t, map[string]string{"range-a": "10.0.1.1-10.0.1.9"}))
	if got := a.Pools().Key("a"); got != "range-a" {
		t.Errorf("the pool is %q", got)
	}
	has("a/two", "10.0.0.2")
	gets("a/two", "80", "10.0.0.2")
	gets("a/one", "80", "10.0.1.1")
	a.Release("a/two")
	gets("a/two", "80", "10.0.1.2")

	// By name, outside of every pool and in the next free place, in the spelling of another family.
	a.Use(service(t, "b/hand", "80"), addrs("192.168.0.1,::ffff:10.0.1.3,10.0.1.3"))
	has("b/hand", "192.168.0.1,10.0.1.3")
	gets("a/four", "80", "10.0.1.4")
	a.Use(service(t, "b/hand", "80"), addrs("192.168.0.1"))
	gets("a/five", "80", "10.0.1.3")
	a.Use(service(t, "b/hand", "80"), nil)
	has("b/hand", "")

	// Sharing is switched on: those who are there share from now on; and off: they stay.
	shared := map[string]string{"range-a": "10.0.1.1-10.0.1.9", "allow-share-a": "true"}
	gets("a/apart", "443", "10.0.1.5")
	a.SetPools(poolsOf(t, shared))
	gets("a/mail", "25", "10.0.1.1")
	gets("a/mail2", "25", "10.0.1.2")
	delete(shared, "allow-share-a")
	a.SetPools(poolsOf(t, shared))
	gets("a/mail", "25", "10.0.1.1")
	gets("a/dns", "53/UDP", "10.0.1.6")

	// A port that is given up on a shared address is free again.
	shared["allow-share-a"] = "true"
	a.SetPools(poolsOf(t, shared))
	gets("a/mail3", "25", "10.0.1.3")
	a.Use(service(t, "a/mail", "587"), a.Addrs("a/mail"))
	gets("a/mail4", "25", "10.0.1.1")
	a.Release("a/one")
	gets("a/web", "80", "10.0.1.1")
}

// TestClashAtStart is that Services which are told to have the same port on the same address keep what they have
// until one of them asks, or goes.
func TestClashAtStart(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{"cidr-a": "10.0.0.8/30", "allow-share-a": "true"}))
	for _, name := range []string{"a/one", "a/two", "a/three"} {
		a.Use(service(t, name, "80"), addrs("10.0.0.8"))
	}
	a.Release("a/one")
	if a.taken[Port{80, "TCP"}] == nil {
		t.Error("the port is free, and two have it")
	}
	if a.Check("a/two", addrs("10.0.0.8")[0], ports(t, "80")) == nil {
		t.Error("a/two may have the port, and a/three has it")
	}
	answer, err := a.Allocate(Request{Service: service(t, "a/two", "80")})
	if err != nil || joined(answer.Addrs) != "10.0.0.9" || joined(answer.Fresh) != "10.0.0.9" {
		t.Errorf("a/two gets %+v (%v)", answer, err)
	}
	answer, err = a.Allocate(Request{Service: service(t, "a/three", "80")})
	if err != nil || joined(answer.Addrs) != "10.0.0.8" || len(answer.Fresh) > 0 {
		t.Errorf("a/three gets %+v (%v)", answer, err)
	}
}

// TestProbe is how a stranger is kept clear of: each address that is found to be another's is refused, and none is
// lost by that.
func TestProbe(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{"cidr-a": "10.0.0.8/30"}))
	strangers := map[netip.Addr]bool{}
	r := Request{Service: service(t, "a/web", "80"), Skip: func(a netip.Addr) bool { return strangers[a] }}
	for _, want := range addrs("10.0.0.8,10.0.0.9,10.0.0.10") {
		answer, err := a.Allocate(r)
		if err != nil || !slices.Equal(answer.Fresh, []netip.Addr{want}) {
			t.Fatalf("%+v (%v), want %s", answer, err, want)
		}
		strangers[want] = true
	}
	clear(strangers)
	a.Release("a/web")
	if answer, err := a.Allocate(r); err != nil || joined(answer.Addrs) != "10.0.0.8" {
		t.Errorf("after the strangers went: %+v (%v)", answer, err)
	}
}

func TestStats(t *testing.T) {
	a := NewAllocator()
	a.SetPools(poolsOf(t, map[string]string{
		"cidr-global": "10.0.0.0/24,fd00::/64", "range-a": "10.0.0.250-10.0.1.5,10.8.0.1", "cidr-b": "2001:db8::/64", "cidr-c": "10.0.0.0/8,fd00::/8",
	}))
	a.Use(service(t, "a/x", "80"), addrs("10.0.0.251,10.0.0.252"))
	a.Use(service(t, "b/y", "80"), addrs("10.0.0.0,10.0.0.252,fd00::,fd00::1")) // the first of each family is not given out, and not counted
	a.Use(service(t, "b/z", "80"), addrs("192.168.0.1"))
	want := []Stat{
		{"cidr-b", IPv6, 0, 1<<64 - 1},
		{"cidr-c", IPv4, 2, 1<<24 - 2*(1<<16) - 2},
		{"cidr-c", IPv6, 1, 1<<120 - 1<<56},
		{"cidr-global", IPv4, 2, 254 - 2},
		{"cidr-global", IPv6, 1, 1<<64 - 2},
		{"range-a", IPv4, 2, 5 + 5 + 1 - 2},
	}
	if diff := cmp.Diff(want, a.Stats()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := NewAllocator().Stats(); len(got) > 0 {
		t.Errorf("without pools: %v", got)
	}
}
