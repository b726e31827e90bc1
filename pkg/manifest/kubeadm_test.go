package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// haConfig is what somebody would write for `kubeadm init` with the VIP 10.0.0.10.
const haConfig = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: 192.0.2.1
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: 10.0.0.10:6443
networking:
  podSubnet: 10.244.0.0/16,fd00:10:244::/56
  serviceSubnet: 10.96.0.0/12,fd00:10:96::/112
apiServer:
  certSANs: [fd00::10, k8s.example.com, "*.vip.example.com", 10.244.0.5, 10.96.0.1, "fd00:10:244::5"]
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
thisIsNotOurs: true
`

const joinConfig = `apiVersion: kubeadm.k8s.io/v1
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: "[fd00::10]:8443"
    token: abcdef.0123456789abcdef
    unsafeSkipCAVerification: true
controlPlane:
  localAPIEndpoint:
    advertiseAddress: fd00::1
    bindPort: 8443
`

func TestKubeadmEndpoint(t *testing.T) {
	with := func(config string, oldnew ...string) string {
		t.Helper()
		changed := strings.NewReplacer(oldnew...).Replace(config)
		if changed == config {
			t.Fatalf("none of %q is in the file", oldnew)
		}
		return changed
	}
	type result struct {
		Addresses []string
		Port      uint16
		Err       string
	}
	given := func(addresses ...string) Asked { return Asked{Addresses: addresses, AddressesFrom: "--address"} }
	givenPort := func(port uint16) Asked { return Asked{Port: port, PortFrom: "--port"} }
	lines := func(s ...string) string { return strings.Join(s, "\n") }

	tests := []struct {
		name  string
		file  string
		asked Asked
		want  result
	}{
		{name: "init", file: haConfig, want: result{Addresses: []string{"10.0.0.10"}, Port: 6443}},
		{name: "v1", file: strings.ReplaceAll(haConfig, "v1beta4", "v1"), want: result{Addresses: []string{"10.0.0.10"}, Port: 6443}},
		{name: "JSON", file: `{"apiVersion":"kubeadm.k8s.io/v1","kind":"ClusterConfiguration","controlPlaneEndpoint":"10.0.0.10"}`, want: result{Addresses: []string{"10.0.0.10"}}},
		{name: "same address given", file: haConfig, asked: given("10.0.0.10"), want: result{Addresses: []string{"10.0.0.10"}, Port: 6443}},
		{name: "second address in certSANs", file: haConfig, asked: given("10.0.0.10", "FD00:0::10"), want: result{Addresses: []string{"10.0.0.10", "FD00:0::10"}, Port: 6443}},
		{name: "name by a wildcard", file: haConfig, asked: given("a.vip.example.com"), want: result{Addresses: []string{"a.vip.example.com"}, Port: 6443}},
		{name: "name in another case", file: haConfig, asked: given("K8S.example.com"), want: result{Addresses: []string{"K8S.example.com"}, Port: 6443}},
		{name: "endpoint without a port", file: with(haConfig, "10.0.0.10:6443", "10.0.0.10"), want: result{Addresses: []string{"10.0.0.10"}, Port: 6443}},
		{name: "endpoint without a port and another bindPort", file: with(haConfig, "10.0.0.10:6443", "10.0.0.10", "advertiseAddress: 192.0.2.1", "bindPort: 7443"), want: result{Addresses: []string{"10.0.0.10"}, Port: 7443}},
		{name: "name as endpoint", file: with(haConfig, "10.0.0.10:6443", "k8s.example.com:6443"), want: result{Addresses: []string{"k8s.example.com"}, Port: 6443}},
		{name: "bare IPv6 endpoint", file: with(haConfig, "10.0.0.10:6443", `"fd00::a"`), want: result{Addresses: []string{"fd00::a"}, Port: 6443}},
		{name: "bracketed IPv6 endpoint", file: with(haConfig, "10.0.0.10:6443", `"[fd00::a]"`), want: result{Addresses: []string{"fd00::a"}, Port: 6443}},
		{name: "external load balancer keeps its port", file: with(haConfig, "10.0.0.10:6443", "lb.example.com:443"), asked: given("fd00::10"), want: result{Addresses: []string{"fd00::10"}, Port: 6443}},
		{name: "join", file: joinConfig, want: result{Addresses: []string{"fd00::10"}, Port: 8443}},
		{name: "join knows no certSANs", file: joinConfig, asked: given("10.0.0.10"), want: result{Addresses: []string{"10.0.0.10"}, Port: 8443}},

		{
			name: "VIP missing from certSANs", file: haConfig, asked: given("10.0.0.11", "10.0.0.10"),
			want: result{Err: "apiServer.certSANs lacks 10.0.0.11 (--address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it"},
		},
		{
			name: "wildcard is one label", file: haConfig, asked: given("a.b.vip.example.com"),
			want: result{Err: "apiServer.certSANs lacks a.b.vip.example.com (--address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it"},
		},
		{
			name: "wildcard is for names", file: with(haConfig, "k8s.example.com", `"*.0.0.20"`), asked: given("10.0.0.20"),
			want: result{Err: "apiServer.certSANs lacks 10.0.0.20 (--address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it"},
		},
		{
			name: "VIP is the node's own", file: haConfig, asked: given("192.0.2.1"),
			want: result{Err: "localAPIEndpoint.advertiseAddress is 192.0.2.1, the virtual IP (--address): want an address of this node alone"},
		},
		{
			name: "endpoint is the node's own, join", file: with(joinConfig, "advertiseAddress: fd00::1", "advertiseAddress: fd00:0::10"),
			want: result{Err: "controlPlane.localAPIEndpoint.advertiseAddress is fd00:0::10, the virtual IP (discovery.bootstrapToken.apiServerEndpoint): want an address of this node alone"},
		},
		{
			name: "VIP in podSubnet", file: haConfig, asked: given("10.244.0.5"),
			want: result{Err: "networking.podSubnet 10.244.0.0/16 contains 10.244.0.5 (--address): the virtual IP must be outside the cluster's own networks"},
		},
		{
			name: "VIP in the second podSubnet", file: haConfig, asked: given("fd00:10:244::5"),
			want: result{Err: "networking.podSubnet fd00:10:244::/56 contains fd00:10:244::5 (--address): the virtual IP must be outside the cluster's own networks"},
		},
		{
			name: "VIP in serviceSubnet", file: haConfig, asked: given("10.96.0.1"),
			want: result{Err: "networking.serviceSubnet 10.96.0.0/12 contains 10.96.0.1 (--address): the virtual IP must be outside the cluster's own networks"},
		},
		{
			name: "VIP in kubeadm's default serviceSubnet", file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: 10.100.0.1\n",
			want: result{Err: "networking.serviceSubnet 10.96.0.0/12 contains 10.100.0.1 (controlPlaneEndpoint): the virtual IP must be outside the cluster's own networks"},
		},
		{
			name: "port disagrees with the endpoint", file: haConfig, asked: givenPort(8443),
			want: result{Err: "--port is 8443, but controlPlaneEndpoint is 10.0.0.10:6443: clients would ask the virtual IP at port 6443"},
		},
		{
			name: "endpoint disagrees with bindPort", file: with(haConfig, "10.0.0.10:6443", "10.0.0.10:8443"),
			want: result{Err: "controlPlaneEndpoint is 10.0.0.10:8443, but localAPIEndpoint.bindPort is 6443: nothing would answer at the virtual IP's port 8443"},
		},
		{
			name: "port disagrees with bindPort", file: haConfig, asked: Asked{Addresses: []string{"fd00::10"}, AddressesFrom: "address", Port: 8443, PortFrom: "port"},
			want: result{Err: "port is 8443, but localAPIEndpoint.bindPort is 6443: nothing would answer at the virtual IP's port 8443"},
		},
		{
			name: "bindPort is none", file: with(haConfig, "advertiseAddress: 192.0.2.1", "bindPort: 70000"),
			want: result{Err: "localAPIEndpoint.bindPort 70000 is not a port (want 1 to 65535)"},
		},
		{
			name: "all at once", file: haConfig,
			asked: Asked{Addresses: []string{"192.0.2.1", "10.0.0.10", "10.97.0.1"}, AddressesFrom: "--address", Port: 1, PortFrom: "--port"},
			want: result{Err: lines(
				"--port is 1, but controlPlaneEndpoint is 10.0.0.10:6443: clients would ask the virtual IP at port 6443",
				"localAPIEndpoint.advertiseAddress is 192.0.2.1, the virtual IP (--address): want an address of this node alone",
				"apiServer.certSANs lacks 10.97.0.1 (--address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it",
				"networking.serviceSubnet 10.96.0.0/12 contains 10.97.0.1 (--address): the virtual IP must be outside the cluster's own networks",
			)},
		},
		{
			name: "no endpoint", file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n",
			want: result{Err: "controlPlaneEndpoint is not set: set it to the virtual IP, or give --address"},
		},
		{
			name: "no ClusterConfiguration, no certSANs", file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n", asked: given("10.0.0.10"),
			want: result{Err: "apiServer.certSANs lacks 10.0.0.10 (--address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it"},
		},
		{
			name: "join by file", file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ndiscovery:\n  file:\n    kubeConfigPath: /x\n",
			want: result{Err: "discovery.file does not say the control plane's address: give --address"},
		},
		{
			name: "join without discovery", file: "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n",
			want: result{Err: "discovery.bootstrapToken.apiServerEndpoint is not set: set it to the virtual IP, or give --address"},
		},
		{
			name: "endpoint with a bad port", file: with(haConfig, "10.0.0.10:6443", "10.0.0.10:0"),
			want: result{Err: `controlPlaneEndpoint "10.0.0.10:0": "0" is not a port (want 1 to 65535)`},
		},
		{
			name: "endpoint is a URL", file: with(haConfig, "10.0.0.10:6443", "https://10.0.0.10"),
			want: result{Err: `controlPlaneEndpoint "https://10.0.0.10": want an IP address or a DNS name, with an optional port: 10.0.0.10:6443, [fd00::10]:6443 or k8s.example.com:6443`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file, err := ParseKubeadm([]byte(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			var got result
			got.Addresses, got.Port, err = file.Endpoint(tt.asked)
			if err != nil {
				got = result{Err: text(err)}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Endpoint(%+v) (-want +got):\n%s", tt.asked, diff)
			}
		})
	}
}

func TestParseKubeadmRefuses(t *testing.T) {
	cluster := "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
	tests := []struct {
		name, file, want string
	}{
		{name: "nothing", file: "", want: "no InitConfiguration, ClusterConfiguration or JoinConfiguration in it"},
		{name: "comments", file: "# nothing\n---\n# at all\n", want: "no InitConfiguration, ClusterConfiguration or JoinConfiguration in it"},
		{
			name: "other programs only", file: "apiVersion: v1\nkind: Pod\n---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: ResetConfiguration\n",
			want: "no InitConfiguration, ClusterConfiguration or JoinConfiguration in it, only Pod, ResetConfiguration",
		},
		{
			name: "kubeconfig", file: "apiVersion: v1\nkind: Config\n",
			want: "this is a kubeconfig (kind: Config); want kubeadm's configuration, with an InitConfiguration, ClusterConfiguration or JoinConfiguration",
		},
		{
			name: "old version", file: "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: 10.0.0.10\n",
			want: "document 1, ClusterConfiguration: apiVersion kubeadm.k8s.io/v1beta3 is not supported, kubeadm.k8s.io/v1beta4 and kubeadm.k8s.io/v1 are; `kubeadm config migrate --old-config FILE` rewrites older ones",
		},
		{name: "misspelt kind", file: "apiVersion: kubeadm.k8s.io/v1\nkind: ClusterConfig\n", want: "document 1, ClusterConfig: kubeadm.k8s.io/v1 knows no such kind"},
		{
			name: "no kind", file: cluster + "---\ncontrolPlaneEndpoint: 10.0.0.10\n",
			want: "document 2: apiVersion and kind must both be given, apiVersion: kubeadm.k8s.io/v1beta4 and kind: ClusterConfiguration for example",
		},
		{
			name: "unknown fields, all of them", file: cluster + "controlPlaneEndpont: 10.0.0.10\napiServer:\n  certSans: []\n---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalApiEndpoint: {}\n",
			want: "document 1, ClusterConfiguration: unknown field \"apiServer.certSans\"\n" +
				"document 1, ClusterConfiguration: unknown field \"controlPlaneEndpont\"\n" +
				"document 2, InitConfiguration: unknown field \"localApiEndpoint\"",
		},
		{name: "twice the same", file: cluster + "---\n" + cluster, want: "document 2: a second ClusterConfiguration; kubeadm takes one of each"},
		{
			name: "a list", file: "- a\n",
			want: "document 1: not a YAML or JSON object: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseKubeadm([]byte(tt.file))
			if diff := cmp.Diff(tt.want, text(err)); diff != "" {
				t.Errorf("ParseKubeadm error (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzParseKubeadm looks for files that crash, and for an address or port that no setting takes.
func FuzzParseKubeadm(f *testing.F) {
	f.Add([]byte(haConfig))
	f.Add([]byte(joinConfig))
	f.Add([]byte("apiVersion: kubeadm.k8s.io/v1\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: '[::ffff:10.0.0.10%eth0]:1'\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseKubeadm(data)
		if err != nil {
			return
		}
		addresses, _, err := file.Endpoint(Asked{})
		if err != nil {
			return
		}
		if len(addresses) != 1 || addresses[0] == "" || strings.ContainsAny(addresses[0], ", \t\n[]%") {
			t.Errorf("addresses %q of %q", addresses, data)
		}
	})
}

func TestKubeadmDiscovery(t *testing.T) {
	const head = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ncontrolPlane: {}\n"
	const token = "abcdef.0123456789abcdef"
	for name, c := range map[string]struct {
		file string
		want Discovery
	}{
		"by token": {head + "discovery: {bootstrapToken: {apiServerEndpoint: \"10.0.0.10:6443\", token: " + token + ", caCertHashes: [\"sha256:1\"]}}\n",
			Discovery{Endpoint: "10.0.0.10:6443", Token: token, Pins: []string{"sha256:1"}, User: token}},
		"by token, unsafe": {head + "discovery: {bootstrapToken: {apiServerEndpoint: \"10.0.0.10:6443\", token: " + token + ", unsafeSkipCAVerification: true}, tlsBootstrapToken: ghijkl.0123456789abcdef}\n",
			Discovery{Endpoint: "10.0.0.10:6443", Token: token, Unpinned: true, User: "ghijkl.0123456789abcdef"}},
		"by file": {head + "discovery: {file: {kubeConfigPath: \"file:///etc/discovery.conf\"}, tlsBootstrapToken: " + token + "}\n",
			Discovery{File: "/etc/discovery.conf", User: token}},
		"of no join": {"apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n", Discovery{}},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseKubeadm([]byte(c.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, k.Discovery()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestKubeadmProxy(t *testing.T) {
	const head = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: 10.0.0.10:6443\n---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
	for name, c := range map[string]struct {
		fields, mode string
		strict       bool
		err          string
	}{
		"nothing":       {},
		"ipvs":          {fields: "mode: ipvs\nclusterCIDR: 10.244.0.0/16\n", mode: "ipvs"},
		"ipvs, strict":  {fields: "mode: ipvs\nipvs: {strictARP: true, scheduler: rr}\n", mode: "ipvs", strict: true},
		"another shape": {fields: "mode: ipvs\nipvs: 1\n", err: "document 2, KubeProxyConfiguration: "},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseKubeadm([]byte(head + c.fields))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := k.Proxy(); p.Mode != c.mode || p.IPVS.StrictARP != c.strict {
				t.Errorf("%+v, want %+v", p, c)
			}
		})
	}
}
