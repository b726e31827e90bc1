package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Node is a host with etcd, kube-apiserver, static pods, and backends; or a worker, without the first two.
type Node struct {
	*Host
	// Etcd is the node's member of the etcd cluster; nil on a worker.
	Etcd *Server
	// API is the node's API server; nil on a worker.
	API *Server
	// Proxy is the node's kube-proxy; nil without Options.KubeProxy.
	Proxy *Server
	// KubeadmConfig is the file with the configuration that kubeadm was given for this node; empty on a worker.
	KubeadmConfig string

	number int // from 1

	// mu guards the fields below.
	mu       sync.Mutex
	crashed  bool
	paused   bool
	booted   chan struct{} // closed when the node is up
	pods     []*Pod
	backends []*Backend
	made     int // backends, those that were stopped too
}

func newNode(h *Host, number int) *Node {
	n := &Node{Host: h, number: number, booted: make(chan struct{})}
	close(n.booted)
	return n
}

// Crashed reports whether the node has crashed and was not booted since.
func (n *Node) Crashed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.crashed
}

// running is closed while the node is up.
func (n *Node) running() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.booted
}

// awake reports whether the node's kubelet can do anything.
func (n *Node) awake() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.crashed && !n.paused
}

// Crash makes the node vanish as if its power went: first nothing leaves or reaches it any more, then every process
// is killed. Nobody says goodbye.
func (n *Node) Crash() error {
	n.mu.Lock()
	if n.crashed {
		n.mu.Unlock()
		return nil
	}
	n.crashed, n.booted = true, make(chan struct{})
	n.mu.Unlock()
	err := n.CarrierDown()
	for _, h := range n.hosts() {
		h.kill()
	}
	return err
}

// hosts are the node's own namespace and those of its backends.
func (n *Node) hosts() []*Host {
	hosts := []*Host{n.Host}
	for _, b := range n.allBackends() {
		hosts = append(hosts, b.Host)
	}
	return hosts
}

// Boot starts a crashed node again: with its own addresses and nothing else in its kernel, etcd and the API server,
// kube-proxy, and the static pods and backends that it had. It does not wait for any of them.
func (n *Node) Boot(ctx context.Context) error {
	if !n.Crashed() {
		return nil
	}
	if err := n.reset(ctx); err != nil {
		return fmt.Errorf("boot %s: %w", n.Name, err)
	}
	n.revive()
	if n.Proxy != nil {
		if err := n.nft(ctx, "flush ruleset"); err != nil {
			return err
		}
	}
	if err := n.CarrierUp(); err != nil {
		return err
	}
	for _, s := range []*Server{n.Etcd, n.API, n.Proxy} {
		if s == nil {
			continue
		}
		if err := s.Start(); err != nil {
			return err
		}
	}
	for _, b := range n.allBackends() {
		b.revive()
		if err := b.run(); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.crashed, n.paused = false, false
	close(n.booted)
	return nil
}

// reset leaves in the kernel what a freshly started one has.
func (n *Node) reset(context.Context) error {
	links, err := n.handle.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		// A new interface has no address, route or neighbour of the old one.
		if l.Attrs().Name == n.Link {
			if err := n.handle.LinkDel(l); err != nil {
				return fmt.Errorf("remove %s: %w", n.Link, err)
			}
		}
	}
	addrs, err := n.Addresses()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Prefix.Addr().IsLoopback() {
			continue
		}
		if err := n.RemoveAddress(a.Link, a.Prefix); err != nil {
			return err
		}
	}
	if n.Proxy != nil {
		if err := n.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
	}
	return n.plug()
}

// plug is the host's, with the routes that are by its link.
func (n *Node) plug() error {
	if err := n.Host.plug(); err != nil || !n.lab.opts.KubeProxy {
		return err
	}
	return n.routePods()
}

// Pause stops every process of the node where it stands (SIGSTOP), Resume lets them go on. The node's kernel keeps
// answering.
func (n *Node) Pause() error {
	n.mu.Lock()
	n.paused = true
	n.mu.Unlock()
	return n.signalEverywhere(unix.SIGSTOP)
}

// Resume is the end of Pause.
func (n *Node) Resume() error {
	n.mu.Lock()
	n.paused = false
	n.mu.Unlock()
	return n.signalEverywhere(unix.SIGCONT)
}

func (n *Node) signalEverywhere(s unix.Signal) error {
	var errs []error
	for _, h := range n.hosts() {
		errs = append(errs, h.signalAll(s))
	}
	return errors.Join(errs...)
}

// DeleteLink removes the node's interface with all its addresses.
func (n *Node) DeleteLink() error {
	l, err := n.link(n.Link)
	if err != nil {
		return err
	}
	if err := n.handle.LinkDel(l); err != nil {
		return fmt.Errorf("delete %s on %s: %w", n.Link, n.Name, err)
	}
	return nil
}

// CreateLink makes the interface again, with the node's own addresses, the same name and MAC, and another index.
func (n *Node) CreateLink() error { return n.plug() }

// An APIScope says which API servers a node is kept from.
type APIScope int

const (
	// AllAPIs are all, the node's own included.
	AllAPIs APIScope = iota
	// OtherAPIs are those of the other nodes; what goes by the loopback passes.
	OtherAPIs
)

// APIAway drops what the node sends to API servers, wherever they are. Others still reach the node's API server.
func (n *Node) APIAway(ctx context.Context, scope APIScope) error {
	local := ""
	if scope == OtherAPIs {
		local = `oifname "lo" accept`
	}
	return n.nft(ctx,
		"add table inet lab_api",
		"delete table inet lab_api",
		"table inet lab_api {",
		"chain out {",
		"type filter hook output priority 0;",
		local,
		fmt.Sprintf("tcp dport %d drop", apiPort),
		"}",
		"}")
}

// APIBack is the end of APIAway.
func (n *Node) APIBack(ctx context.Context) error {
	return n.nft(ctx, "add table inet lab_api", "delete table inet lab_api")
}

// closePods waits until no pod of the node runs any more.
func (n *Node) closePods() {
	n.mu.Lock()
	pods := n.pods
	n.mu.Unlock()
	for _, p := range pods {
		p.end()
	}
}

var errNoCluster = errors.New("the lab has no cluster (Options.NoCluster)")
