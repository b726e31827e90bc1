package lab

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func TestMain(m *testing.M) { os.Exit(Main(m.Run)) }

// deadline bounds a test's waiting.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve accepts connections on the node and drops them.
func serve(t *testing.T, n *Node, address string) {
	t.Helper()
	ln, err := n.Listen(address)
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
}

func tool(t *testing.T, name string) {
	t.Helper()
	_, err := Tool(name)
	Need(t, err)
}

// TestMove moves an address by hand from one node to another and looks at it with every instrument.
func TestMove(t *testing.T) {
	tool(t, "arping")
	l := New(t, Options{Family: Dual, NoCluster: true})
	for _, tt := range []struct {
		name   string
		vip    netip.Addr
		listen string
		bits   int
	}{
		{"IPv4", netip.MustParseAddr("10.10.0.10"), "0.0.0.0:6443", 32},
		{"IPv6", netip.MustParseAddr("fd00:10:10::10"), "[::]:6443", 128},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := deadline(t, 20*time.Second)
			from, to := l.Nodes[0], l.Nodes[1]
			vip := netip.PrefixFrom(tt.vip, tt.bits)
			serve(t, from, tt.listen)
			serve(t, to, tt.listen)
			capture, err := l.Client.Capture(l.Client.Link)
			must(t, err)
			defer func() { _ = capture.Close() }()

			must(t, from.AddAddress(from.Link, vip))
			holder, err := l.WaitHolder(ctx, tt.vip)
			must(t, err)
			if holder != from {
				t.Fatalf("the holder is %v, want %v", holder, from)
			}
			who, err := l.WhoAnswers(ctx, tt.vip)
			must(t, err)
			if diff := cmp.Diff([]string{"cp1"}, who); diff != "" {
				t.Errorf("who answers (-want +got):\n%s", diff)
			}

			answers, err := l.WatchAnswers(tt.vip, 10*time.Millisecond)
			must(t, err)
			must(t, Wait(ctx, "a question is answered", func() (bool, error) { return len(answers.Answers().Owners) > 0, nil }))
			gap, err := l.Client.StartGap(ctx, GapOptions{Target: netip.AddrPortFrom(tt.vip, 6443)})
			must(t, err)
			const pause = 300 * time.Millisecond
			must(t, from.RemoveAddress(from.Link, vip))
			gone := time.NewTimer(pause)
			<-gone.C
			if tt.vip.Is4() {
				must(t, to.AddAddress(to.Link, vip))
				_, err = to.Run(ctx, "arping", "-c", "1", "-U", "-I", to.Link, tt.vip.String())
				must(t, err)
				frame, err := capture.Wait(ctx, "a gratuitous ARP", func(f Frame) bool { return f.Announces(tt.vip) })
				must(t, err)
				if frame.SenderMAC.String() != to.MAC.String() {
					t.Errorf("announced by %v, want %v", frame.SenderMAC, to.MAC)
				}
			} else {
				// The kernel announces an address by itself, RFC 4861 section 7.2.6, when it is told to and when the
				// address would be subject to duplicate address detection, were that not off.
				must(t, to.Sysctl("net/ipv6/conf/eth0/ndisc_notify", "1"))
				must(t, to.Sysctl("net/ipv6/conf/eth0/accept_dad", "0"))
				_, err = to.Run(ctx, "ip", "addr", "add", vip.String(), "dev", to.Link)
				must(t, err)
				frame, err := capture.Wait(ctx, "an unsolicited NA", func(f Frame) bool { return f.Announces(tt.vip) })
				must(t, err)
				if !frame.ChecksumOK || frame.HopLimit != 255 || !frame.Override {
					t.Errorf("the kernel's NA is not as RFC 4861 wants it: %v", frame)
				}
			}
			must(t, gap.WaitFor(ctx, time.Now()))
			result := gap.Stop()
			t.Log(result, "|"+result.Timeline(60)+"|")
			if result.Longest < pause || result.Longest > pause+2*time.Second {
				t.Errorf("the gap is %v, want a little more than %v", result.Longest, pause)
			}
			if result.Failed == 0 {
				t.Error("no attempt failed")
			}

			seen := answers.Stop()
			if diff := cmp.Diff([]string{"cp1", "cp2"}, seen.Owners); diff != "" {
				t.Errorf("owners (-want +got):\n%s", diff)
			}
			if seen.Max != 1 || seen.Silence < pause*8/10 {
				t.Errorf("at most %d answered a question, silence %v; want 1 and about %v", seen.Max, seen.Silence, pause)
			}

			must(t, from.AddAddress(from.Link, vip))
			if who, err = l.WhoAnswers(ctx, tt.vip); err != nil || len(who) != 2 {
				t.Errorf("with the address on two nodes %v answer (%v), want both", who, err)
			}
			holders, err := l.Holders(tt.vip)
			must(t, err)
			if len(holders) != 2 {
				t.Errorf("holders are %v, want two", holders)
			}
			must(t, from.RemoveAddress(from.Link, vip))
			must(t, to.RemoveAddress(to.Link, vip))
			must(t, l.WaitNobody(ctx, tt.vip))
		})
	}
}

// TestFaults breaks a node's link in every way and looks from the client.
func TestFaults(t *testing.T) {
	l := New(t, Options{Nodes: 2, NoCluster: true})
	n := l.Nodes[0]
	reachable := func(timeout time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		conn, err := l.Client.DialContext(ctx, "tcp", netip.AddrPortFrom(n.Addr(), 80).String())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	serve(t, n, "0.0.0.0:80")
	ctx := deadline(t, 30*time.Second)
	for _, tt := range []struct {
		name        string
		hurt, mend  func() error
		keepCarrier bool
	}{
		{"cut", n.Cut, n.Heal, true},
		{"carrier", n.CarrierDown, n.CarrierUp, false},
		{"link", n.DeleteLink, n.CreateLink, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !reachable(5 * time.Second) {
				t.Fatal("not reachable before")
			}
			must(t, tt.hurt())
			if reachable(200 * time.Millisecond) {
				t.Error("reachable although it is hurt")
			}
			carrier, err := n.Run(ctx, "cat", "/sys/class/net/eth0/carrier")
			if tt.keepCarrier != (err == nil && strings.TrimSpace(carrier) == "1") {
				t.Errorf("carrier %q (%v), want it up: %v", carrier, err, tt.keepCarrier)
			}
			must(t, tt.mend())
			must(t, Wait(ctx, "reachable again", func() (bool, error) { return reachable(100 * time.Millisecond), nil }))
		})
	}
	t.Run("crash", func(t *testing.T) {
		p, err := n.Spawn(Spec{Path: "sleep", Args: []string{"1000"}})
		must(t, err)
		must(t, n.AddAddress(n.Link, netip.MustParsePrefix("10.10.0.10/32")))
		must(t, n.Crash())
		if p.Running() {
			t.Error("a process survived the crash")
		}
		if holders, err := l.Holders(netip.MustParseAddr("10.10.0.10")); err != nil || len(holders) != 0 {
			t.Errorf("a crashed node counts as holder: %v, %v", holders, err)
		}
		if _, err := n.Spawn(Spec{Path: "sleep", Args: []string{"1"}}); err == nil {
			t.Error("a process started on a crashed node")
		}
		must(t, n.Boot(ctx))
		must(t, Wait(ctx, "reachable again", func() (bool, error) { return reachable(100 * time.Millisecond), nil }))
		if has, err := n.Has(netip.MustParseAddr("10.10.0.10")); err != nil || has {
			t.Errorf("the address is there after a boot (%v)", err)
		}
	})
	t.Run("pause", func(t *testing.T) {
		p, err := n.Spawn(Spec{Path: "sleep", Args: []string{"1000"}})
		must(t, err)
		state := func(want string) {
			t.Helper()
			must(t, Wait(ctx, "the process is "+want, func() (bool, error) {
				stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid()), "stat"))
				return err == nil && strings.Contains(string(stat), ") "+want+" "), err
			}))
		}
		state("S")
		must(t, n.Pause())
		state("T")
		must(t, n.Resume())
		state("S")
		must(t, p.Kill())
	})
}

// image builds the program that stands for kube-vip.
func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pod")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/pod")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the image: %v\n%s", err, out)
	}
	return path
}

const podYAML = `apiVersion: v1
kind: Pod
metadata:
  name: kube-vip
  namespace: kube-system
  labels: {app: x}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 5
  hostAliases:
  - ip: 127.0.0.1
    hostnames: [kubernetes]
  containers:
  - name: kube-vip
    image: example.org/kube-vip
    args: [manager, "--node=$(NODE)", "$$(NODE)", "$(NONE)"]
    env:
    - name: NODE
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    - name: HOSTIP
      valueFrom: {fieldRef: {fieldPath: status.hostIP}}
    - name: APP
      valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}
    - {name: READ, value: /etc/kubernetes/admin.conf /etc/hosts /etc/passwd}
    - {name: WRITE, value: /file /etc/kubernetes/admin.conf /scratch/file /proc/sys/net/ipv4/ip_forward}
    - {name: LISTEN, value: "127.0.0.1:2112"}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}
    livenessProbe:
      httpGet: {host: 127.0.0.1, port: 2112, path: /healthz}
      periodSeconds: 1
      failureThreshold: 2
    readinessProbe:
      httpGet: {host: 127.0.0.1, port: 2112, path: /healthz}
      periodSeconds: 1
    volumeMounts:
    - {name: kubeconfig, mountPath: /etc/kubernetes/admin.conf, readOnly: true}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - name: kubeconfig
    hostPath: {path: /etc/kubernetes/admin.conf, type: File}
  - name: scratch
    emptyDir: {}
`

// TestPod runs a manifest and compares what the process finds with what the manifest says.
func TestPod(t *testing.T) {
	l := New(t, Options{Nodes: 1, NoCluster: true})
	n := l.Nodes[0]
	binary := image(t)
	ctx := deadline(t, time.Minute)
	pod, err := n.RunManifest([]byte(podYAML), binary, PodOptions{RestartDelay: 10 * time.Millisecond, BackOff: 20 * time.Millisecond})
	must(t, err)

	must(t, Wait(ctx, "the pod waits for its file", func() (bool, error) {
		return strings.Contains(pod.Waiting(), "/etc/kubernetes/admin.conf is not a File"), nil
	}))
	must(t, os.WriteFile(n.Path("/etc/kubernetes/admin.conf"), []byte("a kubeconfig"), 0o600))
	must(t, pod.WaitReady(ctx))

	line, err := pod.WaitLog(ctx, "found ")
	must(t, err)
	var found map[string]string
	must(t, json.Unmarshal([]byte(strings.TrimPrefix(line.Text, "found ")), &found))
	for key, want := range map[string]string{
		"args": "/kube-vip manager --node=cp1 $(NODE) $(NONE)",
		// CAP_NET_ADMIN is 12, CAP_NET_RAW is 13.
		"CapEff": "0000000000003000", "CapPrm": "0000000000003000", "CapBnd": "0000000000003000", "CapInh": "0000000000000000",
		"NoNewPrivs":                          "1",
		"env NODE":                            "cp1",
		"env HOSTIP":                          "10.10.0.11",
		"env APP":                             "x",
		"env KUBERNETES_SERVICE_HOST":         "10.10.0.11",
		"read /etc/kubernetes/admin.conf":     "a kubeconfig",
		"read /etc/passwd":                    "error: open /etc/passwd: no such file or directory",
		"write /file":                         "open /file: read-only file system",
		"write /etc/kubernetes/admin.conf":    "open /etc/kubernetes/admin.conf: read-only file system",
		"write /scratch/file":                 "ok",
		"write /proc/sys/net/ipv4/ip_forward": "open /proc/sys/net/ipv4/ip_forward: read-only file system",
		"links":                               "eth0 lo ",
	} {
		if diff := cmp.Diff(want, found[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if hosts := found["read /etc/hosts"]; !strings.Contains(hosts, "127.0.0.1\tkubernetes\n") || !strings.Contains(hosts, "10.10.0.11 cp1\n") {
		t.Errorf("/etc/hosts is\n%s", hosts)
	}
	if found["env TERM"] != "" || found["env GOPATH"] != "" {
		t.Error("the environment of the test has leaked")
	}

	if n, err := pod.Goroutines(ctx, "http://127.0.0.1:2112/metrics"); err != nil || n != 7 {
		t.Errorf("goroutines %d, %v; want 7", n, err)
	}
	if u, err := pod.Usage(); err != nil || u.RSS < 1<<20 {
		t.Errorf("usage %+v, %v", u, err)
	}

	must(t, pod.Kill())
	must(t, pod.WaitRunning(ctx, 1))
	must(t, pod.WaitReady(ctx))
	_, err = pod.Get(ctx, "http://127.0.0.1:2112/sicken")
	must(t, err)
	_, err = pod.WaitLog(ctx, "liveness probe failed")
	must(t, err)
	must(t, pod.WaitRunning(ctx, 2))
	must(t, pod.WaitReady(ctx))

	must(t, n.Crash())
	if pod.Running() {
		t.Error("the pod runs on a crashed node")
	}
	must(t, n.Boot(ctx))
	must(t, pod.WaitRunning(ctx, 3))
	must(t, pod.WaitReady(ctx))
	before := time.Now()
	must(t, pod.Stop())
	if _, err := pod.WaitLogSince(ctx, before, "bye"); err != nil {
		t.Error(err)
	}
	if pod.Running() || pod.ExitCode() != 0 {
		t.Errorf("after Stop: running %v, exit code %d", pod.Running(), pod.ExitCode())
	}
	must(t, n.Crash())
	must(t, n.Boot(ctx))
	if pod.Running() {
		t.Error("a pod that was removed is back after a boot")
	}
}

// TestCluster has a whole control plane: kubeadm's files, a client through an address on a node, faults.
func TestCluster(t *testing.T) {
	l := New(t, Options{Family: Dual})
	ctx := deadline(t, 2*time.Minute)
	client, err := l.Kube()
	must(t, err)
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	must(t, err)
	if len(nodes.Items) != 3 {
		t.Errorf("%d nodes, want 3", len(nodes.Items))
	}
	for _, n := range l.Nodes {
		conf, err := os.ReadFile(n.Path("/etc/kubernetes/admin.conf"))
		must(t, err)
		if !strings.Contains(string(conf), "server: https://10.10.0.10:6443") {
			t.Errorf("admin.conf of %s does not point at the VIP", n)
		}
	}

	// The certificate is good for both VIPs.
	holder := l.Nodes[2]
	for _, vip := range l.VIPs {
		must(t, holder.AddAddress(holder.Link, netip.PrefixFrom(vip, vip.BitLen())))
		gap, err := l.Client.StartGap(ctx, GapOptions{Target: netip.AddrPortFrom(vip, 6443), TLS: true})
		must(t, err)
		if r := gap.Stop(); r.Failed > 0 {
			t.Errorf("GET /version at %s: %v", vip, r)
		}
	}

	// A hung API server accepts connections and answers nothing.
	gap, err := l.Client.StartGap(ctx, GapOptions{Target: netip.AddrPortFrom(l.VIPs[0], 6443), TLS: true, Timeout: 300 * time.Millisecond})
	must(t, err)
	must(t, holder.API.Hang())
	must(t, Wait(ctx, "a request fails", func() (bool, error) { return gap.Result().Failed > 0, nil }))
	must(t, holder.API.Continue())
	must(t, gap.WaitFor(ctx, time.Now()))
	t.Log(gap.Stop())

	// The node cannot reach the API, others reach the API by it.
	must(t, holder.APIAway(ctx, AllAPIs))
	if err := holder.get(ctx, "https://10.10.0.11:6443/livez", l.pki); err == nil {
		t.Error("the node reaches another's API server")
	}
	must(t, l.Client.get(ctx, "https://10.10.0.10:6443/livez", l.pki))
	must(t, holder.APIBack(ctx))
	must(t, holder.get(ctx, "https://10.10.0.11:6443/livez", l.pki))

	testDaemonSet(t, ctx, l)

	must(t, holder.API.Kill())
	if holder.API.Running() {
		t.Error("the API server runs after Kill")
	}
	must(t, holder.Crash())
	must(t, holder.Boot(ctx))
	must(t, holder.API.WaitReady(ctx))
}

const daemonSetYAML = `apiVersion: v1
kind: ServiceAccount
metadata: {name: kube-vip, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kube-vip}
rules:
- {apiGroups: [""], resources: [nodes], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kube-vip}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kube-vip}
subjects: [{kind: ServiceAccount, name: kube-vip, namespace: kube-system}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-vip-ds, namespace: kube-system}
spec:
  selector: {matchLabels: {app: kube-vip}}
  template:
    metadata: {labels: {app: kube-vip}}
    spec:
      serviceAccountName: kube-vip
      hostNetwork: true
      tolerations: [{operator: Exists}]
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions: [{key: node-role.kubernetes.io/master, operator: Exists}]
            - matchExpressions: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]
      containers:
      - name: kube-vip
        image: example.org/kube-vip
        env:
        - {name: READ, value: /var/run/secrets/kubernetes.io/serviceaccount/token /var/run/secrets/kubernetes.io/serviceaccount/namespace}
`

// testDaemonSet runs a DaemonSet's pod, whose token must be worth what its RBAC says.
func testDaemonSet(t *testing.T, ctx context.Context, l *Lab) {
	t.Helper()
	n := l.Nodes[0]
	if err := n.Apply(ctx, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndate: {}\n"), true); err == nil {
		t.Error("a document with an unknown field was applied")
	}
	must(t, n.Apply(ctx, []byte(daemonSetYAML), true))
	pod, err := n.RunManifest([]byte(daemonSetYAML), image(t), PodOptions{})
	must(t, err)
	must(t, Wait(ctx, "the pod waits for its service account", func() (bool, error) {
		return strings.Contains(pod.Waiting(), `serviceaccounts "kube-vip" not found`), nil
	}))
	must(t, n.Apply(ctx, []byte(daemonSetYAML), false))
	line, err := pod.WaitLog(ctx, "found ")
	must(t, err)
	var found map[string]string
	must(t, json.Unmarshal([]byte(strings.TrimPrefix(line.Text, "found ")), &found))
	if got := found["read "+serviceAccountDir+"/namespace"]; got != "kube-system" {
		t.Errorf("the namespace file says %q", got)
	}
	config := l.Config(n.Host, n.apiAddr())
	config.CertData, config.KeyData, config.BearerToken = nil, nil, found["read "+serviceAccountDir+"/token"]
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("the pod's token may not do what its ClusterRole says: %v", err)
	}
	if _, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the pod's token lists pods: %v", err)
	}
	must(t, pod.Stop())

	for _, remove := range []string{"      tolerations: [{operator: Exists}]\n", "            - matchExpressions: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]\n"} {
		if _, err := n.RunManifest([]byte(strings.Replace(daemonSetYAML, remove, "", 1)), image(t), PodOptions{}); err == nil {
			t.Errorf("a DaemonSet runs on a control-plane node without %s", remove)
		}
	}
}

// hangEnv makes TestHang run, in a copy of this program that is going to be killed.
const hangEnv = "KUBE_VIP_LAB_TEST_HANG"

func TestHang(t *testing.T) {
	if os.Getenv(hangEnv) == "" {
		return // a part of TestKilled
	}
	l := New(t, Options{Nodes: 1, NoCluster: true})
	_, err := l.Nodes[0].Spawn(Spec{Path: "sleep", Args: []string{"1000"}, Env: []string{"LAB=" + l.Dir}})
	must(t, err)
	must(t, os.WriteFile(os.Getenv(hangEnv), []byte(l.Dir), 0o644))
	<-t.Context().Done()
}

// TestKilled ends a program that has a lab: nothing of it may stay.
func TestKilled(t *testing.T) {
	Need(t, Check(Options{NoCluster: true}))
	for _, tt := range []struct {
		signal unix.Signal
		swept  bool // nobody could clean up, the next lab does
	}{
		{unix.SIGTERM, false}, {unix.SIGINT, false}, {unix.SIGKILL, true},
	} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			ctx := deadline(t, 20*time.Second)
			ready := filepath.Join(t.TempDir(), "ready")
			cmd := exec.Command(os.Args[0], "-test.run=^TestHang$")
			cmd.Env = append(os.Environ(), hangEnv+"="+ready)
			must(t, cmd.Start())
			var dir string
			must(t, Wait(ctx, "the lab is there", func() (bool, error) {
				content, err := os.ReadFile(ready)
				dir = string(content)
				return err == nil && dir != "", nil
			}))
			must(t, cmd.Process.Signal(tt.signal))
			_ = cmd.Wait()
			if tt.swept {
				must(t, sweep())
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the folder %s is still there: %v", dir, err)
			}
			names, err := filepath.Glob(filepath.Join(netnsDir, "kv"+strconv.Itoa(cmd.Process.Pid)+"-*"))
			if err != nil || len(names) > 0 {
				t.Errorf("namespaces are still there: %v, %v", names, err)
			}
			must(t, Wait(ctx, "its processes are gone", func() (bool, error) {
				environs, err := filepath.Glob("/proc/[0-9]*/environ")
				for _, name := range environs {
					if env, err := os.ReadFile(name); err == nil && strings.Contains(string(env), "LAB="+dir) {
						return false, nil
					}
				}
				return true, err
			}))
		})
	}
}

// TestBeforeInit is a single IPv6 node as it is before `kubeadm init` has bound its administrators, with a certificate
// that lacks the VIP.
func TestBeforeInit(t *testing.T) {
	l := New(t, Options{Nodes: 1, Family: IPv6, NoClusterAdmins: true, NoVIPInCert: true, RSA: true})
	n := l.Nodes[0]
	ctx := deadline(t, time.Minute)
	if got := l.VIPs[0].String(); got != "fd00:10:10::10" {
		t.Errorf("the VIP is %s", got)
	}
	admin, err := clientcmd.LoadFromFile(n.Path("/etc/kubernetes/admin.conf"))
	must(t, err)
	config, err := clientcmd.NewDefaultClientConfig(*admin, &clientcmd.ConfigOverrides{}).ClientConfig()
	must(t, err)
	config.Host, config.Dial = "https://"+n.apiAddr().String(), n.DialContext
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("admin.conf has rights before they are bound: %v", err)
	}
	must(t, l.BindClusterAdmins(ctx))
	must(t, Wait(ctx, "admin.conf has rights", func() (bool, error) {
		_, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err == nil, nil
	}))

	must(t, n.AddAddress(n.Link, netip.PrefixFrom(l.VIPs[0], 128)))
	err = l.Client.get(ctx, "https://[fd00:10:10::10]:6443/version", l.pki)
	if err == nil || !strings.Contains(err.Error(), "certificate is valid for") {
		t.Errorf("the certificate is good for the VIP: %v", err)
	}
	all, err := n.Addresses()
	must(t, err)
	for _, a := range all {
		if a.Prefix.Addr() == l.VIPs[0] && (a.Link != "eth0" || a.Prefix.Bits() != 128 || a.Valid != Forever || a.Flags&unix.IFA_F_NODAD == 0) {
			t.Errorf("the kernel has %+v", a)
		}
	}
}

// TestWorkers: a node without a control plane uses the first node's, and comes back from a crash.
func TestWorkers(t *testing.T) {
	l := New(t, Options{Nodes: 2, ControlPlanes: 1, Wide: true})
	ctx := deadline(t, 2*time.Minute)
	cp, worker := l.Nodes[0], l.Nodes[1]
	if cp.Name != "cp1" || worker.Name != "w1" || worker.API != nil || worker.Etcd != nil {
		t.Errorf("the nodes are %s and %s, and the second has API server %v and etcd %v", cp, worker, worker.API, worker.Etcd)
	}
	if want := netip.MustParsePrefix("10.10.0.12/16"); worker.Addrs[0] != want {
		t.Errorf("the worker's address is %s, want %s", worker.Addrs[0], want)
	}
	for range 2 {
		client, err := worker.Kube()
		must(t, err)
		node, err := client.CoreV1().Nodes().Get(ctx, worker.Name, metav1.GetOptions{})
		must(t, err)
		tainted := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return strings.Contains(t.Key, "control-plane") })
		if tainted || len(node.Labels) != 2 || node.Labels[corev1.LabelHostname] != "w1" || node.Labels[corev1.LabelOSStable] != "linux" {
			t.Errorf("the worker has the taints %v and the labels %v", node.Spec.Taints, node.Labels)
		}
		must(t, worker.Crash())
		must(t, worker.Boot(ctx))
	}
	for _, o := range []Options{{Nodes: 1, ControlPlanes: 2, NoCluster: true}, {ControlPlanes: -1, NoCluster: true}} {
		if l, err := Start(ctx, o); err == nil {
			t.Errorf("%+v has begun", o)
			must(t, l.Close())
		}
	}
}
