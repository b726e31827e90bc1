package bfd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kube-vip.io/kube-vip/test/netns"
)

// namespace is a network namespace, in which there are Detectors and forgers.
type namespace struct{ *netns.Namespace }

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	ns := &namespace{netns.New(t)}
	ns.Sysctl(t, "ipv6/conf/all/keep_addr_on_down", "1")
	return ns
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
	netns.Join(t, a.Namespace, b.Namespace, eth)
	for ns, addrs := range map[*namespace][]netip.Addr{a: {a4, a6, aLocal}, b: {b4, b6, bLocal}} {
		for _, addr := range addrs {
			ns.AddAddr(t, eth, fmt.Sprintf("%s/%d", addr, map[bool]int{true: 24, false: 64}[addr.Is4()]))
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
	ns.OnLink(t, link, func(l netlink.Link) (err error) {
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
