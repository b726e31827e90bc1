package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"kube-vip.io/kube-vip/pkg/config"
)

var update = flag.Bool("update", false, "write the golden files, and the output that the documentation shows")

// docsDir holds the files that examples name.
const docsDir = "testdata/docs"

// TestManifests compares what the commands write with golden files, one for each way of running.
func TestManifests(t *testing.T) {
	tests := []struct {
		golden  string
		args    string
		environ []string
		stderr  string
	}{
		{golden: "pod-arp", args: "manifest pod --address 10.0.0.10 --arp"},
		{
			golden:  "pod-dual-stack-env",
			args:    "manifest pod --interface eth0 --nodeName CP-1 --k8sConfigPath /etc/rancher/k3s/k3s.yaml --healthCheckPort 0 --image registry.lan:5000/kube-vip:edge",
			environ: []string{"address=10.0.0.10,fd00::10,k8s.example.com", "vip_arp=true", "dns_mode=dual", "control_plane_health_check_ca_path=/etc/kubernetes/pki/ca.crt"},
		},
		{golden: "daemonset-arp-in-cluster", args: "manifest daemonset --interface eth0 --address 10.0.0.10 --inCluster --taint --controlplane --arp --leaderElection"},
		{
			golden: "daemonset-bgp",
			args:   "manifest daemonset --address 10.0.0.10 --bgp --localAS 65001 --bgpRouterInterface eth0 --bgppeers 192.0.2.1:65000::false,192.0.2.2:65000::false",
		},
		{golden: "daemonset-services", args: "manifest daemonset --services --arp --inCluster"},
		{
			golden: "daemonset-services-control-plane",
			args:   "manifest daemonset --controlplane --address 10.0.0.10 --services --arp --inCluster --serviceInterface auto --vipAllowedRanges 10.0.0.0/24",
		},
		{golden: "pod-services", args: "manifest pod --services --arp"},
		{golden: "rbac-services", args: "manifest rbac --services --arp"},
		{golden: "rbac-services-control-plane", args: "manifest rbac --services --controlplane --arp --servicesNamespace apps --servicesLeaseName vips/svcs --servicesPools off"},
		{golden: "rbac-arp", args: "manifest rbac --arp --address 10.0.0.10"},
		{golden: "rbac-bgp", args: "manifest rbac --bgp"},
		{golden: "rbac-rolebinding", args: "manifest rbac --rolebinding --leaseName vips/lock"},
		{golden: "kubeadm-init", args: "kubeadm init --config testdata/docs/kubeadm.yaml --arp"},
		{golden: "kubeadm-join", args: "kubeadm join --config testdata/docs/join.yaml --arp"},
	}
	written := map[string]bool{}
	for _, tt := range tests {
		file := filepath.Join("testdata/manifests", tt.golden+".yaml")
		written[file] = true
		t.Run(tt.golden, func(t *testing.T) {
			got := kubeVIP(t, tt.environ, strings.Fields(tt.args)...)
			if got.Code != 0 || got.Stderr != tt.stderr {
				t.Fatalf("kube-vip %s: exit code %d, stderr:\n%swant:\n%s", tt.args, got.Code, got.Stderr, tt.stderr)
			}
			decode(t, got.Stdout)
			if *update {
				if err := os.WriteFile(file, []byte(got.Stdout), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (go test ./cmd/kube-vip -update writes it)", err)
			}
			if diff := cmp.Diff(string(want), got.Stdout); diff != "" {
				t.Errorf("kube-vip %s (-want +got):\n%s", tt.args, diff)
			}
		})
	}

	// A golden file that no command writes any more would look like a promise.
	files, err := filepath.Glob("testdata/manifests/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !written[file] {
			t.Errorf("%s belongs to no test", file)
		}
	}
}

// TestRightsOfServicesAlone: where no control plane is asked for, its Leases are nobody's business.
func TestRightsOfServicesAlone(t *testing.T) {
	got := kubeVIP(t, nil, strings.Fields("manifest rbac --services --servicesLeaseName vips/svcs --servicesPools off")...)
	if got.Code != 0 || got.Stderr != "" {
		t.Fatalf("exit code %d: %s", got.Code, got.Stderr)
	}
	var places []string
	for _, o := range decode(t, got.Stdout) {
		if role, ok := o.(*rbacv1.Role); ok {
			places = append(places, role.Namespace)
		}
	}
	if diff := cmp.Diff([]string{"vips"}, places); diff != "" {
		t.Errorf("namespaces with rights (-want +got):\n%s", diff)
	}
}

// decode reads a stream of documents as strictly as an API server does on request: no field that it does not know.
func decode(t *testing.T, stream string) (objects []runtime.Object) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for document := range strings.SplitSeq(stream, "---\n") {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("decode: %v\n%s", err, document)
		}
		objects = append(objects, object)
	}
	return objects
}

// podSpec is that of the only Pod or DaemonSet in a stream.
func podSpec(t *testing.T, stream string) corev1.PodSpec {
	t.Helper()
	objects := decode(t, stream)
	if len(objects) != 1 {
		t.Fatalf("%d objects, want one", len(objects))
	}
	switch o := objects[0].(type) {
	case *corev1.Pod:
		return o.Spec
	case *appsv1.DaemonSet:
		return o.Spec.Template.Spec
	}
	t.Fatalf("%T is neither a Pod nor a DaemonSet", objects[0])
	return corev1.PodSpec{}
}

// TestManifestMeansWhatWasAsked starts the container of each manifest, as far as its settings go: they are those that
// were asked for, under the name of the node where it runs, and the kubeconfig is where they look for it.
func TestManifestMeansWhatWasAsked(t *testing.T) {
	tests := []string{
		"--address 10.0.0.10 --arp",
		"--address fd00::10 --arp --interface eth0 --vipSubnet 128",
		"--address 10.0.0.10,fd00::10 --arp --arpRate 1000 --prometheusHTTPServer= --healthCheckPort 0",
		"--address k8s.example.com --dnsMode dual --arp --port 8443 --leaseName vips/lock --leaseDuration 15 --leaseRenewDuration 10 --leaseRetry 2",
		"--address 10.0.0.10 --arp --k8sConfigPath /etc/kubernetes/super-admin.conf --log -4 --logFormat json",
		"--address 10.0.0.10 --bgp --localAS 65001 --bgppeers 192.0.2.1:65000:secret:true,192.0.2.2:65000 --sourceIF eth0",
		"--services --bgp --bgppeers [2001:db8::1]:65000::::mpbgp_nexthop=fixed;mpbgp_ipv4=10.0.0.1:true;50;50;3 --peerAddress 192.0.2.1 --peerPass a:b --bgpPasswordSecret bgp --bgpDrain 0.5 --bgpCommunities 65000:1,no-export --bgpMED 0",
		"--services --bgp --bgpPeersFile /etc/kube-vip/peers.yaml --mpbgpNexthop auto_sourceif --sourceIF eth0 --bgpLargeCommunities blue --bgpCommunityNames blue=65000:1:2 --bgpGracefulRestart --bgpLinkBandwidth --bgpPrepend 1 --bgpLocalPref 5",
		"--address 10.0.0.10 --arp --controlPlaneHealthCheckAddress https://localhost:6443/livez --controlPlaneHealthCheckCAPath /etc/kubernetes/pki/ca.crt --allowInterfaceNotUp --loInterfaceGlobalScope --interface lo",
		"--services --arp",
		"--services --servicesElection --arp --servicesLeaseName vips/svcs --lbClassName= --lbClassNameLegacyHandling=false --servicesPools off --enableEndpoints",
		"--services --controlplane --address 10.0.0.10 --arp --serviceInterface auto --vipAllowedRanges 10.0.0.0/24,fd00::/64 --servicesNamespace apps --disableServiceUpdates",
		"--vip 10.0.0.10 --cidr 32 --arp --leaderElection --leaseAnnotations {\"team\":\"net\"}",
	}
	for _, args := range tests {
		for _, kind := range []string{"pod", "daemonset"} {
			t.Run(kind+" "+args, func(t *testing.T) {
				given := strings.Fields(args)
				p := &program{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, build: releaseBuild()}
				root := p.root()
				if err := root.ParseFlags(given); err != nil {
					t.Fatal(err)
				}
				want, err := config.Load(root.Flags(), nil)
				if err != nil {
					t.Fatal(err)
				}
				want.Config.Node.Name = "node-1"

				out := kubeVIP(t, nil, append([]string{"manifest", kind}, given...)...)
				if out.Code != 0 {
					t.Fatalf("exit code %d: %s", out.Code, out.Stderr)
				}
				spec := podSpec(t, out.Stdout)
				container := spec.Containers[0]
				got, err := config.Load(nil, environ(t, container, "node-1"))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want.Config, got.Config, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
					t.Errorf("settings of the container (-want +got):\n%s", diff)
				}
				if err := got.Validate(); err != nil {
					t.Errorf("the container refuses its settings: %v", err)
				}
				if !slices.Contains(hostFiles(spec), got.Config.Kubernetes.ConfigFile) {
					t.Errorf("%s is not mounted, only %v", got.Config.Kubernetes.ConfigFile, hostFiles(spec))
				}
				if ca := got.Config.ControlPlane.Health.CAPath; ca != "" && !slices.Contains(hostFiles(spec), ca) {
					t.Errorf("%s is not mounted, only %v", ca, hostFiles(spec))
				}
			})
		}
	}
}

// environ is the environment that the kubelet of a node gives to a container.
func environ(t *testing.T, container corev1.Container, node string) (environ []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, v := range container.Env {
		if seen[v.Name] {
			t.Errorf("%s is there twice", v.Name)
		}
		seen[v.Name] = true
		value := v.Value
		if v.ValueFrom != nil {
			if v.ValueFrom.FieldRef == nil || v.ValueFrom.FieldRef.FieldPath != "spec.nodeName" {
				t.Errorf("%s comes from %v", v.Name, v.ValueFrom)
			}
			value = node
		}
		environ = append(environ, v.Name+"="+value)
	}
	return environ
}

// hostFiles are the host's files that the container sees at the same path.
func hostFiles(spec corev1.PodSpec) (files []string) {
	for _, m := range spec.Containers[0].VolumeMounts {
		for _, v := range spec.Volumes {
			if v.Name == m.Name && v.HostPath != nil && v.HostPath.Path == m.MountPath {
				files = append(files, m.MountPath)
			}
		}
	}
	return files
}

// TestManifestWarns are the things that work and are not what somebody may think.
func TestManifestWarns(t *testing.T) {
	tests := []struct {
		args string
		want string
	}{
		{args: "manifest daemonset --address 10.0.0.10 --arp --nodeName cp-1", want: "warning: the node name cp-1 is not in the manifest: in a DaemonSet each Pod has that of its own node\n"},
		{
			args: "manifest pod --address 10.0.0.10 --arp --inCluster",
			want: "warning: --inCluster: the kubelet refuses static Pods that use a ServiceAccount; apply this Pod with kubectl, or leave --inCluster out\n",
		},
		{
			args: "manifest daemonset --address 10.0.0.10 --arp --inCluster --k8sConfigPath /etc/kubernetes/admin.conf",
			want: "warning: --k8sConfigPath is not in the manifest: --inCluster uses the ServiceAccount in place of a kubeconfig\n",
		},
		{
			args: "manifest daemonset --services --arp",
			want: "warning: only control-plane nodes have /etc/kubernetes/admin.conf, and the Pods wait for it on the others: give --inCluster, or --taint to leave them out\n",
		},
		{args: "manifest daemonset --services --arp --taint"},
		{args: "manifest daemonset --services --arp --k8sConfigPath /etc/kubernetes/kubelet.conf"},
		{args: "manifest daemonset --services --arp --controlplane --address 10.0.0.10"},
		{
			args: "manifest pod --services --arp --address 10.0.0.10",
			want: "warning: --address has no effect: beside --services=true the control plane's VIP needs --controlplane (env cp_enable=true)\n",
		},
		{
			args: "manifest pod --services --arp --kubeadm-config testdata/docs/kubeadm.yaml",
			want: "warning: --kubeadm-config testdata/docs/kubeadm.yaml has no effect: beside --services=true the control plane's VIP needs --controlplane (env cp_enable=true)\n",
		},
		{args: "kubeadm init --services --arp --address 10.0.0.10"},
		{args: "kubeadm init --services --arp --config testdata/docs/kubeadm.yaml"},
		{
			args: "manifest daemonset --services --bgp --bgpPeersFile /etc/kube-vip/peers.yaml --inCluster",
			want: "warning: --bgpPeersFile: the manifest does not mount /etc/kube-vip/peers.yaml: add a volume that has it, of a ConfigMap for instance, and mount its directory\n",
		},
		{
			args: "manifest pod --services --bgp --bgppeers 192.0.2.1:65000 --servicesElection",
		},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := kubeVIP(t, nil, strings.Fields(tt.args)...)
			podSpec(t, got.Stdout)
			got.Stdout = ""
			if diff := cmp.Diff(result{Stderr: tt.want}, got); diff != "" {
				t.Errorf("kube-vip %s (-want +got):\n%s", tt.args, diff)
			}
		})
	}

	// A build that was never published has no image.
	for args, want := range map[string]string{
		"":                  "warning: this program is not a release, so there may be no image ghcr.io/kube-vip/kube-vip:devel: name one with --image\n",
		"--image lan/kv":    "warning: this program is not a release, so there may be no image lan/kv:devel: name one with --image\n",
		"--image lan/kv:v1": "",
	} {
		var stdout, stderr bytes.Buffer
		p := &program{stdout: &stdout, stderr: &stderr, build: build{Version: "devel"}}
		code := p.execute(t.Context(), append(strings.Fields("manifest pod --address 10.0.0.10 --arp"), strings.Fields(args)...))
		if code != 0 || stderr.String() != want {
			t.Errorf("manifest pod %s: exit code %d, stderr %q, want %q", args, code, stderr.String(), want)
		}
	}
}

// TestManifestRefuses are settings that cannot work: everything that is wrong is said at once, in the words of the
// user, and there is nothing on stdout that somebody could apply.
func TestManifestRefuses(t *testing.T) {
	tests := []struct {
		name    string
		args    string
		environ []string
		want    []string
	}{
		{name: "nothing", args: "manifest pod", want: []string{"nothing to do: for a VIP of the control plane give --address (env address), for those of Services --services (env svc_enable=true)"}},
		{name: "no mode", args: "manifest pod --address 10.0.0.10", want: []string{"nothing announces the VIP: set --arp (env vip_arp=true)"}},
		{
			name: "several things", args: "manifest pod --port 0 --image A --arp --k8sConfigPath admin.conf --controlPlaneHealthCheckCAPath ca.crt --bgpPeersFile peers.yaml", environ: []string{"address=10.0.0.10/24"},
			want: []string{
				`address: "10.0.0.10/24" is not an address: write 10.0.0.10, and the prefix length as --vipSubnet (env vip_subnet)`,
				`--port: "0" is not a whole number from 1 to 65535`,
				`--image "A": "A" is not a repository (want registry/path in lower case, ghcr.io/kube-vip/kube-vip for example)`,
				`--controlPlaneHealthCheckCAPath: "ca.crt" is not an absolute path, and a Pod knows no other`,
				`--bgpPeersFile: "peers.yaml" is not an absolute path, and a Pod knows no other`,
				`--k8sConfigPath: "admin.conf" is not an absolute path, and a Pod knows no other`,
			},
		},
		{name: "no kubeconfig", args: "manifest pod --address 10.0.0.10 --arp --k8sConfigPath=", want: []string{"--k8sConfigPath: without a kubeconfig give --inCluster"}},
		{
			name: "Services in two ways", args: "manifest pod --services --controlplane --arp --servicesElection=false --servicesPlacement lease --servicesLeaseName plndr-cp-lock",
			want: []string{
				"--controlplane=true: the control plane has no address: give the VIP as --address (env address)",
				"--servicesElection=false and --servicesPlacement=lease contradict each other: keep one of them",
				"--leaseName=plndr-cp-lock (default; env vip_leasename) and --servicesLeaseName=plndr-cp-lock are the same Lease: one election for the control plane and Services is not supported yet by this version; give each its own",
			},
		},
		{
			name: "rights of Services without cluster-wide ones", args: "manifest rbac --services --arp --role",
			want: []string{
				"leases are needed in all namespaces (a Lease for each Service that not every node can serve): leave --role and --rolebinding out",
				"services are needed in all namespaces (which Services want a VIP): leave --role and --rolebinding out",
				"services are needed in all namespaces (an annotation says which addresses a pool gave): leave --role and --rolebinding out",
				"services/status are needed in all namespaces (the status says which VIP a Service has): leave --role and --rolebinding out",
				"endpointslices are needed in all namespaces (whether there is somebody to answer, and on which node): leave --role and --rolebinding out",
				"events are needed in all namespaces (a Service's Events say why it has no VIP): leave --role and --rolebinding out",
				"nodes are needed in all namespaces (which nodes hold no VIPs, and the addresses that nodes have): leave --role and --rolebinding out",
				"servicecidrs are needed in all namespaces (a VIP is not an address of the cluster's own): leave --role and --rolebinding out",
			},
		},
		{
			name: "kubeadm file is missing", args: "manifest pod --arp --kubeadm-config testdata/none.yaml",
			want: []string{"--kubeadm-config: open testdata/none.yaml: no such file or directory"},
		},
		{
			name: "kubeadm file is a kubeconfig", args: "kubeadm init --config KUBECONFIG --arp",
			want: []string{"--config KUBECONFIG: this is a kubeconfig (kind: Config); want kubeadm's configuration, with an InitConfiguration, ClusterConfiguration or JoinConfiguration"},
		},
		{
			name: "kubeadm file disagrees", args: "manifest pod --arp --kubeadm-config testdata/docs/kubeadm.yaml --port 8443 --leaseDuration 2", environ: []string{"vip_address=192.0.2.11,10.244.0.1"},
			want: []string{
				"--kubeadm-config testdata/docs/kubeadm.yaml: --port is 8443, but localAPIEndpoint.bindPort is 6443: nothing would answer at the virtual IP's port 8443",
				"--kubeadm-config testdata/docs/kubeadm.yaml: localAPIEndpoint.advertiseAddress is 192.0.2.11, the virtual IP (vip_address): want an address of this node alone",
				"--kubeadm-config testdata/docs/kubeadm.yaml: apiServer.certSANs lacks 10.244.0.1 (vip_address), which is not the controlPlaneEndpoint either: the API server's certificate would not be valid for it",
				"--kubeadm-config testdata/docs/kubeadm.yaml: networking.podSubnet 10.244.0.0/16 contains 10.244.0.1 (vip_address): the virtual IP must be outside the cluster's own networks",
				"--leaseDuration=2 must be more than --leaseRenewDuration=3 (default; env vip_renewdeadline) and --leaseRetry=1 (default; env vip_retryperiod) together: a holder that cannot renew must be rid of the VIP before another may take the Lease",
			},
		},
		{
			name: "kubeadm file has no address", args: "kubeadm join --config NOENDPOINT --arp",
			want: []string{"--config NOENDPOINT: discovery.bootstrapToken.apiServerEndpoint is not set: set it to the virtual IP, or give --address"},
		},
		{name: "kubeadm without an address", args: "kubeadm init --arp", want: []string{"--controlplane=true (kubeadm makes a control plane): the control plane has no address: give the VIP as --address (env address)"}},
		{name: "kubeadm join file is missing", args: "kubeadm join --config testdata/none --arp", want: []string{"--config: open testdata/none: no such file or directory"}},
	}
	dir := t.TempDir()
	files := strings.NewReplacer("KUBECONFIG", filepath.Join(dir, "admin.conf"), "NOENDPOINT", filepath.Join(dir, "join.yaml"))
	writeFile(t, filepath.Join(dir, "admin.conf"), "apiVersion: v1\nkind: Config\n")
	writeFile(t, filepath.Join(dir, "join.yaml"), "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var want strings.Builder
			for _, line := range tt.want {
				fmt.Fprintf(&want, "error: %s\n", files.Replace(line))
			}
			got := kubeVIP(t, tt.environ, strings.Fields(files.Replace(tt.args))...)
			if diff := cmp.Diff(result{Code: 1, Stderr: want.String()}, got); diff != "" {
				t.Errorf("kube-vip %s (-want +got):\n%s", tt.args, diff)
			}

			// With --output the file is left as it is, and nothing is left beside it.
			out := filepath.Join(t.TempDir(), "kube-vip.yaml")
			writeFile(t, out, "before\n")
			got = kubeVIP(t, tt.environ, append(strings.Fields(files.Replace(tt.args)), "-o", out)...)
			if got.Code != 1 || got.Stdout != "" || readFile(t, out) != "before\n" || len(list(t, filepath.Dir(out))) != 1 {
				t.Errorf("with --output: exit code %d, stdout %q, files %v, contents %q", got.Code, got.Stdout, list(t, filepath.Dir(out)), readFile(t, out))
			}
		})
	}
}

// TestKubeadmJoinTakesAKubeconfig is the older meaning of --config: it differs from `kubeadm init` in the kubeconfig
// alone.
func TestKubeadmJoinTakesAKubeconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "admin.conf")
	writeFile(t, file, "apiVersion: v1\nkind: Config\n")
	args := "--address 10.0.0.10 --arp --interface eth0"
	want := kubeVIP(t, nil, strings.Fields("kubeadm init --k8sConfigPath "+file+" "+args)...)
	got := kubeVIP(t, nil, strings.Fields("kubeadm join --config "+file+" "+args)...)
	if diff := cmp.Diff(want, got); diff != "" || want.Code != 0 {
		t.Errorf("kubeadm join --config KUBECONFIG, exit code %d (-init +join):\n%s", want.Code, diff)
	}
	if files := hostFiles(podSpec(t, got.Stdout)); !slices.Equal(files, []string{file}) {
		t.Errorf("mounts %v, want %s", files, file)
	}
}

func TestOutput(t *testing.T) {
	args := strings.Fields("manifest pod --address 10.0.0.10 --arp")
	want := kubeVIP(t, nil, args...)
	if want.Code != 0 {
		t.Fatal(want.Stderr)
	}
	t.Run("stdout", func(t *testing.T) {
		if diff := cmp.Diff(want, kubeVIP(t, nil, append(args, "-o", "-")...)); diff != "" {
			t.Errorf("-o - (-want +got):\n%s", diff)
		}
	})

	dir := t.TempDir()
	file := filepath.Join(dir, "kube-vip.yaml")
	for _, name := range []string{"new", "again"} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(result{}, kubeVIP(t, nil, append(args, "--output", file)...)); diff != "" {
				t.Errorf("--output (-want +got):\n%s", diff)
			}
			if got := readFile(t, file); got != want.Stdout {
				t.Errorf("the file is not what stdout shows:\n%s", cmp.Diff(want.Stdout, got))
			}
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o600 {
				t.Errorf("mode %v, want 0600", info.Mode())
			}
			if diff := cmp.Diff([]string{"kube-vip.yaml"}, list(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}

	t.Run("symbolic link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link.yaml")
		if err := os.Symlink(file, link); err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, "before\n")
		got := kubeVIP(t, nil, append(args, "-o", link)...)
		target, err := os.Readlink(link)
		if got.Code != 0 || err != nil || target != file || readFile(t, file) != want.Stdout {
			t.Errorf("exit code %d, stderr %q, link to %q (%v)", got.Code, got.Stderr, target, err)
		}
	})

	// A pipe stands for /dev/stdout and the like: replaced, they would be missing to everybody.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		dir:                                "--output: write " + dir + ": is there, and is not a regular file (d---------)",
		filepath.Join(dir, "no", "x.yaml"): "--output: write " + filepath.Join(dir, "no", "x.yaml") + ": open " + filepath.Join(dir, "no") + "/.x.yaml.*: no such file or directory",
		pipe:                               "--output: write " + pipe + ": is there, and is not a regular file (p---------)",
	}
	for path, problem := range refused {
		t.Run(path, func(t *testing.T) {
			got := kubeVIP(t, nil, append(args, "-o", path)...)
			if i := strings.Index(got.Stderr, ".x.yaml."); i >= 0 {
				// The name that was tried ends in a number.
				got.Stderr = got.Stderr[:i] + ".x.yaml.*" + got.Stderr[strings.Index(got.Stderr[i:], ": ")+i:]
			}
			if diff := cmp.Diff(result{Code: 1, Stderr: "error: " + problem + "\n"}, got); diff != "" {
				t.Errorf("-o %s (-want +got):\n%s", path, diff)
			}
		})
	}
}

// TestReplaceFileIsAtomic reads a file while it is replaced, as the kubelet does: always one of the two, whole.
func TestReplaceFileIsAtomic(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kube-vip.yaml")
	texts := []string{strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<15)}
	writeFile(t, file, texts[0])
	done := make(chan error, 1)
	go func() {
		for i := range 50 {
			if err := replaceFile(file, []byte(texts[(i+1)%2])); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		if got := readFile(t, file); !slices.Contains(texts, got) {
			t.Fatalf("read %d bytes that nobody wrote in one piece", len(got))
		}
		for _, name := range list(t, filepath.Dir(file)) {
			if name != "kube-vip.yaml" && !strings.HasPrefix(name, ".") {
				t.Fatalf("the kubelet would read %s", name)
			}
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
