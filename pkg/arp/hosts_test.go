package arp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hosts is the real segment: two network namespaces, the node's and the observer's, where a bridge joins the
// other ends of the node's links.
type hosts struct {
	node, observer *namespace
	sightings      chan sighting
	// deafen has the observer hear nothing more.
	deafen func()
}

var _ segment = (*hosts)(nil)

// observerMAC is the bridge's address.
const observerMAC = "02:00:00:00:ff:01"

func newHosts(t testing.TB) *hosts {
	t.Helper()
	h := &hosts{node: newNamespace(t), observer: newNamespace(t), sightings: make(chan sighting, 1<<16)}
	for _, ns := range []*namespace{h.node, h.observer} {
		// The tests say which link-local addresses there are.
		ns.sysctl(t, "ipv6/conf/default/addr_gen_mode", "1")
	}
	var conn *packet.Conn
	h.observer.must(t, func() error {
		mac, err := net.ParseMAC(observerMAC)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "br0", mac
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		if err := netlink.LinkSetUp(bridge); err != nil {
			return err
		}
		conn, err = packet.Listen(&net.Interface{Index: bridge.Index}, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1600)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if s, ok := sight(time.Now(), b[:n]); ok {
				select {
				case h.sightings <- s:
				default: // nobody reads them, in a benchmark
				}
			}
		}
	}()
	h.deafen = sync.OnceFunc(func() {
		conn.Close()
		<-done
	})
	t.Cleanup(h.deafen)
	return h
}

func (h *hosts) run(_ *testing.T, a *Announcer) func() error { return runner(a, h.node.spawn) }

func (h *hosts) heard() <-chan sighting { return h.sightings }

func (h *hosts) wire() Wire { return Kernel{} }

func (h *hosts) in(f func()) { h.node.do(f) }

func (h *hosts) addLink(t *testing.T, name string, mac MAC) {
	t.Helper()
	h.join(t, name, mac)
}

// join makes a link of the node whose other end is in the observer's bridge.
func (h *hosts) join(t testing.TB, name string, mac MAC) {
	t.Helper()
	far := "to-" + name
	h.node.must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac[:]
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(h.observer.fd)}
		return netlink.LinkAdd(veth)
	})
	h.observer.must(t, func() error {
		link, err := netlink.LinkByName(far)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
	})
	h.onLink(t, name, netlink.LinkSetUp)
	h.settle(t, name)
}

// settle waits until a link has its carrier, the observer's end forwards, and its bridge has heard of that.
func (h *hosts) settle(t testing.TB, name string) {
	t.Helper()
	up := func(ns *namespace, name string) (up bool) {
		ns.must(t, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("link %s: %w", name, err)
			}
			up = link.Attrs().OperState == netlink.OperUp
			return nil
		})
		return up
	}
	eventually(t, "carrier of "+name, func() bool { return up(h.node, name) && up(h.observer, "to-"+name) && up(h.observer, "br0") })
}

func (h *hosts) delLink(t *testing.T, name string) {
	t.Helper()
	h.onLink(t, name, netlink.LinkDel)
}

func (h *hosts) setMAC(t *testing.T, name string, mac MAC) {
	t.Helper()
	h.onLink(t, name, func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac[:]) })
}

func (h *hosts) setUp(t *testing.T, name string, up bool) {
	t.Helper()
	if !up {
		h.onLink(t, name, netlink.LinkSetDown)
		return
	}
	h.onLink(t, name, netlink.LinkSetUp)
	h.settle(t, name)
}

func (h *hosts) setRouter(t *testing.T, name string, router bool) {
	t.Helper()
	h.node.sysctl(t, "ipv6/conf/"+name+"/forwarding", map[bool]string{false: "0", true: "1"}[router])
}

func (h *hosts) addAddr(t *testing.T, link string, addr netip.Addr) {
	t.Helper()
	h.onLink(t, link, func(l netlink.Link) error { return netlink.AddrAdd(l, hostAddr(addr)) })
}

func (h *hosts) delAddr(t *testing.T, link string, addr netip.Addr) {
	t.Helper()
	h.onLink(t, link, func(l netlink.Link) error { return netlink.AddrDel(l, hostAddr(addr)) })
}

func hostAddr(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())},
		Flags: unix.IFA_F_NODAD,
	}
}

func (h *hosts) onLink(t testing.TB, name string, f func(netlink.Link) error) {
	t.Helper()
	h.node.must(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		return f(link)
	})
}

// namespace is a network namespace with a thread that works in it.
type namespace struct {
	fd    int
	calls chan func()
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	ns := &namespace{calls: make(chan func())}
	opened := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		opened <- err
		for f := range ns.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(ns.calls) })
	if err := <-opened; err != nil {
		reason := fmt.Sprintf("no network namespace can be made here, root is needed: %v", err)
		if os.Getenv("CI") != "" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	t.Cleanup(func() { unix.Close(ns.fd) })
	return ns
}

// do calls f in the namespace.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (ns *namespace) must(t testing.TB, f func() error) {
	t.Helper()
	var err error
	ns.do(func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// spawn calls f in the namespace on a thread of its own.
func (ns *namespace) spawn(f func()) {
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("enter network namespace: %v", err))
		}
		f()
	}()
}

func (ns *namespace) sysctl(t testing.TB, name, value string) {
	t.Helper()
	ns.must(t, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// eventually waits for a condition that nothing tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10s: %s", what)
		}
	}
}
