package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kube-vip.io/kube-vip/pkg/config"
	"kube-vip.io/kube-vip/pkg/join"
	"kube-vip.io/kube-vip/pkg/preflight"
	"kube-vip.io/kube-vip/pkg/vip"
)

// calm is a machine in the network 192.0.2.0/24 on which nothing is in the way of anything.
type calm struct {
	mac       string // who answers for every address; empty for nobody
	processes []string
	manifests map[string]preflight.Manifest
}

var _ preflight.Host = calm{}

func (calm) Links() ([]vip.Link, error) {
	return []vip.Link{{Index: 2, Name: "eth0", Up: true, DefaultRoute4: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.11/24")}}}, nil
}

func (c calm) Probe(context.Context, string, netip.Addr) (net.HardwareAddr, error) {
	if c.mac == "" {
		return nil, nil
	}
	return net.ParseMAC(c.mac)
}

func (calm) Held() ([]netip.Addr, error)                               { return nil, nil }
func (calm) Sysctl(string) (string, error)                             { return "", fs.ErrNotExist }
func (calm) Listeners() ([]preflight.Listener, error)                  { return nil, nil }
func (c calm) Processes() ([]string, error)                            { return c.processes, nil }
func (c calm) Manifests(string) (map[string]preflight.Manifest, error) { return c.manifests, nil }
func (calm) File(string) error                                         { return fs.ErrNotExist }
func (calm) Writable(string) error                                     { return nil }
func (calm) Lacks() ([]string, error)                                  { return nil, nil }

// onMachine runs the program on a machine, with a cluster whose settings read returns.
func onMachine(t *testing.T, host preflight.Host, read func(context.Context, join.Source) (join.Handout, error), args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &program{stdout: &stdout, stderr: &stderr, build: releaseBuild(), host: host, read: read}
	code := p.execute(t.Context(), args)
	return result{Code: code, Stdout: stdout.String(), Stderr: stderr.String()}
}

// TestKubeadmLooksFirst: what would not work here is not written.
func TestKubeadmLooksFirst(t *testing.T) {
	const mac = "02:00:00:00:00:09"
	const stranger = "192.0.2.10 is answered for on eth0 by a host with the hardware address " + mac
	const refused = "error: nothing is written to FILE: kube-vip would not work here, see what is marked as an error above; --ignore-preflight-errors=%s goes on all the same\n"
	const written = "FILE is written; 8 checks found nothing in its way here"
	ipvs := filepath.Join(t.TempDir(), "kubeadm.yaml")
	writeFile(t, ipvs, readFile(t, docsDir+"/kubeadm.yaml")+"---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n")
	for name, c := range map[string]struct {
		host   calm
		args   string
		stderr []string // what is in it, in this order
		fails  bool
	}{
		"nothing is in the way": {args: "init --config testdata/docs/kubeadm.yaml --arp", stderr: []string{written + "\n"}},
		"a stranger": {host: calm{mac: mac}, args: "init --config testdata/docs/kubeadm.yaml --arp", fails: true,
			stderr: []string{"error    address       " + stranger + "\n", "fix: choose an address that nobody has", "this one joins it: kube-vip kubeadm join", fmt.Sprintf(refused, "address")}},
		"a stranger, and that is ignored": {host: calm{mac: mac}, args: "init --config testdata/docs/kubeadm.yaml --arp --ignore-preflight-errors Address",
			stderr: []string{"warning  address       " + stranger + " (an error that is ignored)\n", "fix: ", "FILE is written; 7 checks found nothing in its way here; see above for the others\n"}},
		"another program, and a stranger": {host: calm{mac: mac, manifests: map[string]preflight.Manifest{"a.yaml": {Images: []string{"keepalived"}}, "b.yaml": {Images: []string{"metallb"}}}}, args: "init --config testdata/docs/kubeadm.yaml --arp", fails: true,
			stderr: []string{fmt.Sprintf(refused, "address,others")}},
		"no such check": {args: "init --config testdata/docs/kubeadm.yaml --arp --ignore-preflight-errors=swap,port", fails: true,
			stderr: []string{`error: --ignore-preflight-errors: "swap" is not a check: want interface, address,`}},
		"another node holds it": {host: calm{mac: mac}, args: "join --config testdata/docs/join.yaml --arp --ignore-preflight-errors=all", stderr: []string{written}},
		"nobody holds it": {args: "join --config testdata/docs/join.yaml --arp",
			stderr: []string{"warning  address       nobody answers for 192.0.2.10 on eth0: kubeadm join could not reach", "FILE is written"}},
		"another time": {host: calm{mac: mac, processes: []string{"kube-vip"}, manifests: map[string]preflight.Manifest{"kube-vip.yaml": {Addresses: []string{"192.0.2.10"}}}}, args: "init --config testdata/docs/kubeadm.yaml --arp --log 0",
			stderr: []string{"warning  address       " + stranger + ": kube-vip runs here already", "FILE is written"}},
		"another address, and a stranger has it": {host: calm{mac: mac, processes: []string{"kube-vip"}, manifests: map[string]preflight.Manifest{"kube-vip.yaml": {Addresses: []string{"192.0.2.9"}}}}, args: "init --config testdata/docs/kubeadm.yaml --arp", fails: true,
			stderr: []string{"error    address       " + stranger + ", and the kube-vip that runs here has 192.0.2.9 instead\n", fmt.Sprintf(refused, "address")}},
		"IPVS and Services":                    {args: "init --config " + ipvs + " --arp --services", fails: true, stderr: []string{"error    kube-proxy    KubeProxyConfiguration says mode: ipvs", "write ipvs: {strictARP: true}", fmt.Sprintf(refused, "kube-proxy")}},
		"IPVS, no Services":                    {args: "init --config " + ipvs + " --arp", stderr: []string{written}},
		"a file is missing":                    {args: "init --config testdata/docs/kubeadm.yaml --arp --controlPlaneHealthCheckCAPath /srv/ca.crt", stderr: []string{"warning  manifest      --controlPlaneHealthCheckCAPath is /srv/ca.crt: ", "FILE is written; 7 checks"}},
		"a file is missing that kubeadm makes": {args: "init --config testdata/docs/kubeadm.yaml --arp --controlPlaneHealthCheckCAPath /etc/kubernetes/pki/ca.crt", stderr: []string{written + "\n"}},
		"settings are wrong":                   {host: calm{mac: mac}, args: "init --config testdata/docs/kubeadm.yaml", fails: true, stderr: []string{"error: nothing announces the VIP"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "kube-vip.yaml")
			nobody := func(context.Context, join.Source) (join.Handout, error) { return join.Handout{}, join.ErrNone }
			got := onMachine(t, c.host, nobody, append(append([]string{"kubeadm"}, strings.Fields(c.args)...), "--output", file)...)
			rest := strings.ReplaceAll(got.Stderr, file, "FILE")
			for _, want := range c.stderr {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Errorf("stderr lacks %q behind what comes before:\n%s", want, got.Stderr)
					continue
				}
				rest = after
			}
			_, err := os.Stat(file)
			if (got.Code != 0) != c.fails || (err != nil) != c.fails || got.Stdout != "" {
				t.Errorf("exit code %d, stdout %q, file %v; it is to fail: %t\n%s", got.Code, got.Stdout, err, c.fails, got.Stderr)
			}
			if c.fails {
				return
			}
			toStdout := onMachine(t, nil, nil, append([]string{"kubeadm"}, strings.Fields(c.args)...)...)
			said := ""
			if strings.Contains(c.args, "--ignore-preflight-errors") {
				said = "warning: --ignore-preflight-errors has no effect: without --output FILE this machine is not looked at\n"
			}
			if diff := cmp.Diff(toStdout.Stdout, readFile(t, file)); diff != "" || toStdout.Stderr != said {
				t.Errorf("stderr %q; the file is not what stdout shows (-stdout +file):\n%s", toStdout.Stderr, diff)
			}
		})
	}
}

// TestKubeadmJoinTakesTheClustersSettings compares with what `manifest pod` writes when it is given the same.
func TestKubeadmJoinTakesTheClustersSettings(t *testing.T) {
	const noSettings = "the settings could not be taken from the cluster: "
	version := releaseBuild().Version
	shared := func(more ...string) join.Handout {
		h := join.Handout{Version: version, Settings: map[string]string{"address": "192.0.2.10,fd00::10", "port": "6443", "controlplane": "true", "arp": "true", "leaderElection": "true", "leaseDuration": "10", "leaseRenewDuration": "7"}}
		for i := 0; i < len(more); i += 2 {
			h.Settings[more[i]] = more[i+1]
		}
		return h
	}
	secret := shared("bgp", "true", "localAS", "65000", "arp", "false")
	secret.Secrets = []string{"bgppeers"}
	ofOne := shared("kubernetesAddr", "10.0.0.11", "k8sConfigPath", "/etc/shadow")
	ofOne.Own = []string{"mpbgpIPv4"}
	odd := shared("x\x1b[2J", "1")
	odd.Version, odd.Secrets = "v1\x1b[2J", []string{"y\x1b[2J"}
	older := shared()
	older.Version = "v0.0.1"
	const same = "--controlplane --address 192.0.2.10,fd00::10 --arp --leaseDuration 10 --leaseRenewDuration 7"
	docs := join.Source{Endpoint: "192.0.2.10:6443", Token: "abcdef.0123456789abcdef", User: "abcdef.0123456789abcdef", Pins: []string{"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "discovery.conf")
	writeFile(t, kubeconfig, "apiVersion: v1\nkind: Config\n")
	byFile, byURL := filepath.Join(dir, "byfile.yaml"), filepath.Join(dir, "byurl.yaml")
	for file, at := range map[string]string{byFile: kubeconfig, byURL: "https://192.0.2.1/discovery.conf"} {
		writeFile(t, file, "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ncontrolPlane: {}\ndiscovery: {file: {kubeConfigPath: \""+at+"\"}, tlsBootstrapToken: abcdef.0123456789abcdef}\n")
	}
	for name, c := range map[string]struct {
		handout join.Handout
		err     error
		args    string
		asked   join.Source // how the cluster was asked; the zero value when it was not
		same    string      // the flags of `manifest pod`; empty when it fails
		stderr  string      // what is in it
	}{
		"all from the cluster": {handout: shared(), args: "--config testdata/docs/join.yaml", asked: docs, same: same},
		"by kubeadm's line":    {handout: shared(), args: "192.0.2.10:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash " + docs.Pins[0] + " --control-plane --certificate-key abc", asked: docs, same: same},
		"at another port": {handout: shared("port", "7443"), args: "192.0.2.10:7443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash " + docs.Pins[0],
			asked: join.Source{Endpoint: "192.0.2.10:7443", Token: docs.Token, User: docs.User, Pins: docs.Pins}, same: same + " --port 7443"},
		"flags count more":    {handout: shared(), args: "--config testdata/docs/join.yaml --leaseDuration 12 --interface eth0 --nodeName cp2", asked: docs, same: same + " --leaseDuration 12 --interface eth0 --nodeName cp2"},
		"by a discovery file": {handout: shared(), args: "--config " + byFile, asked: join.Source{Kubeconfig: kubeconfig, User: docs.User}, same: same},
		"by a URL":            {args: "--address 192.0.2.10 --arp --config " + byURL, same: "--controlplane --address 192.0.2.10 --arp", stderr: "warning: discovery.file is a URL: "},
		"by a kubeconfig":     {handout: shared(), args: "--kubeconfig " + kubeconfig, asked: join.Source{Kubeconfig: kubeconfig}, same: same},
		"of a newer version":  {handout: shared("warp", "9"), args: "--config testdata/docs/join.yaml", asked: docs, same: same, stderr: "warning: ConfigMap kube-system/kube-vip has \"warp\", which this version does not know: it is left out\n"},
		"of an older version": {handout: older, args: "--config testdata/docs/join.yaml", asked: docs, same: same, stderr: "warning: the others run kube-vip \"v0.0.1\", and the manifest has the image of this program, " + version},
		"one node's own":      {handout: shared("nodeName", "cp1"), args: "--config testdata/docs/join.yaml", asked: docs, same: same},
		"one node's own values": {handout: ofOne, args: "--config testdata/docs/join.yaml", asked: docs, same: same,
			stderr: "warning: the others have --mpbgpIPv4, of which each node needs its own, and it is not taken from the ConfigMap kube-system/kube-vip: give it here, if this node is to have it\n" +
				"warning: the others have --k8sConfigPath, of which"},
		"one node's own values are given": {handout: ofOne, args: "--config testdata/docs/join.yaml --kubernetesAddr 10.0.0.12", asked: docs, same: same + " --kubernetesAddr 10.0.0.12", stderr: "--k8sConfigPath"},
		"another mode, by BGP": {handout: shared(), args: "--config testdata/docs/join.yaml --bgp --bgppeers 192.0.2.1:65001", asked: docs, same: "--controlplane --address 192.0.2.10,fd00::10 --bgp --bgppeers 192.0.2.1:65001 --leaderElection --leaseDuration 10 --leaseRenewDuration 7",
			stderr: "warning: the others announce by --arp, and this node by --bgp: see that they are to differ\n"},
		"another mode, by ARP": {handout: shared("bgp", "true", "arp", "false"), args: "--config testdata/docs/join.yaml --arp", asked: docs, same: same, stderr: "warning: the others announce by --bgp, and this node by --arp"},
		"another node's address": {handout: shared(), args: "192.0.2.11:6443 --token abcdef.0123456789abcdef --discovery-token-unsafe-skip-ca-verification", asked: join.Source{Endpoint: "192.0.2.11:6443", Token: docs.Token, User: docs.User, Unpinned: true}, same: same,
			stderr: "warning: the endpoint 192.0.2.11 is none of the VIPs that the ConfigMap kube-system/kube-vip has, which this node is to hold: 192.0.2.10, fd00::10; --address gives others\n"},
		"a file to mount": {handout: shared("controlPlaneHealthCheckCAPath", "/srv/ca.crt"), args: "--config testdata/docs/join.yaml", asked: docs, same: same + " --controlPlaneHealthCheckCAPath /srv/ca.crt",
			stderr: "from the ConfigMap kube-system/kube-vip: --controlPlaneHealthCheckCAPath \"/srv/ca.crt\", a file of this machine that the Pod mounts\n"},
		"names that are no names": {handout: odd, args: "--config testdata/docs/join.yaml", asked: docs, same: same, stderr: `the others run kube-vip "v1\x1b[2J", and`},
		"a secret is missing":     {handout: secret, args: "--config testdata/docs/join.yaml", asked: docs, stderr: "warning: the others have --bgppeers, which is secret and not in the ConfigMap kube-system/kube-vip: give it here, too\n"},
		"a secret is given": {handout: secret, args: "--config testdata/docs/join.yaml --bgppeers 192.0.2.1:65001", asked: docs,
			same: "--controlplane --address 192.0.2.10,fd00::10 --bgp --localAS 65000 --bgppeers 192.0.2.1:65001 --leaderElection --arp=false --leaseDuration 10 --leaseRenewDuration 7"},
		"a value that is none":             {handout: shared("leaseRetry", "x"), args: "--config testdata/docs/join.yaml", asked: docs, stderr: "error: ConfigMap kube-system/kube-vip: "},
		"none, and flags suffice":          {err: join.ErrNone, args: "--config testdata/docs/join.yaml --arp", asked: docs, same: "--controlplane --address 192.0.2.10 --arp", stderr: "warning: the settings are those that are given here, and none come from the cluster: the cluster has no settings"},
		"none, and flags do not":           {err: join.ErrNone, args: "--config testdata/docs/join.yaml", asked: docs, stderr: "error: " + noSettings + "the cluster has no settings for nodes that join; give --arp or --bgp with what belongs to it"},
		"somebody else's cluster":          {err: join.ErrUntrusted, args: "--config testdata/docs/join.yaml --arp", asked: docs, stderr: "error: this is not known to be the cluster that is meant"},
		"no way to the cluster":            {args: "--address 192.0.2.10 --arp", same: "--controlplane --address 192.0.2.10 --arp"},
		"neither a way nor flags":          {args: "--address 192.0.2.10", stderr: "error: the settings are not known: give --arp or --bgp with what belongs to it, or "},
		"both ways":                        {args: "192.0.2.10:6443 --config testdata/docs/join.yaml", stderr: "error: --config has what kubeadm join is told: leave out the endpoint"},
		"a token for nobody":               {args: "--token abcdef.0123456789abcdef", stderr: "error: --token and the --discovery-token flags need the endpoint"},
		"an endpoint and no token":         {args: "192.0.2.10:6443", stderr: "error: the settings are not known: the cluster at 192.0.2.10:6443 is asked with --token and --discovery-token-ca-cert-hash, which"},
		"an endpoint, no token, and flags": {args: "192.0.2.10:6443 --arp", same: "--controlplane --address 192.0.2.10 --arp"},
		"an endpoint that is none":         {args: "cp 1 --arp", stderr: "error: "},
		"to stdout, flags suffice":         {args: "--config testdata/docs/join.yaml --arp -o -", same: "--controlplane --address 192.0.2.10 --arp"},
		"to stdout, without a mode":        {args: "--config testdata/docs/join.yaml -o -", stderr: "error: to stdout nothing is asked for, so the settings are not known: give --arp or --bgp with what belongs to it, or --output FILE on the node"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "kube-vip.yaml")
			var asked join.Source
			read := func(_ context.Context, s join.Source) (join.Handout, error) {
				asked = s
				return c.handout, c.err
			}
			got := onMachine(t, calm{mac: "02:00:00:00:00:09"}, read, append([]string{"kubeadm", "join", "--output", file, "--ignore-preflight-errors=all"}, strings.Fields(c.args)...)...)
			if diff := cmp.Diff(c.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			if strings.Contains(got.Stderr, "\x1b") {
				t.Errorf("stderr has control characters: %q", got.Stderr)
			}
			if !strings.Contains(got.Stderr, c.stderr) || strings.Contains(got.Stderr, docs.Token) {
				t.Errorf("stderr lacks %q:\n%s", c.stderr, got.Stderr)
			}
			if (got.Code == 0) != (c.same != "") {
				t.Fatalf("exit code %d: %s", got.Code, got.Stderr)
			}
			if c.same == "" {
				return
			}
			want := kubeVIP(t, nil, append([]string{"manifest", "pod"}, strings.Fields(c.same)...)...)
			if want.Code != 0 {
				t.Fatal(want.Stderr)
			}
			text := got.Stdout
			if text == "" {
				text = readFile(t, file)
			}
			if diff := cmp.Diff(environment(t, want.Stdout), environment(t, text)); diff != "" {
				t.Errorf("(-manifest pod +kubeadm join):\n%s", diff)
			}
		})
	}
}

// environment is the environment of a manifest's container, as a map.
func environment(t *testing.T, stream string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, v := range podSpec(t, stream).Containers[0].Env {
		env[v.Name] = v.Value
	}
	return env
}

// TestShared: what one instance hands out makes another one the same.
func TestShared(t *testing.T) {
	pod := kubeVIP(t, nil, strings.Fields("manifest pod --address 192.0.2.10 --controlplane --services --arp --nodeName cp1 --instanceName a --k8sConfigPath /etc/kubernetes/super-admin.conf --servicesElection --leaseDuration 9")...)
	var environ []string
	for name, value := range environment(t, pod.Stdout) {
		environ = append(environ, name+"="+value)
	}
	loaded, err := config.Load(nil, environ)
	if err != nil {
		t.Fatal(err)
	}
	h := (&program{build: releaseBuild()}).shared(loaded)
	for _, own := range []string{"nodeName", "instanceName", "k8sConfigPath"} {
		if value, is := h.Settings[own]; is {
			t.Errorf("%s=%s is handed out", own, value)
		}
	}
	if len(h.Secrets)+len(h.Own) > 0 {
		t.Errorf("secrets %q and %q are said to be needed", h.Secrets, h.Own)
	}
	file := filepath.Join(t.TempDir(), "kube-vip.yaml")
	got := onMachine(t, calm{mac: "02:00:00:00:00:09"}, func(context.Context, join.Source) (join.Handout, error) { return h, nil }, "kubeadm", "join", "--config", "testdata/docs/join.yaml", "--output", file)
	if got.Code != 0 {
		t.Fatal(got.Stderr)
	}
	want := environment(t, pod.Stdout)
	delete(want, "instance_name")
	delete(want, "k8s_config_file") // the default
	want["vip_nodename"] = ""
	if diff := cmp.Diff(want, environment(t, readFile(t, file))); diff != "" {
		t.Errorf("(-the first +the second):\n%s", diff)
	}
}
