package pool

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse reads a ConfigMap with two lists, a key that is anything, and switches.
func FuzzParse(f *testing.F) {
	for _, seed := range []struct{ cidr, list, key, value, skip, order string }{
		{"192.168.0.220/29", "192.168.0.200-192.168.0.202", "cidr-b", "2001:db8::10/126", "true", "desc"},
		{"10.0.0.0/8,2001:db8::/64", "10.0.0.1-20,fd00::1-fd00::2", "allow-share-a", "true", "false", "asc"},
		{"0.0.0.0/32", "10.0.0.9-10.0.0.1,10.0.0.1-fd00::1", "interface-a", "eth0", "", ""},
		{" 10.0.0.1 , ,10.0.0.255,10.0.0.0/31,", "::ffff:10.0.0.1-::ffff:10.0.0.9", "cidr-", "x", "1", "DESC"},
		{"::/0,0.0.0.0/0,fe80::1%eth0/64", "-,--,/,1/2/3,10.0.0.0/024", "range-a", "10.0.0.1-10.0.0.2", "T", "desc"},
		{"223.255.255.254-223.255.255.255", "feff::/16,fe00::1", "cidr-global", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "true", "desc"},
		{"10.0.0.0/24\n10.0.1.0/24", "\xff\x00", "range-\n", "\"", "\n", "\\"},
	} {
		f.Add(seed.cidr, seed.list, seed.key, seed.value, seed.skip, seed.order)
	}
	f.Fuzz(func(t *testing.T, cidr, list, key, value, skip, order string) {
		data := map[string]string{"cidr-a": cidr, "range-global": list, "skip-end-ips-in-cidr": skip, "search-order": order}
		data[key] = value
		pools, problems := Parse(data)
		for _, p := range problems {
			value, has := data[p.Key]
			switch {
			case !has || !strings.Contains(value, p.Entry):
				t.Errorf("%q: %q is not what was written", p.Key, p.Entry)
			case p.Wrong == "":
				t.Errorf("%q: %q: nothing is wrong", p.Key, p.Entry)
			case strings.ContainsFunc(p.String(), func(c rune) bool { return c < ' ' || c == '\x7f' }):
				t.Errorf("%q does not take one line", p)
			}
		}
		for namespace, p := range pools.pools {
			if !isNamespace(namespace) {
				t.Errorf("%q is no namespace", namespace)
			}
			checkPool(t, p)
			checkAgain(t, pools, p)
			checkGiven(t, pools, namespace)
		}
		again, problemsAgain := Parse(data)
		if diff := cmp.Diff(shown(pools), shown(again)) + cmp.Diff(problems, problemsAgain); diff != "" {
			t.Errorf("read again it is something else:\n%s", diff)
		}
	})
}

// checkPool checks that a pool's spans are in order, and of addresses that hosts can have.
func checkPool(t *testing.T, p *pool) {
	t.Helper()
	if p.empty() != (p.lacking != "") {
		t.Errorf("%s: empty %t, lacking %q", p.key, p.empty(), p.lacking)
	}
	for family, spans := range p.spans {
		for i, s := range spans {
			if s.to.Less(s.from) || FamilyOf(s.from) != Family(family) || FamilyOf(s.to) != Family(family) {
				t.Errorf("%s has the %s span %s", p.key, Family(family), s)
			}
			if i > 0 && !spans[i-1].to.Next().Less(s.from) {
				t.Errorf("%s has %s before %s", p.key, spans[i-1], s)
			}
			for _, a := range []netip.Addr{s.from, s.to} {
				if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
					t.Errorf("%s has %s", p.key, a)
				}
			}
		}
	}
}

// checkAgain checks that a pool's spans, written as a list, backwards, are the same pool.
func checkAgain(t *testing.T, pools Pools, p *pool) {
	t.Helper()
	var texts []string
	for _, s := range slices.Backward(slices.Concat(p.spans[IPv4], p.spans[IPv6])) {
		if s.usable() > 0 { // after a network's ends are left out there may be a rest
			texts = append(texts, s.String())
		}
	}
	if p.empty() {
		return
	}
	again, problems := Parse(map[string]string{p.key: strings.Join(texts, ", ")})
	if len(problems) > 0 {
		t.Errorf("%s has the list %s: %v", p.key, texts, problems)
	}
	for _, q := range again.pools {
		if diff := cmp.Diff(p.spans, q.spans, cmp.AllowUnexported(run{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s is something else when it is written as %s:\n%s", p.key, texts, diff)
		}
	}
}

// checkGiven checks that what is given out of a namespace's pool is in it.
func checkGiven(t *testing.T, pools Pools, namespace string) {
	t.Helper()
	a := NewAllocator()
	a.SetPools(pools)
	p := pools.of(namespace)
	for i, name := range []string{"one", "two", "three"} {
		answer, err := a.Allocate(Request{Service: Service{Name: name, Namespace: namespace}, Policy: PreferDualStack})
		if (err != nil) != (len(answer.Addrs) == 0) || err != nil && i == 0 && !p.empty() {
			t.Errorf("%s: %v is given (%v)", p.key, answer.Addrs, err)
		}
		for _, addr := range answer.Addrs {
			if !p.spans[FamilyOf(addr)].contains(addr) || reserved(addr) {
				t.Errorf("%s: %s is given", p.key, addr)
			}
		}
	}
	var used float64
	for _, s := range a.Stats() {
		if s.Used < 0 || s.Free < 0 {
			t.Errorf("%+v", s)
		}
		if s.Pool == p.key {
			used += s.Used
		}
	}
	if all := len(slices.Collect(maps.Keys(a.places))); int(used) != all {
		t.Errorf("%s: %g of it are in use, want %d", p.key, used, all)
	}
}
