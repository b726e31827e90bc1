package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kube-vip.io/kube-vip/test/lab"
)

const (
	apiPort  = 6443
	manifest = "/etc/kubernetes/manifests/kube-vip.yaml"
	// sandboxImage is the image of the pods' sandboxes: that of the newest kubeadm.
	sandboxImage = "registry.k8s.io/pause:3.10.2"
	// webImage is what a Service's pods run.
	webImage = "kube-vip.io/web:test"
	// leaseDuration is the default.
	leaseDuration = 5 * time.Second
)

// A release is a version of Kubernetes and the folder of its programs.
type release struct{ version, dir string }

// parts are the folders of what machines are made of.
type parts struct {
	newest string // the newest Kubernetes, which the lab has, too
	older  string // two minors older
	middle string // between them
	node   string // containerd, the plugins of the network, and our pods' program
	image  string // the archive of our image
}

// The variables that name the folders; `make` sets them.
const (
	olderEnv  = "KUBE_VIP_KUBEADM_V135"
	middleEnv = "KUBE_VIP_KUBEADM_V136"
	nodeEnv   = "KUBE_VIP_KUBEADM_NODE"
	imageEnv  = "KUBE_VIP_IMAGE"
)

// findParts is where the parts are. A test that needs one which is not there is skipped, or fails in CI.
func findParts(t *testing.T) parts {
	t.Helper()
	p := parts{newest: os.Getenv(lab.PartsEnv), older: os.Getenv(olderEnv), middle: os.Getenv(middleEnv), node: os.Getenv(nodeEnv), image: os.Getenv(imageEnv)}
	if p.newest == "" || p.node == "" {
		lab.Need(t, errors.New("the parts of machines are not known here: run this by `make test-kubeadm`"))
	}
	if groups, err := os.ReadFile("/proc/self/cgroup"); err != nil || !strings.Contains(string(groups), ":memory:") {
		lab.Need(t, errors.New("machines are made with control groups of version 1, which this one does not have (systemd.unified_cgroup_hierarchy=0)"))
	}
	return p
}

// releaseIn is the release whose programs are in a folder.
func releaseIn(t *testing.T, dir string) release {
	t.Helper()
	out, err := exec.Command(filepath.Join(dir, "kubeadm"), "version", "-o", "short").Output()
	if err != nil {
		lab.Need(t, fmt.Errorf("ask kubeadm in %q for its version: %w", dir, err))
	}
	return release{version: strings.TrimSpace(string(out)), dir: dir}
}

// A cluster is some machines on the lab's network, and what kubeadm makes of them.
type cluster struct {
	*lab.Lab
	parts    parts
	release  release
	machines []*machine
	family   lab.Family
	images   string // the folder of the archives
	join     joinWords
	exported map[string]string // by machine: what a reader of the documentation has exported there
	report   *report
}

// name says in reports which cluster it is.
func (c *cluster) name() string { return c.release.version + ", " + string(c.family) }

// joinWords are what a new node must know, from what `kubeadm init` prints.
type joinWords struct{ token, hash, key string }

// newCluster boots machines that have the images of a release. Nothing of Kubernetes runs yet.
func newCluster(t *testing.T, f lab.Family, machines int, r release, p parts, figures *report) *cluster {
	t.Helper()
	c := &cluster{family: f, parts: p, release: r, report: figures, exported: map[string]string{}}
	t.Cleanup(func() { // the last of all
		for _, left := range c.leftovers() {
			t.Errorf("left behind: %s", left)
		}
	})
	c.Lab = lab.New(t, lab.Options{NoCluster: true, Nodes: machines, Family: f})
	if err := sweep(); err != nil {
		t.Logf("what a test that was killed left behind is still there: %v", err)
	}
	c.images = filepath.Join(c.Dir, "images")
	begin := time.Now()
	c.pack(t, r)
	t.Logf("images of %s packed in %s", r.version, time.Since(begin).Round(time.Millisecond))
	for _, n := range c.Nodes {
		c.machines = append(c.machines, newMachine(t, c.Lab, n, r, c.parts))
	}
	c.load(t)
	c.route(t)
	t.Logf("%d machines are up, with their images, after %s", machines, time.Since(begin).Round(time.Millisecond))
	return c
}

// sweep removes control groups of tests that were killed, whose processes have died with them.
func sweep() error {
	var errs []error
	for _, group := range groups("kv[0-9]*-[0-9]*-cp[0-9]") {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(group), "kv"), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, removeGroups(group))
		}
	}
	return errors.Join(errs...)
}

// groups are the control groups whose names match, as far down as machines have them.
func groups(pattern string) (list []string) {
	for depth := "*"; strings.Count(depth, "/") < 4; depth += "/*" {
		found, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", depth, pattern)) // the pattern is a good one
		list = append(list, found...)
	}
	return list
}

// leftovers are what is there of the machines when they and the lab are gone: files, control groups, networks, processes.
func (c *cluster) leftovers() (list []string) {
	if c.Lab == nil {
		return nil
	}
	there := func(path string) {
		if _, err := os.Lstat(path); err == nil {
			list = append(list, path)
		}
	}
	there(c.Dir)
	for _, m := range c.machines {
		there("/run/netns/" + m.Netns)
		list = append(list, groups(m.Netns)...)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, file := range processes {
		of, err := os.Readlink(file)
		if err != nil {
			continue // it has ended
		}
		if slices.ContainsFunc(c.machines, func(m *machine) bool { return m.net == of }) {
			name, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "cmdline"))
			list = append(list, file+" of "+strings.ReplaceAll(string(name), "\x00", " "))
		}
	}
	return list
}

// pack makes the archives of the images that kubeadm of a release wants, of our own one, and of the pods'.
func (c *cluster) pack(t *testing.T, r release) {
	t.Helper()
	if err := os.MkdirAll(c.images, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(r.dir, "kubeadm"), "config", "images", "list", "--kubernetes-version", r.version).Output()
	if err != nil {
		t.Fatal(err)
	}
	nft, err := lab.Tool("nft")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := withLibraries(nft)
	if err != nil {
		t.Fatal(err)
	}
	pod := filepath.Join(c.parts.node, "pause")
	all := []image{
		{name: sandboxImage, files: map[string]string{"/pause": pod}, entrypoint: []string{"/pause"}},
		{name: webImage, files: map[string]string{"/pause": pod}, entrypoint: []string{"/pause", "web"}},
	}
	for _, name := range strings.Fields(string(out)) {
		base, _, _ := strings.Cut(path.Base(name), ":")
		i := image{name: name, files: map[string]string{"/usr/local/bin/" + base: filepath.Join(r.dir, base)}}
		switch base {
		case "coredns": // the cluster goes without
			continue
		case "pause":
			if name == sandboxImage {
				continue
			}
			i = image{name: name, files: map[string]string{"/pause": pod}, entrypoint: []string{"/pause"}}
		case "kube-proxy":
			for to, from := range libraries {
				i.files[to] = from
			}
		}
		all = append(all, i)
	}
	for _, i := range all {
		if err := i.save(filepath.Join(c.images, strings.NewReplacer("/", "_", ":", "_").Replace(i.name)+".tar")); err != nil {
			t.Fatal(err)
		}
	}
}

// load imports all archives into every machine's containerd, as an operator does where there is no registry.
func (c *cluster) load(t *testing.T) {
	t.Helper()
	var wg sync.WaitGroup
	for _, m := range c.machines {
		wg.Go(func() {
			_, err := m.run(t.Context(), fmt.Sprintf(`for i in %s/*.tar %s; do ctr -n k8s.io images import "$i" >/dev/null; done`, c.images, c.parts.image))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// route has every machine know the way to the other ones' pods, and the client, too.
func (c *cluster) route(t *testing.T) {
	t.Helper()
	for _, h := range append([]*lab.Host{c.Client}, c.hosts()...) {
		for _, m := range c.machines {
			if m.Host == h {
				continue
			}
			for i, p := range m.PodCIDRs() {
				if _, err := h.Run(t.Context(), "ip", "route", "replace", p.String(), "via", m.Addrs[i].Addr().String()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func (c *cluster) hosts() (list []*lab.Host) {
	for _, m := range c.machines {
		list = append(list, m.Host)
	}
	return list
}

func (c *cluster) vip() netip.Addr { return c.VIPs[0] }

func (c *cluster) endpoint() netip.AddrPort { return netip.AddrPortFrom(c.vip(), apiPort) }

// vips are the addresses as a flag has them.
func (c *cluster) vips() string {
	var list []string
	for _, v := range c.VIPs {
		list = append(list, v.String())
	}
	return strings.Join(list, ",")
}

// registration is what every node says of itself. These machines share a kernel with control groups of version 1.
func (c *cluster) registration(m *machine) string {
	var addrs []string
	for _, p := range m.Addrs {
		addrs = append(addrs, p.Addr().String())
	}
	return fmt.Sprintf(`nodeRegistration:
  name: %s
  ignorePreflightErrors: [SystemVerification]
  kubeletExtraArgs:
  - {name: node-ip, value: %q}
`, m.Name, strings.Join(addrs, ","))
}

// initConfig is kubeadm's configuration for the first node.
func (c *cluster) initConfig(m *machine, endpoint string) string {
	var sans []string
	for _, v := range c.VIPs {
		sans = append(sans, fmt.Sprintf("%q", v))
	}
	config := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: %q
%s---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
networking:
  podSubnet: %s
  serviceSubnet: %s
apiServer:
  certSANs: [%s]
dns:
  disabled: true
`, m.Addr(), c.registration(m), c.release.version, c.PodSubnets(), c.ServiceSubnets(),
		strings.Join(sans, ", "))
	if endpoint != "" {
		config += fmt.Sprintf("controlPlaneEndpoint: %q\n", endpoint)
	}
	return config + "---\n" + componentConfig
}

// componentConfig is what the machines' kernel asks of a kubelet, which sees the swap and the disk of the machine that all of
// them are on, and of kube-proxy, which may not say how many connections all networks track; and kube-proxy as its image can be.
const componentConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack: {maxPerCore: 0, min: 0}
`

// joinConfig is kubeadm's configuration for a further node.
func (c *cluster) joinConfig(m *machine) string {
	return fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: %q
    token: %s
    caCertHashes: [%q]
controlPlane:
  certificateKey: %s
  localAPIEndpoint:
    advertiseAddress: %q
%s`, c.endpoint(), c.join.token, c.join.hash, c.join.key, m.Addr(), c.registration(m))
}

// init makes the first machine the cluster's first node, with the manifest there before, and returns how long kubeadm took.
func (c *cluster) init(t *testing.T, m *machine) time.Duration {
	t.Helper()
	m.write(t, "/etc/kubernetes/kubeadm.yaml", c.initConfig(m, c.endpoint().String()))
	m.must(t, "kube-vip kubeadm init --config /etc/kubernetes/kubeadm.yaml --address "+c.vips()+" --arp --output "+manifest)
	begin := time.Now()
	out := m.must(t, "kubeadm init --config /etc/kubernetes/kubeadm.yaml --upload-certs")
	took := time.Since(begin)
	var err error
	if c.join, err = parseJoin(out); err != nil {
		t.Fatal(err)
	}
	c.trust(t, m)
	return took
}

// parseJoin finds what a new control-plane node needs in what `kubeadm init` printed.
func parseJoin(out string) (w joinWords, err error) {
	for pattern, to := range map[string]*string{`--token (\S+)`: &w.token, `--discovery-token-ca-cert-hash (\S+)`: &w.hash, `--certificate-key (\S+)`: &w.key} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(out)
		if m == nil {
			return w, fmt.Errorf("kubeadm init prints no %s:\n%s", pattern, out)
		}
		*to = m[1]
	}
	return w, nil
}

// trust has the lab's own clients, and kubectl on the client, use the cluster.
func (c *cluster) trust(t *testing.T, m *machine) {
	t.Helper()
	super := []byte(m.read(t, "/etc/kubernetes/super-admin.conf"))
	if err := c.Adopt(super); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Client.Path("/etc/kubernetes/admin.conf"), []byte(m.read(t, "/etc/kubernetes/admin.conf")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// joins has a machine join as a node of the control plane, with the manifest that the first node has.
func (c *cluster) joins(t *testing.T, m *machine) time.Duration {
	t.Helper()
	first := c.machines[0]
	if first == m {
		first = c.machines[1]
	}
	m.write(t, "/etc/kubernetes/join.yaml", c.joinConfig(m))
	m.write(t, manifest, first.read(t, manifest))
	begin := time.Now()
	m.must(t, "kubeadm join --config /etc/kubernetes/join.yaml")
	return time.Since(begin)
}

// kube is a client by the VIP, from outside.
func (c *cluster) kube(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.Config(c.Client, c.endpoint()))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubectl runs kubectl on the client, by the VIP.
func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	return c.Client.Run(ctx, filepath.Join(c.parts.newest, "kubectl"), append([]string{
		"--kubeconfig=/etc/kubernetes/admin.conf", "--cache-dir=" + filepath.Join(c.Dir, "kubectl"), "--request-timeout=" + kubectlPatience.String()}, args...)...)
}

// ready waits until all nodes are ready, and every pod of the control plane: each node has all that one has.
func (c *cluster) ready(t *testing.T, nodes int) {
	t.Helper()
	var why string
	eventually(t, 2*time.Minute, "the nodes are ready", &why, func(ctx context.Context) bool {
		list, err := c.kube(t).CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			why = err.Error()
			return false
		}
		pods, err := c.kube(t).CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			why = err.Error()
			return false
		}
		if why = unready(list.Items, pods.Items); why == "" && len(list.Items) != nodes {
			why = fmt.Sprintf("%d nodes", len(list.Items))
		}
		return why == ""
	})
}

// unready says what is not ready yet; empty when all is.
func unready(nodes []corev1.Node, pods []corev1.Pod) string {
	for _, n := range nodes {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return n.Name + ": " + cond.Message
			}
		}
		for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kube-vip"} {
			if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == n.Name && strings.HasPrefix(p.Name, name+"-") }) {
				return n.Name + " has no " + name
			}
		}
	}
	for _, p := range pods {
		i := slices.IndexFunc(p.Status.Conditions, func(cond corev1.PodCondition) bool { return cond.Type == corev1.PodReady })
		if p.Status.Phase != corev1.PodSucceeded && (i < 0 || p.Status.Conditions[i].Status != corev1.ConditionTrue) {
			return p.Name + " is not ready"
		}
	}
	return ""
}

// holder waits until just one machine has the VIP.
func (c *cluster) holder(t *testing.T) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n, err := c.WaitHolder(ctx, c.vip())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.machines {
		if m.Node == n {
			return m
		}
	}
	t.Fatalf("%s is none of the machines", n)
	return nil
}

// others are the machines but one.
func (c *cluster) others(but *machine) (list []*machine) {
	for _, m := range c.machines {
		if m != but {
			list = append(list, m)
		}
	}
	return list
}

// A clientView is what a client sees of the VIPs: GET /version by new TLS connections, 20 a second for each of them, and kubectl.
type clientView struct {
	gaps []*lab.Gap
	stop context.CancelFunc
	done chan struct{}
	runs int
	bad  []string
	last error // of kubectl
}

// kubectlPatience is how long kubectl may take for a request.
const kubectlPatience = 5 * time.Second

// watch begins to look from the client.
func (c *cluster) watch(t *testing.T) *clientView {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run, stop := context.WithCancel(context.Background())
	v := &clientView{stop: stop, done: make(chan struct{})}
	t.Cleanup(stop)
	for _, vip := range c.VIPs {
		gap, err := c.Client.StartGap(ctx, lab.GapOptions{Target: netip.AddrPortFrom(vip, apiPort), TLS: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { gap.Stop() })
		v.gaps = append(v.gaps, gap)
	}
	go func() {
		defer close(v.done)
		tick := time.NewTicker(2 * time.Second) // it costs a fifth of a core's second
		defer tick.Stop()
		for run.Err() == nil {
			out, err := c.kubectl(run, "get", "nodes")
			if run.Err() == nil {
				v.runs++
				if v.last = err; err != nil {
					v.bad = append(v.bad, time.Now().Format("15:04:05.0 ")+strings.TrimSpace(out))
				}
			}
			select {
			case <-tick.C:
			case <-run.Done():
			}
		}
	}()
	return v
}

// end stops looking, tells what was seen, and returns the worst of it. The VIPs may have been away for a time; what kubectl was
// kept from by more than that fails the test.
func (v *clientView) end(t *testing.T, what string, limit time.Duration) (worst lab.GapResult) {
	t.Helper()
	for i, gap := range v.gaps {
		r := gap.Stop()
		if i == 0 || r.Longest > worst.Longest {
			worst = r
		}
		t.Logf("%s: %s", what, r)
		for cause, n := range r.Causes() {
			t.Logf("  %d × %s", n, cause)
		}
	}
	v.stop()
	<-v.done
	t.Logf("%s: kubectl get nodes failed %d of %d times", what, len(v.bad), v.runs)
	for _, b := range v.bad {
		t.Logf("  at %s", b)
	}
	if worst.Longest > limit+worst.Lag {
		t.Errorf("the VIP was away for %s, want %s at most", worst.Longest, limit)
	}
	// A request that is under way when an API server goes is one that may hang; and so does the next one, of which the other end
	// of the connection is not known to be gone.
	if most := 2 + int(limit/kubectlPatience); len(v.bad) > most || v.runs > 1 && v.last != nil {
		t.Errorf("kubectl failed %d times, want %d at most; the last time with %v", len(v.bad), most, v.last)
	}
	return worst
}

// eventually waits for a condition that asks an API.
func eventually(t *testing.T, patience time.Duration, what string, why *string, ok func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if ok(ctx) {
			return
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			t.Fatalf("not within %s: %s (%s)", patience, what, *why)
		}
	}
}

// url is a page of a Service.
func url(a netip.Addr, port string) string {
	return "http://" + net.JoinHostPort(a.String(), port) + "/"
}
