package kubeadm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kube-vip.io/kube-vip/test/bench/measure"
	"kube-vip.io/kube-vip/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// TestKubeadm lives through clusters that kubeadm makes. With -short it is init, two joins and a failover on the newest
// Kubernetes. With KUBE_VIP_BENCHMARKS the figures go into that page.
func TestKubeadm(t *testing.T) {
	p := findParts(t)
	r := &report{begin: time.Now()}
	t.Run("newest", func(t *testing.T) { newest(t, p, r) })
	if testing.Short() {
		return
	}
	t.Run("older", func(t *testing.T) { older(t, p, r) })
	t.Run("dual", func(t *testing.T) { dual(t, p, r) })
	t.Run("init", func(t *testing.T) { initCost(t, p, r) })
	if page := os.Getenv(benchmarksEnv); page != "" && !t.Failed() {
		if err := r.write(page); err != nil {
			t.Error(err)
		}
	}
}

// newest is the life of a cluster of the newest kubeadm: what its operator does and what happens to him, one after another.
func newest(t *testing.T, p parts, r *report) {
	c := newCluster(t, lab.IPv4, 3, releaseIn(t, p.newest), p, r)
	steps := []step{
		{"init", (*cluster).stepFirst},
		{"join", (*cluster).stepOthers},
		{"a machine is destroyed", (*cluster).stepLose},
	}
	if !testing.Short() {
		steps = append(steps, []step{
			{"its replacement", (*cluster).stepReplace},
			{"all lose their power", (*cluster).stepPower},
			{"a manifest of an older kube-vip", (*cluster).stepOlderManifest},
			{"kube-vip is rolled", (*cluster).stepRoll},
			{"certificates are renewed", (*cluster).stepRenew},
			{"a Service", (*cluster).stepService},
			{"to a DaemonSet", (*cluster).stepDaemonSet},
			{"and back", (*cluster).stepStatic},
			{"the machine", (*cluster).stepDescribe},
		}...)
	}
	c.live(t, steps)
}

// older is a cluster by IPv6 of a kubeadm that needs the VIP before admin.conf has any rights, and its upgrade.
func older(t *testing.T, p parts, r *report) {
	c := newCluster(t, lab.IPv6, 3, releaseIn(t, p.older), p, r)
	c.live(t, []step{
		{"init", (*cluster).stepInit},
		{"join", (*cluster).stepJoin},
		{"upgrade", (*cluster).stepUpgrade},
		{"a machine is destroyed", (*cluster).stepDestroy},
	})
}

// dual is a cluster with a VIP of each family.
func dual(t *testing.T, p parts, r *report) {
	c := newCluster(t, lab.Dual, 3, releaseIn(t, p.newest), p, r)
	c.live(t, []step{
		{"init", (*cluster).stepInit},
		{"join", (*cluster).stepJoin},
		{"a machine is destroyed", (*cluster).stepDestroy},
	})
}

const (
	// failover is how long the VIP may be away when its holder is lost, or an API server with its etcd.
	failover = leaseDuration + 1500*time.Millisecond
	// handover is how long it may be away when it is given from one to another, on a busy machine.
	handover = 2 * time.Second
)

// A step is a part of a cluster's life, which goes on from the one before.
type step struct {
	name string
	do   func(*cluster, *testing.T)
}

// live takes the steps, and none after one that failed.
func (c *cluster) live(t *testing.T, steps []step) {
	for _, s := range steps {
		begin := time.Now()
		if !t.Run(s.name, func(t *testing.T) { s.do(c, t) }) {
			return
		}
		t.Logf("%s: %s", s.name, time.Since(begin).Round(100*time.Millisecond))
	}
}

// stepFirst makes the first node as the documentation says.
func (c *cluster) stepFirst(t *testing.T) {
	c.follow(t, "The first node")
	c.held(t)
}

// stepInit makes the first node.
func (c *cluster) stepInit(t *testing.T) {
	t.Logf("kubeadm init took %s", c.init(t, c.machines[0]).Round(100*time.Millisecond))
	c.held(t)
}

// held checks that the first machine has every VIP.
func (c *cluster) held(t *testing.T) {
	t.Helper()
	if h := c.holder(t); h != c.machines[0] {
		t.Errorf("%s has the VIP", h)
	}
	for _, v := range c.VIPs {
		if has, err := c.machines[0].Has(v); err != nil || !has {
			t.Errorf("%s is on %s: %t, %v", v, c.machines[0], has, err)
		}
	}
}

// stepOthers has the other machines join as the documentation says, while a client looks.
func (c *cluster) stepOthers(t *testing.T) {
	view := c.watch(t)
	c.follow(t, "The others")
	c.ready(t, len(c.machines))
	c.grown(t, view)
	c.follow(t, "See that it works")
}

// stepJoin has the other machines join while a client looks.
func (c *cluster) stepJoin(t *testing.T) {
	view := c.watch(t)
	for _, m := range c.machines[1:] {
		t.Logf("kubeadm join took %s on %s", c.joins(t, m).Round(100*time.Millisecond), m)
	}
	c.ready(t, len(c.machines))
	c.grown(t, view)
}

// grown says what a client saw while machines joined.
func (c *cluster) grown(t *testing.T, view *clientView) {
	t.Helper()
	const limit = 3 * time.Second // etcd elects while it grows from one member to two
	c.report.requests(c.name(), "two machines join", "", view.end(t, "two joins", limit))
}

// stepLose destroys the holder, and looks at what is left as the documentation says.
func (c *cluster) stepLose(t *testing.T) {
	c.stepDestroy(t)
	if !c.machines[1].Crashed() { // it is cp1 as a rule, as the page has it
		c.follow(t, "Lose a node")
	}
}

// stepDestroy takes the power of the holder away.
func (c *cluster) stepDestroy(t *testing.T) {
	holder := c.holder(t)
	view := c.watch(t)
	begin := time.Now()
	if err := holder.off(); err != nil {
		t.Fatal(err)
	}
	next := c.holder(t)
	t.Logf("%s was destroyed; %s has the VIP after %s", holder, next, time.Since(begin).Round(10*time.Millisecond))
	c.serves(t, view)
	limit := failover
	if testing.Short() { // beside whatever else this machine does; the long form is for the bound
		limit *= 2
	}
	c.report.requests(c.name(), "a machine is destroyed, the holder", "≤ 6.50 s", view.end(t, "a machine is destroyed", limit))
	for _, v := range c.VIPs {
		if has, err := next.Has(v); err != nil || !has {
			t.Errorf("%s is on %s: %t, %v", v, next, has, err)
		}
	}
}

// serves waits until the client of a view has got an answer again.
func (c *cluster) serves(t *testing.T, view *clientView) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	now := time.Now()
	for _, gap := range view.gaps {
		if err := gap.WaitFor(ctx, now); err != nil {
			t.Fatal(err)
		}
	}
}

// stepReplace brings the destroyed machine back, and makes it a new node.
func (c *cluster) stepReplace(t *testing.T) {
	i := slices.IndexFunc(c.machines, func(m *machine) bool { return m.Crashed() })
	m := c.machines[i]
	view := c.watch(t)
	m.again(t)
	c.route(t)
	m.must(t, "systemctl stop kubelet; kubeadm reset --force --ignore-preflight-errors=all")
	if out, err := c.kubectl(t.Context(), "delete", "node", m.Name); err != nil {
		t.Fatal(err, out)
	}
	if strings.Contains(m.must(t, "ls /etc/kubernetes/manifests"), "kube-vip") {
		t.Error("kubeadm reset has left the manifest")
	}
	m.must(t, "systemctl start kubelet")
	t.Logf("kubeadm join took %s", c.joins(t, m).Round(100*time.Millisecond))
	c.ready(t, len(c.machines))
	c.report.requests(c.name(), "it is reset, and joins anew", "", view.end(t, "its replacement joins", failover))
}

// stepPower has all machines lose their power at once and start again, with nobody there.
func (c *cluster) stepPower(t *testing.T) {
	var wg sync.WaitGroup
	for _, m := range c.machines {
		wg.Go(func() {
			if err := m.off(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	begin := time.Now()
	for _, m := range c.machines {
		m.again(t)
	}
	c.route(t)
	h := c.holder(t)
	t.Logf("%s has the VIP %s after the power is back", h, time.Since(begin).Round(100*time.Millisecond))
	view := c.watch(t)
	c.report.add(c.name(), "all machines lose their power → the VIP answers", "", measure.Span(time.Since(begin)))
	c.ready(t, len(c.machines))
	view.end(t, "after the power is back", failover)
}

// stepOlderManifest has every machine run what the manifest generator of an older kube-vip wrote, with our image.
func (c *cluster) stepOlderManifest(t *testing.T) {
	older, err := os.ReadFile("testdata/older-pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	image := strings.TrimSpace(c.machines[0].must(t, "sed -n 's/^ *image: //p' "+manifest))
	text := strings.NewReplacer("VIP", c.vips(), "IMAGE", image).Replace(string(older))
	view := c.watch(t)
	same := c.sameLease(t)
	holder := c.holder(t)
	for _, m := range append(c.others(holder), holder) {
		m.write(t, "/etc/kubernetes/older.yaml", text)
		c.replacePod(t, m, "mv /etc/kubernetes/older.yaml "+manifest)
	}
	c.ready(t, len(c.machines))
	same()
	c.report.requests(c.name(), "every machine gets the manifest of an older kube-vip", "", view.end(t, "every machine gets the manifest of an older kube-vip", handover))
}

// stepRoll writes another manifest on a machine after another, the holder's last.
func (c *cluster) stepRoll(t *testing.T) {
	view := c.watch(t)
	same := c.sameLease(t)
	holder := c.holder(t)
	for _, m := range append(c.others(holder), holder) {
		c.replacePod(t, m, "kube-vip manifest pod --address "+c.vips()+" --arp --controlplane --services --output "+manifest)
	}
	c.ready(t, len(c.machines))
	same()
	c.report.requests(c.name(), "every machine gets another manifest", "", view.end(t, "every machine gets another manifest", handover))
}

// sameLease is to be called again later: it is the same Lease then, and has moved once.
func (c *cluster) sameLease(t *testing.T) func() {
	t.Helper()
	get := func() *coordinationv1.Lease {
		t.Helper()
		l, err := c.kube(t).CoordinationV1().Leases(metav1.NamespaceSystem).Get(t.Context(), "plndr-cp-lock", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := get()
	return func() {
		t.Helper()
		after := get()
		if moves := *after.Spec.LeaseTransitions - *before.Spec.LeaseTransitions; after.UID != before.UID || moves != 1 {
			t.Errorf("Lease %s, which moved %d times, was %s: want the same, and one move", after.UID, moves, before.UID)
		}
	}
}

// replacePod runs a command that changes the manifest, and waits until another container of ours is ready on the machine.
func (c *cluster) replacePod(t *testing.T, m *machine, command string) {
	t.Helper()
	before := c.podHash(t, m)
	m.must(t, command)
	c.podReady(t, m, before)
}

// podReady waits until the static pod of ours is ready on a machine, of another manifest than that with a checksum.
func (c *cluster) podReady(t *testing.T, m *machine, before string) {
	t.Helper()
	var why string
	eventually(t, 2*time.Minute, "the kubelet of "+m.Name+" runs the new pod", &why, func(ctx context.Context) bool {
		pod, err := c.kube(t).CoreV1().Pods(metav1.NamespaceSystem).Get(ctx, "kube-vip-"+m.Name, metav1.GetOptions{})
		if err != nil {
			why = err.Error()
			return false
		}
		hash := pod.Annotations["kubernetes.io/config.mirror"]
		ready := len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].Ready
		why = fmt.Sprintf("manifest %s, was %s, ready %t", hash, before, ready)
		return hash != before && ready
	})
}

// podHash is the kubelet's checksum of the manifest that it runs.
func (c *cluster) podHash(t *testing.T, m *machine) string {
	t.Helper()
	pod, err := c.kube(t).CoreV1().Pods(metav1.NamespaceSystem).Get(t.Context(), "kube-vip-"+m.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod.Annotations["kubernetes.io/config.mirror"]
}

// stepRenew renews all certificates, and restarts what uses them.
func (c *cluster) stepRenew(t *testing.T) {
	view := c.watch(t)
	holder := c.holder(t)
	for _, m := range append(c.others(holder), holder) {
		before := m.read(t, "/etc/kubernetes/admin.conf")
		m.must(t, "kubeadm certs renew all")
		after := m.read(t, "/etc/kubernetes/admin.conf")
		if before == after {
			t.Errorf("admin.conf of %s has not changed", m)
		}
		if seen := m.must(t, `cat /proc/$(pgrep -xo kube-vip)/root/etc/kubernetes/admin.conf`); seen != after {
			t.Errorf("kube-vip on %s sees an admin.conf that is not the new one", m)
		}
		m.must(t, `for i in etcd kube-apiserver kube-controller-manager kube-scheduler; do
			mv /etc/kubernetes/manifests/$i.yaml /etc/kubernetes/; done
			while pgrep -x kube-apiserver >/dev/null || pgrep -x etcd >/dev/null; do sleep 0.5; done
			mv /etc/kubernetes/{etcd,kube-apiserver,kube-controller-manager,kube-scheduler}.yaml /etc/kubernetes/manifests/`)
		var why string
		eventually(t, 2*time.Minute, "the API server of "+m.Name+" is back", &why, func(ctx context.Context) bool {
			client, err := m.Kube()
			if err == nil {
				_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
			}
			if err != nil {
				why = err.Error()
			}
			return err == nil
		})
		c.ready(t, len(c.machines))
		file, _ := pem.Decode([]byte(m.read(t, "/etc/kubernetes/pki/apiserver.crt")))
		if served := c.certificate(t, m); file == nil || !bytes.Equal(file.Bytes, served) {
			t.Errorf("the API server of %s does not have the certificate of its file", m)
		}
	}
	c.report.requests(c.name(), "kubeadm certs renew all, and every control-plane pod is started anew", "", view.end(t, "certificates are renewed", failover))
}

// certificate is what the API server of a machine shows.
func (c *cluster) certificate(t *testing.T, m *machine) []byte {
	t.Helper()
	conn, err := c.Client.DialContext(t.Context(), "tcp", netip.AddrPortFrom(m.Addr(), apiPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	shown := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if err := shown.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return shown.ConnectionState().PeerCertificates[0].Raw
}

const webManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: ` + webImage + `
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  annotations: {kube-vip.io/loadbalancerIPs: 10.10.0.50}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// stepService makes a Service of the type LoadBalancer, which a client outside asks for.
func (c *cluster) stepService(t *testing.T) {
	// Every node of this cluster is one of the control plane, so workloads and Services' addresses have to go there.
	m := c.machines[0]
	m.admin(t, "kubectl taint nodes --all node-role.kubernetes.io/control-plane-")
	m.admin(t, "kubectl label nodes --all node.kubernetes.io/exclude-from-external-load-balancers-")
	m.write(t, "/etc/kubernetes/web.yaml", webManifest)
	m.admin(t, "kubectl apply -f /etc/kubernetes/web.yaml && kubectl rollout status deployment/web --timeout=2m")
	seen := map[string]int{}
	client := c.Client.HTTPClient(nil)
	client.Timeout = 2 * time.Second
	at := url(netip.MustParseAddr("10.10.0.50"), "80")
	var why string
	eventually(t, time.Minute, "all three pods have answered at "+at, &why, func(ctx context.Context) bool {
		name, err := get(ctx, client, at)
		if err != nil {
			why = err.Error()
			return false
		}
		seen[name]++
		why = fmt.Sprint(seen)
		return len(seen) == 3
	})
	if out := m.admin(t, "kubectl get service web"); !strings.Contains(out, "10.10.0.50") {
		t.Errorf("the Service has no address:\n%s", out)
	}
}

func get(ctx context.Context, client *http.Client, at string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// daemonSet writes the DaemonSet as docs/upgrade.md says, for nodes with a label, or for all.
func (c *cluster) daemonSet(t *testing.T, labelled bool) {
	t.Helper()
	patch := ""
	if labelled {
		patch = ` | kubectl patch --local -f - --type merge -o yaml -p '{"spec":{"template":{"spec":{"nodeSelector":{"vip":"daemonset"}}}}}'`
	}
	c.machines[0].admin(t, "kube-vip manifest daemonset --address "+c.vips()+" --arp --controlplane --services --inCluster --taint"+patch+" | kubectl apply -f -")
}

// stepDaemonSet puts a DaemonSet in the place of the static pods, on one node after another.
func (c *cluster) stepDaemonSet(t *testing.T) {
	view := c.watch(t)
	holder := c.holder(t)
	c.machines[0].admin(t, "kube-vip manifest rbac --arp --controlplane --services | kubectl apply -f -")
	c.daemonSet(t, true)
	for _, m := range append(c.others(holder), holder) {
		m.must(t, "mv "+manifest+" /root/")
		c.podGone(t, m)
		m.admin(t, "kubectl label node "+m.Name+" vip=daemonset")
		c.ofDaemonSet(t, m, true)
	}
	c.daemonSet(t, false)
	c.machines[0].admin(t, "kubectl -n kube-system rollout status daemonset/kube-vip-ds --timeout=3m && kubectl label nodes --all vip-")
	c.holder(t)
	c.ready(t, len(c.machines))
	c.report.requests(c.name(), "static pods → a DaemonSet", "", view.end(t, "static pods → a DaemonSet", handover))
}

// ofDaemonSet waits until a machine has a pod of the DaemonSet that is ready, or none.
func (c *cluster) ofDaemonSet(t *testing.T, m *machine, there bool) {
	t.Helper()
	var why string
	eventually(t, 2*time.Minute, fmt.Sprintf("%s has a pod of the DaemonSet: %t", m, there), &why, func(ctx context.Context) bool {
		pods, err := c.kube(t).CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
			LabelSelector: "app.kubernetes.io/name=kube-vip-ds", FieldSelector: "spec.nodeName=" + m.Name})
		if err != nil {
			why = err.Error()
			return false
		}
		why = fmt.Sprintf("%d pods", len(pods.Items))
		if !there {
			return len(pods.Items) == 0
		}
		return len(pods.Items) == 1 && len(pods.Items[0].Status.ContainerStatuses) == 1 && pods.Items[0].Status.ContainerStatuses[0].Ready
	})
}

// podGone waits until the static pod of a machine has ended.
func (c *cluster) podGone(t *testing.T, m *machine) {
	t.Helper()
	var why string
	eventually(t, time.Minute, "the static pod of "+m.Name+" is gone", &why, func(ctx context.Context) bool {
		_, err := c.kube(t).CoreV1().Pods(metav1.NamespaceSystem).Get(ctx, "kube-vip-"+m.Name, metav1.GetOptions{})
		why = fmt.Sprint(err)
		return err != nil && strings.Contains(why, "not found")
	})
}

// stepStatic goes back to static pods.
func (c *cluster) stepStatic(t *testing.T) {
	view := c.watch(t)
	holder := c.holder(t)
	first := c.machines[0]
	first.admin(t, "kubectl label nodes --all vip=daemonset")
	c.daemonSet(t, true)
	first.admin(t, "kubectl -n kube-system rollout status daemonset/kube-vip-ds --timeout=3m")
	for _, m := range append(c.others(holder), holder) {
		m.admin(t, "kubectl label node "+m.Name+" vip-")
		c.ofDaemonSet(t, m, false)
		m.must(t, "mv /root/kube-vip.yaml "+manifest)
		c.podReady(t, m, "")
	}
	first.admin(t, "kubectl -n kube-system delete daemonset kube-vip-ds && kube-vip manifest rbac --arp --controlplane --services | kubectl delete -f -")
	c.holder(t)
	c.ready(t, len(c.machines))
	c.report.requests(c.name(), "a DaemonSet → static pods", "", view.end(t, "a DaemonSet → static pods", handover))
}

// initCost compares kubeadm init with a VIP to that without one, on one machine, in turns.
func initCost(t *testing.T, p parts, r *report) {
	const rounds = 2
	c := newCluster(t, lab.IPv4, 1, releaseIn(t, p.newest), p, r)
	m := c.machines[0]
	plain := func() time.Duration {
		m.write(t, "/etc/kubernetes/kubeadm.yaml", c.initConfig(m, ""))
		begin := time.Now()
		m.must(t, "kubeadm init --config /etc/kubernetes/kubeadm.yaml --upload-certs")
		return time.Since(begin)
	}
	vip := func() time.Duration { return c.init(t, m) }
	took := map[bool][]time.Duration{}
	for i := range 2*rounds + 1 {
		withVIP := i%4 == 0 || i%4 == 3 // neither is always the one after the other
		run := plain
		if withVIP {
			run = vip
		}
		d := run()
		if i > 0 { // the first one finds nothing in the page cache
			took[withVIP] = append(took[withVIP], d)
		}
		m.must(t, "kubeadm reset --force")
	}
	without, with := took[false], took[true]
	t.Logf("kubeadm init took %v without a VIP, %v with one", without, with)
	r.add(c.name(), "kubeadm init without a VIP, median / worst", "", measure.Spread(without))
	r.add(c.name(), "kubeadm init with one", "≤ 2 s more", measure.Spread(with))
	const bound = 2 * time.Second
	if cost := measure.Median(with) - measure.Median(without); cost > bound {
		t.Errorf("the VIP costs kubeadm init %s, want %s at most", cost, bound)
	}
}

// stepDescribe notes what was measured.
func (c *cluster) stepDescribe(t *testing.T) {
	var err error
	if c.report.machine, err = measure.Describe(t.Context(), c.Lab, lab.Binary(t)); err != nil {
		t.Fatal(err)
	}
}

// stepUpgrade upgrades the cluster by a minor version, a machine after another and the holder last.
func (c *cluster) stepUpgrade(t *testing.T) {
	const ignored = " --ignore-preflight-errors=SystemVerification,CoreDNSUnsupportedPlugins,CoreDNSMigration" // there is no CoreDNS
	to := releaseIn(t, c.parts.middle)
	c.images = filepath.Join(c.Dir, "images-"+to.version)
	c.pack(t, to)
	c.load(t)
	view := c.watch(t)
	holder := c.holder(t)
	upgraded := []*machine{c.others(holder)[0], holder} // the third would do what the second does, and takes three minutes for it
	for i, m := range upgraded {
		m.installRelease(t, to)
		begin := time.Now()
		if i == 0 {
			m.must(t, "kubeadm upgrade apply "+to.version+" --yes"+ignored)
		} else {
			m.must(t, "kubeadm upgrade node"+ignored)
		}
		m.must(t, "systemctl restart kubelet")
		c.ready(t, len(c.machines))
		t.Logf("%s is upgraded after %s", m, time.Since(begin).Round(100*time.Millisecond))
	}
	c.report.requests(c.name(), "kubeadm upgrade to "+to.version+", of the holder last", "", view.end(t, "upgrade to "+to.version, failover))
	for _, m := range upgraded {
		n, err := c.kube(t).CoreV1().Nodes().Get(t.Context(), m.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if n.Status.NodeInfo.KubeletVersion != to.version {
			t.Errorf("the kubelet of %s is of %s", m, n.Status.NodeInfo.KubeletVersion)
		}
		client, err := m.Kube()
		if err != nil {
			t.Fatal(err)
		}
		if v, err := client.Discovery().ServerVersion(); err != nil || v.GitVersion != to.version {
			t.Errorf("the API server of %s is of %v, %v", m, v, err)
		}
	}
	c.release = to
}
