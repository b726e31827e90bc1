package config

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write golden files and docs/settings.md")

// given is what a user wrote: flags, environment, and keys of a config file.
type given struct {
	args    []string
	environ []string
	file    map[string]any
	text    string // of the config file, in place of file
}

func (g given) load(t *testing.T) (*Loaded, error) {
	t.Helper()
	fs := pflag.NewFlagSet("kube-vip", pflag.ContinueOnError)
	AddFlags(fs)
	args := g.args
	if g.file != nil || g.text != "" {
		path := filepath.Join(t.TempDir(), "config.yaml")
		data := []byte(g.text)
		if g.file != nil {
			var err error
			if data, err = json.Marshal(g.file); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config-file=" + path}, args...)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatalf("parse %q: %v", args, err)
	}
	return Load(fs, g.environ)
}

func (g given) mustLoad(t *testing.T) *Loaded {
	t.Helper()
	l, err := g.load(t)
	if err != nil {
		t.Fatalf("load %+v: %v", g, err)
	}
	return l
}

// put writes a value in a layer.
func (g *given) put(layer Layer, s Setting, text string) {
	switch layer {
	case LayerFlag:
		g.args = append(g.args, "--"+s.Name+"="+text)
	case LayerEnv:
		g.environ = append(g.environ, s.Env[0]+"="+text)
	case LayerFile:
		if g.file == nil {
			g.file = map[string]any{}
		}
		g.file[s.Key] = text
	}
}

func valueOf(t *testing.T, l *Loaded, name string) string {
	t.Helper()
	s, ok := find(name)
	if !ok {
		t.Fatalf("there is no setting %s", name)
	}
	return s.Value(&l.Config).String()
}

func TestDefaults(t *testing.T) {
	l := given{}.mustLoad(t)
	want := Config{
		Log:        Log{Format: "text"},
		Kubernetes: Kubernetes{Namespace: "kube-system", ConfigFile: "/etc/kubernetes/admin.conf"},
		Network:    Network{DNSMode: "first"},
		ControlPlane: ControlPlane{Port: 6443, Health: Health{
			Enable: true, Period: 200 * time.Millisecond, Timeout: time.Second, FailureThreshold: 2, SuccessThreshold: 3,
		}},
		Services: Services{
			Placement: "leader", LeaseName: "plndr-svcs-lock", Class: Class{Name: "kube-vip.io/kube-vip-class", Legacy: true},
			Pools: "auto", ExcludeLabel: "honour",
		},
		Election: Election{LeaseName: "plndr-cp-lock", LeaseDuration: 5 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: time.Second},
		ARP:      ARP{Rate: 3 * time.Second},
		BGP:      BGP{AS: 65000, PeerAS: 65000, HoldTime: 30 * time.Second, KeepaliveInterval: 10 * time.Second, Drain: 2 * time.Second},
		Observe:  Observe{PrometheusServer: "127.0.0.1:2112", HealthCheckPort: 29112},
	}
	if diff := sameConfig(want, l.Config); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, e := range l.Effective() {
		if e.Origin.IsSet() {
			t.Errorf("%s is set: %v", e.Setting.Name, e.Origin)
		}
	}
	if len(l.Warnings) > 0 {
		t.Errorf("warnings: %q", l.Warnings)
	}
	// A set of flags that has none of ours, and none at all, are the same.
	for _, fs := range []*pflag.FlagSet{nil, pflag.NewFlagSet("", pflag.ContinueOnError)} {
		other, err := Load(fs, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := sameConfig(l.Config, other.Config); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// zeroText is the value that looks most like nothing.
func zeroText(s Setting) string {
	for _, text := range []string{"", "0", "false", s.Default} {
		if s.Name != "arpRate" && s.Value(&Config{}).Set(text) == nil {
			return text
		}
	}
	return s.Default
}

// Of every pair of layers the stronger one counts, with a value in one and nothing, zero or the default in the other.
func TestPrecedence(t *testing.T) {
	layers := []Layer{LayerDefault, LayerFile, LayerEnv, LayerFlag}
	for _, s := range Settings() {
		t.Run(s.Name, func(t *testing.T) {
			values := slices.Compact(slices.Sorted(slices.Values([]string{zeroText(s), s.Example, s.Default})))
			for weak, weakLayer := range layers {
				for _, strongLayer := range layers[weak+1:] {
					for _, strong := range values {
						for _, other := range values {
							if s.Value(&Config{}).Set(strong) != nil || s.Value(&Config{}).Set(other) != nil {
								continue // an empty default of a setting that cannot be empty
							}
							var g given
							g.put(weakLayer, s, other)
							g.put(strongLayer, s, strong)
							l := g.mustLoad(t)
							var want Config
							if err := s.Value(&want).Set(strong); err != nil {
								t.Fatal(err)
							}
							if got := valueOf(t, l, s.Name); got != s.Value(&want).String() {
								t.Errorf("%s=%q over %s=%q: got %q", strongLayer, strong, weakLayer, other, got)
							}
							if o := l.Origin(s.Name); o.Layer != strongLayer || !o.IsSet() {
								t.Errorf("%s=%q over %s=%q: origin %v", strongLayer, strong, weakLayer, other, o)
							}
						}
					}
				}
			}
		})
	}
}

// What was asked of one instance is what the instance does that runs the manifest.
func TestManifestEnvIsIdentity(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 1))
		var g given
		for _, s := range Settings() {
			if r.IntN(3) == 0 {
				text := randomText(t, r, s)
				layer := []Layer{LayerFile, LayerEnv, LayerFlag}[r.IntN(3)]
				if text == "" && layer == LayerEnv && !s.takesEmpty() {
					continue
				}
				g.put(layer, s, text)
			}
		}
		for _, env := range []string{tableEnv, wireguardEnv} {
			if r.IntN(8) == 0 {
				g.environ = append(g.environ, env+"=true")
			}
		}
		first := g.mustLoad(t)
		var environ []string
		for _, v := range first.Env() {
			environ = append(environ, v.Name+"="+v.Value)
		}
		second, err := Load(nil, environ)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := sameConfig(first.Config, second.Config); diff != "" {
			t.Fatalf("seed %d: %+v (-want +got):\n%s", seed, g, diff)
		}
		if diff := cmp.Diff(first.Env(), second.Env()); diff != "" {
			t.Fatalf("seed %d: the environment of the second (-want +got):\n%s", seed, diff)
		}
	}
}

func TestEnv(t *testing.T) {
	l := given{
		args:    []string{"--vip=10.0.0.10", "--arp"},
		environ: []string{"vip_cidr=24", "vip_leaseduration=5", "vip_arpRate=1", `vip_leaseannotations={"b":"<&>", "a":""}`},
		file:    map[string]any{"logFormat": "json"},
	}.mustLoad(t)
	want := []EnvVar{
		{"cp_enable", "true"},
		{"address", "10.0.0.10"},
		{"port", "6443"},
		{"vip_subnet", "24"},
		{"vip_arp", "true"},
		{"vip_arpRate", "3000"},
		{"vip_leaderelection", "true"},
		{"vip_leasename", "plndr-cp-lock"},
		{"vip_leaseduration", "5"},
		{"vip_renewdeadline", "3"},
		{"vip_retryperiod", "1"},
		{"vip_leaseannotations", `{"a":"","b":"<&>"}`},
		{"cp_namespace", "kube-system"},
		{"log_format", "json"},
		{"prometheus_server", "127.0.0.1:2112"},
		{"health_check_port", "29112"},
	}
	if diff := cmp.Diff(want, l.Env()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A manifest for Services says nothing of a control plane but what the API server's port is.
func TestEnvOfServices(t *testing.T) {
	l := given{args: []string{"--services", "--servicesElection", "--serviceInterface=auto", "--vipAllowedRanges=10.0.0.0/24", "--vipAllowedRanges=10.0.1.7", "--lbClassName=", "--arp"}}.mustLoad(t)
	want := []EnvVar{
		{"port", "6443"},
		{"svc_enable", "true"},
		{"svc_placement", "lease"},
		{"svc_election", "true"},
		{"svc_leasename", "plndr-svcs-lock"},
		{"vip_servicesinterface", "auto"},
		{"lb_class_name", ""},
		{"vip_allowed_ranges", "10.0.0.0/24,10.0.1.7/32"},
		{"vip_arp", "true"},
		{"vip_leaderelection", "true"},
		{"vip_leaseduration", "5"},
		{"vip_renewdeadline", "3"},
		{"vip_retryperiod", "1"},
		{"cp_namespace", "kube-system"},
		{"prometheus_server", "127.0.0.1:2112"},
		{"health_check_port", "29112"},
	}
	if diff := cmp.Diff(want, l.Env()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The placement has an older name; given alone, either sets both.
func TestPlacement(t *testing.T) {
	for _, test := range []struct {
		name      string
		given     given
		election  bool
		placement string
		origins   string // of the two
	}{
		{"nothing", given{}, false, "leader", "default, default"},
		{"election", given{environ: []string{"svc_election=true"}}, true, "lease", "env svc_election, derived: svc_election=true"},
		{"no election", given{environ: []string{"svc_election=false"}}, false, "leader", "env svc_election, default"},
		{"leases", given{args: []string{"--servicesPlacement=lease"}}, true, "lease", "derived: --servicesPlacement=lease, flag --servicesPlacement"},
		{"a leader", given{args: []string{"--servicesPlacement=leader"}}, false, "leader", "default, flag --servicesPlacement"},
		{"both agree", given{args: []string{"--servicesPlacement=lease"}, environ: []string{"svc_election=true"}}, true, "lease", "env svc_election, flag --servicesPlacement"},
		{"both differ", given{args: []string{"--servicesPlacement=leader"}, environ: []string{"svc_election=true"}}, true, "leader", "env svc_election, flag --servicesPlacement"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := test.given.mustLoad(t)
			s := l.Config.Services
			if s.Election != test.election || s.Placement != test.placement {
				t.Errorf("want %t and %s, got %t and %s", test.election, test.placement, s.Election, s.Placement)
			}
			if got := l.Origin("servicesElection").String() + ", " + l.Origin("servicesPlacement").String(); got != test.origins {
				t.Errorf("origins: want %s, got %s", test.origins, got)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	g := given{
		args:    []string{"--cidr", "24", "--arp"},
		environ: []string{"vip_address=10.0.0.10", "INSTANCE_NAME=blue"},
		file:    map[string]any{"enableBGP": false, "LEASENAME": "mine"},
	}
	l := g.mustLoad(t)
	file := l.Origin("leaseName").File
	for name, want := range map[string]string{
		"vipSubnet":      "flag --cidr",
		"arp":            "flag --arp",
		"address":        "env vip_address",
		"instanceName":   "env INSTANCE_NAME",
		"bgp":            "file " + file + ": enableBGP",
		"leaseName":      "file " + file + ": LEASENAME",
		"controlplane":   "derived: vip_address is given and nothing else is enabled",
		"leaderElection": "derived: ARP always elects a leader",
		"port":           "default",
	} {
		if got := l.Origin(name).String(); got != want {
			t.Errorf("origin of %s: want %q, got %q", name, want, got)
		}
	}
	for name, want := range map[string]string{
		"vipSubnet": "--cidr",
		"address":   "vip_address",
		"leaseName": "LEASENAME in " + file,
		"port":      "--port (env port)",
	} {
		if got := l.Spelt(name); got != want {
			t.Errorf("spelling of %s: want %q, got %q", name, want, got)
		}
	}
}

func TestDerived(t *testing.T) {
	for _, test := range []struct {
		name         string
		given        given
		controlPlane bool
		election     bool
	}{
		{"nothing", given{}, false, false},
		{"an address", given{args: []string{"--address=10.0.0.10"}}, true, false},
		{"an address and ARP", given{args: []string{"--address=10.0.0.10", "--arp"}}, true, true},
		{"an empty address", given{environ: []string{"address="}}, false, false},
		{"switched off", given{environ: []string{"address=10.0.0.10", "cp_enable=false"}}, false, false},
		{"Services", given{environ: []string{"address=10.0.0.10", "svc_enable=true"}}, false, false},
		{"Services by flag", given{args: []string{"--services", "--address=10.0.0.10"}}, false, false},
		{"Services off", given{environ: []string{"address=10.0.0.10", "svc_enable=false"}}, true, false},
		{"Services off by flag, on in the environment", given{args: []string{"--services=false"}, environ: []string{"address=10.0.0.10", "svc_enable=true"}}, true, false},
		{"Services off in the environment, on in the file", given{environ: []string{"address=10.0.0.10", "svc_enable=false"}, file: map[string]any{"enableServices": true}}, true, false},
		{"Services in the file", given{file: map[string]any{"address": "10.0.0.10", "enableServices": true}}, false, false},
		{"Services and the control plane", given{args: []string{"--services", "--controlplane", "--address=10.0.0.10", "--arp"}}, true, true},
		{"Services alone", given{args: []string{"--services", "--arp"}}, false, true},
		{"BGP", given{args: []string{"--address=10.0.0.10", "--bgp"}}, true, false},
		{"BGP with an election", given{args: []string{"--address=10.0.0.10", "--bgp", "--leaderElection"}}, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := test.given.mustLoad(t)
			if got := l.Config.ControlPlane.Enable; got != test.controlPlane {
				t.Errorf("control plane: want %t, got %t", test.controlPlane, got)
			}
			if got := l.Config.Election.Enable; got != test.election {
				t.Errorf("election: want %t, got %t", test.election, got)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, test := range []struct {
		name  string
		given given
		want  []string
	}{
		{"older spelling", given{environ: []string{"vip_cidr=32", "vip_address=10.0.0.1"}}, nil},
		{"both spellings agree", given{environ: []string{"vip_cidr=32", "vip_subnet=32"}}, nil},
		{"both spellings differ", given{environ: []string{"vip_cidr=24", "vip_subnet=32"}},
			[]string{"vip_subnet and vip_cidr are the same setting with different values; vip_subnet counts"}},
		{"both flags differ", given{args: []string{"--vip=10.0.0.1", "--address=10.0.0.2"}},
			[]string{"--address and --vip are the same setting with different values; --address counts"}},
		{"empty number", given{environ: []string{"port=", "vip_arp="}},
			[]string{"port is empty, which counts as not set", "vip_arp is empty, which counts as not set"}},
		{"empty string", given{environ: []string{"prometheus_server=", "vip_interface=", "bgp_routerid="}}, nil},
		{"ARP without election", given{environ: []string{"vip_arp=true", "vip_leaderelection=false"}},
			[]string{"vip_leaderelection=false has no effect: ARP always elects a leader"}},
		{"ARP rate", given{environ: []string{"vip_arpRate=100"}},
			[]string{"vip_arpRate=100 is below the minimum of 500 ms; 3000 is used"}},
		{"ARP rate of zero", given{args: []string{"--arpRate=0"}},
			[]string{"--arpRate=0 is below the minimum of 500 ms; 3000 is used"}},
		{"least ARP rate", given{environ: []string{"vip_arpRate=500"}}, nil},
		{"password in the environment", given{environ: []string{"bgp_peerpass=x"}},
			[]string{"bgp_peerpass: the BGP password is in clear text in the environment, for everyone to read who may read the pod; a config file can come from a Secret"}},
		{"password of a peer", given{args: []string{"--bgppeers=10.0.0.1:65000:x:false"}},
			[]string{"--bgppeers: the BGP password is in clear text on the command line and in the manifest; a config file can come from a Secret"}},
		{"peers without a password", given{args: []string{"--bgppeers=10.0.0.1:65000::false"}}, nil},
		{"password in the file", given{file: map[string]any{"peerPass": "x", "bgpPeers": "10.0.0.1:1:x"}}, nil},
		{"next hops that no peer has", given{environ: []string{"bgp_enable=true", "mpbgp_ipv4=10.0.0.1", "mpbgp_nexthop=auto_sourceip"}, args: []string{"--mpbgpIPv6=2001:db8::1"}}, []string{
			"mpbgp_ipv4=10.0.0.1 has no effect: it is for mpbgp_nexthop=fixed", "--mpbgpIPv6=2001:db8::1 has no effect: it is for mpbgp_nexthop=fixed",
		}},
		{"next hops that one peer has", given{environ: []string{"bgp_enable=true", "mpbgp_ipv4=10.0.0.1", "bgp_peers=10.0.0.2:1::::mpbgp_nexthop=fixed"}}, nil},
		{"an address beside Services", given{args: []string{"--services", "--vip=10.0.0.10", "--arp"}},
			[]string{"--vip has no effect: beside --services=true the control plane's VIP needs --controlplane (env cp_enable=true)"}},
		{"an address that is switched off beside Services", given{environ: []string{"svc_enable=true", "address=10.0.0.10", "cp_enable=false"}}, nil},
		{"an address of a control plane that cannot be read", given{text: "controlPlan: true", args: []string{"--services", "--vip=10.0.0.10"}}, nil},
		{"misspelt variables", given{environ: []string{"vip_interace=eth0", "VIP_ARP=true", "vip_arprate=1000", "adress=10.0.0.1", "addres=10.0.0.1", "cp_namspace=x", "control_plane_healthcheck=false"}}, []string{
			"VIP_ARP is not a setting; did you mean vip_arp?",
			"addres is not a setting; did you mean address?",
			"control_plane_healthcheck is not a setting; did you mean control_plane_health_check?",
			"cp_namspace is not a setting; did you mean cp_namespace?",
			"vip_arprate is not a setting; did you mean vip_arpRate?",
			"vip_interace is not a setting; did you mean vip_interface?",
		}},
		{"misspelt unsupported variable", given{environ: []string{"svc_enabled=true"}}, []string{"svc_enabled is not a setting; did you mean svc_enable?"}},
		{"somebody else's variables", given{environ: []string{
			"PATH=/bin", "HOME=/root", "PORT=80", "ADDRESS=x", "HOSTNAME=n", "_=x", "KUBERNETES_PORT=tcp://10.96.0.1:443",
			"KUBE_VIP_PORT=x", "VIP_SERVICE_HOST=x", "vip_of_my_own=1", "DNS=1", "sport=3", "LANG=C", "nonsense",
		}}, nil},
		{"the election type that we have", given{args: []string{"--leaderElectionType=kubernetes"}}, nil},
		{"another one", given{args: []string{"--leaderElectionType=etcd"}},
			[]string{"--leaderElectionType: ignored: elections by etcd are not supported yet by this version; the Lease is used"}},
		{"a value that is none", given{environ: []string{"vip_loseleadership=30"}},
			[]string{"vip_loseleadership: ignored: loss of carrier always counts as unhealthy"}},
		{"unsupported everywhere", given{args: []string{"--autodetectcp", "--egressWithNftables=false"}, environ: []string{"vip_skipdad=yes"}, file: map[string]any{"ETCD": map[string]any{"endpoints": []string{"a"}}, "singleNode": true}}, []string{
			"--autodetectcp: ignored: the local API server is always tried first",
			"--egressWithNftables: ignored: egress rules are not supported yet by this version",
			"vip_skipdad: ignored: duplicate address detection is always off for VIPs",
			"ETCD in FILE: ignored: elections by etcd are not supported yet by this version; the Lease is used",
			"singleNode in FILE: ignored: this setting never had an effect",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := test.given.load(t)
			if (err != nil) != (test.given.text != "") {
				t.Fatal(err)
			}
			got := slices.Clone(l.Warnings)
			for i := range got {
				if file := l.Origin("config-file"); file.Layer == LayerFlag {
					got[i] = hideFile(got[i])
				}
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// hideFile puts FILE in place of the config file's path in a message.
func hideFile(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if path := strings.TrimRight(w, ":;,"); filepath.Base(path) == "config.yaml" {
			words[i] = "FILE" + w[len(path):]
		}
	}
	return strings.Join(words, " ")
}

// Every name that is accepted without being acted on loads with any value, and is named as it was spelt.
func TestUnsupportedNames(t *testing.T) {
	for _, u := range UnsupportedSettings() {
		for _, name := range u.Flags {
			t.Run("--"+name, func(t *testing.T) {
				l := given{args: []string{"--" + name + "=certainly"}}.mustLoad(t)
				if diff := cmp.Diff([]string{"--" + name + ": " + u.Why}, l.Warnings); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if u.Bool {
					given{args: []string{"--" + name}}.mustLoad(t)
				}
			})
		}
		for _, name := range u.Env {
			t.Run(name, func(t *testing.T) {
				for _, value := range []string{"", "certainly"} {
					l := given{environ: []string{name + "=" + value}}.mustLoad(t)
					if diff := cmp.Diff([]string{name + ": " + u.Why}, l.Warnings); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
			})
		}
		for _, name := range u.Keys {
			t.Run(name+" in a file", func(t *testing.T) {
				l := given{file: map[string]any{name: map[string]any{"a": []any{1}}}}.mustLoad(t)
				if len(l.Warnings) != 1 || !strings.HasPrefix(l.Warnings[0], name+" in ") || !strings.HasSuffix(l.Warnings[0], u.Why) {
					t.Errorf("want one warning of %s, got %q", name, l.Warnings)
				}
			})
		}
	}
}

func TestEverySpelling(t *testing.T) {
	for _, s := range Settings() {
		want := s.Value(&Config{})
		if err := want.Set(s.Example); err != nil {
			t.Fatal(err)
		}
		check := func(name string, g given) {
			t.Helper()
			if got := valueOf(t, g.mustLoad(t), s.Name); got != want.String() {
				t.Errorf("%s: want %q, got %q", name, want, got)
			}
		}
		for _, name := range s.flags() {
			check("--"+name, given{args: []string{"--" + name + "=" + s.Example}})
		}
		for _, name := range s.Env {
			check(name, given{environ: []string{name + "=" + s.Example}})
		}
		for _, key := range s.keys() {
			for _, spelling := range []string{key, strings.ToUpper(key), strings.ToLower(key)} {
				check(spelling, given{file: map[string]any{spelling: s.Example}})
			}
		}
	}
}

func TestFlags(t *testing.T) {
	t.Run("a switch", func(t *testing.T) {
		if !(given{args: []string{"--arp", "--vip", "10.0.0.1"}}).mustLoad(t).Config.ARP.Enable {
			t.Error("--arp did not turn ARP on")
		}
	})
	t.Run("a shorthand", func(t *testing.T) {
		if got := (given{args: []string{"-n", "x"}}).mustLoad(t).Config.Kubernetes.Namespace; got != "x" {
			t.Errorf("namespace %q", got)
		}
	})
	t.Run("a list in pieces", func(t *testing.T) {
		l := given{args: []string{"--address=10.0.0.1", "--address=10.0.0.2,10.0.0.3", "--vipAllowedRanges=10.0.0.0/8", "--vipAllowedRanges=fd00::/8", "--bgppeers=10.1.0.1:1", "--bgppeers=10.1.0.2:2", "--bgpCommunities=1:1", "--bgpCommunities=2:2"}}.mustLoad(t)
		if diff := cmp.Diff([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, l.Config.ControlPlane.Addresses); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := valueOf(t, l, "vipAllowedRanges"); got != "10.0.0.0/8,fd00::/8" {
			t.Errorf("ranges %q", got)
		}
		if got := l.Config.BGP.Peers; got != "10.1.0.1:1,10.1.0.2:2" {
			t.Errorf("peers %q", got)
		}
		if got := valueOf(t, l, "bgpCommunities"); got != "1:1,2:2" {
			t.Errorf("communities %q", got)
		}
	})
	t.Run("the last of a plain flag", func(t *testing.T) {
		if got := (given{args: []string{"--port=1", "--port=2"}}).mustLoad(t).Config.ControlPlane.Port; got != 2 {
			t.Errorf("port %d", got)
		}
	})
	t.Run("help", func(t *testing.T) {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		AddFlags(fs)
		help := fs.FlagUsages()
		for _, s := range append(Settings(), configFileSetting()) {
			if !strings.Contains(help, "--"+s.Name) || !strings.Contains(help, "[env "+s.Env[0]+"]") {
				t.Errorf("help does not tell of --%s", s.Name)
			}
			for _, alias := range s.Aliases {
				if strings.Contains(help, "--"+alias+" ") {
					t.Errorf("help tells of the older --%s", alias)
				}
			}
		}
		if strings.Contains(help, "--wireguard") {
			t.Error("help tells of --wireguard, which is not supported")
		}
	})
}

func TestConfigFile(t *testing.T) {
	t.Run("kinds of values", func(t *testing.T) {
		l := given{text: `
# comment
---
address: [10.0.0.10, vip.example.com]
arp: true
port: 8443
arpRate: 1000
controlPlaneHealthCheckPeriodSeconds: 0.5
leaseAnnotations: {team: net, "a/b": c}
prometheusServer: ""
vipSubnet: 32,128
healthCheckPort: 0
vipAllowedRanges: [10.0.0.0/24, "fd00::/64"]
bgpPeers: [10.0.0.1:65000::false, "[2001:db8::1]:65000"]
bgpCommunities: [65000:100, no-export]
bgpCommunityNames: {backup: 65000:50}
servicesPools: on
lbClassName: ""
interface:
`}.mustLoad(t)
		want := given{args: []string{
			"--address=10.0.0.10,vip.example.com", "--arp", "--port=8443", "--arpRate=1000", "--controlPlaneHealthCheckPeriodSeconds=0.5",
			`--leaseAnnotations={"team":"net","a/b":"c"}`, "--prometheusHTTPServer=", "--vipSubnet=32,128", "--healthCheckPort=0",
			"--vipAllowedRanges=10.0.0.0/24,fd00::/64", "--servicesPools=on", "--lbClassName=",
			"--bgppeers=10.0.0.1:65000::false,[2001:db8::1]:65000", "--bgpCommunities=65000:100,no-export", "--bgpCommunityNames=backup=65000:50",
		}}.mustLoad(t)
		if diff := sameConfig(want.Config, l.Config); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if l.Origin("interface").IsSet() {
			t.Error("a key without a value counts as set")
		}
	})
	t.Run("named by the environment", func(t *testing.T) {
		for _, ext := range []string{"json", "yml", "YAML"} {
			path := filepath.Join(t.TempDir(), "c."+ext)
			if err := os.WriteFile(path, []byte(`{"port": 1}`), 0o600); err != nil {
				t.Fatal(err)
			}
			l := given{environ: []string{"config_file=" + path}}.mustLoad(t)
			if l.Config.ControlPlane.Port != 1 {
				t.Errorf("%s was not read", path)
			}
		}
	})
	for _, empty := range []string{"# only a comment\n", "{}", "null", "---\n"} {
		t.Run("empty "+empty, func(t *testing.T) {
			given{text: empty}.mustLoad(t)
		})
	}
	for _, test := range []struct{ name, text, want string }{
		{"unknown key", "adress: 10.0.0.1", "adress in FILE: there is no setting of this name; did you mean address?"},
		{"key that is a variable", "vip_interface: eth0", "vip_interface in FILE: there is no setting of this name; did you mean interface?"},
		{"foreign key", "kindOfBlue: x", "kindOfBlue in FILE: there is no setting of this name"},
		{"config file in itself", "config-file: x", "config-file in FILE: there is no setting of this name"},
		{"two unknown keys", "aarp: true\nprot: 1", "aarp in FILE: there is no setting of this name; did you mean arp?\nprot in FILE: there is no setting of this name; did you mean port?"},
		{"duplicate", "port: 1\nport: 2", `--config-file: read config file FILE: yaml: unmarshal errors: line 2: key "port" already set in map`},
		{"two spellings", "arp: true\nenableARP: false", "arp and enableARP in FILE are the same setting; keep one of them"},
		{"two cases", "arp: true\nARP: false", "ARP and arp in FILE are the same setting; keep one of them"},
		{"bad value", "port: many", `port in FILE: "many" is not a whole number from 1 to 65535`},
		{"a list for one value", "port: [1, 2]", `port in FILE: "1,2" is not a whole number from 1 to 65535`},
		{"a list of lists", "address: [[a]]", `--config-file: read config file FILE: key "address": want a list of plain values`},
		{"not a mapping", "- a", "--config-file: read config file FILE: want a mapping of settings to values at the top"},
		{"not YAML", "a: b: c", "--config-file: read config file FILE: yaml: mapping values are not allowed in this context"},
		{"two documents", "port: 1\n---\nport: 2", "--config-file: read config file FILE: there is more than one YAML document"},
		{"too big", "# " + strings.Repeat("x", maxFile), "--config-file: read config file FILE: it has more than 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := given{text: test.text}.load(t)
			if err == nil {
				t.Fatal("no error")
			}
			var got []string
			for line := range strings.Lines(err.Error()) {
				got = append(got, hideFile(line))
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		_, err := given{environ: []string{"config_file=/does/not/exist.yaml"}}.load(t)
		if want := "config_file: read config file: open /does/not/exist.yaml: no such file or directory"; err == nil || err.Error() != want {
			t.Errorf("want %q, got %v", want, err)
		}
	})
	t.Run("extension", func(t *testing.T) {
		_, err := given{args: []string{"--config-file=/etc/kube-vip.conf"}}.load(t)
		if want := "--config-file: read config file /etc/kube-vip.conf: want a name that ends in .yaml, .yml or .json"; err == nil || err.Error() != want {
			t.Errorf("want %q, got %v", want, err)
		}
	})
}

// A mistake in one place does not hide another, and what could be read is there.
func TestLoadReportsEverything(t *testing.T) {
	l, err := given{
		args:    []string{"--port=0", "--address=10.0.0.300,10.0.0.1/24"},
		environ: []string{"vip_leaseduration=x", "vip_renewdeadline=1.5", "vip_interface=eth0"},
		file:    map[string]any{"arp": "perhaps", "prot": 1},
	}.load(t)
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		"prot in FILE: there is no setting of this name; did you mean port?",
		`--address: "10.0.0.300" is neither an IP address nor a DNS name; "10.0.0.1/24" is not an address: write 10.0.0.1, and the prefix length as --vipSubnet (env vip_subnet)`,
		`--port: "0" is not a whole number from 1 to 65535`,
		`arp in FILE: "perhaps" is not true or false`,
		`vip_leaseduration: "x" is not a whole number of seconds from 1 to 86400`,
		`vip_renewdeadline: "1.5" is not a whole number of seconds from 1 to 86400`,
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		got = append(got, hideFile(line))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if l.Config.Network.Interface != "eth0" || l.Config.ControlPlane.Port != 6443 {
		t.Errorf("what could be read is not there: %+v", l.Config)
	}
	// Nothing is said of what could not be read, other than that it could not.
	if err := l.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
}

// What a file that cannot be read may hold is not missed.
func TestValidateAfterUnreadFile(t *testing.T) {
	for _, text := range []string{"a: b: c", "adress: 10.0.0.10"} {
		l, err := given{text: text, args: []string{"--arp"}}.load(t)
		if err == nil {
			t.Fatal("no error")
		}
		if err := l.Validate(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	l, _ := given{text: "adress: 10.0.0.10", args: []string{"--arp", "--bgp"}}.load(t)
	if err := l.Validate(); err == nil || !strings.HasPrefix(err.Error(), "--arp=true and --bgp=true exclude each other") {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	l := given{environ: []string{"bgp_peerpass=s3cret", "bgp_peers=10.0.0.1:65000:s3cret:false,[2001:db8::1]:1:s3cret,unnumbered:eth0:1:s3cret"}}.mustLoad(t)
	for _, e := range l.Effective() {
		if strings.Contains(e.Value, "s3cret") {
			t.Errorf("%s shows %q", e.Setting.Name, e.Value)
		}
		if e.Setting.Name == "bgppeers" && e.Value != "10.0.0.1:65000:***:false,[2001:db8::1]:1:***,unnumbered:eth0:1:***" {
			t.Errorf("peers are shown as %q", e.Value)
		}
		if e.Setting.Name == "peerPass" && e.Value != "***" {
			t.Errorf("the password is shown as %q", e.Value)
		}
	}
	_, err := given{environ: []string{"bgp_peers=10.0.0.1:x:s3cret,s3cret,[s3cret]:1,10.0.0.1:1:s3cret:perhaps,10.0.0.1:1:s3cret:true:x"}}.load(t)
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("want an error without the password, got %v", err)
	}
}

func TestSupply(t *testing.T) {
	l := given{args: []string{"--arp", "--port=8443"}}.mustLoad(t)
	if err := l.Supply("address", "10.0.0.10", "controlPlaneEndpoint of kubeadm.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := l.Supply("port", "1", "controlPlaneEndpoint of kubeadm.yaml"); err != nil {
		t.Fatal(err)
	}
	if !l.Config.ControlPlane.Enable || l.Config.ControlPlane.Port != 8443 || !slices.Equal(l.Config.ControlPlane.Addresses, []string{"10.0.0.10"}) {
		t.Errorf("got %+v", l.Config.ControlPlane)
	}
	if got := l.Origin("address").String(); got != "derived: controlPlaneEndpoint of kubeadm.yaml" {
		t.Errorf("origin %q", got)
	}
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
	if len(l.Warnings) > 0 {
		t.Errorf("warnings: %q", l.Warnings)
	}
	if err := l.Supply("interface", "a/b", "kubeadm.yaml"); err == nil || err.Error() != `kubeadm.yaml: "a/b" is not the name of an interface` {
		t.Errorf("got %v", err)
	}
	if err := l.Supply("adress", "10.0.0.10", "kubeadm.yaml"); err == nil {
		t.Error("an unknown setting was supplied")
	}
}

// A warning holds of what there is when everything is supplied.
func TestSupplySettlesWarnings(t *testing.T) {
	const older = "--arpRate=100 is below the minimum of 500 ms; 3000 is used"
	l := given{args: []string{"--services", "--arp", "--arpRate=100"}}.mustLoad(t)
	for _, step := range []struct {
		setting, value string
		want           []string
	}{
		{"address", "10.0.0.10", []string{older, "kubeadm has no effect: beside --services=true the control plane's VIP needs --controlplane (env cp_enable=true)"}},
		{"controlplane", "true", []string{older}},
	} {
		if err := l.Supply(step.setting, step.value, "kubeadm"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, l.Warnings); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", step.setting, diff)
		}
	}
}

func TestBits(t *testing.T) {
	l := func(subnet string) Network {
		return given{args: []string{"--vipSubnet=" + subnet}}.mustLoad(t).Config.Network
	}
	for _, test := range []struct {
		subnet    string
		four, six int
	}{
		{"", 32, 128}, {"32", 32, 128}, {"/24", 24, 128}, {"64", 32, 64}, {"24,64", 24, 64}, {" /24 , /32 ", 24, 32}, {"128", 32, 128},
	} {
		n := l(test.subnet)
		if four, six := n.Bits(addr("10.0.0.1")), n.Bits(addr("2001:db8::1")); four != test.four || six != test.six {
			t.Errorf("%q: want %d and %d, got %d and %d", test.subnet, test.four, test.six, four, six)
		}
	}
}

// The environments of manifests that users have are read as they are.
func TestManifestsOfUsers(t *testing.T) {
	files, err := filepath.Glob("testdata/daemonset-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var vars []struct{ Name, Value string }
			if err := yaml.UnmarshalStrict(data, &vars); err != nil {
				t.Fatal(err)
			}
			var g given
			for _, v := range vars {
				g.environ = append(g.environ, v.Name+"="+v.Value)
			}
			l := g.mustLoad(t)
			var b strings.Builder
			for _, w := range l.Warnings {
				fmt.Fprintf(&b, "warning: %s\n", w)
			}
			if err := l.Validate(); err != nil {
				fmt.Fprintf(&b, "invalid: %v\n", err)
			}
			for _, e := range l.Effective() {
				if e.Origin.IsSet() {
					fmt.Fprintf(&b, "%s = %q (%s)\n", e.Setting.Name, e.Value, e.Origin)
				}
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden", b.String())
		})
	}
}

func TestMarkdown(t *testing.T) {
	doc := Markdown()
	golden(t, "../../docs/settings.md", doc)
	for _, s := range append(Settings(), configFileSetting()) {
		for _, name := range slices.Concat(s.Env, s.keys()) {
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("%s is not documented", name)
			}
		}
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is not up to date, see -update (-want +got):\n%s", path, diff)
	}
}

func TestNearest(t *testing.T) {
	names := map[string]string{}
	for _, name := range []string{"address", "arp", "port", "leaseDuration", "leaseName"} {
		names[name] = name
	}
	for given, want := range map[string]string{
		"adress": "address", "ARP": "arp", "prot": "port", "lease-duration": "leaseDuration", "leaseDuratoin": "leaseDuration",
		"leasename": "leaseName", "x": "", "interface": "", "ar": "arp", "lease": "", "host": "",
	} {
		if got := nearest(given, names); got != want {
			t.Errorf("%s: want %q, got %q", given, want, got)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "ab", 1}, {"kitten", "sitting", 3}, {"ab", "ba", 1},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q, %q: want %d, got %d", test.a, test.b, test.want, got)
		}
	}
}

func TestSettingsAreFresh(t *testing.T) {
	a := Settings()
	for i := range a {
		a[i].Env[0] = "spoilt"
		clear(a[i].Enum)
	}
	if slices.ContainsFunc(Settings(), func(s Setting) bool { return s.Env[0] == "spoilt" || slices.Contains(s.Enum, "") }) {
		t.Error("a caller can change the table")
	}
}

// TestShared: what is one node's own is not handed on, and of what is secret only the name.
func TestShared(t *testing.T) {
	l, err := Load(nil, []string{
		"address=10.0.0.10", "bgp_enable=true", "bgp_as=65000", "bgp_routerid=192.0.2.11", "bgp_sourceip=192.0.2.11", "vip_nodename=cp1", "instance_name=a",
		"bgp_peers=192.0.2.1:65001:s3cret:false", "bgp_peerpass=s3cret", "vip_interface=eth0", "control_plane_health_check_address=https://u:s3cret@127.0.0.1:6443/livez",
	})
	if err != nil {
		t.Fatal(err)
	}
	values, secrets, own := l.Shared()
	if diff := cmp.Diff([]string{"controlPlaneHealthCheckAddress", "bgppeers", "peerPass"}, secrets); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bgpRouterID", "sourceIP"}, own); diff != "" {
		t.Errorf("one node's own (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"address": "10.0.0.10", "bgp": "true", "localAS": "65000", "interface": "eth0", "port": "6443", "bgpRouterID": "", "sourceIP": "", "nodeName": "", "instanceName": ""} {
		if got, is := values[name]; got != want || is != (want != "") {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name, value := range values {
		if strings.Contains(value, "s3cret") {
			t.Errorf("%s=%s has a password", name, value)
		}
	}
	if l, err = Load(nil, []string{"bgp_peers=192.0.2.1:65001"}); err != nil {
		t.Fatal(err)
	}
	if values, secrets, own = l.Shared(); len(secrets)+len(own) > 0 || values["bgppeers"] != "192.0.2.1:65001" {
		t.Errorf("peers without a password: %q, secrets %q", values["bgppeers"], secrets)
	}
}

// TestOwn: what means one node is not for another, whatever the setting is.
func TestOwn(t *testing.T) {
	for setting, own := range map[string]bool{
		"mpbgpIPv4=192.0.2.1":   true,
		"mpbgpIPv6=2001:db8::1": true,
		"mpbgpNexthop=fixed":    false,
		"controlPlaneHealthCheckAddress=https://127.0.0.1:6443/livez": false,
		"controlPlaneHealthCheckAddress=https://[::1]/livez":          false,
		"controlPlaneHealthCheckAddress=https://localhost:6443/livez": false,
		"controlPlaneHealthCheckAddress=https://10.0.0.11/livez":      true,
		"controlPlaneHealthCheckAddress=https://cp1:6443/livez":       true,
		"kubernetesAddr=":                   false,
		"kubernetesAddr=::1":                false,
		"kubernetesAddr=[fd00::11]":         true,
		"kubernetesAddr=127.0.0.1:7443":     false,
		"kubernetesAddr=10.0.0.11":          true,
		"kubernetesAddr=https://cp1":        true,
		"prometheusHTTPServer=":             false,
		"prometheusHTTPServer=:2112":        false,
		"prometheusHTTPServer=[::]:2112":    false,
		"prometheusHTTPServer=0.0.0.0:2112": false,
		"prometheusHTTPServer=10.0.0.11:1":  true,
		"k8sConfigPath=" + adminConf:        false,
		"k8sConfigPath=/root/.kube/config":  true,
		"interface=eth0":                    false,
	} {
		name, value, _ := strings.Cut(setting, "=")
		l, err := Load(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Supply(name, value, "the test"); err != nil {
			t.Fatal(err)
		}
		values, _, list := l.Shared()
		if _, is := values[name]; is == own || slices.Contains(list, name) != own {
			t.Errorf("%s: handed out %t, listed %q; it is one node's: %t", setting, is, list, own)
		}
	}
}

func TestRedactURL(t *testing.T) {
	for url, want := range map[string]string{
		"":                                 "",
		"https://10.0.0.11:6443/livez":     "https://10.0.0.11:6443/livez",
		"https://a/livez?verbose=1&a=b@c":  "https://a/livez?verbose=1&a=b@c",
		"https://u:s3cret@10.0.0.11/livez": "https://***@10.0.0.11/livez",
		"https://u@[fd00::11]:6443":        "https://***@[fd00::11]:6443",
		"https://u:s3c@ret@a/b@c":          "https://***@a/b@c",
		"https//u:s3cret@a":                "***@a",
		"https://u:s3/cret@a":              "***@a",
	} {
		if got := redactURL(url); got != want {
			t.Errorf("%s is shown as %s, want %s", url, got, want)
		}
	}
}
