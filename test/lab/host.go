package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// uplink is the interface by which a host is on the switch.
const uplink = "eth0"

// A Host is a network namespace with one interface on the lab's switch.
type Host struct {
	// Name is the host's name, cp1 for example.
	Name string
	// Netns is what `ip netns exec` calls it.
	Netns string
	// Link is the interface on the switch: eth0.
	Link string
	// MAC is that interface's.
	MAC net.HardwareAddr
	// Addrs are the host's own addresses, with the prefix of the network, in the order of the lab's family.
	Addrs []netip.Prefix

	lab    *Lab
	fd     int // of the namespace
	handle *netlink.Handle
	thread chan func() // run one by one on a thread in the namespace
	closed chan struct{}

	// mu guards the fields below.
	mu     sync.Mutex
	procs  map[*Process]struct{}
	down   bool // no process may start
	socket *nl.SocketHandle
}

// Addr is the host's first address.
func (h *Host) Addr() netip.Addr { return h.Addrs[0].Addr() }

// String is the host's name.
func (h *Host) String() string { return h.Name }

// Path is where the file that the host sees at path is on this machine.
func (h *Host) Path(path string) string { return filepath.Join(h.lab.Dir, h.Name, "fs", path) }

// makeNamespace creates a named network namespace and opens it.
func makeNamespace(name string) (int, error) {
	fd := -1
	err := onThread(func() error {
		if err := prepareNetns(); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		path := filepath.Join(netnsDir, name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
		if err != nil {
			return err
		}
		_ = f.Close()
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "bind", unix.MS_BIND, ""); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		fd, err = unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make the network namespace %s: %w", name, err)
	}
	return fd, nil
}

// prepareNetns makes the folder of names as `ip netns add` does: a mount of its own that is shared, so that a name
// taken away is away in every mount namespace. Left to the first `ip netns add` of somebody else, that would cover
// our names with copies that cannot be removed. The lock is the one that iproute2 takes.
func prepareNetns() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", netnsDir, err)
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount yet
		return err
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", netnsDir, err)
	}
	return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// removeNamespace forgets the name; the namespace goes with its last process and socket.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if rm := os.Remove(path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// onThread runs fn on a thread that ends with it, so that fn may change what belongs to a thread.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// newHost makes the namespace with its loopback up and nothing else.
func (l *Lab) newHost(name, link string) (*Host, error) {
	h := &Host{Name: name, Netns: l.prefix + name, Link: link, lab: l, thread: make(chan func()), closed: make(chan struct{}), procs: map[*Process]struct{}{}}
	var err error
	if h.fd, err = makeNamespace(h.Netns); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(h.fd, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("enter the network of %s: %v", h.Name, err)) // the descriptor is ours and open
		}
		for {
			select {
			case fn := <-h.thread:
				fn()
			case <-h.closed:
				return
			}
		}
	}()
	if h.handle, err = netlink.NewHandleAt(netns.NsHandle(h.fd)); err != nil {
		return nil, fmt.Errorf("open netlink on %s: %w", name, err)
	}
	lo, err := h.handle.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo on %s: %w", name, err)
	}
	if err := h.handle.LinkSetUp(lo); err != nil {
		return nil, fmt.Errorf("set lo up on %s: %w", name, err)
	}
	if err := os.MkdirAll(h.Path("/etc/kubernetes"), 0o755); err != nil {
		return nil, err
	}
	return h, os.WriteFile(h.Path("/etc/hosts"), []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644)
}

// close ends whatever runs on the host and forgets its namespace.
func (h *Host) close() error {
	h.kill()
	h.mu.Lock()
	if h.socket != nil {
		h.socket.Close()
	}
	h.mu.Unlock()
	close(h.closed)
	if h.handle != nil {
		h.handle.Close()
	}
	return errors.Join(unix.Close(h.fd), removeNamespace(h.Netns))
}

// revive is the end of kill.
func (h *Host) revive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = false
}

// kill refuses new processes and ends those that run.
func (h *Host) kill() {
	h.mu.Lock()
	h.down = true
	var all []*Process
	for p := range h.procs {
		all = append(all, p)
	}
	h.mu.Unlock()
	for _, p := range all {
		_ = p.Signal(unix.SIGKILL)
	}
	for _, p := range all {
		<-p.Done()
	}
}

// adopt counts p among the host's processes unless the host is down. It is called before p starts, so that kill
// cannot miss one; a process that does not start has to be disowned.
func (h *Host) adopt(p *Process) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return false
	}
	h.procs[p] = struct{}{}
	return true
}

func (h *Host) disown(p *Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.procs, p)
}

// signalAll sends a signal to every process of the host.
func (h *Host) signalAll(s unix.Signal) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for p := range h.procs {
		errs = append(errs, p.Signal(s))
	}
	return errors.Join(errs...)
}

// Do runs fn on a thread of its own in the host's network. Sockets that fn makes stay in that network wherever
// they are used afterwards; goroutines that fn starts do not.
func (h *Host) Do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(h.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network of %s: %w", h.Name, err)
		}
		return fn()
	})
}

// newSocket makes a socket in the host's network.
func (h *Host) newSocket(domain, typ, proto int) (fd int, err error) {
	done := make(chan struct{})
	create := func() {
		fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		close(done)
	}
	select {
	case h.thread <- create:
		<-done
		return fd, err
	case <-h.closed:
		return -1, net.ErrClosed
	}
}

// connect opens a TCP connection from the host and returns it as a file.
func (h *Host) connect(ctx context.Context, to netip.AddrPort) (*os.File, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[:4])}
	domain := unix.AF_INET
	if to.Addr().Is6() {
		sa, domain = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}, unix.AF_INET6
	}
	fd, err := h.newSocket(domain, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp "+to.String())
	if deadline, ok := ctx.Deadline(); ok {
		_ = f.SetWriteDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	var state error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			state = err
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // else: still connecting
	})
	if err == nil {
		err = state
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The deadline of the file is that of the context, and may come a moment before it.
			if err = context.Cause(ctx); err == nil {
				err = context.DeadlineExceeded
			}
		}
		return nil, err
	}
	_ = f.SetWriteDeadline(time.Time{})
	return f, nil
}

// DialContext opens a TCP connection from the host. The address is an IP address and a port.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s from %s: %w", address, h.Name, err)
	}
	f, err := h.connect(ctx, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
	if err != nil {
		return nil, fmt.Errorf("dial %s %s from %s: %w", network, address, h.Name, err)
	}
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// HTTPClient is a client whose connections start at the host; each request has its own. Close idle connections
// by leaving it alone: it keeps none.
func (h *Host) HTTPClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.DialContext, TLSClientConfig: config, DisableKeepAlives: true}}
}

// Listen accepts TCP connections on the host.
func (h *Host) Listen(address string) (net.Listener, error) {
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	})
	return ln, err
}

// port is the switch's end of the host's cable.
func (h *Host) port() (netlink.Link, error) {
	return h.lab.Gateway.link(h.Name)
}

// Cut takes the host's cable out of the switch where the host cannot see it: its carrier stays, no frame passes.
func (h *Host) Cut() error {
	port, err := h.port()
	if err != nil {
		return err
	}
	if err := h.lab.Gateway.handle.LinkSetNoMaster(port); err != nil {
		return fmt.Errorf("cut %s off: %w", h.Name, err)
	}
	return nil
}

// Heal is the end of Cut.
func (h *Host) Heal() error {
	port, err := h.port()
	if err != nil {
		return err
	}
	bridge, err := h.lab.Gateway.link("br0")
	if err != nil {
		return err
	}
	if err := h.lab.Gateway.handle.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("heal the link of %s: %w", h.Name, err)
	}
	return nil
}

// CarrierDown takes the carrier away from the host's interface.
func (h *Host) CarrierDown() error {
	port, err := h.port()
	if err != nil {
		return err
	}
	if err := h.lab.Gateway.handle.LinkSetDown(port); err != nil {
		return fmt.Errorf("take the carrier of %s away: %w", h.Name, err)
	}
	return nil
}

// CarrierUp is the end of CarrierDown.
func (h *Host) CarrierUp() error {
	port, err := h.port()
	if err != nil {
		return err
	}
	if err := h.lab.Gateway.handle.LinkSetUp(port); err != nil {
		return fmt.Errorf("give %s its carrier back: %w", h.Name, err)
	}
	return nil
}

// link finds an interface of the host.
func (h *Host) link(name string) (netlink.Link, error) {
	l, err := h.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s on %s: %w", name, h.Name, err)
	}
	return l, nil
}

// Links are the names of the host's interfaces.
func (h *Host) Links() ([]string, error) {
	links, err := h.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", h.Name, err)
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return names, nil
}

// AddAddress puts an address on a link, as an operator would; IPv6 without duplicate address detection.
func (h *Host) AddAddress(link string, prefix netip.Prefix) error {
	l, err := h.link(link)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.handle.AddrAdd(l, a); err != nil {
		return fmt.Errorf("add %s to %s on %s: %w", prefix, link, h.Name, err)
	}
	return nil
}

// RemoveAddress takes an address off a link.
func (h *Host) RemoveAddress(link string, prefix netip.Prefix) error {
	l, err := h.link(link)
	if err != nil {
		return err
	}
	if err := h.handle.AddrDel(l, &netlink.Addr{IPNet: ipNet(prefix)}); err != nil {
		return fmt.Errorf("remove %s from %s on %s: %w", prefix, link, h.Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Sysctl writes a value below /proc/sys on the host, for example net/ipv4/conf/all/arp_ignore.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error {
		// thread-self: the network below /proc/sys is that of the thread that opens it.
		return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
	})
}

// nft loads a ruleset on the host.
func (h *Host) nft(ctx context.Context, lines ...string) error {
	_, err := h.run(ctx, strings.Join(lines, "\n")+"\n", "nft", "-f", "-")
	return err
}
