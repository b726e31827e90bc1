package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
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
		missing(t, fmt.Sprintf("no network namespace can be made here, root is needed: %v", err))
	}
	t.Cleanup(func() { unix.Close(ns.fd) })
	// The tests say which addresses there are.
	ns.sysctl(t, "ipv6/conf/default/addr_gen_mode", "1")
	ns.sysctl(t, "ipv6/conf/all/keep_addr_on_down", "1")
	ns.onLink(t, "lo", netlink.LinkSetUp)
	return ns
}

// missing ends a test for want of something that CI has.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
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

func (ns *namespace) onLink(t testing.TB, name string, f func(netlink.Link) error) {
	t.Helper()
	ns.must(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		return f(link)
	})
}

func (ns *namespace) addAddr(t testing.TB, link, prefix string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	ns.onLink(t, link, func(l netlink.Link) error {
		return netlink.AddrAdd(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		})
	})
}

// route has a network reached by a gateway.
func (ns *namespace) route(t testing.TB, to string, gateway netip.Addr) {
	t.Helper()
	ns.must(t, func() error {
		_, network, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: network, Gw: gateway.AsSlice()})
	})
}

// join lays a cable between two namespaces; both ends are called name.
func join(t testing.TB, a, b *namespace, name string) {
	t.Helper()
	a.must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(b.fd)})
	})
	for _, ns := range []*namespace{a, b} {
		ns.onLink(t, name, netlink.LinkSetUp)
	}
	for _, ns := range []*namespace{a, b} {
		eventually(t, "carrier", func() (up bool) {
			ns.onLink(t, name, func(link netlink.Link) error {
				up = link.Attrs().OperState == netlink.OperUp
				return nil
			})
			return up
		})
	}
}

// eventually waits for a condition that nothing tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// The addresses of the two ends of a cable, and the interface that it is in.
const eth = "eth0"

var (
	a4, b4         = addr("10.0.0.1"), addr("10.0.0.2")
	a6, b6         = addr("fd00::1"), addr("fd00::2")
	aLocal, bLocal = addr("fe80::a"), addr("fe80::b")
)

// cable is two namespaces with a cable between them.
func cable(t testing.TB) (a, b *namespace) {
	t.Helper()
	a, b = newNamespace(t), newNamespace(t)
	join(t, a, b, eth)
	for ns, addrs := range map[*namespace][]netip.Addr{a: {a4, a6, aLocal}, b: {b4, b6, bLocal}} {
		for _, addr := range addrs {
			ns.addAddr(t, eth, fmt.Sprintf("%s/%d", addr, map[bool]int{true: 24, false: 64}[addr.Is4()]))
		}
	}
	return a, b
}

// frame is a UDP packet on a wire.
type frame struct {
	at         time.Time // by the kernel
	from, to   netip.AddrPort
	ttl, class int
	p          Packet
	err        error // of Parse
}

// tap hears all UDP packets on a link of a namespace, those that it sends and those that come.
type tap struct {
	mu     sync.Mutex // guards frames
	frames []frame
}

func (ns *namespace) tap(t testing.TB, link string) *tap {
	t.Helper()
	w := &tap{}
	fd := -1
	ns.onLink(t, link, func(l netlink.Link) (err error) {
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unix.Close(fd)
		b, control := make([]byte, 2048), make([]byte, 256)
		for ctx.Err() == nil {
			n, controls, _, _, err := unix.Recvmsg(fd, b, control, 0)
			if err != nil {
				continue
			}
			f, ok := dissect(b[:n])
			if !ok {
				continue
			}
			if header, data, _, err := unix.ParseOneSocketControlMessage(control[:controls]); err == nil && header.Type == unix.SO_TIMESTAMPNS {
				f.at = time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
			}
			w.mu.Lock()
			w.frames = append(w.frames, f)
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return w
}

// dissect reads a packet of IP without options, if it is one of UDP.
func dissect(b []byte) (f frame, ok bool) {
	var from, to netip.Addr
	switch {
	case len(b) >= 28 && b[0] == 0x45 && b[9] == unix.IPPROTO_UDP:
		from, to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		f.class, f.ttl, b = int(b[1]), int(b[8]), b[20:]
	case len(b) >= 48 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_UDP:
		from, to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		f.class, f.ttl, b = int(b[0]&0xf)<<4|int(b[1]>>4), int(b[7]), b[40:]
	default:
		return f, false
	}
	f.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	f.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
	f.p, f.err = Parse(b[8:])
	return f, true
}

// heard are the packets from an address so far.
func (w *tap) heard(from netip.Addr) (list []frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.frames {
		if f.from.Addr() == from {
			list = append(list, f)
		}
	}
	return list
}

// forget has the tap begin anew.
func (w *tap) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames = nil
}
