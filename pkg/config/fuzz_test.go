package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
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
	for _, text := range append(texts["bgppeers"], "10.0.0.1:1:p,x", "[::1:1:p", "unnumbered:eth0:1:p", ":::") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, ok := identity(t, "bgppeers", text); !ok {
			return
		}
		for _, peer := range splitPeers(redactPeers(text)) {
			if _, rest, err := cutPeer(peer); err != nil || len(rest) > 1 && rest[1] != "" && rest[1] != "***" {
				t.Errorf("%q is shown of %q", peer, text)
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
