// Package netns gives tests network namespaces, cables between them, and a thread in each on which they call the kernel.
// All of it is gone when the test ends.
package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace with a thread that works in it.
type Namespace struct {
	fd    int
	calls chan func()
}

// New makes a namespace whose loopback is up, and in which links get no addresses by themselves. The test is skipped
// where that is not allowed, and fails there when CI is set.
func New(t testing.TB) *Namespace {
	t.Helper()
	ns := &Namespace{calls: make(chan func())}
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
		Missing(t, fmt.Sprintf("no network namespace can be made here, root is needed: %v", err))
	}
	t.Cleanup(func() { unix.Close(ns.fd) })
	ns.Sysctl(t, "ipv6/conf/default/addr_gen_mode", "1") // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
	ns.OnLink(t, "lo", netlink.LinkSetUp)
	return ns
}

// Missing ends a test for want of something that CI has: it is skipped, and fails when CI is set.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Do calls f in the namespace, one call at a time.
func (ns *Namespace) Do(f func()) {
	done := make(chan struct{})
	ns.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Must calls f in the namespace, and ends the test if it fails.
func (ns *Namespace) Must(t testing.TB, f func() error) {
	t.Helper()
	var err error
	ns.Do(func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// Go calls f in the namespace on a thread of its own, and does not wait for it.
func (ns *Namespace) Go(f func()) {
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("enter network namespace: %v", err))
		}
		f()
	}()
}

// Sysctl sets what is below /proc/sys/net.
func (ns *Namespace) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	ns.Must(t, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// OnLink calls f in the namespace with the link of that name.
func (ns *Namespace) OnLink(t testing.TB, name string, f func(netlink.Link) error) {
	t.Helper()
	ns.Must(t, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		return f(link)
	})
}

// Up says whether the link is up and has its carrier.
func (ns *Namespace) Up(t testing.TB, name string) (up bool) {
	t.Helper()
	ns.OnLink(t, name, func(link netlink.Link) error {
		up = link.Attrs().OperState == netlink.OperUp
		return nil
	})
	return up
}

// AddAddr gives a link an address, which can be used at once.
func (ns *Namespace) AddAddr(t testing.TB, link, prefix string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	ns.OnLink(t, link, func(l netlink.Link) error {
		return netlink.AddrAdd(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		})
	})
}

// Route has a network reached by a gateway.
func (ns *Namespace) Route(t testing.TB, to string, gateway netip.Addr) {
	t.Helper()
	ns.Must(t, func() error {
		_, network, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: network, Gw: gateway.AsSlice()})
	})
}

// Lay makes a cable between two namespaces; its ends are called name and far, and are down. The end at a has that hardware
// address, unless it is nil.
func Lay(t testing.TB, a, b *Namespace, name, far string, mac net.HardwareAddr) {
	t.Helper()
	a.Must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsFd(b.fd)})
	})
}

// Join makes a cable between two namespaces whose ends are both called name, and up.
func Join(t testing.TB, a, b *Namespace, name string) {
	t.Helper()
	Lay(t, a, b, name, name, nil)
	for _, ns := range []*Namespace{a, b} {
		ns.OnLink(t, name, netlink.LinkSetUp)
	}
	for _, ns := range []*Namespace{a, b} {
		Eventually(t, "carrier", func() bool { return ns.Up(t, name) })
	}
}

// Eventually waits for a condition that nothing tells of.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const patience = 20 * time.Second
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
