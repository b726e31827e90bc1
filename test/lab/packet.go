package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Packet is one of TCP or UDP as it was on a link.
type Packet struct {
	// Time is when the kernel sent or received it.
	Time time.Time
	// Protocol is unix.IPPROTO_TCP or unix.IPPROTO_UDP.
	Protocol uint8
	// Src and Dst are addresses and ports.
	Src, Dst netip.AddrPort
	// TTL is IPv4's, or IPv6's hop limit.
	TTL uint8
	// Payload is what is behind the TCP or UDP header.
	Payload []byte
}

// String is one line for logs.
func (p Packet) String() string {
	return fmt.Sprintf("%s protocol %d %s > %s TTL %d, %d bytes", p.Time.Format("15:04:05.000"), p.Protocol, p.Src, p.Dst, p.TTL, len(p.Payload))
}

const (
	ipv4Len   = 20 // without options
	udpLen    = 8
	tcpLen    = 20 // without options
	fragments = 0x3fff
)

// parsePacket reads a frame; false when it is neither TCP nor UDP, a fragment, or cut short. IPv6 with extension headers
// is none of them.
func parsePacket(frame []byte) (p Packet, ok bool) {
	if len(frame) < etherLen {
		return Packet{}, false
	}
	var src, dst netip.Addr
	body := frame[etherLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if len(body) < ipv4Len || binary.BigEndian.Uint16(body[6:])&fragments != 0 {
			return Packet{}, false
		}
		header, total := int(body[0]&0xf)*4, int(binary.BigEndian.Uint16(body[2:]))
		if header < ipv4Len || total < header || len(body) < total {
			return Packet{}, false
		}
		p.TTL, p.Protocol = body[8], body[9]
		src, dst = netip.AddrFrom4([4]byte(body[12:16])), netip.AddrFrom4([4]byte(body[16:20]))
		body = body[header:total]
	case unix.ETH_P_IPV6:
		if len(body) < ipv6Len {
			return Packet{}, false
		}
		length := int(binary.BigEndian.Uint16(body[4:]))
		if len(body) < ipv6Len+length {
			return Packet{}, false
		}
		p.Protocol, p.TTL = body[6], body[7]
		src, dst = netip.AddrFrom16([16]byte(body[8:24])), netip.AddrFrom16([16]byte(body[24:40]))
		body = body[ipv6Len : ipv6Len+length]
	default:
		return Packet{}, false
	}
	header := udpLen
	switch p.Protocol {
	case unix.IPPROTO_UDP:
	case unix.IPPROTO_TCP:
		if len(body) < tcpLen {
			return Packet{}, false
		}
		header = max(int(body[12]>>4)*4, tcpLen)
	default:
		return Packet{}, false
	}
	if len(body) < header {
		return Packet{}, false
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(body)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(body[2:]))
	p.Payload = body[header:]
	return p, true
}

// A PacketCapture records packets, in both directions, on a link.
type PacketCapture struct {
	conn *packet.Conn
	done chan struct{}

	// mu guards the fields below.
	mu      sync.Mutex
	packets []Packet
	err     error
	changed chan struct{}
}

// CapturePackets begins to record what goes from or to one of the ports on a link of the host.
func (h *Host) CapturePackets(link string, ports ...uint16) (*PacketCapture, error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("write the capture filter: %w", err)
	}
	c := &PacketCapture{done: make(chan struct{}), changed: make(chan struct{})}
	err = h.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		c.conn, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
		return err
	})
	if err == nil {
		err = errors.Join(widen(c.conn), stamped(c.conn))
	}
	if err != nil {
		return nil, fmt.Errorf("capture on %s of %s: %w", link, h.Name, err)
	}
	go func() {
		defer close(c.done)
		err := c.read(ports)
		c.change(func() { c.err = err })
	}()
	return c, nil
}

// stamped has the kernel say when each packet was there (SO_TIMESTAMPNS of socket(7)).
func stamped(conn *packet.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
	return errors.Join(err, set)
}

// read reads until the connection is closed.
func (c *PacketCapture) read(ports []uint16) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	frame, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(16))
	for {
		var n, side int
		var failed error
		if err := raw.Read(func(fd uintptr) bool {
			n, side, _, _, failed = unix.Recvmsg(int(fd), frame, oob, unix.MSG_DONTWAIT)
			return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
		}); err != nil {
			return nil // it is closed
		}
		if failed != nil {
			return fmt.Errorf("read packets: %w", failed)
		}
		p, ok := parsePacket(slices.Clone(frame[:n]))
		if !ok || !slices.Contains(ports, p.Src.Port()) && !slices.Contains(ports, p.Dst.Port()) {
			continue
		}
		if p.Time, err = stamp(oob[:side]); err != nil {
			return err
		}
		c.change(func() { c.packets = append(c.packets, p) })
	}
}

// stamp is the time in a message's ancillary data.
func stamp(oob []byte) (time.Time, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, fmt.Errorf("read a packet's time: %w", err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), nil
		}
	}
	return time.Time{}, errors.New("read a packet's time: it has none")
}

func (c *PacketCapture) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Packets are the packets so far.
func (c *PacketCapture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// Wait waits for the first packet that matches, however long ago it was seen.
func (c *PacketCapture) Wait(ctx context.Context, what string, match func(Packet) bool) (Packet, error) {
	next := 0
	for {
		c.mu.Lock()
		packets, changed, err := c.packets, c.changed, c.err
		c.mu.Unlock()
		for ; next < len(packets); next++ {
			if match(packets[next]) {
				return packets[next], nil
			}
		}
		if err != nil {
			return Packet{}, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Packet{}, fmt.Errorf("wait for %s on the wire: %w (%d other packets)", what, ctx.Err(), len(packets))
		}
	}
}

// Close ends the capture. Its error is also about packets that are missing from it.
func (c *PacketCapture) Close() error {
	stats, err := c.conn.Stats()
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("the capture has lost %d packets", stats.Drops)
	}
	err = errors.Join(err, c.conn.Close())
	<-c.done
	return errors.Join(err, c.err)
}
