package filter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"kube-vip.io/kube-vip/test/netns"
)

// lost is how long an answer is waited for before it counts as lost: less than TCP's first retransmission, which
// would hide a packet that was dropped (RFC 6298 section 2.1: 1 s).
const lost = 800 * time.Millisecond

// namespace is a network namespace, in which things are asked and answered.
type namespace struct{ *netns.Namespace }

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	return &namespace{netns.New(t)}
}

// nft has the nft command do these commands and returns what it says.
func (ns *namespace) nft(t testing.TB, commands string, flags ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if path = "/usr/sbin/nft"; exec.Command(path, "--version").Run() != nil {
			netns.Missing(t, "the command nft is missing (package nftables)")
		}
	}
	var out []byte
	ns.Do(func() {
		cmd := exec.Command(path, append(flags, "-f", "-")...)
		cmd.Stdin = strings.NewReader(commands + "\n")
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", commands, err, out)
	}
	return string(out)
}

// listen answers at an address of the namespace: TCP connections with a byte for each that comes, datagrams with
// the same.
func (ns *namespace) listen(t testing.TB, network string, at netip.AddrPort) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	ns.Must(t, func() (err error) {
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
	ns.Do(func() { c, err = d.Dial(network, to.String()) })
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
	ns.Must(t, func() error {
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
	ns.Must(t, func() error {
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
