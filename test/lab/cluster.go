package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// apiPort is where every API server listens.
const apiPort = 6443

// The cluster's own networks. Each node has a part of the pods' (Node.PodCIDRs), for its backends.
const (
	serviceSubnet4 = "10.96.0.0/16"
	serviceSubnet6 = "fd00:10:96::/112"
	podSubnet4     = "10.244.0.0/16"
	podSubnet6     = "fd00:10:244::/56"
)

// pki is what the lab's own clients need of the cluster's certificates.
type pki struct {
	ca, cert, key []byte
}

// A Server is etcd, kube-apiserver or kube-proxy on a node.
type Server struct {
	// Log is the file that it writes to.
	Log string

	node  *Node
	name  string
	path  string
	args  []string
	ready func(context.Context) error

	mu   sync.Mutex // guards proc
	proc *Process
}

// Start starts the server; it does not wait until it serves. One that runs is left alone.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.Running() {
		return nil
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	s.proc, err = s.node.Spawn(Spec{Path: s.path, Args: s.args, Out: log})
	return err
}

func (s *Server) process() *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Kill ends the server with SIGKILL and returns when it is gone.
func (s *Server) Kill() error {
	if p := s.process(); p != nil {
		return p.Kill()
	}
	return nil
}

// Hang stops the server where it stands (SIGSTOP): its kernel still accepts connections, nobody answers.
func (s *Server) Hang() error { return s.signal(unix.SIGSTOP) }

// Continue is the end of Hang.
func (s *Server) Continue() error { return s.signal(unix.SIGCONT) }

func (s *Server) signal(sig unix.Signal) error {
	p := s.process()
	if p == nil || !p.Running() {
		return fmt.Errorf("%s of %s does not run", s.name, s.node.Name)
	}
	return p.Signal(sig)
}

// Running reports whether the process exists; it may be hanging.
func (s *Server) Running() bool {
	p := s.process()
	return p != nil && p.Running()
}

// Pid is the process id of a running server.
func (s *Server) Pid() int { return s.process().Pid() }

// WaitReady waits until the server says that it is ready.
func (s *Server) WaitReady(ctx context.Context) error {
	var last error
	err := Wait(ctx, s.name+" of "+s.node.Name+" is ready", func() (bool, error) {
		if !s.Running() {
			return false, errors.New("it has ended")
		}
		last = s.ready(ctx)
		return last == nil, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%w (%w)", err, last)
	}
	return err
}

func (l *Lab) startCluster(ctx context.Context) error {
	var err error
	if l.parts, err = findParts(l.opts); err != nil {
		return err
	}
	l.log.Info("writing certificates and kubeconfigs with kubeadm")
	if err := l.writePKI(ctx); err != nil {
		return err
	}
	l.log.Info("starting etcd and kube-apiserver", "nodes", len(l.controlPlanes()))
	for _, n := range l.controlPlanes() {
		n.Etcd, n.API = l.etcd(n), l.apiServer(n)
	}
	for _, n := range l.controlPlanes() {
		if err := n.Etcd.Start(); err != nil {
			return err
		}
	}
	for _, n := range l.controlPlanes() {
		if err := n.Etcd.WaitReady(ctx); err != nil {
			return err
		}
		if err := n.API.Start(); err != nil {
			return err
		}
	}
	for _, n := range l.controlPlanes() {
		if err := n.API.WaitReady(ctx); err != nil {
			return err
		}
	}
	l.log.Info("creating the nodes")
	if err := l.populate(ctx); err != nil || !l.opts.KubeProxy {
		return err
	}
	l.log.Info("starting kube-proxy on every node")
	return l.startProxies(ctx)
}

// controlPlanes are the nodes that have etcd and an API server.
func (l *Lab) controlPlanes() []*Node {
	return slices.DeleteFunc(slices.Clone(l.Nodes), (*Node).worker)
}

// writePKI has kubeadm make the certificates and the kubeconfigs of every control-plane node, sharing one set of authorities.
func (l *Lab) writePKI(ctx context.Context) error {
	version, err := l.kubeadm(ctx, "version", "-o", "short")
	if err != nil {
		return err
	}
	for i, n := range l.controlPlanes() {
		n.KubeadmConfig = n.Path("/etc/kubernetes/kubeadm.yaml")
		if err := os.WriteFile(n.KubeadmConfig, []byte(l.kubeadmConfig(n, strings.TrimSpace(version))), 0o644); err != nil {
			return err
		}
		dir := n.Path("/etc/kubernetes/pki")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if i > 0 {
			for _, name := range []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.pub", "sa.key"} {
				content, err := os.ReadFile(l.Nodes[0].Path("/etc/kubernetes/pki/" + name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					return err
				}
			}
		}
		if _, err := l.kubeadm(ctx, "init", "phase", "certs", "all", "--config", n.KubeadmConfig); err != nil {
			return err
		}
		files := []string{"admin"}
		if i == 0 {
			files = append(files, "super-admin") // kubeadm writes it on the first node only
		}
		for _, f := range files {
			if _, err := l.kubeadm(ctx, "init", "phase", "kubeconfig", f, "--config", n.KubeadmConfig, "--kubeconfig-dir", n.Path("/etc/kubernetes")); err != nil {
				return err
			}
		}
	}
	super, err := os.ReadFile(l.Nodes[0].Path("/etc/kubernetes/super-admin.conf"))
	if err != nil {
		return err
	}
	return l.Adopt(super)
}

// Adopt has the lab's own clients use the cluster that a super-admin's kubeconfig is for; for one that a test has made
// itself on the nodes of a lab without a cluster.
func (l *Lab) Adopt(kubeconfig []byte) error {
	super, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return fmt.Errorf("adopt a cluster: %w", err)
	}
	c := super.Contexts[super.CurrentContext]
	if c == nil || super.Clusters[c.Cluster] == nil || super.AuthInfos[c.AuthInfo] == nil {
		return fmt.Errorf("adopt a cluster: the kubeconfig lacks what its context %q names", super.CurrentContext)
	}
	l.pki = &pki{
		ca:   super.Clusters[c.Cluster].CertificateAuthorityData,
		cert: super.AuthInfos[c.AuthInfo].ClientCertificateData,
		key:  super.AuthInfos[c.AuthInfo].ClientKeyData,
	}
	return nil
}

func (l *Lab) kubeadm(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(l.parts, "kubeadm"), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubeadm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// kubeadmConfig is what a user would give `kubeadm init` on the node.
func (l *Lab) kubeadmConfig(n *Node, version string) string {
	endpoint := l.opts.Endpoint
	if endpoint == "" {
		endpoint = netip.AddrPortFrom(l.VIPs[0], apiPort).String()
		if l.opts.NoVIPInCert {
			endpoint = "" // kubeadm puts the endpoint into the certificate by itself
		}
	}
	sans := append([]string{"localhost", "127.0.0.1", "::1"}, l.opts.SANs...)
	for _, p := range n.Addrs {
		sans = append(sans, p.Addr().String())
	}
	if !l.opts.NoVIPInCert {
		for _, vip := range l.VIPs {
			sans = append(sans, vip.String())
		}
	}
	algorithm := "ECDSA-P256"
	if l.opts.RSA {
		algorithm = "RSA-2048"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: %q
  bindPort: %d
nodeRegistration:
  name: %s
  criSocket: unix:///run/containerd/containerd.sock
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
certificatesDir: %s
encryptionAlgorithm: %s
networking:
  serviceSubnet: %s
  podSubnet: %s
etcd:
  external:
    endpoints: ["http://127.0.0.1:2379"]
apiServer:
  certSANs:
`, n.Addr(), apiPort, n.Name, version, n.Path("/etc/kubernetes/pki"), algorithm, l.ServiceSubnets(), l.PodSubnets())
	slices.Sort(sans)
	for _, s := range slices.Compact(sans) {
		fmt.Fprintf(&b, "  - %q\n", s)
	}
	if endpoint != "" {
		fmt.Fprintf(&b, "controlPlaneEndpoint: %q\n", endpoint)
	}
	return b.String()
}

// ServiceSubnets are the cluster's networks of Services, as flags and configurations have them.
func (l *Lab) ServiceSubnets() string { return l.perFamily(serviceSubnet4, serviceSubnet6) }

// PodSubnets are the cluster's networks of pods, likewise.
func (l *Lab) PodSubnets() string { return l.perFamily(podSubnet4, podSubnet6) }

func (l *Lab) perFamily(v4, v6 string) string {
	return strings.Join(choose(l.opts.Family, v4, v6), ",")
}

func (l *Lab) etcd(n *Node) *Server {
	var members []string
	for _, m := range l.controlPlanes() {
		members = append(members, m.Name+"=http://"+net.JoinHostPort(m.Addr().String(), "2380"))
	}
	peer := "http://" + net.JoinHostPort(n.Addr().String(), "2380")
	return &Server{
		Log: filepath.Join(l.Dir, n.Name, "etcd.log"), node: n, name: "etcd", path: filepath.Join(l.parts, "etcd"),
		args: []string{
			"--name=" + n.Name,
			"--data-dir=" + filepath.Join(l.Dir, n.Name, "etcd"),
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=" + strings.Join(members, ","), "--initial-cluster-state=new",
			"--unsafe-no-fsync", "--log-level=warn",
		},
		ready: func(ctx context.Context) error { return n.get(ctx, "http://127.0.0.1:2379/health", nil) },
	}
}

func (l *Lab) apiServer(n *Node) *Server {
	pki := n.Path("/etc/kubernetes/pki")
	bind := "0.0.0.0"
	if l.opts.Family != IPv4 {
		bind = "::"
	}
	return &Server{
		Log: filepath.Join(l.Dir, n.Name, "kube-apiserver.log"), node: n, name: "kube-apiserver", path: filepath.Join(l.parts, "kube-apiserver"),
		args: []string{
			"--advertise-address=" + n.Addr().String(), "--bind-address=" + bind, "--secure-port=" + strconv.Itoa(apiPort),
			"--etcd-servers=http://127.0.0.1:2379",
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth=true",
			"--allow-privileged=true",
			"--client-ca-file=" + pki + "/ca.crt",
			"--tls-cert-file=" + pki + "/apiserver.crt", "--tls-private-key-file=" + pki + "/apiserver.key",
			"--kubelet-client-certificate=" + pki + "/apiserver-kubelet-client.crt", "--kubelet-client-key=" + pki + "/apiserver-kubelet-client.key",
			"--proxy-client-cert-file=" + pki + "/front-proxy-client.crt", "--proxy-client-key-file=" + pki + "/front-proxy-client.key",
			"--requestheader-client-ca-file=" + pki + "/front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + pki + "/sa.pub", "--service-account-signing-key-file=" + pki + "/sa.key",
			"--service-cluster-ip-range=" + l.ServiceSubnets(),
		},
		ready: n.apiReady,
	}
}

// CA is the cluster's certificate authority, PEM.
func (l *Lab) CA() []byte {
	if l.pki == nil {
		return nil
	}
	return l.pki.ca
}

// Config is a super-admin's configuration for the API server at an address, dialled from a host. Every call gives
// one with connections of its own.
func (l *Lab) Config(from *Host, server netip.AddrPort) *rest.Config {
	return &rest.Config{
		Host: "https://" + server.String(),
		Dial: from.DialContext,
		QPS:  -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: l.pki.ca, CertData: l.pki.cert, KeyData: l.pki.key,
		},
	}
}

// Kube is a super-admin's client at this node's API server, a worker's at the first node's.
func (n *Node) Kube() (kubernetes.Interface, error) {
	if n.lab.pki == nil {
		return nil, errNoCluster
	}
	return kubernetes.NewForConfig(n.lab.Config(n.Host, n.apiAddr()))
}

// apiAddr is where the node's API server is reached, for a worker that of the first node.
func (n *Node) apiAddr() netip.AddrPort {
	if n.worker() {
		return n.lab.Nodes[0].apiAddr()
	}
	return netip.AddrPortFrom(n.Addr(), apiPort)
}

// apiReady asks the node's API server whether it is ready.
func (n *Node) apiReady(ctx context.Context) error {
	return n.get(ctx, "https://"+n.apiAddr().String()+"/readyz", n.lab.pki)
}

// worker reports whether the node has no control plane.
func (n *Node) worker() bool {
	first := n.lab.opts.ControlPlanes
	return first > 0 && n.number > first
}

// Kube is a super-admin's client at the first node whose API server is ready: one that is cut off from etcd answers,
// and would keep a request until it times out.
func (l *Lab) Kube() (kubernetes.Interface, error) {
	if l.pki == nil {
		return nil, errNoCluster
	}
	var errs []error
	for _, n := range l.controlPlanes() {
		if n.Crashed() || n.API != nil && !n.API.Running() { // nil: of a cluster that was adopted
			continue
		}
		if err := n.apiReady(context.Background()); err != nil {
			errs = append(errs, err)
			continue
		}
		return n.Kube()
	}
	return nil, fmt.Errorf("no API server is ready: %w", errors.Join(errs...))
}

// BindClusterAdmins gives admin.conf its rights, as `kubeadm init` does with super-admin.conf.
func (l *Lab) BindClusterAdmins(ctx context.Context) error {
	client, err := l.Kube()
	if err != nil {
		return err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:cluster-admins"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "kubeadm:cluster-admins"}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("bind kubeadm:cluster-admins: %w", err)
	}
	return nil
}

// populate creates what kubeadm and the kubelets would have.
func (l *Lab) populate(ctx context.Context) error {
	client, err := l.Nodes[0].Kube()
	if err != nil {
		return err
	}
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespaceDefault} {
		err := Wait(ctx, namespace+" exists", func() (bool, error) {
			_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
			return err == nil, nil
		})
		if err != nil {
			return err
		}
	}
	if !l.opts.NoClusterAdmins {
		if err := l.BindClusterAdmins(ctx); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		node, err := client.CoreV1().Nodes().Create(ctx, n.object(), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create node %s: %w", n.Name, err)
		}
		node.Status = n.object().Status
		if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update the status of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// object is the Node as kubeadm and a kubelet leave it.
func (n *Node) object() *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
			corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux",
			"node-role.kubernetes.io/control-plane":                   "",
			"node.kubernetes.io/exclude-from-external-load-balancers": "",
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name}},
		},
	}
	labels := n.lab.opts.NodeLabels
	if labels == nil && n.worker() {
		labels = map[string]string{corev1.LabelOSStable: "linux"}
	}
	if labels != nil {
		node.Labels, node.Spec.Taints = maps.Clone(labels), nil
		node.Labels[corev1.LabelHostname] = n.Name
	}
	for _, p := range n.PodCIDRs() {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, p.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	for _, p := range n.Addrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: p.Addr().String()})
	}
	return node
}
