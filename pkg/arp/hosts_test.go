package arp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// hosts is the real segment: two network namespaces, the node's and the observer's, where a bridge joins the
// other ends of the node's links.
type hosts struct {
	node, observer *netns.Namespace
	sightings      chan sighting
	// deafen has the observer hear nothing more.
	deafen func()
}

var _ segment = (*hosts)(nil)

// observerMAC is the bridge's address.
const observerMAC = "02:00:00:00:ff:01"

func newHosts(t testing.TB) *hosts {
	t.Helper()
	h := &hosts{node: netns.New(t), observer: netns.New(t), sightings: make(chan sighting, 1<<16)}
	var conn *packet.Conn
	h.observer.Must(t, func() error {
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

func (h *hosts) run(_ *testing.T, a *Announcer) func() error { return runner(a, h.node.Go) }

func (h *hosts) heard() <-chan sighting { return h.sightings }

func (h *hosts) wire() Wire { return Kernel{} }

func (h *hosts) in(f func()) { h.node.Do(f) }

func (h *hosts) addLink(t *testing.T, name string, mac MAC) {
	t.Helper()
	h.join(t, name, mac)
}

// join makes a link of the node whose other end is in the observer's bridge.
func (h *hosts) join(t testing.TB, name string, mac MAC) {
	t.Helper()
	far := "to-" + name
	netns.Lay(t, h.node, h.observer, name, far, mac[:])
	h.observer.Must(t, func() error {
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
	netns.Eventually(t, "carrier of "+name, func() bool {
		return h.node.Up(t, name) && h.observer.Up(t, "to-"+name) && h.observer.Up(t, "br0")
	})
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
	h.node.Sysctl(t, "ipv6/conf/"+name+"/forwarding", map[bool]string{false: "0", true: "1"}[router])
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
	h.node.OnLink(t, name, f)
}
