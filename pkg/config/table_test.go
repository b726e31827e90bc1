package config

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// texts are more valid values of settings whose type does not say what is valid.
var texts = map[string][]string{
	"interface":                      {"", "eth0.100", "br-0123456789ab", "lo", "@x", "enp175s0f1np1-an-alternative-name"},
	"serviceInterface":               {"", "eth1", "enp175s0f1np1-an-alternative-name"},
	"servicesNamespace":              {"", "default"},
	"servicesLeaseName":              {"a", "kube-system/plndr", "x.y.z"},
	"lbClassName":                    {"", "internal"},
	"vipAllowedRanges":               {"", "10.0.0.10", "0.0.0.0/0,::/0", "10.0.0.0/8,2001:db8::1"},
	"bgpRouterInterface":             {"", "lo"},
	"sourceIF":                       {"", "bond0"},
	"leaseName":                      {"a", "kube-system/plndr", "x.y.z"},
	"controlPlaneHealthCheckAddress": {"", "http://[::1]:8080/healthz?verbose=1"},
	"controlPlaneHealthCheckCAPath":  {"", "relative.crt", " a, b = c "},
	"peerAddress":                    {"", "2001:db8::1", "router.example.com"},
	"peerPass":                       {"", " white space ", "a:b,c=d\"'\n$(X)"},
	"annotations":                    {"", "bgp"},
	"bgpPeersFile":                   {"", "peers.yaml"},
	"bgpPasswordSecret":              {"", "bgp", "kube-system/bgp.passwords"},
	"mpbgpNexthop":                   {""},
	"mpbgpIPv4":                      {"", "10.0.0.1"},
	"mpbgpIPv6":                      {"", "2001:db8::2", "fe80::1"},
	"bgpCommunities":                 {"", "0:0,65535:65535", "graceful-shutdown,backup"},
	"bgpLargeCommunities":            {"", "4294967295:0:4294967295,blue"},
	"bgpCommunityNames":              {"", "a=1:2", "a=1:2,b=1:2:3"},
	"bgpLocalPref":                   {"", "0", "4294967295"},
	"bgpMED":                         {"", "0", "4294967295"},
	"namespace":                      {"default"},
	"k8sConfigPath":                  {"", "/a b/c"},
	"kubernetesAddr":                 {"", "10.0.0.1", "2001:db8::1", "[2001:db8::1]:6443", "api.example.com:443", "http://127.0.0.1:8080"},
	"nodeName":                       {"", "a.b-c.d"},
	"instanceName":                   {"", "A_b-c.9"},
	"prometheusHTTPServer":           {"", "[::1]:9000", "localhost:0", "0.0.0.0:2112"},
	"bgppeers":                       {"", "10.0.0.1:1", "[2001:db8::1]:4294967295:pass:true:1179:mpbgp_nexthop=fixed:enable;300;300;3,unnumbered:eth0", "10.0.0.1:1:::mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8::1:true;;;"},
	"address":                        {"", "10.0.0.10", "vip.example.com,10.0.0.11", "2001:db8::a"},
	"leaseAnnotations":               {"", `{"a.b/c":"<d> & \"e\"","f":""}`},
	"vipSubnet":                      {"", "24", "64", "24,32", "1,128"},
}

// randomText is a valid value of the setting in canonical form, often an extreme one.
func randomText(t *testing.T, r *rand.Rand, s Setting) string {
	t.Helper()
	choices := slices.Concat([]string{s.Example, s.Default}, s.Enum, texts[s.Name])
	within := func(v span) string {
		steps := int64(v.max-max(v.min, 0)) / int64(time.Millisecond)
		step := time.Millisecond
		if v.whole {
			steps, step = int64(v.max-max(v.min, 0))/int64(v.unit), v.unit
		}
		return v.format(max(v.min, 0) + time.Duration(r.Int64N(steps+1))*step)
	}
	whole := func(lo, hi int64) string { return strconv.FormatInt(lo+r.Int64N(hi-lo+1), 10) }
	switch v := s.Value(&Config{}).(type) {
	case boolean:
		choices = []string{"true", "false"}
	case number[int]:
		choices = append(choices, whole(v.min, v.max), whole(v.min, v.min), whole(v.max, v.max))
	case number[uint8]:
		choices = append(choices, whole(v.min, v.max), whole(v.min, v.min), whole(v.max, v.max))
	case number[uint16]:
		choices = append(choices, whole(v.min, v.max), whole(v.min, v.min), whole(v.max, v.max))
	case number[uint32]:
		choices = append(choices, whole(v.min, v.max), whole(v.min, v.min), whole(v.max, v.max))
	case portOrZero:
		choices = append(choices, "0", whole(1024, 65535))
	case level:
		choices = append(choices, whole(-8, 12))
	case span:
		choices = append(choices, within(v), v.format(max(v.min, 0)), v.format(v.max))
	case address:
		choices = append(choices, "", netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), 1, 2}).String())
	default:
		if len(choices) < 3 {
			t.Fatalf("%s: add values of it to texts", s.Name)
		}
	}
	// An empty default or example is a value only where the setting can be empty.
	for {
		if text := choices[r.IntN(len(choices))]; s.Value(&Config{}).Set(text) == nil {
			return text
		}
	}
}

func sameConfig(want, got Config) string {
	return cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

func TestRowsAreComplete(t *testing.T) {
	for _, s := range append(Settings(), configFileSetting()) {
		t.Run(s.Name, func(t *testing.T) {
			if s.Name == "" || s.Usage == "" || s.Example == "" || s.Group == "" || len(s.Env) == 0 {
				t.Errorf("a field is missing: %+v", s)
			}
			if s.Example == s.Default {
				t.Errorf("the example %q is the default", s.Example)
			}
			for _, text := range []string{s.Default, s.Example} {
				if err := s.Value(&Config{}).Set(text); err != nil {
					t.Errorf("Set(%q): %v", text, err)
				}
			}
			for _, text := range s.Enum {
				if err := s.Value(&Config{}).Set(text); err != nil {
					t.Errorf("Set(%q), which is in Enum: %v", text, err)
				}
			}
			if err := s.Value(&Config{}).Set("no such value"); len(s.Enum) > 0 && err == nil {
				t.Error("a value that is not in Enum was accepted")
			}
			if strings.HasSuffix(s.Usage, ".") || strings.Contains(s.Usage, "\n") {
				t.Errorf("the usage is not one line without a full stop: %q", s.Usage)
			}
		})
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	once := func(kind, name, owner string) {
		t.Helper()
		// viper and the config file do not tell upper case from lower.
		if kind == "key" || kind == "name" {
			name = strings.ToLower(name)
		}
		if other, ok := seen[kind+" "+name]; ok {
			t.Errorf("%s %s belongs to %s and to %s", kind, name, other, owner)
		}
		seen[kind+" "+name] = owner
	}
	all := func(kind string, names []string, owner string) {
		t.Helper()
		for _, name := range names {
			once(kind, name, owner)
		}
	}
	for _, s := range append(Settings(), configFileSetting()) {
		once("name", s.Name, s.Name)
		all("flag", s.flags(), s.Name)
		all("env", s.Env, s.Name)
		all("key", s.keys(), s.Name)
		if s.Shorthand != "" {
			once("shorthand", s.Shorthand, s.Name)
		}
	}
	for i, u := range UnsupportedSettings() {
		owner := fmt.Sprintf("unsupported row %d", i)
		all("flag", u.Flags, owner)
		all("env", u.Env, owner)
		all("key", u.Keys, owner)
		if u.Why == "" || len(u.Flags)+len(u.Env)+len(u.Keys) == 0 {
			t.Errorf("%s is not complete: %+v", owner, u)
		}
	}
}

func TestSetStringIsIdentity(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, s := range Settings() {
		t.Run(s.Name, func(t *testing.T) {
			for range 200 {
				text := randomText(t, r, s)
				var a, b Config
				va, vb := s.Value(&a), s.Value(&b)
				if err := va.Set(text); err != nil {
					t.Fatalf("Set(%q): %v", text, err)
				}
				if err := vb.Set(va.String()); err != nil {
					t.Fatalf("Set(String()) of %q: %v", text, err)
				}
				if diff := sameConfig(a, b); diff != "" {
					t.Fatalf("Set(String()) of %q (-want +got):\n%s", text, diff)
				}
				if va.String() != vb.String() {
					t.Fatalf("String() of %q is %q, and then %q", text, va.String(), vb.String())
				}
				before := va.String()
				if err := va.Set(before); err != nil || va.String() != before {
					t.Fatalf("a second Set(%q): %v, now %q", before, err, va.String())
				}
			}
		})
	}
}

func TestTextsBelongToSettings(t *testing.T) {
	for name, values := range texts {
		s, ok := find(name)
		if !ok {
			t.Errorf("there is no setting %s", name)
			continue
		}
		for _, text := range values {
			if err := s.Value(&Config{}).Set(text); err != nil {
				t.Errorf("%s: Set(%q): %v", name, text, err)
			}
		}
	}
}

// leaves visits the exported fields of v that are not structs of ours.
func leaves(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	if v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[Config]().PkgPath() {
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				leaves(v.Field(i), path+"."+f.Name, visit)
			}
		}
		return
	}
	visit(path, v)
}

func snapshot(c *Config) map[string]any {
	all := map[string]any{}
	leaves(reflect.ValueOf(c).Elem(), "Config", func(path string, v reflect.Value) { all[path] = v.Interface() })
	return all
}

func TestEachLeafIsSetByOneRow(t *testing.T) {
	owners := map[string]string{}
	for _, s := range Settings() {
		var c Config
		zero := snapshot(&c)
		text := s.Example
		if s.Type() == typeBool {
			text = "true"
		}
		if s.Name == "healthCheckPort" {
			text = s.Default
		}
		if err := s.Value(&c).Set(text); err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		changed := 0
		for path, v := range snapshot(&c) {
			if reflect.DeepEqual(v, zero[path]) {
				continue
			}
			changed++
			if owners[path] != "" {
				t.Errorf("%s is set by %s and by %s", path, owners[path], s.Name)
			}
			owners[path] = s.Name
		}
		if changed != 1 {
			t.Errorf("%s sets %d fields", s.Name, changed)
		}
	}
	for path := range snapshot(&Config{}) {
		if owners[path] == "" {
			t.Errorf("no setting sets %s", path)
		}
	}
}
