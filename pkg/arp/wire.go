package arp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Wire is the network as this node sees it. An Announcer uses it from the goroutine of its Run alone.
type Wire interface {
	// Open opens a link for sending. It fails when there is no such link and when the link is not an Ethernet
	// with neighbours on it.
	Open(link string) (Port, error)
	// Held returns the addresses that are on this node at this moment, whatever their link.
	Held() (map[netip.Addr]bool, error)
}

// A Port is a link that is open for sending.
type Port interface {
	// Look returns what the link is like at this moment. It fails when the link is gone, or its name belongs to
	// another one; then the Port is of no more use.
	Look() (Station, error)
	// Send puts an Ethernet frame on the link. It never waits for the network.
	Send(frame []byte) error
	// Close gives the Port back. It may take as long as some tens of milliseconds.
	Close() error
}

// Station is what a link looks like to its neighbours. It is comparable.
type Station struct {
	MAC MAC
	// Up is the administrative state: a link that is down refuses frames. Running is the operational one,
	// the carrier for example: without it frames are lost.
	Up, Running bool
	// LinkLocal is the address that Neighbor Advertisements come from; invalid while the link has none that is
	// ready for use.
	LinkLocal netip.Addr
	// Router says whether the link forwards IPv6, as the kernel's own Neighbor Advertisements do.
	Router bool
}

// Kernel is the Wire of this node's Linux, in the network namespace of the thread that calls it. It needs
// the capability NET_RAW.
type Kernel struct{}

var _ Wire = Kernel{}

// arphrdEther and arphrdLoopback are ARP hardware types, linux/if_arp.h.
const (
	arphrdEther    = 1
	arphrdLoopback = 772
)

// Open implements Wire by a packet socket.
func (Kernel) Open(link string) (Port, error) {
	// Protocol 0: the socket receives nothing, so nothing piles up in it.
	p, err := openPort(link, 0, nil)
	if err != nil {
		return nil, err
	}
	if p.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("open link %s: open netlink: %w", link, err), p.Close())
	}
	return p, nil
}

// openPort opens a packet socket on a link. It receives the frames of an Ethernet protocol that filter lets pass,
// which is told the link's index; a nil filter lets all pass.
func openPort(link string, protocol int, filter func(index int) []bpf.Instruction) (*kernelPort, error) {
	index, err := linkIndex(link)
	if err != nil {
		return nil, fmt.Errorf("open link %s: %w", link, err)
	}
	var config packet.Config
	if filter != nil {
		if config.Filter, err = bpf.Assemble(filter(index)); err != nil {
			return nil, fmt.Errorf("open link %s: assemble the filter: %w", link, err)
		}
	}
	conn, err := packet.Listen(&net.Interface{Index: index, Name: link}, packet.Raw, protocol, &config)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("open link %s: the capability NET_RAW is needed: %w", link, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open link %s: %w", link, err)
	}
	p := &kernelPort{link: link, index: index, conn: conn}
	if err := p.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("open link %s: %w", link, err), p.Close())
	}
	return p, nil
}

// Held implements Wire by a dump of all addresses.
func (Kernel) Held() (map[netip.Addr]bool, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	defer h.Close()
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	held := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			held[addr.Unmap()] = true
		}
	}
	return held, nil
}

// linkIndex finds a link without the kernel's RTNL lock, which others may hold for long: it is an ioctl, not
// a netlink request.
func linkIndex(link string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find the interface: %w", err)
	}
	defer unix.Close(fd)
	return linkIndexBy(fd, link)
}

func linkIndexBy(fd int, link string) (int, error) {
	ifr, err := unix.NewIfreq(link)
	if err != nil {
		return 0, fmt.Errorf("find the interface: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("find the interface: %w", err)
	}
	return int(ifr.Uint32()), nil
}

// kernelPort is the Port of Kernel. None of its calls but Close takes the kernel's RTNL lock or waits.
type kernelPort struct {
	link  string
	index int
	conn  *packet.Conn
	raw   syscall.RawConn
	// routes answers which source address the kernel would take; nil in a port that nobody asks to Look.
	routes *netlink.Handle
}

var _ Port = (*kernelPort)(nil)

// prepare does what is left of opening once there is a socket.
func (p *kernelPort) prepare() error {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	p.raw = raw
	return p.control(func(fd int) error {
		sa, err := linkAddr(fd)
		switch {
		case err != nil:
			return err
		case sa.Hatype == arphrdLoopback:
			return errors.New("a loopback has no neighbours; name the interface that faces the network")
		case sa.Hatype != arphrdEther || int(sa.Halen) != len(MAC{}):
			return fmt.Errorf("not an Ethernet interface (ARP hardware type %d, address of %d bytes)", sa.Hatype, sa.Halen)
		}
		return nil
	})
}

// Look implements Port.
func (p *kernelPort) Look() (Station, error) {
	s, err := p.glance()
	if err != nil {
		return Station{}, err
	}
	s.LinkLocal = p.linkLocal()
	s.Router = p.forwards()
	return s, nil
}

// glance is Look without what concerns IPv6 alone and costs the most.
func (p *kernelPort) glance() (Station, error) {
	var s Station
	err := p.control(func(fd int) error {
		// Another index means that the link was made again under the same name.
		index, err := linkIndexBy(fd, p.link)
		if err != nil {
			return err
		}
		if index != p.index {
			return errors.New("it was made anew")
		}
		sa, err := linkAddr(fd)
		if err != nil {
			return err
		}
		copy(s.MAC[:], sa.Addr[:])
		ifr, err := unix.NewIfreq(p.link)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return fmt.Errorf("read flags: %w", err)
		}
		s.Up = ifr.Uint16()&unix.IFF_UP != 0
		s.Running = ifr.Uint16()&unix.IFF_RUNNING != 0
		return nil
	})
	if err != nil {
		return Station{}, fmt.Errorf("look at link %s: %w", p.link, err)
	}
	return s, nil
}

// linkLocal is the source that the kernel itself would take towards all nodes of the link; it does not offer
// a tentative address, nor a deprecated one as long as there is another.
func (p *kernelPort) linkLocal() netip.Addr {
	routes, err := p.routes.RouteGetWithOptions(netip.IPv6LinkLocalAllNodes().AsSlice(), &netlink.RouteGetOptions{OifIndex: p.index})
	if err != nil {
		return netip.Addr{} // no IPv6 on this link
	}
	for _, r := range routes {
		if src, ok := netip.AddrFromSlice(r.Src); ok && src.IsLinkLocalUnicast() {
			return src
		}
	}
	return netip.Addr{}
}

func (p *kernelPort) forwards() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + p.link + "/forwarding")
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// Send implements Port. When the socket's buffer is full it fails at once, with EAGAIN.
func (p *kernelPort) Send(frame []byte) error {
	to := unix.SockaddrLinklayer{
		Ifindex: p.index,
		// The EtherType once more, in network byte order as it stands in the frame: the kernel wants it for its
		// own handling.
		Protocol: binary.NativeEndian.Uint16(frame[12:14]),
		Halen:    uint8(len(MAC{})),
	}
	copy(to.Addr[:], frame[:len(MAC{})])
	var sendErr error
	err := p.raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), frame, unix.MSG_DONTWAIT, &to)
		return true // never wait until the socket is writable
	})
	if err == nil {
		err = sendErr
	}
	if err != nil {
		return fmt.Errorf("send on %s: %w", p.link, err)
	}
	return nil
}

// Close implements Port. The kernel lets every CPU finish with the socket first, which takes its time.
func (p *kernelPort) Close() error {
	if p.routes != nil {
		p.routes.Close()
	}
	if err := p.conn.Close(); err != nil {
		return fmt.Errorf("close link %s: %w", p.link, err)
	}
	return nil
}

// control calls f with the packet socket.
func (p *kernelPort) control(f func(fd int) error) error {
	var inner error
	if err := p.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// linkAddr asks a bound packet socket for the present hardware type and address of its link. packet(7): both
// are those of the device, not of the moment of the bind.
func linkAddr(fd int) (*unix.SockaddrLinklayer, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("read hardware address: %w", err)
	}
	sa, ok := name.(*unix.SockaddrLinklayer)
	if !ok {
		return nil, fmt.Errorf("read hardware address: the socket's name is a %T", name)
	}
	return sa, nil
}
