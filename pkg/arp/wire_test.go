package arp

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"kube-vip.io/kube-vip/test/netns"
)

func macA() MAC { return MAC{0x02, 0, 0, 0, 0, 0x0a} }
func macB() MAC { return MAC{0x02, 0, 0, 0, 0, 0x0b} }

// What an Announcer relies on, of the kernel and of the fake that stands for it in the other tests.
func TestWire(t *testing.T) {
	onEachSegment(t, func(t *testing.T, s segment) {
		open := func(link string) (p Port, err error) {
			s.in(func() { p, err = s.wire().Open(link) })
			return p, err
		}
		look := func(p Port) (st Station, err error) {
			s.in(func() { st, err = p.Look() })
			return st, err
		}
		wantLook := func(p Port, what string, want Station) {
			t.Helper()
			got, err := look(p)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("%s: station (-want +got)\n%s", what, diff)
			}
		}

		if p, err := open("eth0"); err == nil {
			t.Errorf("opened %v where there is no link", p)
		}
		s.addLink(t, "eth0", macA())
		p, err := open("eth0")
		if err != nil {
			t.Fatal(err)
		}
		wantLook(p, "a link without addresses", Station{MAC: macA(), Up: true, Running: true})

		linkLocal := netip.MustParseAddr("fe80::a")
		s.addAddr(t, "eth0", linkLocal)
		wantLook(p, "with a link-local address", Station{MAC: macA(), Up: true, Running: true, LinkLocal: linkLocal})
		s.setRouter(t, "eth0", true)
		wantLook(p, "forwarding", Station{MAC: macA(), Up: true, Running: true, LinkLocal: linkLocal, Router: true})
		s.setRouter(t, "eth0", false)
		s.delAddr(t, "eth0", linkLocal)
		wantLook(p, "as before", Station{MAC: macA(), Up: true, Running: true})

		addr := netip.MustParseAddr("10.0.0.10")
		addr6 := netip.MustParseAddr("2001:db8::10")
		s.addAddr(t, "eth0", addr)
		s.addAddr(t, "eth0", addr6)
		var held map[netip.Addr]bool
		s.in(func() { held, err = s.wire().Held() })
		if err != nil || !held[addr] || !held[addr6] {
			t.Errorf("held %v, %v; want %s and %s among them", held, err, addr, addr6)
		}
		s.delAddr(t, "eth0", addr)
		s.in(func() { held, err = s.wire().Held() })
		if err != nil || held[addr] || !held[addr6] {
			t.Errorf("held %v, %v; want %s and not %s among them", held, err, addr6, addr)
		}

		s.setMAC(t, "eth0", macB())
		wantLook(p, "another hardware address", Station{MAC: macB(), Up: true, Running: true})

		frames, err := announcement(Station{MAC: macB()}, addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Send(frames[0]); err != nil {
			t.Fatal(err)
		}
		awaitForm(t, s, addr.String(), macB(), "request")

		s.setUp(t, "eth0", false)
		if st, err := look(p); err != nil || st.Up || st.Running {
			t.Errorf("down: %+v, %v", st, err)
		}
		if err := p.Send(frames[0]); err == nil {
			t.Error("sent on a link that is down")
		}
		s.setUp(t, "eth0", true)
		if err := p.Send(frames[0]); err != nil {
			t.Errorf("up again: %v", err)
		}

		s.delLink(t, "eth0")
		if st, err := look(p); err == nil {
			t.Errorf("deleted: looks like %+v", st)
		}
		if err := p.Send(frames[0]); err == nil {
			t.Error("sent on a link that was deleted")
		}
		s.addLink(t, "eth0", macA())
		if st, err := look(p); err == nil {
			t.Errorf("another link of the same name: looks like %+v", st)
		}
		if err := p.Send(frames[0]); err == nil {
			t.Error("sent by way of a link that was deleted on another one")
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := p.Send(frames[0]); err == nil {
			t.Error("sent by a port that is closed")
		}
	})
}

// A loopback under another name, or an interface without Ethernet addresses, is refused with the reason.
func TestKernelOpenRefuses(t *testing.T) {
	h := newHosts(t)
	h.node.Must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "tun0"
		tun := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkAdd(tun), netlink.LinkSetDown(lo), netlink.LinkSetName(lo, "loop"))
	})
	for link, want := range map[string]string{
		"loop":             "open link loop: a loopback has no neighbours; name the interface that faces the network",
		"tun0":             "open link tun0: not an Ethernet interface (ARP hardware type 65534, address of 0 bytes)",
		"eth7":             "open link eth7: find the interface: no such device",
		"far-too-long-for": "open link far-too-long-for: find the interface: invalid argument",
	} {
		h.in(func() {
			p, err := Kernel{}.Open(link)
			if err == nil {
				t.Errorf("opened %s: %v", link, p)
				return
			}
			if err.Error() != want {
				t.Errorf("open %s: %q, want %q", link, err, want)
			}
		})
	}
}

// An announcement in every form is what the observer gets, from the link's address, and the kernel of a
// neighbour that has another idea of the VIP changes its mind; with arp_accept off, as it is by default.
func TestNeighboursConverge(t *testing.T) {
	h := newHosts(t)
	addrs := []string{"10.0.0.10", "2001:db8::10", "fe80::10"}
	h.addLink(t, "eth0", macA())
	h.addAddr(t, "eth0", netip.MustParseAddr("fe80::a"))
	var bridge int
	h.observer.Sysctl(t, "ipv4/conf/br0/arp_accept", "0")
	h.observer.Must(t, func() error {
		link, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		bridge = link.Attrs().Index
		var errs []error
		for _, own := range []string{"10.0.0.1/24", "2001:db8::1/64", "fe80::1/64"} {
			addr, err := netlink.ParseAddr(own)
			errs = append(errs, err, netlink.AddrAdd(link, addr))
		}
		for _, a := range addrs {
			errs = append(errs, netlink.NeighAdd(&netlink.Neigh{
				LinkIndex:    bridge,
				State:        netlink.NUD_REACHABLE,
				IP:           net.ParseIP(a),
				HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x99},
			}))
		}
		return errors.Join(errs...)
	})

	for _, a := range addrs {
		h.addAddr(t, "eth0", netip.MustParseAddr(a))
	}
	a := start(t, h, Options{})
	mustSync(t, a, vips("eth0", addrs...))

	for _, addr := range addrs {
		netns.Eventually(t, "neighbour's entry of "+addr, func() bool {
			var got string
			h.observer.Must(t, func() error {
				neighbours, err := netlink.NeighList(bridge, netlink.FAMILY_ALL)
				for _, n := range neighbours {
					if n.IP.Equal(net.ParseIP(addr)) {
						got = n.HardwareAddr.String()
					}
				}
				return err
			})
			return got == macA().String()
		})
	}
	forms := map[string][]string{}
	for len(forms["10.0.0.10"]) < 2 || len(forms["2001:db8::10"]) < 1 || len(forms["fe80::10"]) < 1 {
		s := await(t, h, "all forms", func(sighting) bool { return true })
		if s.mac != macA() {
			t.Errorf("%s of %s by %s", s.form, s.addr, s.mac)
		}
		if f := forms[s.addr.String()]; !slices.Contains(f, s.form) {
			forms[s.addr.String()] = append(f, s.form)
		}
	}
	want := map[string][]string{
		"10.0.0.10":    {"request", "reply"},
		"2001:db8::10": {"advertisement"},
		"fe80::10":     {"advertisement"},
	}
	if diff := cmp.Diff(want, forms); diff != "" {
		t.Errorf("forms (-want +got)\n%s", diff)
	}
}

// The first announcement of a VIP is heard within 5 ms of Sync: the median of some, since other programs run
// on the machine too.
func TestFirstAnnouncementSoon(t *testing.T) {
	h := newHosts(t)
	h.addLink(t, "eth0", macA())
	a := start(t, h, Options{})
	var took []time.Duration
	for range 21 {
		addr := netip.AddrFrom4([4]byte{10, byte(rand.IntN(256)), byte(rand.IntN(256)), byte(rand.IntN(256))})
		began := time.Now()
		mustSync(t, a, vips("eth0", addr.String()))
		s := await(t, h, "announcement of "+addr.String(), func(s sighting) bool { return s.addr == addr })
		took = append(took, s.at.Sub(began))
	}
	slices.Sort(took)
	t.Logf("Sync to the observer: median %v, worst %v", took[len(took)/2], took[len(took)-1])
	if median := took[len(took)/2]; median > 5*time.Millisecond {
		t.Errorf("median %v, want at most 5ms; all: %v", median, took)
	}
}

func TestKernelNeedsNoAddressOnTheLink(t *testing.T) {
	h := newHosts(t)
	h.addLink(t, "eth0", macA())
	a := start(t, h, Options{})
	// On a loopback, say: the link by which it is announced has no IPv4 address at all.
	v := vips("eth0", "10.0.0.10")
	v[0].Link = "lo"
	mustSync(t, a, v)
	awaitForm(t, h, "10.0.0.10", macA(), "reply")
}
