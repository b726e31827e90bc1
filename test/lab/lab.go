package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Family says which address families the hosts have.
type Family string

// The families. In Dual, IPv4 comes first.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
	Dual Family = "dual"
)

// The lab's network: nodes are .11 and up, the client .100, the watcher .101, the gateway .1, the VIP .10,
// routers .200 and up.
const (
	network4  = "10.10.0."
	network6  = "fd00:10:10::"
	bits4     = 24
	bits4Wide = 16
	bits6     = 64

	hostGateway = 1
	hostVIP     = 10
	hostNode    = 11
	hostClient  = 100
	hostWatcher = 101
	hostRouter  = 200
)

// readyTimeout is how long a cluster may take: measured at half a minute on two busy cores.
const readyTimeout = 3 * time.Minute

// Options say what the lab shall be. The zero value is three IPv4 nodes with a cluster.
type Options struct {
	// Nodes is the number of nodes; 0 means 3.
	Nodes int
	// ControlPlanes is how many of the nodes, from the first, have etcd and an API server; 0 means all. The others are
	// workers: w1, w2, …, with neither label nor taint of a control plane, and use the first node's API server.
	ControlPlanes int
	// Family is IPv4 when empty.
	Family Family
	// Wide makes the IPv4 network 10.10.0.0/16 in place of 10.10.0.0/24: room for thousands of addresses.
	Wide bool
	// VIPs are the control plane's addresses; the first is the controlPlaneEndpoint, all are in the certificates.
	// Empty means 10.10.0.10 or fd00:10:10::10 or both. They are on no node: who holds them is what is tried.
	VIPs []netip.Addr
	// Endpoint is the controlPlaneEndpoint, host:port; empty means the first VIP at port 6443.
	Endpoint string
	// SANs are further names and addresses for the API servers' certificates.
	SANs []string
	// NodeLabels are the nodes' labels in place of those that kubeadm gives them. Such nodes have no taint.
	NodeLabels map[string]string
	// NoVIPInCert leaves the VIPs out of the certificates.
	NoVIPInCert bool
	// NoCluster leaves etcd and kube-apiserver out.
	NoCluster bool
	// NoClusterAdmins leaves admin.conf without rights, as it is before `kubeadm init` has bound
	// kubeadm:cluster-admins; see Lab.BindClusterAdmins.
	NoClusterAdmins bool
	// KubeProxy runs kube-proxy on every node, in nftables mode, and makes what it needs: a route to the pods of every
	// other node, and forwarding. Node.RunBackend wants it.
	KubeProxy bool
	// RSA makes kubeadm's default keys; otherwise ECDSA-P256, which costs these two cores much less.
	RSA bool
	// Parts is the folder with etcd, kube-apiserver, kubeadm and kube-proxy; empty means KUBE_VIP_LAB_PARTS or make's cache.
	Parts string
	// Log gets the lab's progress; nil means nowhere.
	Log *slog.Logger
}

// A Lab is a network of hosts. Its methods are safe for use by several goroutines, except Close.
type Lab struct {
	// Nodes are the control-plane nodes cp1, cp2, …, and behind them the workers w1, w2, …
	Nodes []*Node
	// Client is a host outside the cluster: the user.
	Client *Host
	// Watcher is a host that asks who has an address, so that asking does not refresh the client's own cache.
	Watcher *Host
	// Gateway is the switch itself, with the address that the hosts' default routes name.
	Gateway *Host
	// VIPs are the control plane's addresses.
	VIPs []netip.Addr
	// Dir holds the hosts' files and the logs.
	Dir string

	opts   Options
	prefix string // of the namespaces' names
	log    *slog.Logger
	parts  string
	pki    *pki
	closed sync.Once
	err    error // of Close

	mu      sync.Mutex // guards the fields below: backends and routers come and go
	hosts   []*Host
	routers []*Router
}

// New is Start for a test. The test is skipped (failed when CI is set) where the machine cannot run a lab; the lab
// is removed at its end, with the tails of the logs printed if it failed.
func New(t TB, o Options) *Lab {
	t.Helper()
	Need(t, Check(o))
	begin := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	var l *Lab
	var err error
	started, over := make(chan struct{}), make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			cancel()
			<-started
			if l != nil {
				_ = l.Close()
			}
			signal.Reset(unix.SIGINT, unix.SIGTERM)
			_ = unix.Kill(os.Getpid(), s.(unix.Signal))
			timer := time.NewTimer(time.Second)
			<-timer.C
			_ = unix.Kill(os.Getpid(), unix.SIGKILL) // the signal was ignored when we came
		case <-over:
		}
	}()
	l, err = Start(ctx, o)
	close(started)
	t.Cleanup(func() {
		signal.Stop(signals)
		close(over)
	})
	if err != nil {
		t.Fatalf("start the lab: %v", err)
	}
	t.Logf("lab %s is ready after %v", l.prefix, time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", l.Logs())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l
}

// Check returns the reason why this machine cannot run such a lab, nil when it can.
func Check(o Options) error {
	if os.Getenv(backendEnv) != "" {
		return errors.New("this is a backend of a lab, in a program that does not begin with lab.Main")
	}
	if o.KubeProxy && o.NoCluster {
		return fmt.Errorf("run kube-proxy: %w", errNoCluster)
	}
	if !o.NoCluster {
		if _, err := findParts(o); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces: run it as root (user namespaces are not allowed here either)")
	}
	if os.Getenv(rootlessEnv) != "" && unix.Access("/run", unix.W_OK) != nil {
		return errors.New("the lab makes network namespaces: run it as root (this machine's user namespaces may not mount)")
	}
	if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS) }); err != nil {
		return fmt.Errorf("the lab makes network namespaces, which this process may not: %w", err)
	}
	if o.KubeProxy {
		return checkNFTables()
	}
	return nil
}

// Start builds the lab and returns when its cluster serves. The context bounds the start only.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.ControlPlanes < 0 || o.ControlPlanes > o.Nodes {
		return nil, fmt.Errorf("start the lab: %d of %d nodes cannot be control planes", o.ControlPlanes, o.Nodes)
	}
	if o.Family == "" {
		o.Family = IPv4
	}
	l := &Lab{opts: o, log: o.Log, VIPs: o.VIPs}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if len(l.VIPs) == 0 {
		for _, p := range l.addrs(hostVIP) {
			l.VIPs = append(l.VIPs, p.Addr())
		}
	}
	if err := sweep(); err != nil {
		l.log.Warn("what a program that is gone left behind is still there", "err", err) // its names are not ours
	}
	if err := l.name(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := l.build(ctx); err != nil {
		return nil, errors.Join(err, fmt.Errorf("%s", l.Logs()), l.Close())
	}
	return l, nil
}

// name finds a free name for the lab and makes its folder.
func (l *Lab) name() error {
	for i := range 100 {
		l.prefix = fmt.Sprintf("kv%d-%d-", os.Getpid(), i)
		l.Dir = filepath.Join(os.TempDir(), "kube-vip-lab-"+strings.TrimSuffix(l.prefix, "-"))
		err := os.Mkdir(l.Dir, 0o755)
		if err == nil {
			return os.Mkdir(filepath.Join(l.Dir, "etc"), 0o755)
		}
		if !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make the lab's folder: %w", err)
		}
	}
	return errors.New("make the lab's folder: a hundred labs of this program are there already")
}

func (l *Lab) build(ctx context.Context) error {
	l.log.Info("building the network", "nodes", l.opts.Nodes)
	gateway, err := l.newHost("gateway", "br0")
	if err != nil {
		return err
	}
	l.Gateway = gateway
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: mac(hostGateway)}, MulticastSnooping: new(bool)}
	if err := gateway.handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make the bridge: %w", err)
	}
	gateway.MAC, gateway.Addrs = mac(hostGateway), l.addrs(hostGateway)
	if err := gateway.up(); err != nil {
		return err
	}
	if l.Client, err = l.attach("client", hostClient); err != nil {
		return err
	}
	if l.Watcher, err = l.attach("watcher", hostWatcher); err != nil {
		return err
	}
	for i := range l.opts.Nodes {
		name := fmt.Sprintf("cp%d", i+1)
		if first := l.opts.ControlPlanes; first > 0 && i >= first {
			name = fmt.Sprintf("w%d", i+1-first)
		}
		h, err := l.attach(name, hostNode+i)
		if err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, newNode(h, i+1))
	}
	if l.opts.KubeProxy {
		for _, n := range l.Nodes {
			if err := n.forward(); err != nil {
				return err
			}
		}
	}
	if err := l.writeHosts(); err != nil {
		return err
	}
	if l.opts.NoCluster {
		return nil
	}
	return l.startCluster(ctx)
}

// addrs are the addresses of the host with that number.
func (l *Lab) addrs(number int) []netip.Prefix {
	bits := bits4
	if l.opts.Wide {
		bits = bits4Wide
	}
	v4 := netip.PrefixFrom(netip.MustParseAddr(network4+strconv.Itoa(number)), bits)
	v6 := netip.PrefixFrom(netip.MustParseAddr(network6+strconv.Itoa(number)), bits6)
	return choose(l.opts.Family, v4, v6)
}

// choose is what a lab of that family has, in the family's order.
func choose[T any](f Family, v4, v6 T) []T {
	switch f {
	case IPv4:
		return []T{v4}
	case IPv6:
		return []T{v6}
	default:
		return []T{v4, v6}
	}
}

func mac(number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0x0a, 0x0a, 0, byte(number)}
}

// attach makes a host and connects it to the switch.
func (l *Lab) attach(name string, number int) (*Host, error) {
	h, err := l.newHost(name, uplink)
	if err != nil {
		return nil, err
	}
	h.MAC, h.Addrs = mac(number), l.addrs(number)
	return h, h.plug()
}

// plug makes the cable between the host and the switch.
func (h *Host) plug() error {
	sw := h.lab.Gateway.handle
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.Name},
		PeerName:  h.Link, PeerHardwareAddr: h.MAC, PeerNamespace: netlink.NsFd(h.fd),
	}
	if err := sw.LinkAdd(cable); err != nil {
		return fmt.Errorf("make the cable of %s: %w", h.Name, err)
	}
	bridge, err := sw.LinkByName("br0")
	if err != nil {
		return fmt.Errorf("find the bridge: %w", err)
	}
	if err := sw.LinkSetMaster(cable, bridge); err != nil {
		return fmt.Errorf("plug %s into the switch: %w", h.Name, err)
	}
	if err := sw.LinkSetUp(cable); err != nil {
		return fmt.Errorf("set the port of %s up: %w", h.Name, err)
	}
	return h.up()
}

// up gives the host's link its addresses and routes.
func (h *Host) up() error {
	link, err := h.link(h.Link)
	if err != nil {
		return err
	}
	if err := h.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up on %s: %w", h.Link, h.Name, err)
	}
	for _, p := range h.Addrs {
		if err := h.AddAddress(h.Link, p); err != nil {
			return err
		}
	}
	if h.lab.Gateway == h {
		return nil
	}
	for _, p := range h.lab.Gateway.Addrs {
		if err := h.handle.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: p.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("route %s by %s: %w", h.Name, p.Addr(), err)
		}
	}
	for _, r := range h.lab.allRouters() {
		if err := h.routeBy(r); err != nil {
			return err
		}
	}
	return nil
}

// writeHosts gives every host the names of all nodes.
func (l *Lab) writeHosts() error {
	var lines strings.Builder
	lines.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, h := range l.all() {
		for _, p := range h.Addrs {
			fmt.Fprintf(&lines, "%s %s\n", p.Addr(), h.Name)
		}
	}
	for _, h := range l.all() {
		if err := os.WriteFile(h.Path("/etc/hosts"), []byte(lines.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// all are the hosts that there are now.
func (l *Lab) all() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.hosts)
}

// Host finds a host by name; nil when there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.all() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// owner is the name of the host with that MAC address; the address itself when it is nobody's.
func (l *Lab) owner(mac net.HardwareAddr) string {
	for _, h := range l.all() {
		if h.MAC.String() == mac.String() {
			return h.Name
		}
	}
	return mac.String()
}

// Close ends every process and removes every namespace and file. Setting KUBE_VIP_LAB_KEEP keeps the files.
func (l *Lab) Close() error {
	l.closed.Do(func() {
		var errs []error
		hosts := l.all()
		for _, h := range hosts {
			h.kill()
		}
		for _, n := range l.Nodes {
			n.closePods()
		}
		for _, h := range hosts {
			errs = append(errs, h.close())
		}
		if os.Getenv("KUBE_VIP_LAB_KEEP") == "" {
			errs = append(errs, os.RemoveAll(l.Dir))
		}
		l.err = errors.Join(errs...)
	})
	return l.err
}

// sweep removes what labs of programs that were killed have left behind. Their processes died with them.
func sweep() error {
	var errs []error
	names, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ours := regexp.MustCompile(`^kv([0-9]+)-[0-9]+-`)
	for _, n := range names {
		if m := ours.FindStringSubmatch(n.Name()); m != nil && gone(m[1]) {
			errs = append(errs, removeNamespace(n.Name()))
		}
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "kube-vip-lab-kv*-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "kube-vip-lab-kv"), "-")
		if gone(pid) && os.Getenv("KUBE_VIP_LAB_KEEP") == "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

// gone reports whether no process has the id.
func gone(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && errors.Is(unix.Kill(n, 0), unix.ESRCH)
}

// tail is how much of each log is shown of a lab whose test failed.
const tail = 6 << 10

// Logs are the ends of all logs of the lab: pods, backends, kube-proxy, API servers, etcd.
func (l *Lab) Logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(l.Dir, "*", "*.log"))
	for _, name := range files {
		rel, _ := filepath.Rel(l.Dir, name)
		fmt.Fprintf(&b, "=== the end of %s\n%s\n", rel, tailOf(name))
	}
	return b.String()
}

func tailOf(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// Holders are the nodes that are up and have the address on a link. A crashed node is not asked: nobody can reach
// what its kernel still has.
func (l *Lab) Holders(vip netip.Addr) ([]*Node, error) {
	var holders []*Node
	for _, n := range l.Nodes {
		if n.Crashed() {
			continue
		}
		has, err := n.Has(vip)
		if err != nil {
			return nil, err
		}
		if has {
			holders = append(holders, n)
		}
	}
	return holders, nil
}

// poll is how often a condition is looked at.
const poll = 5 * time.Millisecond

// Wait calls cond every few milliseconds until it returns true or an error, or the context ends; the error then
// says what was waited for.
func Wait(ctx context.Context, what string, cond func() (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		ok, err := cond()
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-ticker.C:
		}
	}
}

// WaitHolder waits until exactly one node holds the address, and returns it.
func (l *Lab) WaitHolder(ctx context.Context, vip netip.Addr) (*Node, error) {
	var holders []*Node
	err := Wait(ctx, "one node holds "+vip.String(), func() (bool, error) {
		var err error
		holders, err = l.Holders(vip)
		return len(holders) == 1, err
	})
	if err != nil {
		return nil, fmt.Errorf("%w (held by %v)", err, holders)
	}
	return holders[0], nil
}

// WaitNobody waits until no node holds the address.
func (l *Lab) WaitNobody(ctx context.Context, vip netip.Addr) error {
	return Wait(ctx, "no node holds "+vip.String(), func() (bool, error) {
		holders, err := l.Holders(vip)
		return len(holders) == 0, err
	})
}
