package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
)

// BackendPort is where a backend serves when it is not told anything else.
const BackendPort = 8080

// podHost is the number of a node's first pod in its podCIDR; number 1 is the node itself.
const podHost = 2

// A Backend is a pod that serves: a host of its own behind a node, with an address out of each of the node's PodCIDRs.
// It answers on its ports, by TCP (HTTP) and by UDP, with an Answer. Its Addrs are host prefixes.
type Backend struct {
	*Host
	// Node is where it runs.
	Node *Node
	// Ports are where it serves.
	Ports []uint16

	port string // the node's end of its cable

	mu   sync.Mutex // guards proc
	proc *Process
}

// RunBackend starts a backend on the node and returns when the node gets answers from it. The name is the host's,
// one that no other host of the lab has. No ports mean BackendPort. The program has to begin with Main.
func (n *Node) RunBackend(ctx context.Context, name string, ports ...uint16) (*Backend, error) {
	if !n.lab.opts.KubeProxy {
		return nil, fmt.Errorf("run the backend %s: the lab has no pod network (Options.KubeProxy)", name)
	}
	if n.Crashed() {
		return nil, fmt.Errorf("run the backend %s: %s is down", name, n.Name)
	}
	if len(ports) == 0 {
		ports = []uint16{BackendPort}
	}
	h, err := n.lab.newHost(name, uplink)
	if err != nil {
		return nil, err
	}
	b := &Backend{Host: h, Node: n, Ports: ports}
	n.mu.Lock()
	host := podHost + n.made
	n.made++
	n.backends = append(n.backends, b)
	n.mu.Unlock()
	b.port = fmt.Sprintf("veth%d", host)
	b.MAC = net.HardwareAddr{0x02, 0, 0x0a, 0xf4, byte(n.number), byte(host)}
	for _, p := range n.PodCIDRs() {
		addr := nth(p, host)
		b.Addrs = append(b.Addrs, netip.PrefixFrom(addr, addr.BitLen()))
	}
	err = b.run()
	if err == nil {
		err = b.waitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("run the backend %s on %s: %w", name, n.Name, err), b.Stop())
	}
	return b, nil
}

// nth is the n-th address of a network, for n below 256.
func nth(p netip.Prefix, n int) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	raw[len(raw)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}

// run connects the backend and starts its process.
func (b *Backend) run() error {
	if err := b.plug(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(b.lab.Dir, b.Name, "backend.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	var args []string
	for _, p := range b.Ports {
		args = append(args, strconv.Itoa(int(p)))
	}
	p, err := b.Spawn(Spec{Path: self, Args: args, Env: []string{backendEnv + "=" + b.Name}, Out: log})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proc = p
	return nil
}

func (b *Backend) process() *Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proc
}

// Kill ends the backend's process with SIGKILL. The pod stays, with its address and nobody to answer.
func (b *Backend) Kill() error { return b.process().Kill() }

// waitReady waits until the node gets an answer at every address and port.
func (b *Backend) waitReady(ctx context.Context) error {
	for _, a := range b.Addrs {
		for _, port := range b.Ports {
			var last error
			err := Wait(ctx, "it answers", func() (bool, error) {
				if p := b.process(); !p.Running() {
					return false, errors.New("it has ended (does the program begin with lab.Main?)")
				}
				_, last = b.Node.Ask(ctx, "tcp", netip.AddrPortFrom(a.Addr(), port))
				return last == nil, nil
			})
			if err != nil {
				return errors.Join(err, last)
			}
		}
	}
	return nil
}

// plug makes the cable between the backend and its node, anew if there is one. It is routed, not bridged: the node
// has its podCIDR's first address on its end, and a route to the backend.
func (b *Backend) plug() error {
	if err := b.unplug(); err != nil {
		return err
	}
	n := b.Node
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: b.port},
		PeerName:  b.Link, PeerHardwareAddr: b.MAC, PeerNamespace: netlink.NsFd(b.fd),
	}
	if err := n.handle.LinkAdd(cable); err != nil {
		return fmt.Errorf("make the cable of %s: %w", b.Name, err)
	}
	end, err := b.link(b.Link)
	if err != nil {
		return err
	}
	// Before its link-local address has passed duplicate address detection a host cannot ask for a neighbour.
	for h, link := range map[*Host]string{n.Host: b.port, b.Host: b.Link} {
		if n.lab.opts.Family == IPv4 {
			break
		}
		if err := h.Sysctl("net/ipv6/conf/"+link+"/accept_dad", "0"); err != nil {
			return fmt.Errorf("prepare %s on %s: %w", link, h.Name, err)
		}
	}
	if err := n.handle.LinkSetUp(cable); err != nil {
		return fmt.Errorf("set %s up on %s: %w", b.port, n.Name, err)
	}
	if err := b.handle.LinkSetUp(end); err != nil {
		return fmt.Errorf("set %s up on %s: %w", b.Link, b.Name, err)
	}
	for i, p := range n.PodCIDRs() {
		node := nth(p, 1)
		gateway := netip.PrefixFrom(node, node.BitLen())
		if err := n.AddAddress(b.port, gateway); err != nil {
			return err
		}
		if err := b.AddAddress(b.Link, b.Addrs[i]); err != nil {
			return err
		}
		if err := b.route(end, gateway); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: cable.Index, Dst: ipNet(b.Addrs[i]), Scope: netlink.SCOPE_LINK}
		if err := n.handle.RouteReplace(route); err != nil {
			return fmt.Errorf("route %s on %s: %w", b.Name, n.Name, err)
		}
	}
	return nil
}

// route sends everything by the gateway, which is on the link though no prefix says so.
func (b *Backend) route(link netlink.Link, gateway netip.Prefix) error {
	for _, r := range []*netlink.Route{
		{LinkIndex: link.Attrs().Index, Dst: ipNet(gateway), Scope: netlink.SCOPE_LINK},
		{LinkIndex: link.Attrs().Index, Gw: gateway.Addr().AsSlice()},
	} {
		if err := b.handle.RouteReplace(r); err != nil {
			return fmt.Errorf("route %s by %s: %w", b.Name, gateway.Addr(), err)
		}
	}
	return nil
}

// unplug takes the cable away; a cable that is not there is none to take.
func (b *Backend) unplug() error {
	l, err := b.Node.handle.LinkByName(b.port)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = b.Node.handle.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("remove %s from %s: %w", b.port, b.Node.Name, err)
	}
	return nil
}

// Stop removes the backend: its process, its link, its namespace. A crashed node does not bring it back. Its
// EndpointSlices are not touched. A backend that was stopped is left alone.
func (b *Backend) Stop() error {
	n := b.Node
	n.mu.Lock()
	before := len(n.backends)
	n.backends = slices.DeleteFunc(n.backends, func(other *Backend) bool { return other == b })
	stopped := len(n.backends) == before
	n.mu.Unlock()
	if stopped {
		return nil
	}
	b.kill()
	err := b.unplug()
	b.lab.mu.Lock()
	b.lab.hosts = slices.DeleteFunc(b.lab.hosts, func(h *Host) bool { return h == b.Host })
	b.lab.mu.Unlock()
	return errors.Join(err, b.close())
}

// allBackends are the node's backends that were not stopped.
func (n *Node) allBackends() []*Backend {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.backends)
}
