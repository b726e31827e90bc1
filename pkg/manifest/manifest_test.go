package manifest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8slabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"

	"kube-vip.io/kube-vip/pkg/config"
)

// controlPlane is a control plane's VIP announced by ARP.
func controlPlane() Options {
	var c config.Config
	c.ControlPlane.Enable = true
	c.ControlPlane.Addresses = []string{"10.0.0.10"}
	c.ARP.Enable = true
	c.Election.Enable = true
	c.Election.LeaseName = "plndr-cp-lock"
	c.Kubernetes.Namespace = "kube-system"
	c.Kubernetes.ConfigFile = "/etc/kubernetes/admin.conf"
	c.Observe.HealthCheckPort = 29112
	return Options{
		Config:  c,
		Env:     []config.EnvVar{{Name: "address", Value: "10.0.0.10"}, {Name: "vip_arp", Value: "true"}},
		Image:   "ghcr.io/kube-vip/kube-vip:v1.2.3",
		Version: "v1.2.3",
	}
}

// with is controlPlane after a change.
func with(change func(*Options)) Options {
	o := controlPlane()
	change(&o)
	return o
}

// read decodes YAML as strictly as an API server does on request.
func read(t *testing.T, document []byte) runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	object, _, err := decoder.Decode(document, nil, nil)
	if err != nil {
		t.Fatalf("decode:\n%s\n%v", document, err)
	}
	return object
}

func write(t *testing.T, objects ...runtime.Object) []byte {
	t.Helper()
	out, err := YAML(objects...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestYAMLIsTheObject says that nothing is lost on the way to the file but what only a cluster fills in.
func TestYAMLIsTheObject(t *testing.T) {
	everything := with(func(o *Options) {
		o.Taint = true
		o.Config.ControlPlane.Health.CAPath = "/etc/kubernetes/pki/ca.crt"
	})
	rbac, err := RBAC(Rules(controlPlane().Config), Scope{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append([]runtime.Object{Pod(everything), DaemonSet(everything)}, rbac...) {
		t.Run(want.GetObjectKind().GroupVersionKind().Kind, func(t *testing.T) {
			out := write(t, want)
			for _, noise := range []string{"status", "creationTimestamp", "null", "{}"} {
				if strings.Contains(string(out), noise) {
					t.Errorf("%q is in\n%s", noise, out)
				}
			}
			if diff := cmp.Diff(want, read(t, out)); diff != "" {
				t.Errorf("read back (-want +got):\n%s", diff)
			}
		})
	}
}

func TestYAMLDropsNulls(t *testing.T) {
	object := &rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"}}
	want := "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {}\n"
	if diff := cmp.Diff(want+"---\n"+want, string(write(t, object, object))); diff != "" {
		t.Errorf("YAML (-want +got):\n%s", diff)
	}
}

// TestGracePeriod leaves a stop the time that draining routes takes.
func TestGracePeriod(t *testing.T) {
	bgp := func(drain time.Duration) Options {
		return with(func(o *Options) { o.Config.ARP.Enable, o.Config.BGP.Enable, o.Config.BGP.Drain = false, true, drain })
	}
	for _, tt := range []struct {
		name string
		o    Options
		want int64
	}{
		{"ARP", with(func(o *Options) { o.Config.BGP.Drain = time.Minute }), 5},
		{"BGP", bgp(2 * time.Second), 7},
		{"a part of a second", bgp(100 * time.Millisecond), 6},
		{"without draining", bgp(0), 5},
	} {
		for kind, spec := range map[string]corev1.PodSpec{"Pod": Pod(tt.o).Spec, "DaemonSet": DaemonSet(tt.o).Spec.Template.Spec} {
			if got := spec.TerminationGracePeriodSeconds; got == nil || *got != tt.want {
				t.Errorf("%s, %s: %v seconds, want %d", tt.name, kind, got, tt.want)
			}
		}
	}
}

// TestLeastPrivilege is what must hold of the container whatever is asked for.
func TestLeastPrivilege(t *testing.T) {
	modes := map[string]Options{
		"control plane": controlPlane(),
		"in cluster":    with(func(o *Options) { o.InCluster = true }),
		"Services":      with(func(o *Options) { o.Config.ControlPlane.Enable, o.Config.Services.Enable = false, true }),
		"BGP": with(func(o *Options) {
			o.Config.ARP.Enable, o.Config.Election.Enable, o.Config.BGP.Enable = false, false, true
		}),
	}
	for name, o := range modes {
		for kind, spec := range map[string]corev1.PodSpec{"Pod": Pod(o).Spec, "DaemonSet": DaemonSet(o).Spec.Template.Spec} {
			t.Run(name+" "+kind, func(t *testing.T) {
				if len(spec.Containers) != 1 {
					t.Fatalf("%d containers, want 1", len(spec.Containers))
				}
				container := spec.Containers[0]
				no, yes, root := false, true, int64(0)
				want := &corev1.SecurityContext{
					RunAsUser: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}},
				}
				if diff := cmp.Diff(want, container.SecurityContext); diff != "" {
					t.Errorf("securityContext (-want +got):\n%s", diff)
				}
				if !spec.HostNetwork || spec.HostPID || spec.HostIPC {
					t.Errorf("hostNetwork %t, hostPID %t, hostIPC %t, want the network alone", spec.HostNetwork, spec.HostPID, spec.HostIPC)
				}
				if p := spec.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
					t.Errorf("seccomp profile %v, want RuntimeDefault", p)
				}
				if spec.PriorityClassName != "system-node-critical" || spec.DNSPolicy != corev1.DNSDefault {
					t.Errorf("priority %q, DNS policy %q", spec.PriorityClassName, spec.DNSPolicy)
				}
				if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Memory().IsZero() || container.Resources.Requests.Cpu().IsZero() {
					t.Errorf("resources %v, want requests and a memory limit", container.Resources)
				}
				if _, limited := container.Resources.Limits[corev1.ResourceCPU]; limited {
					t.Error("a CPU limit throttles the holder")
				}
				for _, mount := range container.VolumeMounts {
					if !mount.ReadOnly {
						t.Errorf("%s is mounted read-write", mount.MountPath)
					}
				}
				for _, volume := range spec.Volumes {
					if volume.HostPath == nil || volume.HostPath.Type == nil || *volume.HostPath.Type != corev1.HostPathFile {
						t.Errorf("volume %s is not a hostPath of type File: the kubelet would make what is missing", volume.Name)
					}
				}
			})
		}
	}
}

func TestPodSpec(t *testing.T) {
	mounts := func(spec corev1.PodSpec) (paths []string) {
		for _, m := range spec.Containers[0].VolumeMounts {
			for _, v := range spec.Volumes {
				if v.Name == m.Name && v.HostPath.Path == m.MountPath {
					paths = append(paths, m.MountPath)
				}
			}
		}
		return paths
	}
	env := func(spec corev1.PodSpec) (names []string) {
		for _, e := range spec.Containers[0].Env {
			value := e.Value
			if e.ValueFrom != nil {
				value = "<" + e.ValueFrom.FieldRef.FieldPath + ">"
			}
			names = append(names, e.Name+"="+value)
		}
		return names
	}
	type result struct {
		Mounts, Env    []string
		ServiceAccount string
		Token          bool
		Tolerations    int
		OnControlPlane bool
	}
	defaultEnv := []string{"vip_nodename=<spec.nodeName>", "address=10.0.0.10", "vip_arp=true"}
	kubeconfig := []string{"/etc/kubernetes/admin.conf"}
	tests := []struct {
		name           string
		options        Options
		pod, daemonSet result
	}{
		{
			name: "kubeconfig", options: controlPlane(),
			pod:       result{Mounts: kubeconfig, Env: defaultEnv},
			daemonSet: result{Mounts: kubeconfig, Env: defaultEnv, Tolerations: 1, OnControlPlane: true},
		},
		{
			name: "in cluster, with a kubeconfig set", options: with(func(o *Options) {
				o.InCluster = true
				o.Env = append(o.Env, config.EnvVar{Name: "k8s_config_file", Value: "/x"})
			}),
			pod:       result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true},
			daemonSet: result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true, Tolerations: 1, OnControlPlane: true},
		},
		{
			name: "own node name", options: with(func(o *Options) {
				o.Config.Node.Name = "cp-1"
				o.Env = append(o.Env, config.EnvVar{Name: "vip_nodename", Value: "cp-1"})
			}),
			pod:       result{Mounts: kubeconfig, Env: []string{"vip_nodename=cp-1", "address=10.0.0.10", "vip_arp=true"}},
			daemonSet: result{Mounts: kubeconfig, Env: defaultEnv, Tolerations: 1, OnControlPlane: true},
		},
		{
			name: "another kubeconfig and a CA", options: with(func(o *Options) {
				o.Config.Kubernetes.ConfigFile = "/etc/kubernetes//super-admin.conf"
				o.Config.ControlPlane.Health.CAPath = "/etc/ssl/ca.crt"
				o.Env = append(o.Env, config.EnvVar{Name: "k8s_config_file", Value: "/etc/kubernetes//super-admin.conf"})
			}),
			pod: result{
				Mounts: []string{"/etc/kubernetes/super-admin.conf", "/etc/ssl/ca.crt"},
				Env:    append(slices.Clone(defaultEnv), "k8s_config_file=/etc/kubernetes//super-admin.conf"),
			},
			daemonSet: result{
				Mounts: []string{"/etc/kubernetes/super-admin.conf", "/etc/ssl/ca.crt"},
				Env:    append(slices.Clone(defaultEnv), "k8s_config_file=/etc/kubernetes//super-admin.conf"), Tolerations: 1, OnControlPlane: true,
			},
		},
		{
			name: "the ServiceAccount's CA is no file of the host", options: with(func(o *Options) {
				o.InCluster = true
				o.Config.ControlPlane.Health.CAPath = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
			}),
			pod:       result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true},
			daemonSet: result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true, Tolerations: 1, OnControlPlane: true},
		},
		{
			name: "no control plane", options: with(func(o *Options) { o.Config.ControlPlane.Enable = false }),
			pod:       result{Mounts: kubeconfig, Env: defaultEnv},
			daemonSet: result{Mounts: kubeconfig, Env: defaultEnv},
		},
		{
			name: "Services, in cluster", options: with(func(o *Options) {
				o.Config.ControlPlane.Enable, o.Config.Services.Enable, o.InCluster = false, true, true
			}),
			pod:       result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true},
			daemonSet: result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true},
		},
		{
			name: "Services and a control plane", options: with(func(o *Options) { o.Config.Services.Enable, o.InCluster = true, true }),
			pod:       result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true},
			daemonSet: result{Env: defaultEnv, ServiceAccount: "kube-vip", Token: true, Tolerations: 1, OnControlPlane: true},
		},
		{
			name: "no control plane, on its nodes", options: with(func(o *Options) { o.Config.ControlPlane.Enable, o.Taint = false, true }),
			pod:       result{Mounts: kubeconfig, Env: defaultEnv},
			daemonSet: result{Mounts: kubeconfig, Env: defaultEnv, Tolerations: 1, OnControlPlane: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for kind, c := range map[string]struct {
				spec corev1.PodSpec
				want result
			}{
				"Pod":       {Pod(tt.options).Spec, tt.pod},
				"DaemonSet": {DaemonSet(tt.options).Spec.Template.Spec, tt.daemonSet},
			} {
				got := result{
					Mounts: mounts(c.spec), Env: env(c.spec), ServiceAccount: c.spec.ServiceAccountName,
					Token:          c.spec.AutomountServiceAccountToken == nil || *c.spec.AutomountServiceAccountToken,
					Tolerations:    len(c.spec.Tolerations),
					OnControlPlane: c.spec.Affinity != nil,
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", kind, diff)
				}
			}
		})
	}
}

func TestProbes(t *testing.T) {
	c := Pod(controlPlane()).Spec.Containers[0]
	for path, p := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Host != "127.0.0.1" || p.HTTPGet.Port.IntValue() != 29112 {
			t.Errorf("probe of %s is %+v, want 127.0.0.1:29112", path, p)
		}
	}
	c = Pod(with(func(o *Options) { o.Config.Observe.HealthCheckPort = 0 })).Spec.Containers[0]
	if c.LivenessProbe != nil || c.ReadinessProbe != nil {
		t.Errorf("probes %v, %v of a port that is off", c.LivenessProbe, c.ReadinessProbe)
	}
}

// TestDaemonSetTemplate says what a DaemonSet must be for its controller to take it and to update it node by node.
func TestDaemonSetTemplate(t *testing.T) {
	ds := DaemonSet(controlPlane())
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	if ds.Name != "kube-vip-ds" || ds.Namespace != "kube-system" {
		t.Errorf("DaemonSet %s/%s, want kube-system/kube-vip-ds", ds.Namespace, ds.Name)
	}
	if !selector.Matches(k8slabels.Set(ds.Spec.Template.Labels)) {
		t.Errorf("selector %s does not match the template's labels %v", selector, ds.Spec.Template.Labels)
	}
	if got := selector.String(); got != "app.kubernetes.io/name=kube-vip-ds" {
		t.Errorf("selector %s: it cannot be changed in a cluster that has it", got)
	}
	if got := ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue(); got != 1 {
		t.Errorf("maxUnavailable %d, want 1", got)
	}
	tolerations := ds.Spec.Template.Spec.Tolerations
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, tolerations); diff != "" {
		t.Errorf("tolerations (-want +got):\n%s", diff)
	}
	var keys []string
	for _, term := range ds.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			keys = append(keys, e.Key+" "+string(e.Operator))
		}
	}
	want := []string{"node-role.kubernetes.io/control-plane Exists", "node-role.kubernetes.io/master Exists"}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("node affinity (-want +got):\n%s", diff)
	}
}

func TestLabelsAreValid(t *testing.T) {
	for _, version := range []string{"v1.2.3", "devel", "", "v0.0.0-20260801123456-0123456789ab+dirty", strings.Repeat("1", 62) + "-2"} {
		for key, value := range labels("kube-vip", version) {
			if problems := append(utilvalidation.IsQualifiedName(key), utilvalidation.IsValidLabelValue(value)...); problems != nil {
				t.Errorf("version %q: label %s=%s: %v", version, key, value, problems)
			}
		}
	}
}

func TestRules(t *testing.T) {
	leases := func(namespace string) []Rule {
		return []Rule{{
			Group: "coordination.k8s.io", Resource: "leases", Verbs: []string{"get", "list", "watch", "create", "update"}, Namespace: namespace,
			Why: "the control plane's Lease, and a Lease per node that says who may stand for it",
		}}
	}
	tests := []struct {
		name   string
		change func(*config.Config)
		want   []Rule
	}{
		{name: "ARP", change: func(*config.Config) {}, want: leases("kube-system")},
		{name: "namespace", change: func(c *config.Config) { c.Kubernetes.Namespace = "vips" }, want: leases("vips")},
		{name: "namespace of the Lease's name", change: func(c *config.Config) { c.Election.LeaseName = "locks/cp" }, want: leases("locks")},
		{name: "no election", change: func(c *config.Config) { c.Election.Enable = false }},
		{name: "no control plane", change: func(c *config.Config) { c.ControlPlane.Enable = false }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := controlPlane().Config
			tt.change(&c)
			if diff := cmp.Diff(tt.want, Rules(c)); diff != "" {
				t.Errorf("Rules (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRulesOfServices says what each setting of Services adds or takes away.
func TestRulesOfServices(t *testing.T) {
	base := []string{
		"*: create events", "*: get discovery.k8s.io/endpointslices", "*: get networking.k8s.io/servicecidrs", "*: get nodes", "*: get services",
		"*: list discovery.k8s.io/endpointslices", "*: list networking.k8s.io/servicecidrs", "*: list nodes", "*: list services",
		"*: patch events", "*: patch services", "*: patch services/status",
		"*: watch discovery.k8s.io/endpointslices", "*: watch networking.k8s.io/servicecidrs", "*: watch nodes", "*: watch services",
		"kube-system: create coordination.k8s.io/leases", "kube-system: get configmaps", "kube-system: get coordination.k8s.io/leases",
		"kube-system: list configmaps", "kube-system: list coordination.k8s.io/leases", "kube-system: update coordination.k8s.io/leases",
		"kube-system: watch configmaps", "kube-system: watch coordination.k8s.io/leases",
	}
	leases := func(namespaces ...string) (all []string) {
		for _, namespace := range namespaces {
			for _, verb := range []string{"create", "get", "list", "update", "watch"} {
				all = append(all, namespace+": "+verb+" coordination.k8s.io/leases")
			}
		}
		return all
	}
	base = append(base, leases("*")...)
	tests := []struct {
		name   string
		change func(*config.Config)
		more   []string
		less   []string
	}{
		{name: "Services alone", change: func(*config.Config) {}},
		{name: "and a control plane", change: func(c *config.Config) { c.ControlPlane.Enable = true }},
		{
			name: "and a control plane in another namespace",
			change: func(c *config.Config) {
				c.ControlPlane.Enable, c.Election.LeaseName = true, "vips/lock"
			},
			more: leases("vips"),
		},
		{name: "Lease in another namespace", change: func(c *config.Config) { c.Services.LeaseName = "vips/svcs" }, more: leases("vips"), less: leases("kube-system")},
		{name: "by BGP, from every node", change: func(c *config.Config) { c.Election.Enable, c.BGP.Enable = false, true }, less: leases("*")},
		{name: "by BGP, from one node each", change: func(c *config.Config) { c.BGP.Enable, c.Services.Placement = true, config.PlacementLease }},
		{
			name: "by BGP, with passwords", change: func(c *config.Config) { c.BGP = config.BGP{Enable: true, PasswordSecret: "vault/bgp"} }, less: leases("*"),
			more: []string{"vault: get secrets"},
		},
		{
			name: "one namespace", change: func(c *config.Config) { c.Services.Namespace = "apps" },
			more: append(leases("apps"), "default: create events", "default: patch events",
				"apps: create events", "apps: get discovery.k8s.io/endpointslices", "apps: get services", "apps: list discovery.k8s.io/endpointslices",
				"apps: list services", "apps: patch events", "apps: patch services", "apps: patch services/status",
				"apps: watch discovery.k8s.io/endpointslices", "apps: watch services"),
			less: append(leases("*"),
				"*: create events", "*: get discovery.k8s.io/endpointslices", "*: get services", "*: list discovery.k8s.io/endpointslices",
				"*: list services", "*: patch events", "*: patch services", "*: patch services/status",
				"*: watch discovery.k8s.io/endpointslices", "*: watch services"),
		},
		{
			name: "Endpoints", change: func(c *config.Config) { c.Services.Endpoints = true },
			more: []string{"*: get endpoints", "*: list endpoints", "*: watch endpoints"},
			less: []string{"*: get discovery.k8s.io/endpointslices", "*: list discovery.k8s.io/endpointslices", "*: watch discovery.k8s.io/endpointslices"},
		},
		{
			name: "one namespace, and no node is excluded", change: func(c *config.Config) { c.Services.Namespace, c.Services.ExcludeLabel = "default", "ignore" },
			more: append(leases("default"),
				"default: create events", "default: get discovery.k8s.io/endpointslices", "default: get services", "default: list discovery.k8s.io/endpointslices",
				"default: list services", "default: patch events", "default: patch services", "default: patch services/status",
				"default: watch discovery.k8s.io/endpointslices", "default: watch services"),
			less: append(leases("*"),
				"*: create events", "*: get discovery.k8s.io/endpointslices", "*: get services", "*: list discovery.k8s.io/endpointslices",
				"*: list services", "*: patch events", "*: patch services", "*: patch services/status",
				"*: watch discovery.k8s.io/endpointslices", "*: watch services"),
		},
		{name: "no updates", change: func(c *config.Config) { c.Services.DisableUpdates = true }, less: []string{"*: patch services", "*: patch services/status"}},
		{
			name: "no pools", change: func(c *config.Config) { c.Services.Pools = "off" },
			less: []string{"kube-system: get configmaps", "kube-system: list configmaps", "kube-system: watch configmaps"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := controlPlane().Config
			c.ControlPlane.Enable = false
			c.Services = config.Services{Enable: true, LeaseName: "plndr-svcs-lock", Pools: "auto"}
			tt.change(&c)
			objects, err := RBAC(Rules(c), Scope{})
			if err != nil {
				t.Fatal(err)
			}
			want := slices.DeleteFunc(slices.Concat(base, tt.more), func(s string) bool { return slices.Contains(tt.less, s) })
			slices.Sort(want)
			if diff := cmp.Diff(want, granted(t, objects)); diff != "" {
				t.Errorf("granted to kube-system/kube-vip (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRBAC reads the objects as the API server's authorizer would: who may do what, where.
func TestRBAC(t *testing.T) {
	rules := []Rule{
		{Group: "g", Resource: "things", Verbs: []string{"get"}, Namespace: "b"},
		{Group: "", Resource: "services", Verbs: []string{"list", "watch"}, Why: "to know them"},
		{Group: "g", Resource: "things", Verbs: []string{"get", "update"}, Namespace: "a"},
		{Group: "", Resource: "secrets", Verbs: []string{"get"}, Namespace: "a"},
	}
	namespaced := []Rule{rules[0], rules[2], rules[3]}
	tests := []struct {
		name    string
		rules   []Rule
		scope   Scope
		objects []string
		granted []string
		wantErr string
	}{
		{name: "none", objects: []string{"ServiceAccount kube-system/kube-vip"}},
		{
			name: "both scopes", rules: rules,
			objects: []string{
				"ServiceAccount kube-system/kube-vip", "ClusterRole /system:kube-vip-role", "ClusterRoleBinding /system:kube-vip-binding",
				"Role a/kube-vip", "RoleBinding a/kube-vip", "Role b/kube-vip", "RoleBinding b/kube-vip",
			},
			granted: []string{"*: list services", "*: watch services", "a: get g/things", "a: get secrets", "a: update g/things", "b: get g/things"},
		},
		{
			name: "one resource for several reasons",
			rules: []Rule{
				{Group: "g", Resource: "things", Verbs: []string{"get", "list"}, Namespace: "a"},
				{Group: "h", Resource: "things", Verbs: []string{"get"}, Namespace: "a"},
				{Group: "g", Resource: "things", Verbs: []string{"list", "patch"}, Namespace: "a"},
			},
			objects: []string{"ServiceAccount kube-system/kube-vip", "Role a/kube-vip", "RoleBinding a/kube-vip"},
			granted: []string{"a: get g/things", "a: get h/things", "a: list g/things", "a: patch g/things"},
		},
		{
			name: "--role", rules: namespaced, scope: Scope{Role: true},
			objects: []string{"ServiceAccount kube-system/kube-vip", "Role a/kube-vip", "RoleBinding a/kube-vip", "Role b/kube-vip", "RoleBinding b/kube-vip"},
			granted: []string{"a: get g/things", "a: get secrets", "a: update g/things", "b: get g/things"},
		},
		{
			name: "--rolebinding", rules: rules[2:], scope: Scope{RoleBinding: true},
			objects: []string{"ServiceAccount kube-system/kube-vip", "ClusterRole /system:kube-vip-role", "RoleBinding a/kube-vip"},
			granted: []string{"a: get g/things", "a: get secrets", "a: update g/things"},
		},
		{
			name: "--role cannot reach all namespaces", rules: rules, scope: Scope{Role: true},
			wantErr: "services are needed in all namespaces (to know them): leave --role and --rolebinding out",
		},
		{
			name: "--rolebinding cannot tell namespaces apart", rules: namespaced, scope: Scope{RoleBinding: true},
			wantErr: "rights differ among the namespaces a, b, and one ClusterRole would give all of them in each: give --role in place of --rolebinding",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, err := RBAC(tt.rules, tt.scope)
			if text(err) != tt.wantErr {
				t.Fatalf("error %q, want %q", text(err), tt.wantErr)
			}
			var names []string
			for _, o := range objects {
				meta := o.(metav1.Object)
				names = append(names, o.GetObjectKind().GroupVersionKind().Kind+" "+meta.GetNamespace()+"/"+meta.GetName())
			}
			if diff := cmp.Diff(tt.objects, names); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.granted, granted(t, objects)); diff != "" {
				t.Errorf("granted to kube-system/kube-vip (-want +got):\n%s", diff)
			}
		})
	}
}

// granted lists what the objects allow the ServiceAccount kube-system/kube-vip.
func granted(t *testing.T, objects []runtime.Object) (all []string) {
	t.Helper()
	roles := map[string][]rbacv1.PolicyRule{}
	for _, o := range objects {
		switch o := o.(type) {
		case *rbacv1.Role:
			roles["Role "+o.Namespace+"/"+o.Name] = o.Rules
		case *rbacv1.ClusterRole:
			roles["ClusterRole "+o.Name] = o.Rules
		}
	}
	bind := func(where, role string, subjects []rbacv1.Subject) {
		want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "kube-vip", Namespace: "kube-system"}}
		if diff := cmp.Diff(want, subjects); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}
		rules, ok := roles[role]
		if !ok {
			t.Errorf("bound to %s, which is not there", role)
		}
		for _, r := range rules {
			for _, verb := range r.Verbs {
				all = append(all, where+": "+verb+" "+strings.TrimPrefix(r.APIGroups[0]+"/", "/")+r.Resources[0])
			}
		}
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *rbacv1.RoleBinding:
			role := "Role " + o.Namespace + "/" + o.RoleRef.Name
			if o.RoleRef.Kind == "ClusterRole" {
				role = "ClusterRole " + o.RoleRef.Name
			}
			bind(o.Namespace, role, o.Subjects)
		case *rbacv1.ClusterRoleBinding:
			bind("*", "ClusterRole "+o.RoleRef.Name, o.Subjects)
		}
	}
	slices.Sort(all)
	return all
}
