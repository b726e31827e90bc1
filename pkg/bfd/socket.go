package bfd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// The ports of RFC 5881 §4 and RFC 5883 §5.
	portOneHop, portMultihop = 3784, 4784
	// A session has one port to send from, among these (RFC 5881 §4).
	portFirst, portLast = 49152, 65535

	// ttl is that of everything that is sent, and of everything that comes from the link (RFC 5881 §5, RFC 5082).
	ttl = 255
	// class is network control, CS6 (RFC 4594 §3.1), and priority the most that the kernel's own queues give without being
	// allowed more: as those of queues they are not derived from CS6.
	class, priority = 0xc0, 6

	// packetSize is more than a packet's length can be, which is an octet.
	packetSize = 256
	// queued is how many octets of packets may wait to be read; readMost is more packets than fit there, and how many are
	// read in one go.
	queued, readMost = 1 << 18, 1 << 10
)

// kind is what one socket receives.
type kind struct{ six, multihop bool }

func (k kind) port() int {
	if k.multihop {
		return portMultihop
	}
	return portOneHop
}

func (k kind) String() string {
	return fmt.Sprintf("UDP port %d of %s", k.port(), map[bool]string{false: "IPv4", true: "IPv6"}[k.six])
}

// option is one to set: an int.
type option struct {
	name          string
	level, option int
	value         int
}

func set(fd int, options []option) error {
	for _, o := range options {
		if err := os.NewSyscallError("set "+o.name, unix.SetsockoptInt(fd, o.level, o.option, o.value)); err != nil {
			return err
		}
	}
	return nil
}

// socket makes one of UDP that never waits, and has prepare do the rest.
func socket(six bool, prepare func(fd int) error) (int, error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := prepare(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen opens a socket that receives on all addresses of the node. It shares its port with nobody: packets would reach
// one of the two.
func listen(k kind) (int, error) {
	fd, err := socket(k.six, func(fd int) error {
		options := []option{
			{"IP_RECVTTL", unix.IPPROTO_IP, unix.IP_RECVTTL, 1},
			{"IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO, 1},
		}
		if k.six {
			options = []option{
				{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
				{"IPV6_RECVHOPLIMIT", unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
				{"IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1},
			}
		}
		if err := set(fd, append(options, option{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, queued})); err != nil {
			return err
		}
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.Addr{}, k, k.port(), 0)))
	})
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", k, err)
	}
	return fd, nil
}

// dial opens a socket that sends to a peer from a port, and receives nothing. The index is that of his interface, if he has
// one.
func dial(p Peer, index, port int) (int, error) {
	k := p.kind()
	return socket(k.six, func(fd int) error {
		options := []option{
			{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, ttl},
			{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, class},
		}
		if k.six {
			options = []option{
				{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
				{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl},
				{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, class},
			}
		}
		if err := set(fd, append(options, option{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, priority})); err != nil {
			return err
		}
		nothing := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &nothing); err != nil {
			return os.NewSyscallError("set SO_ATTACH_FILTER", err)
		}
		if p.Interface != "" {
			if err := unix.BindToDevice(fd, p.Interface); err != nil {
				return os.NewSyscallError("set SO_BINDTODEVICE", err)
			}
		}
		return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(p.Local, k, port, index)))
	})
}

// sockaddr is an address and a port as the kernel wants them. An invalid address is any one.
func sockaddr(addr netip.Addr, k kind, port, index int) unix.Sockaddr {
	if k.six {
		to := &unix.SockaddrInet6{Port: port}
		if addr.IsValid() {
			to.Addr = addr.As16()
		}
		if addr.IsLinkLocalUnicast() {
			to.ZoneId = uint32(index)
		}
		return to
	}
	to := &unix.SockaddrInet4{Port: port}
	if addr.IsValid() {
		to.Addr = addr.As4()
	}
	return to
}

// arrival is a packet that came.
type arrival struct {
	from, to netip.Addr // without a zone
	index    int        // of the interface that it came by
	ttl      int        // -1 when the kernel did not say
	octets   []byte
}

// receive reads a packet into a buffer, if one waits; else the error is EAGAIN.
func receive(fd int, buffer, control []byte) (arrival, error) {
	n, controls, _, from, err := unix.Recvmsg(fd, buffer, control, unix.MSG_DONTWAIT)
	if err != nil {
		return arrival{}, err
	}
	a := arrival{octets: buffer[:n], ttl: -1}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		a.from = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		a.from = netip.AddrFrom16(from.Addr)
	}
	for rest := control[:controls]; len(rest) >= unix.SizeofCmsghdr; {
		header, data, after, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		rest = after
		switch is := [2]int32{header.Level, header.Type}; {
		case (is == [2]int32{unix.IPPROTO_IP, unix.IP_TTL} || is == [2]int32{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}) && len(data) >= 4:
			a.ttl = int(int32(binary.NativeEndian.Uint32(data)))
		case is == [2]int32{unix.IPPROTO_IP, unix.IP_PKTINFO} && len(data) >= unix.SizeofInet4Pktinfo: // ip(7): index, local, destination
			a.index = int(binary.NativeEndian.Uint32(data))
			a.to = netip.AddrFrom4([4]byte(data[8:]))
		case is == [2]int32{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO} && len(data) >= unix.SizeofInet6Pktinfo: // RFC 3542 §6.1
			a.to = netip.AddrFrom16([16]byte(data))
			a.index = int(binary.NativeEndian.Uint32(data[16:]))
		}
	}
	return a, nil
}

// linkIndex finds an interface by its name, in the network namespace of a socket.
func linkIndex(fd int, name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	return int(request.Uint32()), nil
}
