package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// lost is how long an answer is waited for before it counts as lost: less than TCP's first retransmission, which
// would hide a packet that was dropped (RFC 6298 section 2.1: 1 s).
const lost = 800 * time.Millisecond

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
	ns.must(t, func() error { return setUp("lo") })
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

// nft has the nft command do these commands and returns what it says.
func (ns *namespace) nft(t testing.TB, commands string, flags ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if path = "/usr/sbin/nft"; exec.Command(path, "--version").Run() != nil {
			missing(t, "the command nft is missing (package nftables)")
		}
	}
	var out []byte
	ns.do(func() {
		cmd := exec.Command(path, append(flags, "-f", "-")...)
		cmd.Stdin = strings.NewReader(commands + "\n")
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", commands, err, out)
	}
	return string(out)
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func (ns *namespace) addAddr(t testing.TB, link, prefix string) {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	ns.must(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
			Flags: unix.IFA_F_NODAD,
		})
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
		ns.must(t, func() error { return setUp(name) })
	}
	for _, ns := range []*namespace{a, b} {
		eventually(t, "carrier", func() (up bool) {
			ns.must(t, func() error {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				up = link.Attrs().OperState == netlink.OperUp
				return nil
			})
			return up
		})
	}
}

// listen answers at an address of the namespace: TCP connections with a byte for each that comes, datagrams with
// the same.
func (ns *namespace) listen(t testing.TB, network string, at netip.AddrPort) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	ns.must(t, func() (err error) {
		if strings.HasPrefix(network, "udp") {
			udp, err = net.ListenPacket(network, at.String())
			return err
		}
		tcp, err = net.Listen(network, at.String())
		return err
	})
	if udp != nil {
		t.Cleanup(func() { udp.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := udp.ReadFrom(b)
				if err != nil {
					return
				}
				udp.WriteTo(b[:n], from)
			}
		}()
		return
	}
	t.Cleanup(func() { tcp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1024)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// counted is how many packets a counter of the table count has seen.
func (ns *namespace) counted(t testing.TB, name string) (packets int) {
	t.Helper()
	out := ns.nft(t, "list counter inet count "+name)
	_, after, _ := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(after, &packets); err != nil {
		t.Fatalf("counter %s: %v in %q", name, err, out)
	}
	return packets
}

// dial connects from the namespace, by source if that is valid.
func (ns *namespace) dial(network string, source netip.Addr, to netip.AddrPort) (c net.Conn, err error) {
	d := net.Dialer{Timeout: lost}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		}
	}
	ns.do(func() { c, err = d.Dial(network, to.String()) })
	return c, err
}

// echo sends bytes and wants them back.
func echo(c net.Conn, size int) error {
	c.SetDeadline(time.Now().Add(lost))
	if _, err := c.Write(make([]byte, size)); err != nil {
		return err
	}
	for got := 0; got < size; {
		n, err := c.Read(make([]byte, 1<<16))
		if err != nil {
			return err
		}
		got += n
	}
	return nil
}

// reach says whether something answers size bytes there. The test fails if they are refused: nothing here refuses.
func (ns *namespace) reach(t testing.TB, network string, source netip.Addr, to netip.AddrPort, size int) bool {
	t.Helper()
	c, err := ns.dial(network, source, to)
	if err == nil {
		defer c.Close()
		err = echo(c, size)
	}
	if err == nil {
		return true
	}
	if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
		t.Fatalf("reach %s %s: %v", network, to, err)
	}
	return false
}

// ping says whether an echo request is answered.
func (ns *namespace) ping(t testing.TB, to netip.Addr) (answered bool) {
	t.Helper()
	network, any, kind, number := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), 1
	var answer icmp.Type = ipv4.ICMPTypeEchoReply
	if to.Is6() {
		network, any, kind, number = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, 58
		answer = ipv6.ICMPTypeEchoReply
	}
	ns.must(t, func() error {
		c, err := icmp.ListenPacket(network, any)
		if err != nil {
			return err
		}
		defer c.Close()
		request, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(lost))
		for b := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return nil
			}
			m, err := icmp.ParseMessage(number, b[:n])
			if err == nil && m.Type == answer && from.String() == to.String() {
				answered = true
				return nil
			}
		}
	})
	return answered
}

// solicit says whether a Neighbor Solicitation that is sent to the address itself is answered (RFC 4861 section 7.3.3).
func (ns *namespace) solicit(t testing.TB, link string, from, to netip.Addr) (answered bool) {
	t.Helper()
	ns.must(t, func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		c, _, err := ndp.Listen(ifi, ndp.Addr(from.String()))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.WriteTo(&ndp.NeighborSolicitation{TargetAddress: to}, nil, to); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(lost))
		for {
			m, _, _, err := c.ReadFrom()
			if err != nil {
				return nil
			}
			if na, ok := m.(*ndp.NeighborAdvertisement); ok && na.TargetAddress == to && na.Solicited {
				answered = true
				return nil
			}
		}
	})
	return answered
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

// route has everything go by a gateway.
func (ns *namespace) route(t testing.TB, gateway netip.Addr) {
	t.Helper()
	ns.must(t, func() error {
		_, everywhere, err := net.ParseCIDR(map[bool]string{true: "0.0.0.0/0", false: "::/0"}[gateway.Is4()])
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: everywhere, Gw: gateway.AsSlice()})
	})
}
